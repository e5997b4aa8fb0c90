"""The codecs everybody has, behind the same two methods: JPEG, JPEG 2000, WebP, AVIF, JPEG XL.

All but JPEG XL are Pillow's; JPEG XL needs the extra `jpegxl` (`imagecodecs`).
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, features

from lictor.codecs.protocol import ImageCodec
from lictor.errors import BitstreamError, ConfigError

QUALITIES = tuple(range(0, 101))
AVIF_SPEED = 4


def _pixels(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "..."]:
    return image[:, :, 0] if image.shape[2] == 1 else image


@dataclass(frozen=True)
class PillowCodec:
    """One of Pillow's lossy formats at a quality, with the options it is saved with."""

    label: str
    format: str
    quality: float
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Format and quality."""
        return f"{self.label} q{self.quality:g}"

    def encode(self, image: UInt8[np.ndarray, "h w c"]) -> bytes:
        """Compress to a file's bytes, headers and all."""
        buffer = io.BytesIO()
        Image.fromarray(_pixels(image)).save(buffer, self.format, **self.options)
        return buffer.getvalue()

    def decode(self, data: bytes) -> UInt8[np.ndarray, "h w c"]:
        """Decode to grey or RGB; raises `BitstreamError` when Pillow cannot."""
        return _pillow_decode(data, self.format)


def _pillow_decode(data: bytes, format_: str) -> UInt8[np.ndarray, "h w c"]:
    try:
        with Image.open(io.BytesIO(data), formats=[format_]) as image:
            pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except Exception as error:
        raise BitstreamError(f"not a readable {format_} file ({error})") from error
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


@dataclass(frozen=True)
class Jpeg2000Codec:
    """Pillow's JPEG 2000 (OpenJPEG): 9/7 wavelet, colour transform, a target rate.

    `quality` is the target in bits per pixel: at equal targets a set of pictures does better than
    at equal decibels, so that is how the literature's curves are made.
    """

    quality: float

    @property
    def name(self) -> str:
        """Format and target."""
        return f"JPEG 2000 {self.quality:g} bpp"

    def encode(self, image: UInt8[np.ndarray, "h w c"]) -> bytes:
        """Compress to a .jp2 file's bytes."""
        buffer = io.BytesIO()
        Image.fromarray(_pixels(image)).save(
            buffer,
            "JPEG2000",
            quality_mode="rates",
            quality_layers=[8 * image.shape[2] / self.quality],
            irreversible=True,
            mct=int(image.shape[2] == 3),  # off by default, and worth 2 dB and more
        )
        return buffer.getvalue()

    def decode(self, data: bytes) -> UInt8[np.ndarray, "h w c"]:
        """Decode to grey or RGB; raises `BitstreamError` when Pillow cannot."""
        return _pillow_decode(data, "JPEG2000")


@dataclass(frozen=True)
class JpegXlCodec:
    """JPEG XL at a quality from 0 to 100, libjxl's effort 7, without a container."""

    quality: float

    @property
    def name(self) -> str:
        """Format and quality."""
        return f"JPEG XL q{self.quality:g}"

    @property
    def distance(self) -> float:
        """Butteraugli distance of the quality, as libjxl's `cjxl -q` maps it (0.1 to 15)."""
        quality = self.quality
        if quality >= 30:
            return max(0.1, 0.1 + (100 - quality) * 0.09)
        return min(15.0, 53 / 3000 * quality**2 - 23 / 20 * quality + 25)

    def encode(self, image: UInt8[np.ndarray, "h w c"]) -> bytes:
        """Compress to a codestream; raises `ConfigError` without the library."""
        codecs = _imagecodecs()
        pixels = np.ascontiguousarray(_pixels(image))
        return bytes(codecs.jpegxl_encode(pixels, distance=self.distance, effort=7, numthreads=1))

    def decode(self, data: bytes) -> UInt8[np.ndarray, "h w c"]:
        """Decode to grey or RGB; raises `BitstreamError` when libjxl cannot."""
        codecs = _imagecodecs()
        try:
            pixels = np.asarray(codecs.jpegxl_decode(data, numthreads=1))
        except Exception as error:
            raise BitstreamError(f"not a readable JPEG XL file ({error})") from error
        return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _imagecodecs() -> Any:
    try:
        return import_module("imagecodecs")
    except ImportError as error:
        raise ConfigError('JPEG XL needs imagecodecs: pip install "lictor[jpegxl]"') from error


