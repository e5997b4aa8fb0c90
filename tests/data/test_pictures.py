"""Pictures of every kind that people have: what is read is what was put in, or a notice tells."""

import dataclasses
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from conftest import photo
from lictor.data.picture_files import FORMATS, picture_file
from lictor.data.pictures import Picture, picture_sizes, read_picture
from lictor.errors import DataError

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>words</x:xmpmeta>"
RGB = photo(20, 30)
GREY = RGB[:, :, 0].copy()
ALPHA = photo(20, 30, seed=1)[:, :, 1].copy()


def exif_of(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x0100] = 9999  # some cameras write a width, of another picture than the file's
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    return exif


def as_file(image: Image.Image | np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    memory = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(memory, form, **options)
    return memory.getvalue()


def with_alpha(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    image.putalpha(Image.fromarray(ALPHA))
    return image


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "JPEG2000", "AVIF"])
def test_opacity_is_read_to_the_bit(form):
    lossless = {"WEBP": {"lossless": True, "exact": True}, "AVIF": {"quality": 100}}
    picture = read_picture(as_file(with_alpha(RGB), form, **lossless.get(form, {})), "x")
    np.testing.assert_array_equal(picture.alpha, ALPHA)
    if form != "AVIF":
        np.testing.assert_array_equal(picture.pixels, RGB)
    assert picture.notices == ()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_with_opacity_stays_grey(form):
    picture = read_picture(as_file(with_alpha(GREY), form), "x")
    np.testing.assert_array_equal(picture.pixels[:, :, 0], GREY)
    np.testing.assert_array_equal(picture.alpha, ALPHA)


def test_opacity_that_is_all_255_is_nothing():
    image = Image.fromarray(RGB)
    image.putalpha(255)
    assert read_picture(as_file(image), "x").alpha is None
    image.putalpha(254)
    alpha = read_picture(as_file(image), "x").alpha
    assert alpha is not None
    assert (alpha == 254).all()


def test_a_palette_becomes_the_colours_that_it_names():
    image = Image.fromarray(RGB).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    plain = read_picture(as_file(image), "x")
    assert plain.alpha is None
    np.testing.assert_array_equal(plain.pixels, expected)
    opacities = bytes([0, 100, 200])
    clear = read_picture(as_file(image, transparency=opacities), "x")
    np.testing.assert_array_equal(clear.pixels, expected)
    table = np.array([*opacities, *[255] * 253], dtype=np.uint8)
    np.testing.assert_array_equal(clear.alpha, table[np.asarray(image)])
    single = read_picture(as_file(image, "GIF", transparency=2), "x")
    assert single.alpha is not None
    assert set(np.unique(single.alpha)) == {0, 255}


def test_a_transparent_colour_is_opacity():
    grey = read_picture(as_file(GREY, transparency=int(GREY[3, 4])), "x")
    np.testing.assert_array_equal(grey.alpha, np.where(GREY[3, 4] == GREY, 0, 255))
    colour = tuple(int(v) for v in RGB[5, 6])
    rgb = read_picture(as_file(RGB, transparency=colour), "x")
    np.testing.assert_array_equal(rgb.alpha, np.where((RGB[5, 6] == RGB).all(2), 0, 255))


def test_samples_of_16_bits_are_rounded_and_told():
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)
    deep[0, :4] = (0, 65535, 128, 129)
    for form in ("PNG", "TIFF"):
        picture = read_picture(as_file(deep, form), "x")
        np.testing.assert_array_equal(picture.pixels[:, :, 0], np.rint(deep / 65535 * 255))
        assert picture.notices == ("its samples of 16 bits are brought to 8",)
    clear = read_picture(as_file(Image.fromarray(deep), transparency=int(deep[7, 8])), "x")
    np.testing.assert_array_equal(clear.alpha, np.where(deep == deep[7, 8], 0, 255))


