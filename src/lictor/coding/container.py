"""The lictor image file, version 2: a header, an index, and what the index lists, no padding.

All integers are unsigned and little-endian; `varint` is LEB128 as in `stream`, in its shortest
form. A file is

    offset  bytes   field
    0       4       magic         8E 4C 49 43 ("LIC" after a byte that no text file begins with)
    4       1       version       2
    5       1       flags         0; no flag is defined yet
    6       1       channels      1 (gray) or 3 (RGB)
    7       1       num_sections  1..255
    8       8       fingerprint   of the codec that can decode the file, opaque
    16      4       width         1..2**32-1 pixels
    20      4       height        1..2**32-1 pixels
    24      2       tile_side     of tiles, in units of 64 pixels; 0: one tile is the picture
    26      4       index_crc     CRC-32C of bytes 0..25 and of the index
    30      ...     index         for each section, kinds ascending
            1         kind        what it holds, see below
            if kind is 1, for each tile, row by row
            varint      length      bytes of its symbol stream
            4           crc         CRC-32C of its symbol stream
            4           symbol_crc  CRC-32 of its decoded symbols, each as little-endian int32
            else
            varint      length      bytes of the section
            4           crc         CRC-32C of the section
    ...     sum of the lengths    the sections in order of the index: of kind 1, the tiles' streams

    kind     section
    1        tiles: the symbol streams, always there; their layout is told in `stream`
    2        alpha
    3        for later versions: tiles coded by a standard coder
    128      ICC profile
    129      EXIF
    130      XMP
    131      text: a JSON object of notes
    132-255  for later versions; a decoder that does not know the kind skips the section
    others   for later versions; a decoder that does not know the kind rejects the file

CRC-32C is told in `crc`, CRC-32 is that of zlib and PNG; how a picture is cut into tiles is told in
`grid`. The pixel values are not in the file: the codec makes them from the symbols.

How to read a file. Compare the magic, then the version: nothing behind it means the same in another
version. Read the index, believing no length that the rest of the file cannot hold: a tile takes 9
bytes of it at least. Compare index_crc; only then look at the other fields. A flag never changes
the layout of header and index, but may change all else: reject a file with one you do not know.
Refuse sizes you did not expect: a few bytes can claim an image of 2**64 pixels, so the limit is
MAX_PIXELS here unless the caller raises it. Require all that the index lists to be there, and
nothing after it, and compare each part's checksum: damage to one tile leaves the others as they
are. Decode the symbols, compare symbol_crc: a difference means that the machine computed other
probabilities than the encoder's did, and that the picture would be noise.

A picture of one tile takes 39 bytes and its length's one to four beside the symbol stream.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from lictor.coding import container_v1
from lictor.coding.crc import crc32c
from lictor.coding.grid import UNIT, Grid
from lictor.coding.varint import varint
from lictor.errors import (
    CorruptError,
    DataError,
    NotABitstreamError,
    TruncatedError,
    UnsupportedVersionError,
)

MAGIC = b"\x8eLIC"
VERSION = 2
MAX_PIXELS = 1 << 28
ALPHA, ICC, EXIF, XMP, TEXT = 2, 128, 129, 130, 131
MAX_TILE_SIDE = 65535 * UNIT

_TILES, _STANDARD = 1, 3
_FIRST_OPTIONAL = 128
_NAMES = {
    _TILES: "tiles", ALPHA: "alpha", _STANDARD: "tiles of a standard coder",
    ICC: "ICC profile", EXIF: "EXIF", XMP: "XMP", TEXT: "text",
}  # fmt: skip
_HEAD = struct.Struct("<4s4B8sIIH")  # up to index_crc, which covers it
_CRC, _CRCS = struct.Struct("<I"), struct.Struct("<II")
_FIRST_HEAD = struct.Struct("<6xBx8sII")  # of version 1, without its checksums
HEADER_BYTES = _HEAD.size + _CRC.size
_LEAST_TILE_BYTES = 1 + _CRCS.size  # in the index
_MAX_SECTIONS, _MAX_VARINT_BYTES = 255, 9
_UINT32_MAX = (1 << 32) - 1


@dataclass(frozen=True)
class Tile:
    """The symbols of a tile.

    Args:
        payload: the symbol stream.
        symbol_crc: CRC-32 of the decoded symbols.
    """

    payload: bytes
    symbol_crc: int


@dataclass(frozen=True)
class Container:
    """What a lictor file holds.

    Args:
        fingerprint: 8 bytes that identify the codec.
        width: of the image in pixels, 1 to 2**32 - 1.
        height: of the image in pixels, 1 to 2**32 - 1.
        channels: 1 or 3.
        tiles: as many as the grid has, row by row.
        tile_side: the most pixels of a tile's sides, a multiple of 64; 0 if there is one tile.
        sections: what else there is, by kind: ALPHA, or 128 to 255.
        flags: 0 in version 2.

    Raises:
        DataError: a field is outside of its range.
    """

    fingerprint: bytes
    width: int
    height: int
    channels: int
    tiles: Sequence[Tile]
    tile_side: int = 0
    sections: Mapping[int, bytes] = field(default_factory=dict)
    flags: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tiles", tuple(self.tiles))
        object.__setattr__(self, "sections", dict(sorted(self.sections.items())))
        if len(self.fingerprint) != 8:
            raise DataError(f"the fingerprint must have 8 bytes, not {len(self.fingerprint)}")
        if not 1 <= self.width <= _UINT32_MAX or not 1 <= self.height <= _UINT32_MAX:
            raise DataError(f"an image of {self.width} x {self.height} pixels cannot be stored")
        if self.channels not in (1, 3):
            raise DataError(f"channels must be 1 or 3, not {self.channels}")
        if self.flags != 0:
            raise DataError(f"flags must be 0 in version {VERSION}, not {self.flags}")
        if self.tile_side > MAX_TILE_SIDE:
            raise DataError(f"a tile's side may be {MAX_TILE_SIDE} pixels, not {self.tile_side}")
        if len(self.tiles) != self.grid.count:
            raise DataError(f"there are {len(self.tiles)} tiles instead of {self.grid.count}")
        if not all(0 <= tile.symbol_crc <= _UINT32_MAX for tile in self.tiles):
            raise DataError("symbol_crc must be below 2**32")
        for kind in self.sections:
            if kind != ALPHA and not _FIRST_OPTIONAL <= kind <= _MAX_SECTIONS:
                raise DataError(f"a section of kind {kind} cannot be stored")

    @property
    def grid(self) -> Grid:
        """Where the tiles are."""
        return Grid(self.width, self.height, self.tile_side)

    @property
    def symbol_crc(self) -> int:
        """The checksum of all symbols: the tile's own, or CRC-32 of the tiles' as uint32."""
        if len(self.tiles) == 1:
            return self.tiles[0].symbol_crc
        return zlib.crc32(b"".join(_CRC.pack(tile.symbol_crc) for tile in self.tiles))

    @property
    def payload_bytes(self) -> int:
        """Bytes of all symbol streams."""
        return sum(len(tile.payload) for tile in self.tiles)

    def to_bytes(self) -> bytes:
        """Return the file, in version 2."""
        head = _HEAD.pack(
            MAGIC, VERSION, self.flags, self.channels, 1 + len(self.sections),
            self.fingerprint, self.width, self.height, self.tile_side // UNIT,
        )  # fmt: skip
        index = [bytes([_TILES])]
        for tile in self.tiles:
            index += [varint(len(tile.payload))]
            index += [_CRCS.pack(crc32c(tile.payload), tile.symbol_crc)]
        for kind, body in self.sections.items():
            index += [bytes([kind]), varint(len(body)), _CRC.pack(crc32c(body))]
        listed = b"".join(index)
        bodies = (*(tile.payload for tile in self.tiles), *self.sections.values())
        return b"".join((head, _CRC.pack(crc32c(listed, crc32c(head))), listed, *bodies))

    @classmethod
    def from_bytes(cls, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Container:
        """Check a whole file, of version 1 or 2, and take it apart.

        Args:
            data: the file.
            max_pixels: width * height that is accepted.

        Raises:
            NotABitstreamError: it does not begin with the magic, or is empty.
            UnsupportedVersionError: it has another version, a flag or a kind of section that this
                release does not know.
            TruncatedError: it ends before its index says.
            CorruptError: it goes on after its end, a checksum is wrong (the message says of which
                part), or a field is outside of its range, `max_pixels` included.
        """
        if version_of(data) == container_v1.VERSION:
            return cls._from_first(data, max_pixels)
        head = _read_head(data, max_pixels)
        if len(data) < head.end:
            raise TruncatedError(f"the file has {len(data)} bytes instead of {head.end}")
        if len(data) > head.end:
            raise CorruptError(f"the file has {len(data) - head.end} bytes too many")
        for part in head.parts:
            if not head.is_whole(data, part):
                raise CorruptError(
                    f"the file is damaged: the checksum of {head.name(part)} is wrong"
                )
        return cls._from_head(data, head)

    @classmethod
    def salvage(cls, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Salvage:
        """Take apart what is left of a damaged or truncated file whose header and index are whole.

        Whatever follows the file's end is left aside. One of version 1 has one checksum, so it is
        either whole or lost. Raises as `from_bytes` does where header or index are damaged.
        """
        if version_of(data) == container_v1.VERSION:
            return Salvage(cls._from_first(data, max_pixels), (), ())
        head = _read_head(data, max_pixels)
        damaged = [part for part in head.parts if not head.is_whole(data, part)]
        container = cls._from_head(data, head, without=damaged)
        tiles = tuple(part.tile for part in damaged if part.tile is not None)
        return Salvage(container, tiles, tuple(p.kind for p in damaged if p.tile is None))

    @classmethod
    def _from_first(cls, data: bytes, max_pixels: int) -> Container:
        first = container_v1.read_first(data)
        _check_pixels(first.width, first.height, max_pixels)
        tile = Tile(first.payload, first.symbol_crc)
        try:
            return cls(first.fingerprint, first.width, first.height, first.channels, (tile,))
        except DataError as error:
            raise CorruptError(str(error)) from None

    @classmethod
    def _from_head(cls, data: bytes, head: _Head, without: Sequence[_Part] = ()) -> Container:
        tiles, sections = list[Tile](), dict[int, bytes]()
        for part in head.parts:
            body = b"" if part in without else head.body(data, part)
            if part.tile is not None:
                tiles.append(Tile(body, part.symbol_crc))
            elif part not in without:
                sections[part.kind] = body
        try:
            return cls(
                head.fingerprint, head.grid.width, head.grid.height, head.channels,
                tiles, head.grid.side, sections,
            )  # fmt: skip
        except DataError as error:
            raise CorruptError(str(error)) from None


@dataclass(frozen=True)
class Salvage:
    """What is left of a file.

    `damaged` are the numbers of tiles that are lost, whose payloads are empty in the `container`,
    `lost` the kinds of other sections that are, and are missing there.
    """

    container: Container
    damaged: tuple[int, ...]
    lost: tuple[int, ...]


@dataclass(frozen=True)
class Outline:
    """What the beginning of a file tells; `kinds` are those of its sections beside the tiles."""

    fingerprint: bytes
    width: int
    height: int
    channels: int
    kinds: tuple[int, ...]


def read_outline(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Outline:
    """Return what header and index tell, of a file's first bytes: nothing behind them is looked at.

    Raises `TruncatedError` when they are not all there, otherwise as `Container.from_bytes`.
    """
    if version_of(data) == container_v1.VERSION:
        if len(data) < _FIRST_HEAD.size:
            raise TruncatedError(f"the file ends within its header, after {len(data)} bytes")
        channels, fingerprint, width, height = _FIRST_HEAD.unpack_from(data)
        _check_pixels(width, height, max_pixels)
        if channels not in (1, 3) or not width * height:
            raise CorruptError(f"the file claims {width} x {height} pixels of {channels} channels")
        return Outline(fingerprint, width, height, channels, ())
    head = _read_head(data, max_pixels)
    kinds = tuple(part.kind for part in head.parts if part.tile is None)
    return Outline(head.fingerprint, head.grid.width, head.grid.height, head.channels, kinds)


def name_of(kind: int) -> str:
    """Return what messages call a section, such as "the section EXIF (129)"."""
    name = _NAMES.get(kind)
    return f"the section {kind}" if name is None else f"the section {name} ({kind})"


def version_of(data: bytes) -> int:
    """Return the version of a file that this release reads.

    Raises `NotABitstreamError` for what is no lictor file, `UnsupportedVersionError` for another
    version, `TruncatedError` when the file ends before it.
    """
    if not data or not MAGIC.startswith(data[: len(MAGIC)]):
        raise NotABitstreamError("this is not a lictor file")
    if len(data) <= len(MAGIC):
        raise TruncatedError(f"the file ends within its header, after {len(data)} bytes")
    version = data[len(MAGIC)]
    if version not in (container_v1.VERSION, VERSION):
        raise UnsupportedVersionError(
            f"the file has version {version}; this release reads versions "
            f"{container_v1.VERSION} and {VERSION}"
        )
    return version


@dataclass(frozen=True)
class _Part:
    """One entry of the index, a tile's or a section's; `start` counts from the end of the index."""

    kind: int
    start: int
    length: int
    crc: int
    symbol_crc: int = 0
    tile: int | None = None


@dataclass(frozen=True)
class _Head:
    """Header and index, the latter's parts, and where it ends."""

    fingerprint: bytes
    channels: int
    grid: Grid
    parts: Sequence[_Part]
    index_end: int

    @property
    def end(self) -> int:
        """Where the file should end."""
        return self.index_end + self.parts[-1].start + self.parts[-1].length

    def body(self, data: bytes, part: _Part) -> bytes:
        """Return a part's bytes, those that are there."""
        start = self.index_end + part.start
        return data[start : start + part.length]

    def is_whole(self, data: bytes, part: _Part) -> bool:
        body = self.body(data, part)
        return len(body) == part.length and crc32c(body) == part.crc

    def name(self, part: _Part) -> str:
        if part.tile is None:
            return name_of(part.kind)
        return f"tile {part.tile} ({self.grid.tile(part.tile)})"


