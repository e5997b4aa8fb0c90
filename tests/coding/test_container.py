"""The file: bytes that never change, and one error for each way a file can be wrong."""

import dataclasses
import struct
import zlib

import pytest

from lictor.coding.container import (
    ALPHA,
    EXIF,
    HEADER_BYTES,
    ICC,
    MAGIC,
    MAX_PIXELS,
    TEXT,
    VERSION,
    XMP,
    Container,
    Tile,
    version_of,
)
from lictor.coding.crc import crc32c
from lictor.errors import (
    BitstreamError,
    CorruptError,
    DataError,
    NotABitstreamError,
    TruncatedError,
    UnsupportedVersionError,
)

EXAMPLE = Container(b"codec-01", 768, 512, 3, (Tile(b"symbols", 0x01020304),))
GOLDEN = (
    "8e4c4943" "02" "00" "03" "01" "636f6465632d3031" "00030000" "00020000" "0000"
    "be059584" "01" "07" "690322b5" "04030201" "73796d626f6c73"
)  # fmt: skip
# Two tiles of 64x64 and 36x64, and sections of each kind.
TILED = Container(
    b"codec-02", 100, 64, 1, (Tile(b"left side", 5), Tile(b"right", 6)), 64,
    {ICC: b"profile", ALPHA: b"opaque", 200: b"", EXIF: b"exif"},
)  # fmt: skip


def build(sections=((1, b"abc"),), *, head=None, crc=None, tiles=1) -> bytes:
    """A file by the specification, written apart from the code under test."""
    fields = {"version": 2, "flags": 0, "channels": 3, "width": 4, "height": 5, "side": 0}
    fields |= head or {}
    begin = (
        b"\x8eLIC"
        + bytes([fields["version"], fields["flags"], fields["channels"], len(sections)])
        + b"codec-01"
        + struct.pack("<IIH", fields["width"], fields["height"], fields["side"])
    )
    index = b""
    for kind, body in sections:
        assert len(body) < 128
        index += bytes([kind])
        for _ in range(tiles if kind == 1 else 1):
            index += bytes([len(body)]) + struct.pack("<I", crc32c(body))
            index += struct.pack("<I", 77) if kind == 1 else b""
    crc = crc32c(begin + index) if crc is None else crc
    bodies = b"".join(body * (tiles if kind == 1 else 1) for kind, body in sections)
    return begin + struct.pack("<I", crc) + index + bodies


def build_first(sections=((1, b"abc"),), *, head=None, crc=None) -> bytes:
    """A file of version 1, likewise."""
    fields = {"flags": 0, "channels": 3, "width": 4, "height": 5} | (head or {})
    begin = (
        b"\x8eLIC"
        + bytes([1, fields["flags"], fields["channels"], len(sections)])
        + b"codec-01"
        + struct.pack("<III", fields["width"], fields["height"], 77)
    )
    rest = b"".join(struct.pack("<BI", kind, len(body)) for kind, body in sections)
    rest += b"".join(body for _, body in sections)
    return begin + struct.pack("<I", zlib.crc32(begin + rest) if crc is None else crc) + rest


def flipped(file: bytes):
    """Every file with one bit of this one changed, and which byte it is in."""
    for at in range(len(file)):
        for bit in range(8):
            damaged = bytearray(file)
            damaged[at] ^= 1 << bit
            yield at, bytes(damaged)


def test_bytes_of_the_format_never_change():
    assert EXAMPLE.to_bytes().hex() == GOLDEN
    assert Container.from_bytes(bytes.fromhex(GOLDEN)) == EXAMPLE


def test_a_picture_of_one_tile_has_40_bytes_around_its_symbols():
    assert HEADER_BYTES == 30
    for length, around in [(0, 40), (127, 40), (128, 41), (16383, 41), (16384, 42)]:
        file = dataclasses.replace(EXAMPLE, tiles=(Tile(bytes(length), 0),))
        assert len(file.to_bytes()) == around + length


def test_writer_and_specification_agree():
    file = build()
    assert Container.from_bytes(file) == Container(b"codec-01", 4, 5, 3, (Tile(b"abc", 77),))
    assert Container.from_bytes(file).to_bytes() == file
    head = {"width": 65, "height": 66, "side": 1}
    four = build([(1, b"tile"), (2, b"a"), (131, b"{}")], head=head, tiles=4)
    expected = Container(
        b"codec-01", 65, 66, 3, (Tile(b"tile", 77),) * 4, 64, {TEXT: b"{}", ALPHA: b"a"}
    )
    assert Container.from_bytes(four) == expected
    assert expected.to_bytes() == four


