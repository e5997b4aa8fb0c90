"""What is measured of a decoded item: squared error, PSNR, and what to hold it against.

Errors are shares of a range that all codecs of an evaluation have in common; sounds are mapped from
[-1, 1] to [0, 1] for it, which is 6.02 dB more than with the peak 1. Samples without a value do not
count.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.signal import correlate

from lictor.comparison.unit import (
    BITS_PER_PIXEL,
    BITS_PER_SAMPLE,
    BITS_PER_VOXEL,
    Unit,
    kbps,
    shared_unit,
)
from lictor.data.signals.signal import Signal, unit_of
from lictor.errors import LictorError
from lictor.metrics import psnr_of_mse

_WORDS = {"image": BITS_PER_PIXEL, "volume": BITS_PER_VOXEL}
# Delays of a sound that are looked for, in samples: encoders and decoders have one to two frames.
MOST_DELAY = 4608
_PEAK = 255.0


@dataclass(frozen=True)
class Peak:
    """The range that errors are shares of.

    Args:
        low: its lower end; pictures are in [0, 1] and sounds in [-1, 1] if they are integers.
        high: its upper end, above.
        source: whose range it is, in words.
    """

    low: float
    high: float
    source: str


@dataclass(frozen=True)
class Quality:
    """How near a decoded item is to the original.

    Args:
        mse: as if the range were 0 to 255, so that it has the PSNR that 8-bit pictures would.
        psnr: in dB.
        baseline_psnr: of silence for sounds, of each channel's mean value for all else.
        psnr_lat: with squared errors weighted by the cosine of the latitude; NaN but for fields.
    """

    mse: float
    psnr: float
    baseline_psnr: float
    psnr_lat: float = math.nan

    @property
    def snr(self) -> float:
        """Signal to noise ratio in dB: how far the PSNR is above the baseline's."""
        return self.psnr - self.baseline_psnr


def peak_of(signal: Signal) -> Peak:
    """Return the range of a kind, or of a signal's own values where its kind has none."""
    if signal.kind == "image" and signal.samples.dtype.kind == "u":
        return Peak(0.0, 1.0, "all grey levels")
    if signal.kind == "audio":
        return Peak(-1.0, 1.0, "full scale")
    values = _there(signal)
    low, high = float(values.min()), float(values.max())
    return Peak(low, high if high > low else low + 1.0, "the file's own values")


def in_unit(values: np.ndarray, kind: str, dtype: np.dtype) -> np.ndarray:
    """Return samples of a signal of that dtype in the unit of its kind, as float64."""
    scale, offset = unit_of(kind, dtype)
    return values.astype(np.float64) * scale + offset


def from_unit(values: np.ndarray, kind: str, dtype: np.dtype) -> np.ndarray:
    """Undo `in_unit`, without rounding."""
    scale, offset = unit_of(kind, dtype)
    return (values.astype(np.float64) - offset) / scale


def measure(original: Signal, decoded: np.ndarray, peak: Peak) -> Quality:
    """Compare a decoded item with the original.

    Args:
        original: of one item.
        decoded: "1 *grid c" in the original's scale; where that is integers, it is rounded first,
            as in the file that a user gets.
        peak: the range that errors are shares of.

    Raises `LictorError` when the decoded item has another shape, or is not finite where there is a
    value.
    """
    samples, mask = original.samples, original.mask
    if decoded.shape != samples.shape:
        raise LictorError(f"an item of {samples.shape[1:]} came back as {decoded.shape[1:]}")
    there = np.ones(samples.shape[:-1], bool) if mask is None else mask
    if not there.any():
        raise LictorError("the item has no values")
    x = in_unit(samples, original.kind, samples.dtype)
    x_hat = in_unit(_as_stored(decoded, samples.dtype), original.kind, samples.dtype)
    if not np.isfinite(x_hat[there]).all():
        raise LictorError("the decoded item has values that are not finite")
    width = peak.high - peak.low
    squares = (np.where(there[..., None], x - x_hat, 0.0) / width) ** 2
    level = 0.0 if original.kind == "audio" else x[there].mean(0)
    mse = _PEAK**2 * float(squares[there].mean())
    baseline = _PEAK**2 * float((((x[there] - level) / width) ** 2).mean())
    weighted = math.nan
    if original.kind == "field":
        weights = np.broadcast_to(latitude_weights(original)[:, None], there.shape)[there]
        of_point = squares[there].mean(-1)
        weighted = psnr_of_mse(_PEAK**2 * float((weights * of_point).sum() / weights.sum()))
    return Quality(mse, psnr_of_mse(mse), psnr_of_mse(baseline), weighted)


def _as_stored(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f" or values.dtype == dtype:
        return values
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values.astype(np.float64)), limits.min, limits.max)


def _there(signal: Signal) -> np.ndarray:
    mask = signal.mask
    values = signal.samples.reshape(-1) if mask is None else signal.samples[mask].reshape(-1)
    if not values.size:
        raise LictorError("the signal has no values")
    return values


def latitude_weights(signal: Signal) -> Float[np.ndarray, " rows"]:
    """Return the cosine of each row's latitude, from pole to pole where the form has none."""
    rows = signal.grid[0]
    coords = signal.form.get("coords", {})
    known = coords.get(signal.form.get("rows"), {}).get("values", [])
    latitudes = np.asarray(known, np.float64)
    if latitudes.shape != (rows,) or not np.isfinite(latitudes).all():
        latitudes = np.linspace(90.0, -90.0, rows)
    # Rounding leaves the poles some 1e-17; a field of poles alone would have weights of nothing.
    return np.maximum(np.cos(np.deg2rad(latitudes)), 1e-9)


def aligned(original: np.ndarray, decoded: np.ndarray, most: int = MOST_DELAY) -> np.ndarray:
    """Shift a decoded sound to where it fits the original best, cut or padded to its length.

    Args:
        original: "n c".
        decoded: "m c", at most `most` samples early or late.
        most: delay, in samples.
    """
    count = len(original)
    a, b = original.astype(np.float64).mean(-1), decoded.astype(np.float64).mean(-1)
    if not len(decoded) or not b.any():
        return np.zeros_like(original, decoded.dtype)
    scores = correlate(b, a, mode="full", method="fft")  # index len(a) - 1: no delay
    delays = np.arange(len(scores)) - (count - 1)
    near = np.abs(delays) <= most
    delay = int(delays[near][np.argmax(scores[near])])
    shifted = decoded[delay:] if delay >= 0 else np.pad(decoded, ((-delay, 0), (0, 0)))
    shifted = shifted[:count]
    return np.pad(shifted, ((0, count - len(shifted)), (0, 0)))


def unit_for(signals: list[Signal]) -> Unit:
    """Return what people call the rate of signals: bpp, kbps, bits per voxel or per sample."""
    return shared_unit(_unit(signal) for signal in signals)


def _unit(signal: Signal) -> Unit:
    if signal.kind == "audio" and "sample_rate" in signal.form:
        return kbps(float(signal.form["sample_rate"]))
    return _WORDS.get(signal.kind, BITS_PER_SAMPLE)