def _read_head(data: bytes, max_pixels: int) -> _Head:
    """Return header and index, once their checksum is right and their fields are in range."""
    if len(data) < HEADER_BYTES:
        raise TruncatedError(f"the file ends within its header, after {len(data)} bytes")
    (*_, flags, channels, sections, fingerprint, width, height, units) = _HEAD.unpack_from(data)
    try:
        grid = Grid(width, height, units * UNIT)
    except DataError:
        raise CorruptError(f"the file claims {width} x {height} pixels") from None
    parts, end = _read_index(data, sections, grid)
    crc = crc32c(data[HEADER_BYTES:end], crc32c(data[: _HEAD.size]))
    if crc != _CRC.unpack_from(data, _HEAD.size)[0]:
        raise CorruptError("the file is damaged: the checksum of header and index is wrong")
    if flags:
        raise UnsupportedVersionError(f"the file has flags {flags:#04x}; this release knows none")
    if channels not in (1, 3):
        raise CorruptError(f"channels must be 1 or 3, not {channels}")
    _check_pixels(width, height, max_pixels)
    kinds = [part.kind for part in parts if not part.tile]  # a tile's once
    if any(a >= b for a, b in pairwise(kinds)):
        raise CorruptError(f"sections are out of order or there twice: {kinds}")
    if _TILES not in kinds:
        raise CorruptError("the section of tiles is missing")
    return _Head(fingerprint, channels, grid, parts, end)


