"""A signal: samples on a grid, where there are some, and what its file needs beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lictor.errors import DataError

KINDS = ("image", "audio", "volume", "field", "array")


@dataclass(frozen=True)
class Wanted:
    """What a reader is to look for, where its format leaves a choice.

    Args:
        axes: of an item; None for whatever the file has.
        channels: of a sample; None if that is not known.
        variable: which one of several, by name.
    """

    axes: int | None = None
    channels: int | None = None
    variable: str | None = None


@dataclass(frozen=True, eq=False)
class Signal:
    """Samples of a picture, a sound, a volume, fields or an array: items of one shape.

    Args:
        samples: "items *grid c", of the file's dtype: integers or floats of up to 64 bits.
        mask: bool "items *grid", True where there is a value; None for everywhere.
        kind: one of `KINDS`.
        form: plain JSON: what a file of this kind needs beside the samples, such as a sample rate.

    Raises `DataError` on samples of no size or another dtype, on an infinite value, and on
    not-a-number where the mask says that there is a value.
    """

    samples: np.ndarray
    mask: np.ndarray | None = None
    kind: str = "array"
    form: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"kind = {self.kind!r} must be one of {', '.join(KINDS)}")
        samples, mask = self.samples, self.mask
        if samples.dtype.kind not in "iuf" or samples.dtype.itemsize > 8:
            raise DataError(f"samples are {samples.dtype}; only integers and floats can be coded")
        if samples.ndim < 3 or 0 in samples.shape:
            raise DataError(f"samples of shape {samples.shape}: there is nothing to code")
        if mask is not None and (mask.dtype != np.bool_ or mask.shape != samples.shape[:-1]):
            raise DataError(f"a mask of {mask.shape} does not fit samples of {samples.shape}")
        if samples.dtype.kind == "f":
            _check_values(samples, mask)

    @property
    def grid(self) -> tuple[int, ...]:
        """Sides of an item."""
        return self.samples.shape[1:-1]

    @property
    def channels(self) -> int:
        """Values of a sample."""
        return self.samples.shape[-1]

    def __len__(self) -> int:
        return len(self.samples)


def _check_values(samples: np.ndarray, mask: np.ndarray | None) -> None:
    for number, item in enumerate(samples):  # an item at a time: masks of a whole file are large
        finite = np.isfinite(item)
        if finite.all():
            continue
        if np.isinf(item).any():
            raise DataError("has infinite values; replace them, by NaN where nothing is known")
        if mask is None or (mask[number] & ~finite.all(-1)).any():
            raise DataError("has NaN where its mask says that there is a value")


def signal_of(samples: np.ndarray, kind: str, form: Mapping[str, Any]) -> Signal:
    """Return the signal of samples as a file has them: without a value where a channel is NaN.

    A sample is there in all channels or in none. The byte order becomes the machine's. Raises
    `DataError` as `Signal` does.
    """
    if not samples.dtype.isnative:
        samples = samples.astype(samples.dtype.newbyteorder("="))
    mask = None
    if samples.dtype.kind == "f":
        there = np.asarray(~np.isnan(samples).any(-1))
        if not there.all():
            mask = there
            samples = _filled(samples, mask)
    return Signal(samples, mask, kind, form)


def filled(signal: Signal) -> np.ndarray:
    """Return the samples with NaN where there is none, as files of floats say it.

    Raises `DataError` on integers with a mask: they have no such value.
    """
    if signal.mask is None:
        return signal.samples
    if signal.samples.dtype.kind != "f":
        raise DataError(
            "integers with missing values have no place in such a file; write .nc, or floats"
        )
    return _filled(signal.samples, signal.mask)


def _filled(samples: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None], samples, samples.dtype.type(np.nan))


def unit_of(kind: str, dtype: np.dtype) -> tuple[float, float]:
    """Return the factor and the offset that bring samples to the unit of their kind.

    Integers of pictures come to [0, 1], those of sounds to [-1, 1]; all else is in its own unit.
    """
    if kind not in ("image", "audio") or dtype.kind not in "iu":
        return 1.0, 0.0
    bits = 8 * dtype.itemsize
    if kind == "image":
        return 1.0 / (2**bits - 1), 0.0
    return 2.0 ** (1 - bits), 0.0 if dtype.kind == "i" else -1.0
