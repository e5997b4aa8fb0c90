"""A signal: samples on a grid, where there are some, and what its file needs beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lictor.errors import DataError

KINDS = ("image", "audio", "volume", "field", "array")


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


def masked_where_nan(samples: np.ndarray) -> np.ndarray | None:
    """Return the mask of "items *grid c": False where a channel is NaN; None without any NaN."""
    if samples.dtype.kind != "f":
        return None
    missing = np.isnan(samples).any(-1)
    return ~missing if missing.any() else None