def _read_index(data: bytes, num_sections: int, grid: Grid) -> tuple[list[_Part], int]:
    """Return the entries of the index, one for each tile, and where it ends."""
    reader, parts, start = _Reader(data, HEADER_BYTES), list[_Part](), 0
    for _ in range(num_sections):
        (kind,) = reader.take(1)
        if kind == _TILES:
            if grid.count * _LEAST_TILE_BYTES > reader.left:
                raise TruncatedError(f"the file ends within its index of {grid.count} tiles")
            for tile in range(grid.count):
                length = reader.varint()
                parts.append(_Part(kind, start, length, *reader.numbers(_CRCS), tile=tile))
                start += length
        elif kind == ALPHA or kind >= _FIRST_OPTIONAL:
            length = reader.varint()
            parts.append(_Part(kind, start, length, *reader.numbers(_CRC)))
            start += length
        else:
            raise UnsupportedVersionError(
                f"this release does not know {name_of(kind)} of the file; a later one may"
            )
    return parts, reader.at


class _Reader:
    """Takes bytes off the index; raises `TruncatedError` where the file ends."""

    def __init__(self, data: bytes, at: int):
        self.at = at
        self._data = data

    @property
    def left(self) -> int:
        return len(self._data) - self.at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise TruncatedError(f"the file ends within its index, after {len(self._data)} bytes")
        self.at += count
        return self._data[self.at - count : self.at]

    def numbers(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def varint(self) -> int:
        number = 0
        for i in range(_MAX_VARINT_BYTES):
            (byte,) = self.take(1)
            number |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                if byte == 0 and i:
                    raise CorruptError("the file's index: a length is not in its shortest form")
                return number
        raise CorruptError("the file's index: a length is too long")


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise CorruptError(
            f"the file claims {width} x {height} pixels, more than max_pixels = {max_pixels}"
        )
