"""The codecs everybody has, behind the same two methods: Pillow's JPEG and WebP."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lictor.codec import ImageCodec
from lictor.errors import BitstreamError

QUALITIES = tuple(range(0, 101))


@dataclass(frozen=True)
class PillowCodec:
    """One of Pillow's lossy formats at a quality from 0 to 100."""

    format: str
    quality: int

    @property
    def name(self) -> str:
        """Format and quality."""
        return f"{self.format} q{self.quality}"

    def encode(self, image: UInt8[np.ndarray, "h w c"]) -> bytes:
        """Compress with the slowest, best settings that the format offers beside its quality."""
        buffer = io.BytesIO()
        squeezed = image[:, :, 0] if image.shape[2] == 1 else image
        options = {"optimize": True} if self.format == "JPEG" else {"method": 6}
        Image.fromarray(squeezed).save(buffer, self.format, quality=self.quality, **options)
        return buffer.getvalue()

    def decode(self, data: bytes) -> UInt8[np.ndarray, "h w c"]:
        """Decode to grey or RGB; raises `BitstreamError` when Pillow cannot."""
        try:
            with Image.open(io.BytesIO(data), formats=[self.format]) as image:
                pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
        except Exception as error:
            raise BitstreamError(f"not a readable {self.format} file ({error})") from error
        return pixels[:, :, None] if pixels.ndim == 2 else pixels


def jpeg(quality: int) -> ImageCodec:
    """Return Pillow's JPEG with optimised Huffman tables, 4:2:0."""
    return PillowCodec("JPEG", quality)


def webp(quality: int) -> ImageCodec:
    """Return Pillow's WebP (lossy), the slowest method."""
    return PillowCodec("WEBP", quality)


PEERS: dict[str, Callable[[int], ImageCodec]] = {"JPEG": jpeg, "WebP": webp}


def encode_to_size(
    make: Callable[[int], ImageCodec],
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
