"""What lies beside the pixels goes through a file unharmed, and hostile sections do no harm."""

import dataclasses
import io
import json
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from conftest import photo, tiny_model
from lictor.codecs import pictures
from lictor.codecs.learned import Codec
from lictor.codecs.pictures import (
    MAX_METADATA_BYTES,
    decode_picture,
    encode_picture,
    same_picture,
    with_sections,
)
from lictor.coding.container import ALPHA, EXIF, ICC, TEXT, XMP, Container
from lictor.data.pictures import Picture
from lictor.errors import CorruptError, DataError

RGB = photo(40, 50)
NOISE = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
FULL = Picture(
    RGB,
    NOISE,
    b"profile" * 99,
    b"MM\0*\0\0\0\x08",
    b"<x/>",
    (("Author", "käse"), ("", "")),
    (300.0, 299.5),
)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.freeze(tiny_model("checkerboard"))


def with_body(codec: Codec, kind: int, body: bytes) -> bytes:
    return with_sections(codec.encode(RGB), {kind: body})


def in_file(codec: Codec, picture: Picture) -> dict[int, bytes]:
    return dict(Container.from_bytes(encode_picture(codec, picture)).sections)


def test_a_picture_comes_back_with_all_that_it_had(codec):
    data = encode_picture(codec, FULL)
    expected = dataclasses.replace(FULL, pixels=codec.encode_verbose(RGB).reconstruction)
    assert same_picture(decode_picture(codec, data), expected)
    np.testing.assert_array_equal(codec.decode(data), expected.pixels)  # arrays as ever
    assert codec.fingerprint == Container.from_bytes(data).fingerprint


@pytest.mark.parametrize("field", ["alpha", "icc", "exif", "xmp", "text", "dpi"])
def test_equal_pictures_are_equal_in_every_part(field):
    other = () if field == "text" else None
    assert same_picture(FULL, dataclasses.replace(FULL))
    assert not same_picture(FULL, dataclasses.replace(FULL, **{field: other}))


def test_a_plain_picture_takes_not_a_byte_more(codec):
    opaque = np.full(RGB.shape[:2], 255, dtype=np.uint8)
    for picture in (Picture(RGB), Picture(RGB, opaque)):
        assert encode_picture(codec, picture) == codec.encode(RGB)
    assert decode_picture(codec, codec.encode(RGB)).alpha is None


@pytest.mark.parametrize(
    "alpha",
    [
        NOISE,
        np.where(NOISE > 127, 255, 0).astype(np.uint8),
        np.zeros_like(NOISE),
        np.full_like(NOISE, 254),
        np.tile(np.arange(50, dtype=np.uint8), (40, 1)),
    ],
    ids=["noise", "mask", "clear", "nearly opaque", "ramp"],
)
@pytest.mark.parametrize("coder", ["webp", "png"])
def test_opacity_is_lossless_by_either_coder(codec, alpha, coder, monkeypatch):
    if coder == "png":
        monkeypatch.setattr(pictures, "_MAX_WEBP_SIDE", 0)
    picture = Picture(RGB, alpha)
    if coder == "png":
        assert in_file(codec, picture)[ALPHA][0] == 2
    decoded = decode_picture(codec, encode_picture(codec, picture))
    np.testing.assert_array_equal(decoded.alpha, alpha)


def test_the_shorter_way_is_taken(codec):
    noise = bytes(np.random.default_rng(0).integers(0, 256, 99, dtype=np.uint8))
    sections = in_file(codec, Picture(RGB, icc=b"a" * 999, exif=noise))
    assert sections[ICC][0] == 1
    assert len(sections[ICC]) < 30
    assert sections[EXIF] == b"\0" + noise
    assert sections[EXIF][1:] == noise


def _png(pixels: np.ndarray) -> bytes:
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "PNG")
    return memory.getvalue()


def _webp(pixels: np.ndarray, **options: bool) -> bytes:
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "WEBP", **options)
    return memory.getvalue()


WRONG_ALPHA = {
    "empty": b"",
    "no coder": b"\x07rest",
    "no png": b"\x02rest",
    "no webp": b"\x01rest",
    "other size png": b"\x02" + _png(NOISE[1:]),
    "other size webp": b"\x01" + _webp(RGB[1:], lossless=True),
    "rgb png": b"\x02" + _png(RGB),
    "lossy webp": b"\x01" + _webp(RGB, lossless=False),
    "cut png": b"\x02" + _png(NOISE)[:-40],
    "cut webp": b"\x01" + _webp(RGB, lossless=True)[:200],
    "png as webp": b"\x01" + _png(NOISE),
}


@pytest.mark.parametrize("case", WRONG_ALPHA)
def test_opacity_that_is_not_the_picture_s_is_an_error(codec, case):
    data = with_body(codec, ALPHA, WRONG_ALPHA[case])
    with pytest.raises(CorruptError, match="alpha"):
        decode_picture(codec, data)


def test_a_claimed_size_makes_no_room(codec):
    """A WebP of 30 bytes that says 16383 x 16383 would take gigabytes before it failed."""
    webp = bytearray(_webp(RGB, lossless=True))
    webp[21:25] = (16382 | 16382 << 14).to_bytes(4, "little")
    data = with_body(codec, ALPHA, b"\x01" + bytes(webp))
    decode_picture(codec, codec.encode(RGB))
    tracemalloc.start()
    with pytest.raises(CorruptError, match="16383x16383"):
        decode_picture(codec, data)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


WRONG_BYTES = {
    "empty": b"",
    "no way": b"\x02rest",
    "not deflated": b"\x01rest",
    "cut": b"\x01" + zlib.compress(b"a" * 99)[:-3],
    "goes on": b"\x01" + zlib.compress(b"a" * 99) + b"x",
    "bomb": b"\x01" + zlib.compress(b"\0" * (1 << 26)),
}


@pytest.mark.parametrize("case", WRONG_BYTES)
@pytest.mark.parametrize("kind", [ICC, EXIF, XMP, TEXT])
def test_metadata_that_cannot_be_are_an_error(codec, case, kind):
    data = with_body(codec, kind, WRONG_BYTES[case])
    tracemalloc.start()
    with pytest.raises(CorruptError):
        decode_picture(codec, data)
    assert tracemalloc.get_traced_memory()[1] < 4 * MAX_METADATA_BYTES
    tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "no json",
        '{"text": 3}',
        '{"text": [["a"]]}',
        '{"text": [["a", 3]]}',
        '{"dpi": [1]}',
        '{"dpi": [0, 1]}',
        '{"dpi": ["a", 1]}',
        '{"dpi": [NaN, 1]}',
        '{"dpi": [1e999, 1]}',
        '{"dpi": [1, 1' + "0" * 400 + "]}",
        "[" * 100_000,
    ],
)
def test_texts_that_cannot_be_are_an_error(codec, text):
    data = with_body(codec, TEXT, b"\0" + text.encode())
    with pytest.raises(CorruptError, match="text"):
        decode_picture(codec, data)


def test_later_notes_and_sections_are_left_aside(codec):
    notes = json.dumps({"dpi": None, "later": [1, 2], "text": []}).encode()
    decoded = decode_picture(codec, with_body(codec, TEXT, b"\0" + notes))
    assert same_picture(decoded, Picture(codec.decode(codec.encode(RGB))))
    decode_picture(codec, with_body(codec, 200, b"whatever"))


def test_metadata_without_end_are_refused_by_the_encoder(codec):
    with pytest.raises(DataError, match=r"ICC.*--strip"):
        encode_picture(codec, Picture(RGB, icc=b"\0" * (MAX_METADATA_BYTES + 1)))
