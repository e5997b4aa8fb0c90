"""What a picture's file says beside its pixels: profile, EXIF, XMP, texts, resolution."""

import math
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

_PREFIX = b"Exif\0\0"
_XMP_KEY, _EXIF_KEY = "XML:com.adobe.xmp", "Raw profile type exif"
# Tags of TIFF that tell how pixels lie in a file: of another file they are wrong.
_SINGLE = (273, 284, 297, 301, 330, 332, 334, 336, 347)
_RANGES = ((254, 266), (277, 281), (288, 293), (317, 325), (338, 342), (512, 521), (529, 532))
STRUCTURE = frozenset((*_SINGLE, *(t for low, high in _RANGES for t in range(low, high + 1))))
# What has a place of its own: resolution and its unit, XMP, IPTC, Photoshop's, the profile.
_RESOLUTION = frozenset((282, 283, 296))
_XMP_TAG, _IPTC_TAG, _PHOTOSHOP_TAG, _ICC_TAG = 700, 33723, 34377, 34675
ELSEWHERE = _RESOLUTION | {_XMP_TAG, _IPTC_TAG, _PHOTOSHOP_TAG, _ICC_TAG}
_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_UNASKED_DPI = (1, 72, 96)
_SRGB_GAMMA = 0.45455
_SRGB_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/"


@dataclass(frozen=True)
class Metadata:
    """What there is beside the pixels, as in `Picture`, and what of it cannot be kept."""

    icc: bytes | None
    exif: bytes | None
    xmp: bytes | None
    text: tuple[tuple[str, str], ...]
    dpi: tuple[float, float] | None
    notices: tuple[str, ...]


def metadata_of(image: Image.Image) -> Metadata:
    """Return what the file of a loaded picture says beside its pixels."""
    info: dict[Any, Any] = image.info
    notices = list[str]()
    icc = info.get("icc_profile")
    xmp = info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    text = _text(image)
    exif = info.get("exif")
    raw_exif = next((value for key, value in text if key == _EXIF_KEY), None)
    if not exif and raw_exif is not None:
        exif = _from_hexadecimal(raw_exif)
    if image.format == "TIFF":
        exif = _exif_of_tiff(image, notices)
    notices += _unknown(image)
    text = tuple((k, v) for k, v in text if k != _XMP_KEY and not (k == _EXIF_KEY and exif))
    exif = exif.removeprefix(_PREFIX) if isinstance(exif, bytes) else None
    return Metadata(
        bytes(icc) if icc else None,
        exif or None,
        bytes(xmp) if isinstance(xmp, bytes) and xmp else None,
        text,
        _dpi(info.get("dpi")),
        tuple(notices),
    )


def _text(image: Image.Image) -> tuple[tuple[str, str], ...]:
    """Return the texts of a PNG, or the comment of a JPEG or GIF."""
    comment = image.info.get("comment")
    if isinstance(comment, bytes):
        try:
            comment = comment.decode()
        except UnicodeDecodeError:
            comment = comment.decode("latin-1")
    if isinstance(comment, str) and comment.startswith("Created by OpenJPEG"):
        comment = None  # written unasked
    texts: Any = getattr(image, "text", None)
    if not isinstance(texts, dict):
        texts = {"Comment": comment} if isinstance(comment, str) and comment else {}
    return tuple((str(key), str(value)) for key, value in texts.items())


def _from_hexadecimal(text: str) -> bytes | None:
    """Return the EXIF that some programs write into a text of a PNG: a head of three lines, hex."""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return None


def _exif_of_tiff(image: Image.Image, notices: list[str]) -> bytes | None:
    """Return the tags of a TIFF that do not tell how its pixels lie in the file."""
    try:
        found = image.getexif()
        kept = Image.Exif()
        for tag, value in found.items():
            if tag not in STRUCTURE | ELSEWHERE and tag not in _DIRECTORIES:
                kept[tag] = value
        for directory in _DIRECTORIES:
            inner = found.get_ifd(directory)
            if inner:
                kept[directory] = dict(inner)
        return kept.tobytes() if len(kept) else None
    except Exception:  # tags of any type and size
        notices.append("its EXIF tags are damaged and not kept")
        return None


def _unknown(image: Image.Image) -> list[str]:
    """Tell of what there is no place for."""
    info, notices = image.info, list[str]()
    tags: Any = getattr(image, "tag_v2", {})
    if "photoshop" in info or _IPTC_TAG in tags or _PHOTOSHOP_TAG in tags:
        notices.append("its IPTC and Photoshop data are not kept")
    markers: Any = getattr(image, "applist", [])
    if any(part.startswith(_EXTENDED_XMP) for _, part in markers):
        notices.append("its XMP goes on in further parts, which are not kept")
    if image.format == "PNG" and not info.get("icc_profile") and "srgb" not in info:
        gamma, primaries = info.get("gamma"), info.get("chromaticity")
        if gamma is not None and abs(gamma - _SRGB_GAMMA) > 0.005:
            notices.append(f"its gamma of {gamma:g} is not kept")
        if primaries is not None and not _near(primaries, _SRGB_PRIMARIES):
            notices.append("its primary colours are not sRGB's and not kept")
    return notices


def _near(values: Any, others: tuple[float, ...]) -> bool:
    return len(values) == len(others) and all(
        abs(a - b) < 0.005 for a, b in zip(values, others, strict=True)
    )


def _dpi(value: Any) -> tuple[float, float] | None:
    """Return a resolution that somebody chose."""
    try:
        across, down = (float(v) for v in value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not (math.isfinite(across) and math.isfinite(down) and across > 0 and down > 0):
        return None
    if across == down and any(abs(across - usual) < 0.5 for usual in _UNASKED_DPI):
        return None
    return across, down
