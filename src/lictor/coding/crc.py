"""CRC-32C (Castagnoli), the checksum of all parts of a picture's file.

Its polynomial is 0x82F63B78 (reflected); it begins and ends with all bits inverted, as in iSCSI
(RFC 3720, appendix B.4) and ext4. It finds every error of an odd number of bits, and every burst of
up to 32 bits.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

_POLYNOMIAL = 0x82F63B78
# A header is done before numba is even imported.
_FEW_BYTES = 512


def _of_byte(byte: int) -> int:
    """Return the checksum of a byte, without inversions."""
    for _ in range(8):
        byte = byte >> 1 ^ _POLYNOMIAL * (byte & 1)
    return byte


_PLAIN_TABLE = [_of_byte(byte) for byte in range(256)]
_TABLE = np.array(_PLAIN_TABLE, np.uint32)
_TABLE.flags.writeable = False


def _update(data: Any, table: Any, crc: Any) -> Any:
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


@cache
def _fast_update() -> Any:
    from lictor.coding.compiled import compiled

    return compiled(_update)


def crc32c(data: bytes, crc: int = 0) -> int:
    """Return the CRC-32C of `data`, or of what `crc` is the checksum of followed by `data`."""
    state = crc ^ 0xFFFFFFFF
    if len(data) <= _FEW_BYTES:
        state = _update(data, _PLAIN_TABLE, state)
    else:
        state = _fast_update()(np.frombuffer(data, np.uint8), _TABLE, np.uint32(state))
    return int(state) ^ 0xFFFFFFFF
