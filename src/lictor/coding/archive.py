"""The lictor signal file, version 1: one signal or an archive of many, and few bytes around them.

Pictures go into `container`; this is for whatever a codec of signals reads: sounds, volumes,
fields, arrays, thumbnails. A field may have five bytes of payload, so each byte of the header
counts, and many signals share one header and one stream.

`varint` is LEB128 as in `stream`, in its shortest form; all else is unsigned and little-endian.

    offset  bytes   field
    0       3       magic         8E 4C 53 ("LS" after a byte that no text file begins with)
    3       1       version       1
    4       4       fingerprint   the first bytes of that of the codec that can decode the file
    8       4       file_crc      CRC-32 of all other bytes: 0..7, then 12 to the end of the file
    12      2       symbol_crc    the low 16 bits of the CRC-32 of the decoded symbols
    14      1       flags         1: an archive (names, a count); 2: the directory is deflated;
                                  4: the payload lacks its counts
    15      varint  quality       folded: 2 * q for q >= 0, else -2 * q - 1; the codec knows it
    ...             directory
    ...     rest    payload       the symbol stream, see `stream`

With flag 2 the directory is a varint, the bytes it takes here, a varint, the bytes it expands to,
and a raw deflate stream. With flag 4 the payload is that of one lane without escapes, and begins at
its state: the three counts in front of it follow from its length.

The directory is, in an archive, a varint with the number of signals; then for each signal

    1       head          bit 0: outline as the first signal's; bits 1-2 form: 0 none, 1 as the
                          first's, 2 its own; bits 3-4 mask: 0 none, 1 as the first's, 2 its own
    varint  name          in an archive: its bytes, then the name in UTF-8
    ...     outline       unless as the first's: 1 byte kind + 8 * dtype (numbers in KINDS and
                          DTYPES), varint items, varint 8 * channels + axes of the grid, for each
                          axis a varint
    varint  form          if its own: its bytes, then a JSON object in UTF-8
    ...     mask          if its own: a bit for each sample of a channel, C order, the first in the
                          highest bit of a byte; 1 where there is a value; padded with zeros

"None" as a form means that the codec knows it. Whether a form is complete is the codec's matter.

How to read a file. Compare the magic, then the version. Compare file_crc before anything else is
believed. Refuse more samples than you expect (a few bytes can claim 2**60), and expand no more of
the directory than it says, up to a limit. symbol_crc guards against a decoder that is wrong, not
against damage, so 16 bits of it are enough.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lictor.coding.rans import INITIAL_STATE
from lictor.coding.varint import varint
from lictor.errors import (
    CorruptError,
    DataError,
    NotABitstreamError,
    TruncatedError,
    UnsupportedVersionError,
)

MAGIC = b"\x8eLS"
VERSION = 1
FINGERPRINT_BYTES = 4
MAX_SAMPLES = 1 << 29  # of all signals of a file together, channels counted
KINDS = ("image", "audio", "volume", "field", "array")
DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64",
)  # fmt: skip

_HEAD = struct.Struct("<3sB4s")
_CRCS = struct.Struct("<IH")
_AFTER_CRC = _HEAD.size + 4
_LEAST_BYTES = _HEAD.size + _CRCS.size + 1
_ARCHIVE, _DEFLATED, _BARE = 1, 2, 4
_NONE, _FIRST, _OWN = 0, 1, 2
_MAX_AXES, _MAX_VARINT_BYTES = 7, 9
_MAX_NAME_BYTES, _MAX_FORM_BYTES = 1 << 12, 1 << 24
_MAX_QUALITY = 1 << 15
_BARE_COUNTS = 4  # bytes of the state that a payload without counts begins with


@dataclass(frozen=True)
class Outline:
    """The shape of a signal.

    Args:
        kind: one of KINDS.
        dtype: of its samples, one of DTYPES.
        items: 1 or more.
        grid: samples along each axis, each 1 or more; up to 7 axes.
        channels: 1 or more.

    Raises:
        DataError: a field is outside of its range.
    """

    kind: str
    dtype: str
    items: int
    grid: tuple[int, ...]
    channels: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"the kind {self.kind!r} is none of {', '.join(KINDS)}")
        if self.dtype not in DTYPES:
            raise DataError(f"samples of type {self.dtype} cannot be stored, only {DTYPES}")
        if not 1 <= len(self.grid) <= _MAX_AXES or min(self.items, self.channels, *self.grid) < 1:
            raise DataError(
                f"a signal of {self.items} items, grid {self.grid} and {self.channels} channels "
                f"cannot be stored: it needs 1 to {_MAX_AXES} axes and a sample along each"
            )

    @property
    def points(self) -> int:
        """Samples of one channel, all items together: the bits of a mask."""
        return self.items * math.prod(self.grid)


@dataclass(frozen=True, eq=False)
class Entry:
    """What the file says of one signal beside its symbols.

    Args:
        outline: its shape.
        form: a plain JSON object, or None: the codec's own.
        mask: bool `items *grid`, True where there is a value; None: everywhere.
        name: "" in a file of one signal.

    Raises:
        DataError: the mask has another shape, the name is too long, the form is no JSON object.
    """

    outline: Outline
    form: Mapping[str, Any] | None = None
    mask: NDArray[np.bool_] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        shape = (self.outline.items, *self.outline.grid)
        if self.mask is not None and (self.mask.dtype != bool or self.mask.shape != shape):
            raise DataError(f"the mask must be a bool array {shape}, not {self.mask.shape}")
        if len(self.name.encode(errors="replace")) > _MAX_NAME_BYTES:
            raise DataError(f"a name may have {_MAX_NAME_BYTES} bytes: {self.name[:40]!r}...")
        _json_bytes(self.form)


@dataclass(frozen=True, eq=False)
class Archive:
    """What a signal file holds.

    Args:
        fingerprint: of the codec, 4 bytes or more; the first 4 are stored.
        quality: the codec's quality step, -32768 to 32767.
        entries: one for each signal, 1 or more.
        payload: the symbol stream.
        symbol_crc: CRC-32 of the decoded symbols; its low 16 bits are stored.
        named: whether the file is an archive; one of a single signal need not be.

    Raises:
        DataError: a field is outside of its range.
    """

    fingerprint: bytes
    quality: int
    entries: Sequence[Entry]
    payload: bytes
    symbol_crc: int
    named: bool = False

    def __post_init__(self) -> None:
        if len(self.fingerprint) < FINGERPRINT_BYTES:
            raise DataError(f"the fingerprint needs {FINGERPRINT_BYTES} bytes")
        if not -_MAX_QUALITY <= self.quality < _MAX_QUALITY:
            raise DataError(f"the quality {self.quality} cannot be stored")
        if not self.entries or (len(self.entries) != 1 and not self.named):
            raise DataError(f"{len(self.entries)} signals do not make a file of one signal")
        if not self.named and self.entries[0].name:
            raise DataError("a file of one signal holds no name")
        # What a reader sees, whichever was given.
        object.__setattr__(self, "fingerprint", bytes(self.fingerprint[:FINGERPRINT_BYTES]))
        object.__setattr__(self, "symbol_crc", self.symbol_crc & 0xFFFF)

    def to_bytes(self) -> bytes:
        """Return the file."""
        directory, flags = _directory(self.entries, self.named), _ARCHIVE * self.named
        packed = _deflate(directory)
        deflated = varint(len(packed)) + varint(len(directory)) + packed
        if len(deflated) < len(directory):
            directory, flags = deflated, flags | _DEFLATED
        payload = self.payload
        if payload and _with_counts(payload[3:]) == payload:
            payload, flags = payload[3:], flags | _BARE
        folded = 2 * self.quality if self.quality >= 0 else -2 * self.quality - 1
        head = _HEAD.pack(MAGIC, VERSION, self.fingerprint)
        tail = b"".join(
            (_CRCS.pack(0, self.symbol_crc)[4:], bytes([flags]), varint(folded), directory)
        )
        crc = zlib.crc32(payload, zlib.crc32(tail, zlib.crc32(head)))
        return b"".join((head, struct.pack("<I", crc), tail, payload))

    @classmethod
    def from_bytes(cls, data: bytes, *, max_samples: int = MAX_SAMPLES) -> Archive:
        """Check a whole file and take it apart.

        Args:
            data: the file.
            max_samples: of all signals together that are accepted.

        Raises:
            NotABitstreamError: it does not begin with the magic, or is empty.
            UnsupportedVersionError: it has another version.
            TruncatedError: it ends within its header.
            CorruptError: a checksum is wrong (where a file ends too early, its length tells
                nothing), or a field is outside of its range, `max_samples` included.
        """
        _check(data)
        reader = _Reader(data, _HEAD.size + _CRCS.size)
        symbol_crc = _CRCS.unpack_from(data, _HEAD.size)[1]
        flags = reader.byte("flags")
        if flags & ~(_ARCHIVE | _DEFLATED | _BARE):
            raise CorruptError(f"the flags {flags} are not those of version {VERSION}")
        folded = reader.varint("quality")
        quality = folded // 2 if folded % 2 == 0 else -(folded + 1) // 2
        inner = reader
        if flags & _DEFLATED:
            inner = _Reader(_inflate(reader, max_samples), 0)
        entries = _entries(inner, bool(flags & _ARCHIVE), max_samples)
        if inner is not reader and inner.left:
            raise CorruptError(f"the directory has {inner.left} bytes too many")
        payload = reader.take(reader.left, "payload")
        if flags & _BARE:
            payload = _with_counts(payload)
            if not payload:
                raise CorruptError("the payload cannot be a stream without counts")
        fingerprint = data[_HEAD.size - FINGERPRINT_BYTES : _HEAD.size]
        try:
            return cls(fingerprint, quality, entries, payload, symbol_crc, bool(flags & _ARCHIVE))
        except DataError as error:
            raise CorruptError(str(error)) from None


def _check(data: bytes) -> None:
    """Raise unless magic, version and checksum are right."""
    if not data or not MAGIC.startswith(data[: len(MAGIC)]):
        raise NotABitstreamError("this is not a lictor signal file")
    if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
        raise UnsupportedVersionError(
            f"the file has version {data[len(MAGIC)]}; this release reads version {VERSION}"
        )
    if len(data) < _LEAST_BYTES:
        raise TruncatedError(f"the file ends within its header, after {len(data)} bytes")
    crc = zlib.crc32(memoryview(data)[_AFTER_CRC:], zlib.crc32(data[: _HEAD.size]))
    if crc != _CRCS.unpack_from(data, _HEAD.size)[0]:
        raise CorruptError("the file is damaged or incomplete: its checksum is wrong")


class _Reader:
    """Walks along bytes and says what is missing where they end."""

    def __init__(self, data: bytes, at: int):
        self._data, self._at = data, at

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int, what: str) -> bytes:
        if count > self.left:
            raise TruncatedError(f"the file ends within its {what}")
        self._at += count
        return self._data[self._at - count : self._at]

    def byte(self, what: str) -> int:
        return self.take(1, what)[0]

    def varint(self, what: str) -> int:
        number = 0
        for i in range(_MAX_VARINT_BYTES):
            byte = self.byte(what)
            number |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                if byte == 0 and i:
                    raise CorruptError(f"the file's {what}: a number is not in its shortest form")
                return number
        raise CorruptError(f"the file's {what}: a number is too long")


def _directory(entries: Sequence[Entry], named: bool) -> bytes:
    first, parts = entries[0], [varint(len(entries))] if named else []
    first_form = _json_bytes(first.form)
    for i, entry in enumerate(entries):
        later = i > 0
        same = later and entry.outline == first.outline
        shared = entry.form is first.form
        form, mask = first_form if shared else _json_bytes(entry.form), entry.mask
        form_kind = _kind_of(form, later and form == first_form)
        mask_kind = _kind_of(mask, later and same and _equal(mask, first.mask))
        parts.append(bytes([same | form_kind << 1 | mask_kind << 3]))
        if named:
            name = entry.name.encode(errors="replace")
            parts += [varint(len(name)), name]
        if not same:
            parts.append(_outline_bytes(entry.outline))
        if form is not None and form_kind == _OWN:
            parts += [varint(len(form)), form]
        if mask is not None and mask_kind == _OWN:
            parts.append(np.packbits(mask).tobytes())
    return b"".join(parts)


def _kind_of(value: Any, as_first: bool) -> int:
    return _NONE if value is None else _FIRST if as_first else _OWN


def _equal(one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


def _outline_bytes(outline: Outline) -> bytes:
    head = KINDS.index(outline.kind) + 8 * DTYPES.index(outline.dtype)
    numbers = (outline.items, 8 * outline.channels + len(outline.grid), *outline.grid)
    return bytes([head]) + b"".join(map(varint, numbers))


def _entries(reader: _Reader, named: bool, max_samples: int) -> list[Entry]:
    count = reader.varint("count of signals") if named else 1
    if count > reader.left:  # each takes a byte at least
        raise TruncatedError(f"the directory ends before its {count} signals")
    entries: list[Entry] = []
    total = 0
    for _ in range(count):
        head = reader.byte("directory")
        same, form_kind, mask_kind = head & 1, head >> 1 & 3, head >> 3
        first = entries[0] if entries else None
        if max(form_kind, mask_kind) > _OWN or (
            first is None and (same or _FIRST in (form_kind, mask_kind))
        ):
            raise CorruptError(f"the directory: a signal cannot have the head {head}")
        name = _name(reader) if named else ""
        outline = first.outline if same and first else _read_outline(reader)
        total += outline.points * outline.channels
        if total > max_samples:
            raise CorruptError(
                f"the file claims {total} samples or more; max_samples is {max_samples}"
            )
        form = first.form if form_kind == _FIRST and first else None
        if form_kind == _OWN:
            form = _read_form(reader)
        mask = first.mask if mask_kind == _FIRST and first else None
        if mask_kind == _OWN:
            mask = _read_mask(reader, outline)
        try:
            entries.append(Entry(outline, form, mask, name))
        except DataError as error:
            raise CorruptError(str(error)) from None
    return entries


def _name(reader: _Reader) -> str:
    length = reader.varint("name")
    if length > _MAX_NAME_BYTES:
        raise CorruptError(f"the directory: a name of {length} bytes")
    try:
        return reader.take(length, "name").decode()
    except UnicodeDecodeError:
        raise CorruptError("the directory: a name is not UTF-8") from None


def _read_outline(reader: _Reader) -> Outline:
    head, items = reader.byte("outline"), reader.varint("items")
    packed = reader.varint("channels")
    grid = tuple(reader.varint("grid") for _ in range(packed & 7))
    if head & 7 >= len(KINDS) or head >> 3 >= len(DTYPES):
        raise CorruptError(f"the directory: the kind and type {head} are unknown")
    try:
        return Outline(KINDS[head & 7], DTYPES[head >> 3], items, grid, packed >> 3)
    except DataError as error:
        raise CorruptError(str(error)) from None


def _read_form(reader: _Reader) -> Mapping[str, Any]:
    length = reader.varint("form")
    if length > _MAX_FORM_BYTES:
        raise CorruptError(f"the directory: a form of {length} bytes")
    try:
        form = json.loads(reader.take(length, "form"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise CorruptError("the directory: a form is no JSON") from None
    if not isinstance(form, dict):
        raise CorruptError("the directory: a form is no JSON object")
    return form


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _read_mask(reader: _Reader, outline: Outline) -> NDArray[np.bool_]:
    packed = np.frombuffer(reader.take(-(-outline.points // 8), "mask"), np.uint8)
    if np.unpackbits(packed[-1:])[(outline.points - 1) % 8 + 1 :].any():
        raise CorruptError("the directory: a mask has bits too many")
    bits = np.unpackbits(packed, count=outline.points)
    return bits.view(bool).reshape(outline.items, *outline.grid)


def _json_bytes(form: Mapping[str, Any] | None) -> bytes | None:
    """Return a form as compact JSON; raises `DataError` for what JSON cannot hold."""
    if form is None:
        return None
    try:
        text = json.dumps(
            dict(form), separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False
        )
        data = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"a signal's form cannot be stored as JSON ({error})") from error
    if len(data) > _MAX_FORM_BYTES:
        raise DataError(f"a signal's form has {len(data)} bytes of JSON, more than 2**24")
    return data


def _deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _inflate(reader: _Reader, max_samples: int) -> bytes:
    packed, expected = reader.varint("directory"), reader.varint("directory")
    # The masks, one form or name of the largest size; deflate cannot make more than 1032 of 1 byte.
    limit = min(max_samples // 8 + 4 * _MAX_FORM_BYTES, 1032 * packed + 64)
    if expected > limit:
        raise CorruptError(f"the directory claims {expected} bytes, more than {limit}")
    unpacker = zlib.decompressobj(-15)
    try:
        data = unpacker.decompress(reader.take(packed, "directory"), expected + 1)
    except zlib.error as error:
        raise CorruptError(f"the directory cannot be expanded ({error})") from None
    if len(data) != expected or not unpacker.eof or unpacker.unused_data:
        raise CorruptError("the directory does not expand to what the file says")
    return data


def _with_counts(bare: bytes) -> bytes:
    """Return a payload of one lane without escapes, from its state on, with counts; b"" if none."""
    words, odd = divmod(len(bare) - _BARE_COUNTS, 2)
    if words < 0 or odd or int.from_bytes(bare[:4], "little") < INITIAL_STATE:
        return b""
    return b"\x01" + varint(words) + b"\x00" + bare
