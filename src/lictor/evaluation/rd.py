"""Rate and distortion of a codec on one picture, from a real file."""

import hashlib
import math
import time

import numpy as np
from jaxtyping import UInt8

from lictor.codecs.protocol import ImageCodec, RateEstimate
from lictor.comparison.curve import ImageResult
from lictor.errors import LictorError
from lictor.evaluation.perceptual import Lpips
from lictor.metrics import luma, ms_ssim, mse, psnr_of_mse
from lictor.rates import bpp

# How far the size that the model's rate predicts may be from the file's: a share, and a few bytes
# that the coder rounds up to.
ESTIMATE_TOLERANCE, ESTIMATE_SLACK_BYTES = 0.01, 32


def image_hash(image: UInt8[np.ndarray, "h w c"]) -> str:
    """Return a SHA-256 of a picture's shape and pixels, whatever file it came from."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def evaluate_image(
    codec: ImageCodec,
    image: UInt8[np.ndarray, "h w c"],
    name: str,
    *,
    setting: str = "",
    lpips: Lpips | None = None,
) -> tuple[ImageResult, UInt8[np.ndarray, "h w d"]]:
    """Encode, decode and measure one picture under the given name; return it decoded as well.

    Raises `LictorError` when the codec gives a picture of another size.
    """
    start = time.perf_counter()
    data = codec.encode(image)
    encoded = time.perf_counter()
    decoded = codec.decode(data)
    done = time.perf_counter()
    height, width = image.shape[:2]
    if decoded.shape[:2] != (height, width):
        raise LictorError(
            f"{codec.name}: {name} of {width}x{height} came back as "
            f"{decoded.shape[1]}x{decoded.shape[0]}"
        )
    estimated = codec.estimate_bytes(data) if isinstance(codec, RateEstimate) else math.nan
    original, restored = _same_channels(image, decoded)
    error, error_y = mse(original, restored), mse(luma(original), luma(restored))
    result = ImageResult(
        setting=setting,
        image=name,
        sha256=image_hash(image),
        width=width,
        height=height,
        bytes=len(data),
        bpp=bpp(len(data), height, width),
        mse=error,
        mse_y=error_y,
        psnr=psnr_of_mse(error),
        psnr_y=psnr_of_mse(error_y),
        ms_ssim=ms_ssim(original, restored),
        encode_s=encoded - start,
        decode_s=done - encoded,
        lpips=math.nan if lpips is None else lpips(original, restored),
        estimated_bpp=bpp(estimated, height, width),
    )
    return result, decoded


def _same_channels(
    a: UInt8[np.ndarray, "h w c"], b: UInt8[np.ndarray, "h w d"]
) -> tuple[UInt8[np.ndarray, "h w e"], UInt8[np.ndarray, "h w e"]]:
    """Bring grey and RGB together: some formats give a grey picture back as RGB."""
    if a.shape == b.shape:
        return a, b
    shape = (*a.shape[:2], 3)
    return np.broadcast_to(a, shape), np.broadcast_to(b, shape)


def check_estimate(result: ImageResult) -> None:
    """Raise `LictorError` when the rate that the model predicts is not the file's.

    More than 1 % (and 32 bytes) apart, training has not minimised what is written to disk.
    """
    predicted = result.estimated_bpp * result.width * result.height / 8
    slack = ESTIMATE_TOLERANCE * result.bytes + ESTIMATE_SLACK_BYTES
    if abs(predicted - result.bytes) > slack:
        raise LictorError(
            f"{result.image}: the model predicts {predicted:.0f} bytes but the file has "
            f"{result.bytes}, more than 1 % apart; is the model trained?"
        )