def test_deep_colour_which_pillow_opens_as_8_bits_is_told_too():
    """A PNG of 16-bit RGB is made by hand: Pillow cannot write one."""
    deep = np.random.default_rng(0).integers(0, 65536, (4, 5, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
    picture = read_picture(data + chunk(b"IEND", b""), "x")
    assert abs(picture.pixels.astype(int) - np.rint(deep / 65535 * 255)).max() <= 1
    assert picture.notices == ("its samples of 16 bits are brought to 8",)


def test_bilevel_is_grey():
    image = Image.fromarray(GREY).convert("1")
    picture = read_picture(as_file(image), "x")
    np.testing.assert_array_equal(picture.pixels[:, :, 0], np.asarray(image) * 255)


def test_cmyk_is_converted_and_told_and_its_profile_not_kept():
    image = Image.fromarray(RGB).convert("CMYK")
    picture = read_picture(
        as_file(image, "TIFF", icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 200), "x"
    )
    np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGB")))
    assert picture.icc is None
    assert len(picture.notices) == 1
    assert "CMYK" in picture.notices[0]


def test_lab_is_converted_by_its_definition():
    lab = np.zeros((2, 2, 3), dtype=np.uint8)
    lab[:, :, 0] = 255  # white
    picture = read_picture(as_file(Image.frombytes("LAB", (2, 2), lab.tobytes()), "TIFF"), "x")
    assert (picture.pixels >= 254).all()
    assert "LAB" in picture.notices[0]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_samples_of_no_known_range_are_refused_with_a_remedy(mode):
    with pytest.raises(DataError, match=r"x\.tif.*scale them"):
        read_picture(as_file(Image.fromarray(GREY).convert(mode), "TIFF"), "x.tif")


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_kept_and_the_others_are_counted(form):
    first = Image.fromarray(GREY)
    more = [Image.fromarray(255 - GREY), Image.fromarray(GREY[::-1].copy())]
    lossless = {"lossless": True} if form == "WEBP" else {}
    data = as_file(first, form, save_all=True, append_images=more, **lossless)
    picture = read_picture(data, "x")
    assert picture.notices == ("holds 3 frames or pages; only the first is kept",)
    np.testing.assert_array_equal(picture.pixels[:, :, 0], GREY)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_profile_and_exif_are_kept_to_the_byte(form):
    exif = exif_of(6).tobytes()
    picture = read_picture(as_file(RGB, form, icc_profile=ICC, exif=exif, xmp=XMP), "x")
    assert picture.icc == ICC
    assert picture.exif == exif.removeprefix(b"Exif\0\0")
    assert picture.xmp == (None if form == "PNG" else XMP)  # Pillow writes none in a PNG
    assert picture.pixels.shape == RGB.shape  # as it is stored
    assert picture.orientation == 6
    assert picture.notices == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stripped_pictures_are_upright_as_the_standard_says(orientation, tmp_path):
    image = with_alpha(RGB)
    data = as_file(image, exif=exif_of(orientation))
    with Image.open(io.BytesIO(data)) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    plain = read_picture(data, "x", strip=True)
    np.testing.assert_array_equal(plain.pixels, upright[:, :, :3])
    np.testing.assert_array_equal(plain.alpha, upright[:, :, 3])
    assert (plain.icc, plain.exif, plain.xmp, plain.text, plain.orientation) == (
        None, None, None, (), 1,
    )  # fmt: skip
    (tmp_path / "x.png").write_bytes(data)
    seen = upright.shape[1], upright.shape[0]
    assert picture_sizes(str(tmp_path / "x.png")) == ((30, 20), seen)
    (tmp_path / "x.tif").write_bytes(as_file(image, "TIFF", tiffinfo={0x0112: orientation}))
    assert picture_sizes(str(tmp_path / "x.tif")) == (seen, seen)
    assert read_picture((tmp_path / "x.tif").read_bytes(), "x").pixels.shape[1::-1] == seen


def test_a_profile_that_changes_colours_is_not_stripped_silently():
    named = {"p3": b"\0" * 16 + b"RGB Display P3" + b"\0" * 99, "srgb": ICC}
    notices = {
        name: read_picture(as_file(RGB, icc_profile=icc), "x", strip=True).notices
        for name, icc in named.items()
    }
    assert notices["srgb"] == ()
    assert len(notices["p3"]) == 1


def test_texts_resolution_and_what_has_no_place():
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "somebody")
    info.add_itxt("Title", "käse")
    picture = read_picture(as_file(RGB, pnginfo=info, dpi=(300, 300)), "x")
    assert picture.text == (("Author", "somebody"), ("Title", "käse"))
    assert picture.dpi == pytest.approx((300, 300), abs=0.01)
    assert read_picture(as_file(RGB, "JPEG", dpi=(72, 72)), "x").dpi is None
    assert read_picture(as_file(RGB, "JPEG", comment="hello"), "x").text == (("Comment", "hello"),)
    gamma = PngImagePlugin.PngInfo()
    gamma.add(b"gAMA", (100000).to_bytes(4, "big"))
    assert read_picture(as_file(RGB, pnginfo=gamma), "x").notices == ("its gamma of 1 is not kept",)


FULL = Picture(
    RGB, ALPHA, ICC, exif_of(6).tobytes()[6:], XMP, (("Author", "somebody"),), (300.0, 300.0)
)


@pytest.mark.parametrize("suffix", FORMATS)
def test_written_pictures_have_all_that_their_format_holds_and_notices_for_the_rest(suffix):
    form = FORMATS[suffix]
    given = FULL if "alpha" in form.holds else dataclasses.replace(FULL, alpha=None)
    data, notices = picture_file(given, suffix, "x" + suffix)
    back = read_picture(data, "x")
    upright = form.name == "TIFF" or "exif" not in form.holds  # Pillow turns TIFFs itself
    expected = given.stripped() if upright else given
    if form.lossless:
        np.testing.assert_array_equal(back.pixels, expected.pixels)
    assert back.pixels.shape == expected.pixels.shape
    if "alpha" in form.holds and form.lossless:
        np.testing.assert_array_equal(back.alpha, expected.alpha)
    assert back.icc == (ICC if "icc" in form.holds else None)
    assert back.xmp == (XMP if "xmp" in form.holds else None)
    if "exif" in form.holds:
        tags = Image.Exif()
        assert back.exif is not None
        tags.load(b"Exif\0\0" + back.exif)
        assert tags[0x010F].rstrip("\0") == "Maker"
        assert str(tags.get_ifd(0x8769)[0x9003]).startswith("2020:01:01")
        assert form.name in ("TIFF", "AVIF") or back.exif == FULL.exif
    assert back.text == (FULL.text if form.name == "PNG" else ())
    if "dpi" in form.holds:
        assert back.dpi == pytest.approx((300, 300), abs=0.01)
    missing = {"icc", "exif", "xmp", "text", "dpi"} - form.holds
    assert len(notices) == len(missing) + ("exif" in missing)  # and that it was turned


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".ppm"])
def test_transparency_is_never_dropped_on_the_way_out(suffix):
    with pytest.raises(DataError, match=r"no transparency; use \.png"):
        picture_file(FULL, suffix, "x")


