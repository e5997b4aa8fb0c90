"""The file: bytes that never change, and one error for each way a file can be wrong."""

import struct
import zlib

import pytest

from lictor.coding.container import HEADER_BYTES, MAGIC, MAX_PIXELS, VERSION, Container
from lictor.errors import (
    BitstreamError,
    CorruptError,
    DataError,
    NotABitstreamError,
    TruncatedError,
    UnsupportedVersionError,
)

EXAMPLE = Container(b"codec-01", 768, 512, 3, b"symbols", 0x01020304)
GOLDEN = (
    "8e4c4943" "01" "00" "03" "01" "636f6465632d3031" "00030000" "00020000" "04030201"
    "3ce7757a" "01" "07000000" "73796d626f6c73"
)  # fmt: skip


def build(sections, *, head=None, crc=None) -> bytes:
    """A file by the specification, written apart from the code under test."""
    fields = {"version": 1, "flags": 0, "channels": 3, "width": 4, "height": 5} | (head or {})
    begin = (
        b"\x8eLIC"
        + bytes([fields["version"], fields["flags"], fields["channels"], len(sections)])
        + b"codec-01"
        + struct.pack("<III", fields["width"], fields["height"], 77)
    )
    rest = b"".join(struct.pack("<BI", kind, len(body)) for kind, body in sections)
    rest += b"".join(body for _, body in sections)
    return begin + struct.pack("<I", zlib.crc32(begin + rest) if crc is None else crc) + rest


def test_bytes_of_the_format_never_change():
    assert EXAMPLE.to_bytes().hex() == GOLDEN
    assert Container.from_bytes(bytes.fromhex(GOLDEN)) == EXAMPLE


def test_header_is_37_bytes():
    assert HEADER_BYTES == 37
    assert len(EXAMPLE.to_bytes()) == HEADER_BYTES + len(EXAMPLE.payload)


def test_writer_and_specification_agree():
    file = build([(1, b"abc")])
    assert Container.from_bytes(file) == Container(b"codec-01", 4, 5, 3, b"abc", 77)
    assert Container.from_bytes(file).to_bytes() == file


def test_every_truncated_prefix_raises():
    file = EXAMPLE.to_bytes()
    with pytest.raises(NotABitstreamError):
        Container.from_bytes(b"")
    for length in range(1, len(file)):
        with pytest.raises(TruncatedError):
            Container.from_bytes(file[:length])


def test_every_flipped_bit_raises():
    file = EXAMPLE.to_bytes()
    kinds = set()
    for at in range(len(file)):
        for bit in range(8):
            damaged = bytearray(file)
            damaged[at] ^= 1 << bit
            with pytest.raises(BitstreamError) as error:
                Container.from_bytes(bytes(damaged))
            kinds.add(error.type)
            if at < 4:
                assert error.type is NotABitstreamError
            elif at == 4:
                assert error.type is UnsupportedVersionError
            elif at not in (7, *range(33, 37)):  # all but the counts
                assert error.type is CorruptError
    assert kinds == {NotABitstreamError, UnsupportedVersionError, TruncatedError, CorruptError}


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n", b"L", b"LIC", bytes(100), b"\x8eLIX"])
def test_other_files_are_not_bitstreams(data):
    with pytest.raises(NotABitstreamError):
        Container.from_bytes(data)


def test_other_versions_are_named():
    for version in (0, 2, 255):
        with pytest.raises(UnsupportedVersionError, match=f"version {version};"):
            Container.from_bytes(build([(1, b"")], head={"version": version}))
    with pytest.raises(UnsupportedVersionError):
        Container.from_bytes(MAGIC + b"\x02")
    assert VERSION == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (EXAMPLE.to_bytes() + b"\x00", "1 bytes too many"),
        (build([(1, b"abc")], crc=0), "checksum"),
        (build([(1, b"abc")], head={"flags": 1}), "flags"),
        (build([(1, b"abc")], head={"channels": 2}), "channels"),
        (build([(1, b"abc")], head={"channels": 0}), "channels"),
        (build([(1, b"abc")], head={"width": 0}), "0 x 5"),
        (build([(1, b"abc")], head={"height": 0}), "4 x 0"),
        (build([(1, b"abc"), (1, b"abc")]), "there twice"),
        (build([(1, b"abc"), (2, b"abc")]), "kind 2"),
        (build([(0, b"abc"), (1, b"abc")]), "kind 0"),
        (build([]), "missing"),
        (build([(128, b"abc")]), "missing"),
    ],
)  # fmt: skip
def test_files_with_a_right_checksum_and_wrong_contents_are_corrupt(data, message):
    with pytest.raises(CorruptError, match=message):
        Container.from_bytes(data)


def test_optional_sections_of_later_versions_are_skipped():
    file = build([(200, b"meta"), (1, b"abc"), (128, b""), (200, b"x")])
    assert Container.from_bytes(file).payload == b"abc"


def test_a_bomb_is_refused_unless_the_caller_raises_the_limit():
    largest = Container(bytes(8), 1 << 14, 1 << 14, 1, b"", 0)
    assert largest.width * largest.height == MAX_PIXELS
    assert Container.from_bytes(largest.to_bytes()) == largest
    for width, height in [((1 << 14) + 1, 1 << 14), (2**32 - 1, 2**32 - 1)]:
        bomb = Container(bytes(8), width, height, 1, b"", 0)
        with pytest.raises(CorruptError, match="max_pixels"):
            Container.from_bytes(bomb.to_bytes())
        assert Container.from_bytes(bomb.to_bytes(), max_pixels=2**64) == bomb
    with pytest.raises(CorruptError, match="max_pixels = 10"):
        Container.from_bytes(EXAMPLE.to_bytes(), max_pixels=10)


@pytest.mark.parametrize(
    "fields",
    [
        {"fingerprint": b"short"},
        {"width": 0},
        {"height": 2**32},
        {"channels": 4},
        {"flags": 1},
        {"symbol_crc": -1},
        {"symbol_crc": 2**32},
    ],
)
def test_fields_that_cannot_be_stored_are_refused(fields):
    good = {
        "fingerprint": bytes(8), "width": 1, "height": 1, "channels": 1,
        "payload": b"", "symbol_crc": 0,
    }  # fmt: skip
    Container(**good)
    with pytest.raises(DataError):
        Container(**(good | fields))
