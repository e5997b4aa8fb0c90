"""The lictor image file, version 1, which earlier releases wrote: it is read, never written.

All integers are unsigned and little-endian. A file is

    offset  bytes  field
    0       4      magic         8E 4C 49 43
    4       1      version       1
    5       1      flags         0
    6       1      channels      1 (gray) or 3 (RGB)
    7       1      num_sections  1..255
    8       8      fingerprint   of the codec that can decode the file, opaque
    16      4      width         1..2**32-1 pixels
    20      4      height        1..2**32-1 pixels
    24      4      symbol_crc    CRC-32 of the decoded symbols, each as little-endian int32
    28      4      file_crc      CRC-32 of all other bytes: 0..27, then 32 to the end of the file
    32      5 * num_sections     section table, for each section
            1        kind        1: the symbol stream, exactly one; 128-255: to be skipped
            4        length      its bytes
    ...     sum of the lengths   the sections in order of the table, one after the other

CRC-32 is that of zlib, PNG and Ethernet (polynomial 0xEDB88320, reflected, begins and ends with
all bits inverted).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from lictor.errors import CorruptError, TruncatedError

VERSION = 1

_HEAD = struct.Struct("<4s4B8s3I")  # up to file_crc, which covers it
_CRC = struct.Struct("<I")
_SECTION = struct.Struct("<BI")
_SYMBOLS = 1  # the kind of section
_FIRST_OPTIONAL = 128
_TABLE = _HEAD.size + _CRC.size


@dataclass(frozen=True)
class FirstContainer:
    """What a file of version 1 says, its checksum checked; sizes and channels are not."""

    fingerprint: bytes
    width: int
    height: int
    channels: int
    payload: bytes
    symbol_crc: int


def read_first(data: bytes) -> FirstContainer:
    """Take a file apart that begins with the magic and version 1.

    Raises:
        TruncatedError: it ends before its header says.
        CorruptError: it goes on after its end, its checksum is wrong, it has flags, or other
            sections than it may.
    """
    sections = _sections(data)
    (*_, flags, channels, _, fingerprint, width, height, symbol_crc) = _HEAD.unpack_from(data)
    if flags:
        raise CorruptError(f"flags must be 0 in version {VERSION}, not {flags}")
    payload = None
    for kind, body in sections:
        if kind == _SYMBOLS and payload is None:
            payload = body
        elif kind < _FIRST_OPTIONAL:
            raise CorruptError(f"a section of kind {kind} is unknown or there twice")
    if payload is None:
        raise CorruptError("the section of symbols is missing")
    return FirstContainer(fingerprint, width, height, channels, payload, symbol_crc)


def _sections(data: bytes) -> list[tuple[int, bytes]]:
    """Return kind and bytes of each section, once length and checksum of the file are right."""
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
