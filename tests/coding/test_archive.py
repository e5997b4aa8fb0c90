"""The signal file: bytes that never change, few of them, and an error for each way to be wrong."""

import dataclasses
import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from lictor.coding.archive import MAX_SAMPLES, Archive, Entry, Outline
from lictor.coding.container import Container, Tile
from lictor.coding.rans import INITIAL_STATE
from lictor.coding.stream import SymbolDecoder, SymbolEncoder
from lictor.coding.tables import build_tables
from lictor.errors import (
    BitstreamError,
    CorruptError,
    DataError,
    NotABitstreamError,
    TruncatedError,
    UnsupportedVersionError,
)

FIELD = Outline("field", "float32", 1, (46, 90), 1)
SPEECH = Outline("audio", "int16", 1, (24000,), 1)
MASK = np.random.default_rng(0).random((1, 46, 90)) < 0.7
EXAMPLE = Archive(
    b"codec-01",
    -3,
    (
        Entry(FIELD, {"units": "K", "a": [1, 2.5]}, MASK, "sea/t2m"),
        Entry(FIELD, {"a": [1, 2.5], "units": "K"}, MASK.copy(), "sea/t2m b"),
        Entry(SPEECH, None, None, "öl"),
        Entry(Outline("image", "uint8", 2, (3, 5), 3), {}, np.ones((2, 3, 5), bool), ""),
    ),
    b"symbols",
    0x01020304,
    named=True,
)
SINGLE = Archive(b"codec-01", 4, (Entry(FIELD),), b"symbols", 0x01020304)
# magic, version, fingerprint, file_crc, symbol_crc, flags, quality | head, outline | payload
GOLDEN = "8e4c5301636f6465ab7a5a2704030008003b010a2e5a73796d626f6c73"


def facts(archive: Archive) -> list:
    """What must survive, in a form that can be compared."""
    entries = [
        (e.outline, e.form, None if e.mask is None else e.mask.tolist(), e.name)
        for e in archive.entries
    ]
    head = (archive.fingerprint, archive.quality, archive.payload, archive.symbol_crc)
    return [*head, archive.named, entries]


def build(directory: bytes, flags: int = 0, payload: bytes = b"abc", quality: int = 0) -> bytes:
    """A file by the specification, written apart from the code under test."""
    begin = b"\x8eLS\x01code"
    rest = struct.pack("<H", 7) + bytes([flags, quality]) + directory + payload
    return begin + struct.pack("<I", zlib.crc32(begin + rest)) + rest


def deflated(directory: bytes, claim: int | None = None) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(directory) + packer.flush()

    def varint(n: int) -> bytes:
        return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])

    return varint(len(packed)) + varint(len(directory) if claim is None else claim) + packed


def test_bytes_of_the_format_never_change():
    assert SINGLE.to_bytes().hex() == GOLDEN
    assert facts(Archive.from_bytes(bytes.fromhex(GOLDEN))) == facts(SINGLE)


def test_writer_and_specification_agree():
    outline = bytes([0x3B, 1, 8 + 2, 46, 90])
    file = build(b"\x00" + outline)
    read = Archive.from_bytes(file)
    assert facts(read) == facts(Archive(b"code", 0, (Entry(FIELD),), b"abc", 7))
    assert read.to_bytes() == file
    form = json.dumps({"k": 1}, separators=(",", ":")).encode()
    entries = (Entry(FIELD, {"k": 1}, None, "x"), Entry(FIELD, {"k": 1}, None, "yz"))
    directory = b"\x02" + b"\x04\x01x" + outline + bytes([len(form)]) + form + b"\x03\x02yz"
    assert Archive(b"code", 0, entries, b"abc", 7, named=True).to_bytes() == build(directory, 1)


def test_everything_survives():
    assert facts(Archive.from_bytes(EXAMPLE.to_bytes())) == facts(EXAMPLE)


@pytest.mark.parametrize("quality", [0, 1, -1, 63, -64, 64, 32767, -32768])
def test_every_quality_survives(quality):
    file = dataclasses.replace(SINGLE, quality=quality).to_bytes()
    assert Archive.from_bytes(file).quality == quality


def test_a_field_has_22_bytes_of_header_and_no_counts_in_its_payload():
    encoder = SymbolEncoder()
    tables = build_tables([np.ones(4)], np.array([0.01]), np.array([0]))
    encoder.put(np.array([0, 1, 2, 3, 0, 1, 2, 3]), np.zeros(8, int), tables)
    payload = encoder.finish()
    file = Archive(bytes(8), 0, (Entry(FIELD),), payload, encoder.symbol_crc)
    picture = Container(bytes(8), 1, 1, 1, (Tile(payload, 0),))
    assert len(file.to_bytes()) == 22 + len(payload) - 3 < len(picture.to_bytes()) - 20
    read = Archive.from_bytes(file.to_bytes())
    assert read.payload == payload
    decoder = SymbolDecoder(read.payload)
    decoder.get(np.zeros(8, int), tables)
    decoder.finish()
    assert decoder.symbol_crc & 0xFFFF == read.symbol_crc