def test_what_a_format_cannot_hold_is_one_error():
    long = dataclasses.replace(FULL, alpha=None, exif=b"II*\0" + b"\0" * 70000)
    with pytest.raises(DataError, match=r"x\.jpg: \.jpg cannot hold it .*use \.png"):
        picture_file(long, ".jpg", "x.jpg")
    with pytest.raises(DataError, match="one of"):
        picture_file(FULL, ".gif", "x.gif")


def test_damaged_exif_is_kept_as_it_is_where_it_can_be():
    damaged = dataclasses.replace(FULL, exif=b"no such structure")
    assert damaged.orientation == 1
    data, notices = picture_file(damaged, ".png", "x")
    assert read_picture(data, "x").exif == damaged.exif
    assert notices == ()
    _, notices = picture_file(damaged, ".tif", "x")
    assert len([n for n in notices if "EXIF is damaged" in n]) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "no format"),
        (as_file(RGB)[:300], "x.png"),
        (as_file(RGB, "JPEG")[:300], "x.png"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "HEIC"),
    ],
)
def test_what_is_no_picture_is_one_error(data, reason):
    with pytest.raises(DataError, match=reason) as error:
        read_picture(data, "x.png")
    assert str(error.value).startswith("x.png: ")
    assert "\n" not in str(error.value)


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(DataError, match="pixels"):
        Picture(RGB[:0])
