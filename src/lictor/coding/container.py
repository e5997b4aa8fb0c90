"""The lictor image file, version 1: a fixed header, a section table, the sections, no padding.

All integers are unsigned and little-endian. A file is

    offset  bytes  field
    0       4      magic         8E 4C 49 43 ("LIC" after a byte that no text file begins with)
    4       1      version       1
    5       1      flags         0; no flag is defined yet
    6       1      channels      1 (gray) or 3 (RGB)
    7       1      num_sections  1..255
    8       8      fingerprint   of the codec that can decode the file, opaque
    16      4      width         1..2**32-1 pixels
    20      4      height        1..2**32-1 pixels
    24      4      symbol_crc    CRC-32 of the decoded symbols, each as little-endian int32
    28      4      file_crc      CRC-32 of all other bytes: 0..27, then 32 to the end of the file
    32      5 * num_sections     section table, for each section
            1        kind        what it holds, see below
            4        length      its bytes
    ...     sum of the lengths   the sections in order of the table, one after the other

    kind     section
    1        the symbol stream, exactly one; its layout is told in `stream`
    128-255  for later versions; a decoder that does not know the kind skips the section
    others   for later versions; a decoder that does not know the kind rejects the file

CRC-32 is that of zlib, PNG and Ethernet (polynomial 0xEDB88320, reflected, begins and ends with
all bits inverted). The pixel values are not in the file: the codec makes them from the symbols.

How to read a file. Compare the magic, then the version: nothing behind it means the same in another
version. Require all of the header, of the section table, and of the sections to be there, and
nothing after them. Compare file_crc; only then look at the other fields. Refuse sizes you did
not expect: a few bytes can claim an image of 2**64 pixels, so the limit is MAX_PIXELS here unless
the caller raises it. Decode the symbols, compare symbol_crc: a difference means that the machine
computed other probabilities than the encoder's did, and that the picture would be noise.

With its single section a file is HEADER_BYTES + len(payload) bytes.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from lictor.errors import (
    CorruptError,
    DataError,
    NotABitstreamError,
    TruncatedError,
    UnsupportedVersionError,
)

MAGIC = b"\x8eLIC"
VERSION = 1
MAX_PIXELS = 1 << 28

_HEAD = struct.Struct("<4s4B8s3I")  # up to file_crc, which covers it
_CRC = struct.Struct("<I")
_SECTION = struct.Struct("<BI")
_SYMBOLS = 1  # the kind of section
_FIRST_OPTIONAL = 128
_UINT32_MAX = (1 << 32) - 1

_TABLE = _HEAD.size + _CRC.size
HEADER_BYTES = _TABLE + _SECTION.size


@dataclass(frozen=True)
class Container:
    """What a lictor file holds.

    Args:
        fingerprint: 8 bytes that identify the codec.
        width: of the image in pixels, 1 to 2**32 - 1.
        height: of the image in pixels, 1 to 2**32 - 1.
        channels: 1 or 3.
        payload: the symbol stream, below 2**32 bytes.
        symbol_crc: CRC-32 of the decoded symbols.
        flags: 0 in version 1.

    Raises:
        DataError: a field is outside of its range.
    """

    fingerprint: bytes
    width: int
    height: int
    channels: int
    payload: bytes
    symbol_crc: int
    flags: int = 0

    def __post_init__(self) -> None:
        if len(self.fingerprint) != 8:
            raise DataError(f"the fingerprint must have 8 bytes, not {len(self.fingerprint)}")
        if not 1 <= self.width <= _UINT32_MAX or not 1 <= self.height <= _UINT32_MAX:
            raise DataError(f"an image of {self.width} x {self.height} pixels cannot be stored")
        if self.channels not in (1, 3):
            raise DataError(f"channels must be 1 or 3, not {self.channels}")
        if self.flags != 0:
            raise DataError(f"flags must be 0 in version {VERSION}, not {self.flags}")
        if not 0 <= self.symbol_crc <= _UINT32_MAX or len(self.payload) > _UINT32_MAX:
            raise DataError("symbol_crc and the length of payload must be below 2**32")

    def to_bytes(self) -> bytes:
        """Return the file."""
        head = _HEAD.pack(
            MAGIC, VERSION, self.flags, self.channels, 1,
            self.fingerprint, self.width, self.height, self.symbol_crc,
        )  # fmt: skip
        table = _SECTION.pack(_SYMBOLS, len(self.payload))
        crc = zlib.crc32(self.payload, zlib.crc32(table, zlib.crc32(head)))
        return b"".join((head, _CRC.pack(crc), table, self.payload))

    @classmethod
    def from_bytes(cls, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Container:
        """Check a whole file and take it apart.

        Args:
            data: the file.
            max_pixels: width * height that is accepted.

        Raises:
            NotABitstreamError: it does not begin with the magic, or is empty.
            UnsupportedVersionError: it has another version.
            TruncatedError: it ends before its header says.
            CorruptError: it goes on after its end, a checksum is wrong, or a field is outside of
                its range, `max_pixels` included.
        """
        sections = _sections(data)
        (*_, flags, channels, _, fingerprint, width, height, symbol_crc) = _HEAD.unpack_from(data)
        if width * height > max_pixels:
            raise CorruptError(
                f"the file claims {width} x {height} pixels, more than max_pixels = {max_pixels}"
            )
        payload = None
        for kind, body in sections:
            if kind == _SYMBOLS and payload is None:
                payload = body
            elif kind < _FIRST_OPTIONAL:
                raise CorruptError(f"a section of kind {kind} is unknown or there twice")
        if payload is None:
            raise CorruptError("the section of symbols is missing")
        try:
            return cls(fingerprint, width, height, channels, payload, symbol_crc, flags)
        except DataError as error:
            raise CorruptError(str(error)) from None


def _sections(data: bytes) -> list[tuple[int, bytes]]:
    """Return kind and bytes of each section, once length and checksum of the file are right."""
    if not data or not MAGIC.startswith(data[: len(MAGIC)]):
        raise NotABitstreamError("this is not a lictor file")
    if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
        raise UnsupportedVersionError(
            f"the file has version {data[len(MAGIC)]}; this release reads version {VERSION}"
        )
    at = _TABLE
    if len(data) >= _TABLE:
        at += _SECTION.size * data[7]  # num_sections
    if len(data) < at:
        raise TruncatedError(f"the file ends within its header, after {len(data)} bytes")
    sections = []
    for kind, length in _SECTION.iter_unpack(data[_TABLE:at]):
        sections.append((kind, data[at : at + length]))
        at += length
    if len(data) < at:
        raise TruncatedError(f"the file has {len(data)} bytes instead of {at}")
    if len(data) > at:
        raise CorruptError(f"the file has {len(data) - at} bytes too many")
    crc = zlib.crc32(memoryview(data)[_TABLE:], zlib.crc32(data[: _HEAD.size]))
    if crc != _CRC.unpack_from(data, _HEAD.size)[0]:
        raise CorruptError("the file is damaged: its checksum is wrong")
    return sections