def test_copies_cost_a_head_and_a_name():
    def size(count: int) -> int:
        entries = [Entry(FIELD, {"units": "K"}, MASK, f"{i}") for i in range(count)]
        return len(dataclasses.replace(EXAMPLE, entries=entries).to_bytes())

    assert size(9) - size(1) <= 8 * 3
    one = Archive(b"code", 0, (Entry(FIELD, {"units": "K"}, MASK),), b"symbols", 0)
    assert size(9) < 2 * len(one.to_bytes())


def test_a_directory_is_deflated_only_where_that_is_shorter():
    plain = Archive.from_bytes(SINGLE.to_bytes())
    assert SINGLE.to_bytes()[14] & 2 == 0
    assert len(SINGLE.to_bytes()) == 22 + len(plain.payload)
    entries = [Entry(FIELD, {"title": "temperature " * 50}, None, f"{i}") for i in range(3)]
    file = dataclasses.replace(EXAMPLE, entries=entries).to_bytes()
    assert file[14] & 2
    assert len(file) < 120


def test_every_truncated_prefix_raises():
    for archive in (EXAMPLE, SINGLE):
        file = archive.to_bytes()
        with pytest.raises(NotABitstreamError):
            Archive.from_bytes(b"")
        for length in range(1, len(file)):
            with pytest.raises(TruncatedError if length < 15 else CorruptError):
                Archive.from_bytes(file[:length])
        with pytest.raises(CorruptError):
            Archive.from_bytes(file + b"\x00")


def test_every_flipped_bit_raises():
    for archive in (EXAMPLE, SINGLE):
        file = archive.to_bytes()
        for at in range(len(file)):
            for bit in range(8):
                damaged = bytearray(file)
                damaged[at] ^= 1 << bit
                with pytest.raises(BitstreamError) as error:
                    Archive.from_bytes(bytes(damaged))
                expected = (
                    NotABitstreamError
                    if at < 3
                    else UnsupportedVersionError
                    if at == 3
                    else CorruptError
                )
                assert error.type is expected


def test_flips_and_cuts_with_a_right_checksum_raise_or_read_and_never_crash():
    file = EXAMPLE.to_bytes()
    plain = build(b"\x04\x00\x01a\x3b\x01\x0a\x2e\x5a\x02{}", 1)
    outcomes = set()
    for source in (file, plain):
        for at in range(14, len(source)):
            for bit in range(9):
                rest = bytearray(source[12:])
                if bit < 8:
                    rest[at - 12] ^= 1 << bit
                else:
                    del rest[at - 12 :]
                begin = source[:8]
                crc = struct.pack("<I", zlib.crc32(begin + bytes(rest)))
                try:
                    Archive.from_bytes(begin + crc + bytes(rest))
                    outcomes.add("read")
                except BitstreamError as error:
                    outcomes.add(type(error).__name__)
    assert outcomes == {"read", "TruncatedError", "CorruptError"}


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n", b"L", bytes(100), b"\x8eLIC"])
def test_other_files_are_not_signal_files(data):
    with pytest.raises(NotABitstreamError):
        Archive.from_bytes(data)
    with pytest.raises(NotABitstreamError):
        Container.from_bytes(SINGLE.to_bytes())


def test_other_versions_are_named():
    for version in (0, 2, 255):
        data = bytearray(SINGLE.to_bytes())
        data[3] = version
        with pytest.raises(UnsupportedVersionError, match=f"version {version};"):
            Archive.from_bytes(bytes(data))


