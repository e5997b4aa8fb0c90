"""The samples of a picture that Pillow opened: 8-bit grey or RGB, and opacity."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageCms, ImageFile

from lictor.errors import DataError

_GREY = ("1", "L", "LA", "La")
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_HEAD_BYTES = 4096  # where the boxes are that tell the depth of AVIF and JPEG 2000


@dataclass(frozen=True)
class Samples:
    """Pixels and opacity of a picture.

    `converted` says that its colours were changed, so that a profile no longer tells of them;
    `notices` what was lost.
    """

    pixels: UInt8[np.ndarray, "h w c"]
    alpha: UInt8[np.ndarray, "h w"] | None
    converted: bool
    notices: tuple[str, ...]


def samples_of(image: Image.Image, data: bytes, name: str) -> Samples:
    """Read the samples of an opened picture, whose file's bytes are `data`.

    Palettes and CMYK become RGB, more than 8 bits are rounded to 8. Raises `DataError` for floats
    and for integers of 32 bits, and whatever Pillow raises for a damaged file.
    """
    bits, raw = _depth(image, data), _raw_mode(image)
    image.load()
    notices = list[str]()
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "floats" if image.mode == "F" else "integers of 32 bits"
        raise DataError(
            f"{name}: its samples are {kind}, whose range is not known; scale them to 8 or 16 bits "
            "first"
        )
    if bits > 8:
        notices.append(f"its samples of {bits} bits are brought to 8")
    if image.mode.startswith("I"):
        pixels, alpha = _from_deep_grey(image, bits)
        return Samples(pixels, alpha, False, tuple(notices))
    if image.mode in ("CMYK", "LAB"):
        image, told = _to_srgb(image)
        return Samples(np.asarray(image), None, True, (*notices, told))
    _rescale_transparency(image, raw)
    alpha = None
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        alpha = None if alpha.min() == 255 else alpha
    if image.mode in _GREY:
        return Samples(np.asarray(image.convert("L"))[:, :, None], alpha, False, tuple(notices))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # a palette with opacities
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    if raw.startswith("LA"):  # grey with opacity, which Pillow opens as RGBA
        pixels = pixels[:, :, :1]
    return Samples(pixels, alpha, False, tuple(notices))


def _raw_mode(image: Image.Image) -> str:
    """Return how samples lie in the file, as Pillow's decoder is told; "" where it is not."""
    for tile in image.tile if isinstance(image, ImageFile.ImageFile) else ():
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if args and isinstance(args[0], str):
            return args[0]
    return ""


def _depth(image: Image.Image, data: bytes) -> int:
    """Return the bits of a sample, where they are more than 8; only decoders know."""
    if image.format == "AVIF":
        at = data.find(b"av1C", 0, _HEAD_BYTES)
        flags = data[at + 6] if 0 <= at < len(data) - 6 else 0
        return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    if image.format == "JPEG2000":
        at = data.find(b"\xff\x4f\xff\x51", 0, _HEAD_BYTES)  # its marker of sizes
        return (data[at + 42] & 0x7F) + 1 if 0 <= at < len(data) - 42 else 8
    tags: Any = getattr(image, "tag_v2", {})
    if image.format == "TIFF":
        return max(8, *(int(bits) for bits in tags.get(_BITS_PER_SAMPLE, (8,))))
    if image.format == "PPM" and image.mode.startswith("I"):
        return 16
    for tile in image.tile if isinstance(image, ImageFile.ImageFile) else ():
        # Portable pixmaps: (raw mode, greatest value).
        args = tile.args if isinstance(tile.args, tuple) else ()
        if tile.codec_name in ("ppm", "ppm_plain") and len(args) > 1 and int(args[1]) > 255:
            return int(args[1]).bit_length()
    return 16 if ";16" in _raw_mode(image) else 8


def _from_deep_grey(
    image: Image.Image, bits: int
) -> tuple[UInt8[np.ndarray, "h w 1"], UInt8[np.ndarray, "h w"] | None]:
    """Round grey samples of up to 16 bits to 8."""
    samples = np.asarray(image)
    samples = samples.astype(np.uint16 if image.mode != "I" else np.int64)
    # Pillow scales what it reads of JPEG 2000 and pixmaps, and leaves TIFF's 12 bits as they are.
    top = (1 << bits) - 1 if image.format == "TIFF" else 0xFFFF
    alpha = None
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = np.where(samples == transparent, 0, 255).astype(np.uint8)
        alpha = alpha if bool((alpha == 0).any()) else None
    tags: Any = getattr(image, "tag_v2", {})
    grey = _rounded(np.clip(samples, 0, top), top)
    if image.format == "TIFF" and tags.get(_PHOTOMETRIC) == 0:  # white is 0
        grey = 255 - grey
    return grey[:, :, None], alpha


def _rounded(samples: Integer[np.ndarray, "h w"], top: int) -> UInt8[np.ndarray, "h w"]:
    """Return `samples * 255 / top`, rounded, in integers."""
    table = (np.arange(top + 1, dtype=np.int64) * 510 + top) // (2 * top)
    return table.astype(np.uint8)[samples]


def _rescale_transparency(image: Image.Image, raw: str) -> None:
    """Bring the transparent colour of a PNG to the 8 bits that Pillow has brought its samples to.

    It is told in the depth of the file.
    """
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and raw in ("L;2", "L;4"):
        image.info["transparency"] = transparent * (255 // ((1 << int(raw[2])) - 1))
    if isinstance(transparent, tuple) and ";16" in raw:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def _to_srgb(image: Image.Image) -> tuple[Image.Image, str]:
    """Convert CMYK or Lab by its profile, where it has one that fits, else plainly."""
    icc = image.info.get("icc_profile")
    srgb = ImageCms.createProfile("sRGB")
    source = None
    if image.mode == "LAB":
        source = ImageCms.createProfile("LAB")
    elif icc and icc[16:20] == b"CMYK":
        source = io.BytesIO(icc)
    if source is not None:
        try:
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
            assert converted is not None
            how = "by its profile, which is not kept" if image.mode == "CMYK" else "(sRGB)"
            return converted, f"its {image.mode} samples are converted to RGB {how}"
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # no profile that Pillow can use
    return image.convert("RGB"), (
        f"its {image.mode} samples are converted to RGB without a profile: colours are approximate"
    )
