"""One picture: from a file to an array, and between arrays and tensors."""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageFile, ImageOps
from torch import Tensor

from lictor.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Where Pillow itself refuses; from half of it on it warns of a "bomb", which a photograph is not.
MAX_IMAGE_PIXELS = 178_956_970
_ON_THEIR_SIDE = (5, 6, 7, 8)  # orientations that swap width and height


def load_image(path: Path | str) -> UInt8[np.ndarray, "h w c"]:
    """Read a picture as 8-bit grey (`c = 1`) or RGB (`c = 3`), upright.

    The orientation tag is applied, palettes and CMYK become RGB, an opaque alpha channel is
    dropped. Raises `DataError` for anything that is not an 8-bit picture, and for transparency.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder, not a picture")
    if path.exists() and not path.is_file():  # a pipe would block for ever
        raise DataError(f"{path}: is not a regular file")
    try:
        return _decoded(path, path)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        reason = "empty file" if path.exists() and path.stat().st_size == 0 else str(error)
        raise DataError(f"{path}: not a readable picture ({reason})") from error


def decode_image(data: bytes, name: str) -> UInt8[np.ndarray, "h w c"]:
    """Return the picture that `load_image` would give of a file with these bytes.

    Raises `DataError` as that does, with `name` in place of the path.
    """
    source = io.BytesIO(data)
    try:
        return _decoded(source, name)
    except DataError:
        raise
    except Exception as error:  # as in `load_image`
        reason = str(error).replace(repr(source), repr(name)) if data else "empty file"
        raise DataError(f"{name}: not a readable picture ({reason})") from error


def _decoded(source: Path | io.BytesIO, name: Path | str) -> UInt8[np.ndarray, "h w c"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as opened:
                if _is_deep(opened):
                    raise DataError(
                        f"{name}: more than 8 bits a sample; convert it to 8 bits first"
                    )
                image = ImageOps.exif_transpose(opened)
                image.load()
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: more than {MAX_IMAGE_PIXELS} pixels; split it first") from error
    return _to_array(image, name)


def image_size(path: Path | str) -> tuple[int, int]:
    """Return width and height of the picture that `load_image` would give, upright.

    No pixels are read where the header says it all. Raises `DataError` when it is no picture.
    """
    if not Path(path).is_file():  # a pipe would block for ever
        raise DataError(f"{path}: is not a regular file")
    return _upright_size(path, path)


def size_of_image(data: bytes, name: str) -> tuple[int, int]:
    """Return what `image_size` would say of a file with these bytes; `name` is for messages."""
    return _upright_size(io.BytesIO(data), name)


def _upright_size(source: Path | str | io.BytesIO, name: Path | str) -> tuple[int, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as opened:
                width, height = opened.size
                turned = opened.getexif().get(ExifTags.Base.Orientation) in _ON_THEIR_SIDE
    except Exception as error:  # as in `load_image`
        raise DataError(f"{name}: not a readable picture ({error})") from error
    return (height, width) if turned else (width, height)


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Tell whether Pillow is about to cut samples down to 8 bits, which only its decoder knows."""
    for tile in image.tile:
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if args and isinstance(args[0], str) and ";16" in args[0]:
            return True
        # Portable pixmaps: (raw mode, greatest value).
        if tile.codec_name in ("ppm", "ppm_plain") and len(args) > 1 and args[1] != 255:
            return image.mode != "1"
    return False


def _to_array(image: Image.Image, path: Path | str) -> UInt8[np.ndarray, "h w c"]:
    if image.mode.startswith("I") or image.mode == "F":
        raise DataError(f"{path}: {image.mode} samples; convert it to 8 bits a channel first")
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            raise DataError(f"{path}: has transparency; flatten it onto a background first")
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))[:, :, None]
    return np.asarray(image.convert("RGB"))


def image_to_tensor(image: UInt8[np.ndarray, "h w c"]) -> Float[Tensor, "1 3 h w"]:
    """Turn an 8-bit grey or RGB image into a float32 RGB tensor in [0, 1]."""
    channels = np.array(np.broadcast_to(image, (*image.shape[:2], 3)))  # torch wants its own
    return torch.from_numpy(channels).permute(2, 0, 1)[None].float().div_(255)


def tensor_to_image(
    x: Float[Tensor, "1 3 h w"], *, channels: int = 3
) -> UInt8[np.ndarray, "h w c"]:
    """Round a tensor in [0, 1] to 8 bits; with `channels=1` the mean of R, G and B."""
    pixels = x[0].mul(255)
    if channels == 1:
        pixels = pixels.mean(0, keepdim=True)
    pixels = pixels.round().clamp_(0, 255)
    return pixels.permute(1, 2, 0).to(torch.uint8).contiguous().numpy()


def list_images(folder: Path | str) -> list[Path]:
    """Return all pictures of a folder tree, sorted; raises `DataError` if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of pictures")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not paths:
        raise DataError(f"{folder}: contains no pictures ({', '.join(IMAGE_SUFFIXES)})")
    return paths