def test_tiles_and_sections_come_back():
    assert Container.from_bytes(TILED.to_bytes()) == TILED
    assert list(Container.from_bytes(TILED.to_bytes()).sections) == [ALPHA, ICC, EXIF, 200]
    assert TILED.payload_bytes == 14
    assert TILED.symbol_crc == zlib.crc32(struct.pack("<II", 5, 6))
    assert EXAMPLE.symbol_crc == 0x01020304
    assert Container.salvage(TILED.to_bytes()).container == TILED
    assert Container.salvage(TILED.to_bytes()).damaged == ()


@pytest.mark.parametrize("example", [EXAMPLE, TILED], ids=["one tile", "two tiles"])
def test_every_truncated_prefix_raises(example):
    file = example.to_bytes()
    with pytest.raises(NotABitstreamError):
        Container.from_bytes(b"")
    for length in range(1, len(file)):
        with pytest.raises(TruncatedError):
            Container.from_bytes(file[:length])


@pytest.mark.parametrize("example", [EXAMPLE, TILED], ids=["one tile", "two tiles"])
def test_every_flipped_bit_raises(example):
    kinds = set()
    for at, damaged in flipped(example.to_bytes()):
        with pytest.raises(BitstreamError) as error:
            Container.from_bytes(damaged)
        kinds.add(error.type)
        if at < 4:
            assert error.type is NotABitstreamError
    assert kinds == {NotABitstreamError, UnsupportedVersionError, TruncatedError, CorruptError}


def test_salvage_tells_exactly_which_part_is_damaged():
    file = TILED.to_bytes()
    begin = len(file) - len(b"left sideright" + b"opaqueprofileexif")
    ends = {"left": 9, "right": 14, ALPHA: 20, ICC: 27, EXIF: 31}
    for at, damaged in flipped(file):
        if at < begin:
            with pytest.raises(BitstreamError):
                Container.salvage(damaged)
            continue
        saved = Container.salvage(damaged)
        part = next(name for name, end in ends.items() if at - begin < end)
        assert saved.damaged == {"left": (0,), "right": (1,)}.get(part, ())
        assert saved.lost == ((part,) if isinstance(part, int) else ())
        for i, tile in enumerate(TILED.tiles):
            expected = Tile(b"", tile.symbol_crc) if i in saved.damaged else tile
            assert saved.container.tiles[i] == expected
        assert saved.container.sections == {
            kind: body for kind, body in TILED.sections.items() if kind not in saved.lost
        }


def test_salvage_of_a_truncated_file_loses_what_is_cut_off_and_no_more():
    file = TILED.to_bytes()
    begin = len(file) - 31
    for length in range(len(file)):
        if length < begin:
            with pytest.raises(BitstreamError):
                Container.salvage(file[:length])
            continue
        saved = Container.salvage(file[:length])
        there = length - begin
        assert saved.damaged == tuple(i for i, end in enumerate((9, 14)) if end > there)
        ends = {ALPHA: 20, ICC: 27, EXIF: 31, 200: 31}
        assert saved.lost == tuple(k for k, end in ends.items() if end > there and k != 200)
    assert Container.salvage(file + b"more").container == TILED


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n", b"L", b"LIC", bytes(100), b"\x8eLIX"])
def test_other_files_are_not_bitstreams(data):
    for read in (Container.from_bytes, Container.salvage, version_of):
        with pytest.raises(NotABitstreamError):
            read(data)


def test_other_versions_are_named():
    for version in (0, 3, 255):
        for read in (Container.from_bytes, Container.salvage):
            with pytest.raises(UnsupportedVersionError, match=f"version {version};"):
                read(build(head={"version": version}))
    with pytest.raises(UnsupportedVersionError):
        Container.from_bytes(MAGIC + b"\x03")
    assert VERSION == version_of(build()) == 2
    assert version_of(build_first()) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (build(head={"flags": 1}), "flags 0x01"),
        (build(head={"flags": 0x82}), "flags 0x82"),
        (build([(0, b"abc")]), r"section 0 "),
        (build([(1, b"abc"), (3, b"x")]), r"tiles of a standard coder \(3\)"),
        (build([(1, b"abc"), (4, b"x")]), r"section 4 "),
        (build([(1, b"abc"), (127, b"x")]), r"section 127 "),
    ],
)
def test_what_a_later_release_may_know_is_named(data, message):
    with pytest.raises(UnsupportedVersionError, match=message):
        Container.from_bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (EXAMPLE.to_bytes() + b"\x00", "1 bytes too many"),
        (build(crc=0), "checksum of header and index"),
        (build()[:-1] + b"x", r"tile 0 \(4x5 at 0,0\)"),
        (TILED.to_bytes().replace(b"right", b"wrong"), r"tile 1 \(36x64 at 64,0\)"),
        (TILED.to_bytes().replace(b"opaque", b"brazen"), r"section alpha \(2\)"),
        (TILED.to_bytes().replace(b"profile", b"profane"), r"ICC profile \(128\)"),
        (build(head={"channels": 2}), "channels"),
        (build(head={"channels": 0}), "channels"),
        (build(head={"width": 0}), "0 x 5"),
        (build(head={"height": 0}), "4 x 0"),
        (build([(1, b"abc"), (1, b"abc")]), "there twice"),
        (build([(1, b"abc"), (128, b"a"), (128, b"b")]), "there twice"),
        (build([(128, b"a"), (1, b"abc")]), "out of order"),
        (build([(128, b"abc")]), "tiles is missing"),
        (build([]), "tiles is missing"),
        (build()[:31] + b"\x83\x00" + build()[32:], "shortest form"),
        (build()[:31] + b"\xff" * 12 + build()[32:], "too long"),
    ],
)  # fmt: skip
def test_files_with_wrong_contents_are_corrupt(data, message):
    with pytest.raises(CorruptError, match=message):
        Container.from_bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (build_first(crc=0), "checksum"),
        (build_first() + b"x", "too many"),
        (build_first(head={"flags": 1}), "flags"),
        (build_first(head={"channels": 2}), "channels"),
        (build_first(head={"width": 0}), "0 x 5"),
        (build_first([(1, b"abc"), (1, b"abc")]), "there twice"),
        (build_first([(1, b"abc"), (2, b"abc")]), "kind 2"),
        (build_first([]), "missing"),
        (build_first(head={"width": 2**20, "height": 2**20}), "max_pixels"),
    ],
)
def test_files_of_version_1_with_wrong_contents_are_corrupt(data, message):
    for read in (Container.from_bytes, Container.salvage):
        with pytest.raises(CorruptError, match=message):
            read(data)


