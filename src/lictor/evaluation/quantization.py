"""What quantization costs: real files of a codec beside those of its quantized copies.

One codec is one point of a rate-distortion curve, and a point has no BD-rate. Its cost is instead

    rise             = 100 (J_q - J) / J               percent
    rate equivalent  = 100 (J_q - J) / R               percent

where `R` is the mean bpp, `D` the mean squared error (squared grey levels), both over pictures, and
`J = R + lmbda D` what training minimised. A codec trained for `lmbda` sits where its family's curve
has the slope dR/dD = -lmbda. Winning back the distortion `D_q - D` by spending bits therefore costs
`lmbda (D_q - D)` bpp to first order; with the rate `R_q - R` that was added anyway it is
`J_q - J`, which the rate equivalent gives as a share of the rate. At four rates and more there is a
BD-rate, which needs no slope.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lictor.codecs.learned import Codec
from lictor.codecs.protocol import ImageCodec
from lictor.comparison.bd import compare
from lictor.comparison.curve import Curve, ImageResult, curve_from_rows
from lictor.errors import ConfigError, LictorError
from lictor.evaluation.rd import image_hash
from lictor.metrics import luma, mse, psnr_of_mse
from lictor.models.base import AbstractCodecModel
from lictor.ptq.calibrate import MIN_MAX, Ranges, observe
from lictor.ptq.quantize import quantize
from lictor.ptq.scheme import ALL, SCOPES, Scheme, layers_of
from lictor.rates import bpp

Pictures = Mapping[str, NDArray[np.uint8]]  # `h w c` by name
# Takes a quantized copy, the original and its lmbda, and makes the copy better in place.
Improve = Callable[[AbstractCodecModel, AbstractCodecModel, float], None]
MIN_RATES = 4


@dataclass(frozen=True)
class Cost:
    """What one quantized copy of a codec costs, as means over pictures; see above for the two.

    `delta_bpp` and `delta_psnr` (dB, of the mean squared error) are quantized minus original;
    `rise` and `rate_equivalent` in percent, NaN without a `lmbda`.
    """

    codec: str
    scheme: Scheme
    bpp: float
    psnr: float
    delta_bpp: float
    delta_psnr: float
    delta_bpp_percent: float
    rise: float
    rate_equivalent: float


@dataclass(frozen=True)
class FamilyCost:
    """BD-rate of a family's quantized curve over its original one; the reason if there is none."""

    family: str
    scheme: Scheme
    bd_rate: float
    bd_psnr: float
    remarks: tuple[str, ...] = ()


def measure(codec: ImageCodec, pictures: Pictures, setting: str) -> tuple[ImageResult, ...]:
    """Encode and decode pictures and return their rows; the metrics beside PSNR are left NaN.

    Raises `LictorError` when a picture comes back in another size.
    """
    rows = []
    for name, image in pictures.items():
        start = time.perf_counter()
        data = codec.encode(image)
        encoded = time.perf_counter()
        decoded = codec.decode(data)
        done = time.perf_counter()
        if decoded.shape != image.shape:
            raise LictorError(f"{codec.name}: {name} came back in another size")
        height, width = image.shape[:2]
        error, error_y = mse(image, decoded), mse(luma(image), luma(decoded))
        rows.append(
            ImageResult(
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
                ms_ssim=math.nan,
                encode_s=encoded - start,
                decode_s=done - encoded,
                jobs=1,
            )
        )
    return tuple(rows)


def cost(
    codec: str,
    scheme: Scheme,
    original: Sequence[ImageResult],
    quantized: Sequence[ImageResult],
    lmbda: float | None,
) -> Cost:
    """Return the cost that rows of the same pictures show; `lmbda` is what the codec learned with.

    The loss is bpp + lmbda * MSE in squared grey levels.
    """
    rates = [float(np.mean([row.bpp for row in rows])) for rows in (original, quantized)]
    errors = [float(np.mean([row.mse for row in rows])) for rows in (original, quantized)]
    psnrs = [psnr_of_mse(error) for error in errors]
    slope = math.nan if lmbda is None else lmbda
    losses = [rate + slope * error for rate, error in zip(rates, errors, strict=True)]
    return Cost(
        codec,
        scheme,
        bpp=rates[1],
        psnr=psnrs[1],
        delta_bpp=rates[1] - rates[0],
        delta_psnr=psnrs[1] - psnrs[0],
        delta_bpp_percent=100 * (rates[1] / rates[0] - 1),
        rise=100 * (losses[1] / losses[0] - 1),
        rate_equivalent=100 * (losses[1] - losses[0]) / rates[0],
    )


def lmbda_of(codec: Codec) -> float | None:
    """Return the trade-off that a codec's notes say it was trained with; None if they do not."""
    try:
        return float(codec.notes["recipe"]["loss"]["lmbda"])
    except (KeyError, TypeError, ValueError):
        return None


def default_schemes() -> tuple[Scheme, ...]:
    """Return what is worth knowing of a codec: common bits for all of it, W8A8 for each part."""
    bits = ((8, 8), (6, 8), (8, 6), (6, 6), (4, 8), (4, 4), (8, None), (None, 8))
    parts = [Scheme(8, 8, scope) for scope in SCOPES if scope != ALL]
    return (*(Scheme(weights, activations) for weights, activations in bits), *parts)


def codec_costs(
    name: str,
    codec: Codec,
    pictures: Pictures,
    crops: Sequence[Tensor],
    schemes: Sequence[Scheme],
    *,
    ranges: Ranges = MIN_MAX,
    lmbda: float | None = None,
    improve: Improve | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[Cost | None, tuple[ImageResult, ...]]]:
    """Yield the rows of a codec (without a cost), then cost and rows of each quantized copy.

    `crops` (batches `b 3 h w` in [0, 1]) calibrate; `lmbda` overrides the notes'; `improve` may
    optimize each copy; networks run on `device`, the CPU if not given. A scheme of a part that
    the model lacks is left out. Raises `ConfigError` when that is all of them, when the codec is
    quantized already, and when there is no lmbda to optimize for.
    """
    model = codec.thaw()
    slope = lmbda_of(codec) if lmbda is None else lmbda
    if improve is not None and slope is None:
        raise ConfigError(f"{name}: its notes have no lmbda to optimize for; give one")
    possible = [scheme for scheme in schemes if layers_of(model, scheme.scope)]
    if not possible:
        raise ConfigError(f"{name}: {model.name} has none of the parts to quantize")
    place = device or torch.device("cpu")
    observed = observe(model.to(place), crops)
    model.cpu()
    original = measure(codec.to(place), pictures, name)
    yield None, original
    for scheme in possible:
        copy = quantize(model, scheme, observed, ranges=ranges)
        if improve is not None and slope is not None:
            improve(copy.to(place), model.to(place), slope)
            model.cpu()
        quantized = Codec.freeze(copy, weight_dtype=codec.weight_dtype)
        rows = measure(quantized.to(place), pictures, name)
        yield cost(name, scheme, original, rows, slope), rows


def family_cost(
    family: str,
    scheme: Scheme,
    original: Sequence[ImageResult],
    quantized: Sequence[ImageResult],
) -> FamilyCost:
    """Return the BD-rate between two curves of one family, from rows at all of its rates."""
    comparison = compare(
        _curve(family, original), _curve(f"{family} {scheme.label}", quantized), bootstrap=None
    )
    remarks = tuple(str(finding) for finding in comparison.findings)
    return FamilyCost(family, scheme, comparison.bd_rate, comparison.bd_quality, remarks)


def _curve(name: str, rows: Sequence[ImageResult]) -> Curve:
    return curve_from_rows(name, rows)