def jpeg(quality: float, subsampling: str = "4:2:0") -> ImageCodec:
    """Return Pillow's JPEG with optimised Huffman tables, chroma at half the size."""
    label = "JPEG" if subsampling == "4:2:0" else "JPEG 4:4:4"
    options = {"quality": int(quality), "optimize": True, "subsampling": subsampling}
    return PillowCodec(label, "JPEG", quality, options)


def webp(quality: float) -> ImageCodec:
    """Return Pillow's WebP (lossy), the slowest method."""
    return PillowCodec("WebP", "WEBP", quality, {"quality": int(quality), "method": 6})


def avif(quality: float) -> ImageCodec:
    """Return Pillow's AVIF, 4:4:4, speed 4 of 0 (slow) to 10, one thread."""
    options = {
        "quality": int(quality),
        "subsampling": "4:4:4",
        "speed": AVIF_SPEED,
        "max_threads": 1,
    }
    return PillowCodec("AVIF", "AVIF", quality, options)


@dataclass(frozen=True)
class Peer:
    """A codec that needs no training: how to make it at a quality, and the usual sweep."""

    label: str
    make: Callable[[float], ImageCodec]
    qualities: tuple[float, ...]
    description: str
    library: Callable[[], str | None]
    lowest: float = 0
    highest: float = 100
    whole: bool = True


PEERS: dict[str, Peer] = {
    "jpeg": Peer(
        "JPEG",
        jpeg,
        (5, 10, 25, 50, 80, 93),
        "JPEG, 4:2:0, optimised Huffman tables",
        partial(features.version, "jpg"),
    ),
    "jpeg-444": Peer(
        "JPEG 4:4:4",
        partial(jpeg, subsampling="4:4:4"),
        (5, 10, 25, 50, 80, 93),
        "JPEG, 4:4:4, optimised Huffman tables",
        partial(features.version, "jpg"),
    ),
    "jpeg2000": Peer(
        "JPEG 2000",
        Jpeg2000Codec,
        (0.15, 0.3, 0.5, 0.8, 1.4, 2.4),
        "JPEG 2000, 9/7 wavelet, quality in bits per pixel",
        partial(features.version, "jpg_2000"),
        lowest=0.01,
        highest=24,
        whole=False,
    ),
    "webp": Peer(
        "WebP",
        webp,
        (0, 15, 40, 65, 80, 92),
        "WebP, lossy, method 6",
        partial(features.version, "webp"),
    ),
    "avif": Peer(
        "AVIF",
        avif,
        (20, 35, 50, 62, 74, 85),
        f"AVIF, 4:4:4, speed {AVIF_SPEED}, one thread",
        partial(features.version, "avif"),
    ),
    "jpegxl": Peer(
        "JPEG XL",
        JpegXlCodec,
        (10, 30, 55, 75, 86, 93),
        "JPEG XL, effort 7, one thread, bare codestream",
        lambda: _imagecodecs().jpegxl_version(),
        whole=False,
    ),
}


def encode_to_size(
    make: Callable[[float], ImageCodec],
    image: UInt8[np.ndarray, "h w c"],
    target_bytes: int,
    qualities: Sequence[int] = QUALITIES,
) -> tuple[ImageCodec, bytes]:
    """Return the best quality whose file has at most `target_bytes`, with the file.

    If even the lowest quality needs more, that one is returned. File sizes are taken to grow with
    the quality.
    """
    low, high = 0, len(qualities) - 1
    codec = make(qualities[0])
    best = (codec, codec.encode(image))
    while low < high:
        middle = (low + high + 1) // 2
        codec = make(qualities[middle])
        data = codec.encode(image)
        if len(data) <= target_bytes:
            low, best = middle, (codec, data)
        else:
            high = middle - 1
    return best