def test_a_file_of_version_1_is_one_tile():
    file = build_first([(200, b"meta"), (1, b"abc"), (128, b""), (200, b"x")])
    expected = Container(b"codec-01", 4, 5, 3, (Tile(b"abc", 77),))
    assert Container.from_bytes(file) == expected
    saved = Container.salvage(file)
    assert (saved.container, saved.damaged, saved.lost) == (expected, (), ())
    for length in range(1, len(file)):
        with pytest.raises(TruncatedError):
            Container.from_bytes(file[:length])
    for _, damaged in flipped(file):
        with pytest.raises(BitstreamError):
            Container.from_bytes(damaged)


def test_optional_sections_of_later_versions_are_kept():
    file = build([(1, b"abc"), (132, b"meta"), (255, b"")])
    assert Container.from_bytes(file).sections == {132: b"meta", 255: b""}
    assert Container.from_bytes(file).to_bytes() == file


def test_a_bomb_is_refused_unless_the_caller_raises_the_limit():
    largest = Container(bytes(8), 1 << 14, 1 << 14, 1, (Tile(b"", 0),))
    assert largest.width * largest.height == MAX_PIXELS
    assert Container.from_bytes(largest.to_bytes()) == largest
    for width, height in [((1 << 14) + 1, 1 << 14), (2**32 - 1, 2**32 - 1)]:
        bomb = dataclasses.replace(largest, width=width, height=height)
        for read in (Container.from_bytes, Container.salvage):
            with pytest.raises(CorruptError, match="max_pixels"):
                read(bomb.to_bytes())
        assert Container.from_bytes(bomb.to_bytes(), max_pixels=2**64) == bomb
    with pytest.raises(CorruptError, match="max_pixels = 10"):
        Container.from_bytes(EXAMPLE.to_bytes(), max_pixels=10)


def test_an_index_of_more_tiles_than_the_file_can_hold_is_refused_at_once():
    head = {"width": 2**32 - 1, "height": 2**32 - 1, "side": 1}
    with pytest.raises(TruncatedError, match=f"index of {2**52} tiles"):
        Container.from_bytes(build(head=head), max_pixels=2**64)


@pytest.mark.parametrize(
    "fields",
    [
        {"fingerprint": b"short"},
        {"width": 0},
        {"height": 2**32},
        {"channels": 4},
        {"flags": 1},
        {"tiles": ()},
        {"tiles": (Tile(b"", 0), Tile(b"", 0))},
        {"tiles": (Tile(b"", -1),)},
        {"tiles": (Tile(b"", 2**32),)},
        {"tile_side": 100},
        {"tile_side": 65536 * 64},
        {"width": 65, "tile_side": 64},
        {"sections": {1: b""}},
        {"sections": {3: b""}},
        {"sections": {127: b""}},
        {"sections": {256: b""}},
    ],
)
def test_fields_that_cannot_be_stored_are_refused(fields):
    good = {
        "fingerprint": bytes(8), "width": 1, "height": 1, "channels": 1, "tiles": (Tile(b"", 0),),
    }  # fmt: skip
    Container(**good, sections={ALPHA: b"", ICC: b"", XMP: b"", 255: b""})
    with pytest.raises(DataError):
        Container(**(good | fields))