OUTLINE = b"\x3b\x01\x0a\x2e\x5a"


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (build(b"\x00" + OUTLINE, 8), CorruptError, "flags 8"),
        (build(b"\x01" + OUTLINE), CorruptError, "head 1"),
        (build(b"\x02" + OUTLINE), CorruptError, "head 2"),
        (build(b"\x06" + OUTLINE), CorruptError, "head 6"),
        (build(b"\x18" + OUTLINE), CorruptError, "head 24"),
        (build(b"\x80" + OUTLINE), CorruptError, "head 128"),
        (build(b"\x00\x3d\x01\x0a\x2e\x5a"), CorruptError, "kind and type 61"),
        (build(b"\x00\x4b\x01\x0a\x2e\x5a"), CorruptError, "kind and type 75"),
        (build(b"\x00\x3b\x00\x0a\x2e\x5a"), CorruptError, "0 items"),
        (build(b"\x00\x3b\x01\x02\x2e\x5a"), CorruptError, "0 channels"),
        (build(b"\x00\x3b\x01\x0a\x00\x5a"), CorruptError, r"\(0, 90\)"),
        (build(b"\x00\x3b\x01\x08"), CorruptError, r"grid \(\)"),
        (build(b"\x00\x3b\x81\x00\x0a\x2e\x5a"), CorruptError, "shortest form"),
        (build(b"\x00\x3b" + b"\xff" * 10), CorruptError, "too long"),
        (build(b"\x04" + OUTLINE + b"\x02[]"), CorruptError, "no JSON object"),
        (build(b"\x04" + OUTLINE + b"\x03NaN"), CorruptError, "no JSON"),
        (build(b"\x04" + OUTLINE + b"\x09" + b'{"a":1e5'), CorruptError, "no JSON"),
        (build(b"\x04" + OUTLINE + b"\xff\xff\xff\xff\x0f"), CorruptError, "form of"),
        (build(b"\x04" + OUTLINE + b"\x7f{}"), TruncatedError, "form"),
        (build(b"\x10" + OUTLINE), TruncatedError, "mask"),
        (build(b"\x10\x3b\x01\x09\x02\x01", payload=b""), CorruptError, "too many"),
        (build(b"\x00", 1), CorruptError, "0 signals"),
        (build(b"\x7f\x00", 1), TruncatedError, "127 signals"),
        (build(b"\x01\x00\x02\xff\xff" + OUTLINE, 1), CorruptError, "UTF-8"),
        (build(b"\x01\x00\xff\x7f", 1), CorruptError, "name of"),
        (build(deflated(b"\x00" + OUTLINE + b"x"), 2), CorruptError, "1 bytes too many"),
        (build(deflated(b"\x00" + OUTLINE, 5), 2), CorruptError, "does not expand"),
        (build(deflated(b"\x00" + OUTLINE, 7), 2), CorruptError, "does not expand"),
        (build(b"\x03\x06\xff\xff\xff", 2, b""), CorruptError, "cannot be expanded"),
        (build(b"\x03\xff\xff\xff\x7fabc", 2, b""), CorruptError, "claims"),
        (build(b"\x00" + OUTLINE, 4), CorruptError, "without counts"),
        (build(b"\x00" + OUTLINE, 4, bytes(4)), CorruptError, "without counts"),
        (build(b"\x00" + OUTLINE, 4, b"\0\0\1\0x"), CorruptError, "without counts"),
        (
            build(b"\x00\x3b\x01\x0a" + b"\xff\xff\x7f" * 2),
            CorruptError,
            f"max_samples is {MAX_SAMPLES}",
        ),
    ],
)  # fmt: skip
def test_files_with_a_right_checksum_and_wrong_contents(data, error, message):
    if message == "too many":  # bits behind the end of a mask of two
        data = build(b"\x10\x3b\x01\x0a\x02\x01", payload=b"\xe0")
    with pytest.raises(BitstreamError, match=message) as raised:
        Archive.from_bytes(data)
    assert raised.type is error


def test_what_a_payload_without_counts_begins_with():
    state = INITIAL_STATE.to_bytes(4, "little")
    read = Archive.from_bytes(build(b"\x00" + OUTLINE, 4, state + b"ab"))
    assert read.payload == b"\x01\x01\x00" + state + b"ab"


def test_samples_are_counted_over_all_signals():
    entries = [Entry(FIELD, name=str(i)) for i in range(3)]
    file = Archive(b"code", 0, entries, b"", 0, named=True).to_bytes()
    assert len(Archive.from_bytes(file, max_samples=3 * 46 * 90).entries) == 3
    with pytest.raises(CorruptError, match="max_samples is 12419"):
        Archive.from_bytes(file, max_samples=3 * 46 * 90 - 1)


def test_a_small_file_cannot_ask_for_much_memory():
    bomb = deflated(b"\x04" + OUTLINE + b"\x80\x80\x80\x08" + b"[" * (1 << 24))
    claim = build(b"\x00\x3b\x01\x0a" + b"\xff\xff\xff\x7f" * 2)
    tracemalloc.start()
    for data in (build(bomb, 2), claim):
        with pytest.raises(BitstreamError):
            Archive.from_bytes(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 27


@pytest.mark.parametrize(
    "make",
    [
        lambda: Outline("movie", "uint8", 1, (1,), 1),
        lambda: Outline("audio", "complex64", 1, (1,), 1),
        lambda: Outline("audio", "uint8", 0, (1,), 1),
        lambda: Outline("audio", "uint8", 1, (), 1),
        lambda: Outline("audio", "uint8", 1, (1,) * 8, 1),
        lambda: Outline("audio", "uint8", 1, (3, 0), 1),
        lambda: Outline("audio", "uint8", 1, (3,), 0),
        lambda: Entry(FIELD, {"a": float("nan")}),
        lambda: Entry(FIELD, {"a": np.zeros(3)}),
        lambda: Entry(FIELD, None, MASK[0]),
        lambda: Entry(FIELD, None, MASK.astype(np.uint8)),
        lambda: Entry(FIELD, name="x" * 5000),
        lambda: dataclasses.replace(SINGLE, entries=()),
        lambda: dataclasses.replace(SINGLE, entries=(Entry(FIELD),) * 2),
        lambda: dataclasses.replace(SINGLE, entries=(Entry(FIELD, name="x"),)),
        lambda: dataclasses.replace(SINGLE, quality=1 << 15),
        lambda: dataclasses.replace(SINGLE, fingerprint=b"abc"),
    ],
)
def test_what_cannot_be_stored_is_refused(make):
    with pytest.raises(DataError):
        make()
