"""A real picture: its 8-bit pixels, and what else its file holds that is to be kept.

`load_image` gives the plain array that networks want. A `Picture` is what somebody's file is:
transparency, colour profile, EXIF, XMP and texts lie beside the pixels, and whatever cannot be kept
is told in a notice.
"""

import importlib
import io
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from lictor.data.images import IMAGE_SUFFIXES, MAX_IMAGE_PIXELS
from lictor.data.metadata import metadata_of
from lictor.data.places import is_url, read_place
from lictor.data.samples import samples_of
from lictor.errors import DataError

# What is looked for in folders; a file that is named may be whatever Pillow reads.
PICTURE_SUFFIXES = (
    *IMAGE_SUFFIXES,
    *(".tif", ".tiff", ".gif", ".bmp", ".ppm", ".pgm", ".avif", ".jp2", ".heic", ".heif"),
)
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")


@dataclass(frozen=True)
class Picture:
    """A picture of 8 bits a channel, as it is stored, with what its file says of it.

    Args:
        pixels: grey or RGB, uint8; rows as they are stored, which EXIF may say to turn.
        alpha: opacity, 0 to 255; None if all is opaque.
        icc: the colour profile.
        exif: a TIFF structure, without the word `Exif` that some formats put before it.
        xmp: an XML packet.
        text: comments, each with a keyword.
        dpi: pixels an inch across and down; None where it is what programs write unasked.
        notices: a line for each thing that was lost on the way here.

    Raises:
        DataError: sizes do not fit, or there is no pixel.
    """

    pixels: UInt8[np.ndarray, "h w c"]
    alpha: UInt8[np.ndarray, "h w"] | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    text: tuple[tuple[str, str], ...] = ()
    dpi: tuple[float, float] | None = None
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape:
            raise DataError(f"pixels have shape {shape}; it must be (height, width, 1 or 3)")
        if self.alpha is not None and self.alpha.shape != shape[:2]:
            raise DataError(f"alpha has shape {self.alpha.shape}, and the pixels have {shape[:2]}")

    @property
    def orientation(self) -> int:
        """How EXIF, or XMP, says that the pixels are to be turned: 1 to 8, 1 for not at all."""
        if self.exif is not None:
            with suppress(Exception), warnings.catch_warnings():  # anybody's bytes
                warnings.simplefilter("ignore")
                exif = Image.Exif()
                exif.load(b"Exif\0\0" + self.exif)
                value = exif.get(ExifTags.Base.Orientation)
                if isinstance(value, int) and 1 <= value <= 8:
                    return value
        found = _XMP_ORIENTATION.search(self.xmp or b"")
        return int(found[1]) if found else 1

    def stripped(self) -> "Picture":
        """Return it upright and with nothing beside its pixels and its opacity.

        A notice tells when a profile is gone that gave the colours another meaning than sRGB.
        """
        turn = self.orientation
        notices = list(self.notices)
        if self.icc is not None and b"sRGB" not in self.icc and b"s\0R\0G\0B" not in self.icc:
            notices.append("its colour profile is removed: colours may look different")
        return Picture(
            _turned(self.pixels, turn),
            None if self.alpha is None else _turned(self.alpha, turn),
            notices=tuple(notices),
        )


def _turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return rows and columns as they are to be seen, by the EXIF standard's eight cases."""
    if orientation > 4:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def open_picture(place: Path | str, *, strip: bool = False) -> Picture:
    """Read the picture at a path or URL, or from standard input (`-`); any that Pillow reads.

    Pixels are as they are stored, and EXIF is kept; with `strip` they are upright and alone. Raises
    `DataError` for what is no picture, or one that cannot be brought to 8 bits.
    """
    name = str(place)
    return read_picture(read_place(name, "a picture"), name, strip=strip)


def read_picture(data: bytes, name: str, *, strip: bool = False) -> Picture:
    """Return the picture in a file's bytes; `name` is what messages call it.

    Otherwise as `open_picture`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of big pictures, of damaged tags: see the notices
            picture = _read(data, name)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: more than {MAX_IMAGE_PIXELS} pixels; split it first") from error
    except UnidentifiedImageError as error:
        reason = "empty file" if not data else "of no format that Pillow reads here"
        raise DataError(f"{name}: not a readable picture ({reason})") from error
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise DataError(f"{name}: not a readable picture ({error or 'damaged'})") from error
    return picture.stripped() if strip else picture


def picture_sizes(place: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return width and height of a picture as it is stored, and as it is to be seen.

    No pixels are read where the header says it all. Raises `DataError` if it is no picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _opened_header(place) as opened:
                width, height = opened.size
                turned = opened.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except DataError:
        raise
    except Exception as error:  # as in `read_picture`
        raise DataError(f"{place}: not a readable picture ({error})") from error
    # Pillow tells of a TIFF's size as it is seen: it turns them itself.
    swapped = turned and opened.format != "TIFF"
    return (width, height), (height, width) if swapped else (width, height)


def _opened_header(place: str) -> Image.Image:
    """Open a picture, without reading all of a file that Pillow knows alone."""
    if not is_url(place):
        try:
            return Image.open(place)
        except UnidentifiedImageError:
            pass
    return _opened(read_place(place, "a picture"), place)


def picture_of(image: Image.Image, name: str, data: bytes = b"") -> Picture:
    """Return the picture that Pillow has opened, or made; `data` are its file's bytes, if any.

    Raises `DataError` when it cannot be brought to 8 bits, and whatever Pillow does for damage.
    """
    frames = int(getattr(image, "n_frames", 1))
    samples = samples_of(image, data, name)
    found = metadata_of(image)
    notices = [*samples.notices, *found.notices]
    if frames > 1:
        notices.insert(0, f"holds {frames} frames or pages; only the first is kept")
    return Picture(
        samples.pixels,
        samples.alpha,
        None if samples.converted else found.icc,
        found.exif,
        found.xmp,
        found.text,
        found.dpi,
        tuple(notices),
    )


def _read(data: bytes, name: str) -> Picture:
    with _opened(data, name) as image:
        return picture_of(image, name, data)


def _opened(data: bytes, name: str) -> Image.Image:
    """Open a file's bytes; a package for HEIC is asked when Pillow alone does not know them."""
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        if data[4:8] != b"ftyp":
            raise
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError:
            raise DataError(
                f"{name}: a picture of the HEIC family, which Pillow does not read here; "
                "pip install pillow-heif, or convert it to PNG"
            ) from None
        return Image.open(io.BytesIO(data))
