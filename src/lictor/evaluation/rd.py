"""Rate and distortion of a codec on pictures, from real files."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from jaxtyping import UInt8

from lictor.codec import Codec, ImageCodec
from lictor.errors import LictorError
from lictor.metrics import bpp, ms_ssim, psnr

# How far the size that the model's rate predicts may be from the file's: a share, and a few bytes
# that the coder rounds up to.
ESTIMATE_TOLERANCE, ESTIMATE_SLACK_BYTES = 0.01, 32


@dataclass(frozen=True)
class ImageResult:
    """One picture through one codec; rates count every byte of the file, distortions are of 8 bits.

    PSNR in dB, times in seconds; MS-SSIM is NaN for pictures under 161 pixels; the estimated rate
    is NaN for codecs that do not estimate.
    """

    image: str
    width: int
    height: int
    bytes: int
    bpp: float
    estimated_bpp: float
    psnr: float
    ms_ssim: float
    encode_s: float
    decode_s: float


def evaluate_image(codec: ImageCodec, image: UInt8[np.ndarray, "h w c"], name: str) -> ImageResult:
    """Encode, decode and measure one picture under the given name."""
    start = time.perf_counter()
    data = codec.encode(image)
    encoded = time.perf_counter()
    decoded = codec.decode(data)
    done = time.perf_counter()
    height, width = image.shape[:2]
    estimated = math.nan
    if isinstance(codec, Codec):
        estimated = codec.encode_verbose(image).estimated_bytes
    return ImageResult(
        name,
        width,
        height,
        len(data),
        bpp(len(data), height, width),
        8 * estimated / (height * width),
        psnr(image, decoded),
        ms_ssim(image, decoded),
        encoded - start,
        done - encoded,
    )


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


def mean_result(results: Sequence[ImageResult]) -> dict[str, float]:
    """Return the mean over pictures of every number of their rows (PSNR: mean of the dB values).

    NaNs (a metric that a picture is too small for) are left out.
    """
    means = {}
    for field in fields(ImageResult):
        if field.name == "image":
            continue
        values = [v for r in results if not math.isnan(v := float(getattr(r, field.name)))]
        means[field.name] = sum(values) / len(values) if values else math.nan
    return means


def results_to_json(codec: ImageCodec, results: Sequence[ImageResult]) -> dict[str, object]:
    """Return rows and means as plain values, NaN as None, ready for `json.dumps`."""

    def plain(row: dict[str, object]) -> dict[str, object]:
        return {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
        }

    return {
        "name": codec.name,
        "codec": codec.describe() if isinstance(codec, Codec) else None,
        "aggregation": "mean over images of each column; PSNR is the mean of dB values",
        "mean": plain(dict(mean_result(results))),
        "images": [plain(asdict(r)) for r in results],
    }
