"""CRC-32C: published values, and one result whichever way it is reached."""

import numpy as np
import pytest

from lictor.coding.crc import _FEW_BYTES, crc32c


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"123456789", 0xE3069283),
        (b"", 0),
        # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_values(data, expected):
    assert crc32c(data) == expected


def bit_by_bit(data: bytes) -> int:
    """A slow reference."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("size", [1, _FEW_BYTES, _FEW_BYTES + 1, 4000])
def test_the_compiled_loop_and_the_plain_one_agree_with_a_slow_reference(size):
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    assert crc32c(data) == bit_by_bit(data)


@pytest.mark.parametrize("split", [0, 1, 700, 2999, 3000])
def test_parts_make_the_whole(split):
    data = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8).tobytes()
    assert crc32c(data[split:], crc32c(data[:split])) == crc32c(data)
