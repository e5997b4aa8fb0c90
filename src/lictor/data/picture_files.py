"""Writing a `Picture` as a file of a usual format, with all that the format can hold."""

import dataclasses
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image, PngImagePlugin

from lictor.data.metadata import ELSEWHERE, STRUCTURE
from lictor.data.pictures import Picture
from lictor.errors import DataError

Part = Literal["alpha", "icc", "exif", "xmp", "text", "dpi"]
_NAMES: Mapping[Part, str] = {
    "icc": "colour profile",
    "exif": "EXIF",
    "xmp": "XMP",
    "text": "comments",
    "dpi": "resolution",
}


@dataclass(frozen=True)
class FileFormat:
    """A format that pictures are written in.

    `name` is Pillow's, `options` are for its writer, `holds` is what there is a place for beside
    the pixels. One that is not `lossless` changes the pixels a little.
    """

    name: str
    holds: frozenset[Part] = frozenset()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lossless: bool = True


_PNG = FileFormat("PNG", frozenset(("alpha", "icc", "exif", "xmp", "text", "dpi")))
_JPEG = FileFormat(
    "JPEG",
    frozenset(("icc", "exif", "xmp", "dpi")),
    {"quality": 95, "subsampling": 0},
    lossless=False,
)
_WEBP = FileFormat("WEBP", frozenset(("alpha", "icc", "exif", "xmp")), {"lossless": True})
# Not compressed: Pillow's compressing writer cannot write the directories of EXIF.
_TIFF = FileFormat("TIFF", frozenset(("alpha", "icc", "exif", "xmp", "dpi")))
_AVIF = FileFormat(
    "AVIF",
    frozenset(("alpha", "icc", "exif", "xmp")),
    {"quality": 95, "subsampling": "4:4:4"},
    lossless=False,
)
_JPEG_2000 = FileFormat("JPEG2000", frozenset(("alpha",)), {"irreversible": False})
_BMP, _PPM = FileFormat("BMP", frozenset(("dpi",))), FileFormat("PPM")
# By the end of a file's name.
FORMATS: Mapping[str, FileFormat] = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".avif": _AVIF,
    ".jp2": _JPEG_2000,
    ".bmp": _BMP,
    ".ppm": _PPM,
}


def image_of(picture: Picture) -> Image.Image:
    """Return a Pillow image of the pixels and the opacity, and of nothing else."""
    pixels = picture.pixels
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    return image


def picture_file(picture: Picture, suffix: str, name: str) -> tuple[bytes, tuple[str, ...]]:
    """Return the bytes of a file of the format that the suffix is of.

    With a line for each thing that the format has no place for; a picture that is to be turned is
    turned where it could not be said. Raises `DataError`, with `name` in it, for transparency
    and other things of the pixels that the format cannot hold.
    """
    form = FORMATS.get(suffix)
    if form is None:
        raise DataError(f"{name}: a picture is written as one of {', '.join(FORMATS)}")
    if picture.alpha is not None and "alpha" not in form.holds:
        raise DataError(f"{name}: {suffix} holds no transparency; use .png, .webp or .tif")
    notices = [
        f"{suffix} has no place for its {_NAMES[part]}"
        for part in _NAMES
        if getattr(picture, part) and part not in form.holds
    ]
    if picture.orientation != 1 and "exif" not in form.holds:
        turned = picture.stripped()
        picture = dataclasses.replace(picture, pixels=turned.pixels, alpha=turned.alpha)
        notices.append(f"it is turned upright, since {suffix} cannot say how it is to be turned")
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that Pillow does not know
            beside = _beside(picture, form, notices)
            image_of(picture).save(file, format=form.name, **form.options, **beside)
    except Exception as error:  # a format's own limits, of any kind
        raise DataError(f"{name}: {suffix} cannot hold it ({error}); use .png") from error
    return file.getvalue(), tuple(notices)


def _beside(picture: Picture, form: FileFormat, notices: list[str]) -> dict[str, Any]:
    """Return what Pillow's writer is to put beside the pixels."""
    given: dict[str, Any] = {}
    if picture.icc is not None and "icc" in form.holds:
        given["icc_profile"] = picture.icc
    if picture.exif is not None and "exif" in form.holds:
        exif = b"Exif\0\0" + picture.exif
        given["exif"] = _tags(exif, notices) if form.name == "TIFF" else exif
    if picture.dpi is not None and "dpi" in form.holds:
        given["dpi"] = picture.dpi
    if form.name == "PNG":
        given["pnginfo"] = _png_texts(picture)
    elif picture.xmp is not None and form.name == "TIFF":
        given["exif"] = given.get("exif", Image.Exif())
        given["exif"][700] = picture.xmp
    elif picture.xmp is not None and "xmp" in form.holds:
        given["xmp"] = picture.xmp
    return given


def _png_texts(picture: Picture) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for key, value in picture.text:
        info.add_text(key, value)  # latin-1, or else UTF-8
    if picture.xmp is not None:
        info.add_itxt("XML:com.adobe.xmp", picture.xmp.decode(errors="replace"))
    return info


def _tags(exif: bytes, notices: list[str]) -> Image.Exif:
    """Return EXIF as tags of a TIFF, without those that tell how pixels lie in another file."""
    tags = Image.Exif()
    try:
        tags.load(exif)
        for tag in list(tags):
            if tag in STRUCTURE | ELSEWHERE:
                del tags[tag]
        tags.tobytes()  # so that tags which cannot be written are met here
    except Exception:  # anybody's bytes
        notices.append("its EXIF is damaged, and a TIFF cannot hold it so")
        return Image.Exif()
    return tags
