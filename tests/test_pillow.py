"""Pillow opens and saves `.lic` files, and decodes only what is looked at."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

import lictor.pillow
from conftest import photo, tiny_model
from lictor.codecs import pictures
from lictor.codecs.learned import Codec
from lictor.codecs.pictures import encode_picture
from lictor.data.pictures import Picture

RGB = photo(40, 50)
ALPHA = photo(40, 50, seed=1)[:, :, 0].copy()
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"


@pytest.fixture(scope="module")
def codec() -> Codec:
    return lictor.pillow.use_codec(Codec.freeze(tiny_model("checkerboard")))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_every_mode_goes_through_a_file(mode, codec, tmp_path):
    image = Image.fromarray(RGB).convert(mode.removesuffix("A"))
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(ALPHA))
    path = tmp_path / "photo.lic"
    image.save(path, codec=codec)
    pixels = np.atleast_3d(np.asarray(image))[:, :, : 1 if mode[0] == "L" else 3].copy()
    expected = codec.encode_verbose(pixels).reconstruction
    with Image.open(path) as opened:
        assert (opened.format, opened.size, opened.mode) == ("LIC", (50, 40), mode)
        decoded = np.atleast_3d(np.asarray(opened))
    np.testing.assert_array_equal(decoded[:, :, : expected.shape[2]], expected)
    if mode.endswith("A"):
        np.testing.assert_array_equal(decoded[:, :, -1], ALPHA)


def test_what_lies_beside_the_pixels_is_kept_or_replaced(codec):
    image = Image.fromarray(RGB)
    image.info.update(icc_profile=b"old profile", exif=EXIF, dpi=(300, 300))
    for options, icc in (({}, b"old profile"), ({"icc_profile": b"new"}, b"new")):
        memory = io.BytesIO()
        image.save(memory, "LIC", codec=codec, **options)
        with Image.open(memory) as opened:
            opened.load()
            assert opened.info["icc_profile"] == icc
            assert opened.info["exif"] == EXIF
            assert opened.info["dpi"] == (300, 300)
    memory = io.BytesIO()
    image.save(memory, "LIC", codec=codec, exif=b"", icc_profile=None)
    with Image.open(memory) as opened:
        opened.load()
        assert not {"exif", "icc_profile"} & opened.info.keys()


def test_opening_decodes_nothing_and_loading_does_once(codec, monkeypatch):
    data = encode_picture(codec, Picture(RGB, ALPHA, icc=b"a" * 9000))
    calls = []
    decode = pictures.decode_picture
    monkeypatch.setattr(pictures, "decode_picture", lambda *args: calls.append(1) or decode(*args))
    image = Image.open(io.BytesIO(data[:200] + b"\0" * 20))
    assert (image.size, image.mode, calls) == ((50, 40), "RGBA", [])
    with pytest.raises(OSError, match="bytes"):
        image.load()
    calls.clear()
    with Image.open(io.BytesIO(data)) as image:
        assert calls == []
        image.load()
        image.load()
        assert image.getpixel((3, 4)) is not None
    assert calls == [1]


def test_torch_waits_until_pixels_are_wanted(codec, tmp_path):
    path = tmp_path / "photo.lic"
    path.write_bytes(codec.encode(RGB))
    script = (
        "import sys, lictor.pillow\nfrom PIL import Image\n"
        f"assert Image.open({str(path)!r}).size == (50, 40)\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("kind", ["junk", "cut header", "too big"])
def test_what_is_no_file_of_ours_is_none_that_pillow_knows(kind, codec):
    data = codec.encode(RGB)
    big = data[:16] + b"\xff" * 8 + data[24:]
    content = {"junk": b"\x8eLIC" + b"\0" * 99, "cut header": data[:20], "too big": big}[kind]
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(content))


def test_a_file_of_an_unknown_codec_says_so():
    data = Codec.freeze(tiny_model("checkerboard", seed=7)).encode(RGB)
    with Image.open(io.BytesIO(data)) as image, pytest.raises(OSError, match="made by the codec"):
        image.load()


def test_the_shipped_codec_is_the_default():
    image = Image.fromarray(RGB)
    memory = io.BytesIO()
    image.save(memory, "LIC")
    with Image.open(memory) as opened:
        np.testing.assert_array_equal(np.asarray(opened), Codec.default().decode(memory.getvalue()))


def test_what_cannot_be_coded_is_an_error_and_leaves_no_file(tmp_path: Path, codec):
    path = tmp_path / "photo.lic"
    with pytest.raises(ValueError, match="floats"):
        Image.fromarray(RGB).convert("F").save(path, codec=codec)
    assert not path.exists()
