"""What signals a codec is for, and how their samples become the values that a network knows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from lictor.codecs.signals.order import Grid
from lictor.coding.archive import KINDS, Outline
from lictor.data.signals.signal import Signal, normalised, unit_of
from lictor.errors import CheckpointError, DataError

# What a form is stored under where the codec's own has keys that it lacks, or it has such a key.
_WHOLE, _RANGE = "=", "=range"
_MOST_POINTS = 1 << 24

Range = tuple[float, float]


@dataclass(frozen=True)
class Domain:
    """The signals a codec is for.

    Args:
        kind: of the signals.
        channels: of a sample.
        grid: of a patch; with `whole`, of an item.
        whole: whether an item is one patch, as it is.
        coordinates: name of the grid's coordinates, in `implicit.coordinates`.
        low: what becomes 0, high: what becomes 1, of samples (of pictures and sounds: of samples
            that are scaled to [0, 1] or [-1, 1] if they are integers).
        own_range: whether each signal is scaled by a range of its own, which its file holds.
        clip: the lowest and highest value a network's output may have, after scaling to [0, 1].
        form: what the codec's signals have as form, usually.

    Raises:
        CheckpointError: a field is impossible; domains come out of codec files.
    """

    kind: str
    channels: int
    grid: tuple[int, ...]
    whole: bool = False
    coordinates: str = "unit"
    low: float = 0.0
    high: float = 1.0
    own_range: bool = False
    clip: tuple[float, float] | None = (0.0, 1.0)
    form: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        points = math.prod(self.grid)
        if self.kind not in KINDS or self.channels < 1 or min(self.grid, default=0) < 1:
            raise CheckpointError(
                f"no codec is for {self.kind!r} with {self.channels} channels on {self.grid}"
            )
        if points > _MOST_POINTS:
            raise CheckpointError(f"a patch of {points} samples is too large")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise CheckpointError(f"a range from {self.low} to {self.high} cannot be scaled")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise CheckpointError(f"nothing lies within {self.clip}")

    def patches(self, grid: tuple[int, ...]) -> Grid:
        """Return how many patches a signal's grid has along each axis."""
        if self.whole:
            return (1,) * len(grid)
        return tuple(-(-n // size) for n, size in zip(grid, self.grid, strict=True))

    def outline(self, signal: Signal) -> Outline:
        """Return the shape of a signal, once it is sure that the codec is for it.

        Raises `DataError`: another kind, other channels or grid, nothing in it, values that are
        not finite and not masked.
        """
        samples, mask = signal.samples, signal.mask
        if signal.kind != self.kind:
            raise DataError(f"this codec is for signals of kind {self.kind}, not {signal.kind}")
        if samples.ndim != len(self.grid) + 2:
            raise DataError(
                f"the samples are {samples.shape}; this codec needs (items, "
                f"{len(self.grid)} axes, channels)"
            )
        grid, channels = samples.shape[1:-1], samples.shape[-1]
        if not samples.size:
            raise DataError(f"the signal is empty: its samples are {samples.shape}")
        if channels != self.channels:
            raise DataError(
                f"the signal has {channels} channels; this codec is for {self.channels}"
            )
        if self.whole and grid != self.grid:
            raise DataError(f"the signal's grid is {grid}; this codec is for {self.grid}")
        if mask is not None and (mask.dtype != bool or mask.shape != samples.shape[:-1]):
            raise DataError(f"the mask must be bool {samples.shape[:-1]}, not {mask.shape}")
        outline = Outline(signal.kind, str(samples.dtype), len(samples), grid, channels)
        for i in range(len(samples) if samples.dtype.kind == "f" else 0):
            finite = np.isfinite(samples[i]).all(-1)
            if not (finite if mask is None else finite | ~mask[i]).all():
                raise DataError(
                    f"item {i} has values that are not finite (NaN or infinite); mask them"
                )
        return outline

    def range_of(self, signal: Signal) -> Range:
        """Return what becomes 0 and 1: the codec's, or from a signal's least to 99.9 percentile."""
        if not self.own_range:
            return self.low, self.high
        there = signal.samples if signal.mask is None else signal.samples[signal.mask]
        if not there.size:
            return self.low, self.high
        low = float(np.float32(there.min()))
        high = float(np.float32(np.percentile(there, 99.9)))
        return low, high if high > low else low + 1.0

    def normalised(self, samples: np.ndarray, limits: Range) -> Float[np.ndarray, "*shape"]:
        """Return samples as float32, `limits` as 0 and 1."""
        return normalised(samples, self.kind, *limits)

    def samples(
        self, values: Float[np.ndarray, "*shape"], dtype: np.dtype, limits: Range
    ) -> np.ndarray:
        """Undo `normalised`: clipped, and rounded for integers."""
        clipped = values if self.clip is None else np.clip(values, *self.clip)
        scale, offset = unit_of(self.kind, dtype)
        low, high = limits
        samples = (clipped.astype(np.float64) * (high - low) + low - offset) / scale
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            samples = np.clip(np.rint(samples), info.min, info.max)
        elif dtype.itemsize < 8:
            samples = np.clip(samples, np.finfo(dtype).min, np.finfo(dtype).max)
        return samples.astype(dtype)

    def stored_form(self, form: Mapping[str, Any], limits: Range) -> Mapping[str, Any] | None:
        """Return what a file must hold of a form: what is not as the codec's own; None if that."""
        plain = all(key in form for key in self.form) and _WHOLE not in form and _RANGE not in form
        if plain:
            stored: dict[str, Any] = {
                k: v for k, v in form.items() if k not in self.form or self.form[k] != v
            }
        else:
            stored = {_WHOLE: dict(form)}
        if self.own_range:
            stored[_RANGE] = list(limits)
        return stored or None

    def form_and_range(self, stored: Mapping[str, Any] | None) -> tuple[dict[str, Any], Range]:
        """Undo `stored_form`; raises `DataError` when a file's form is impossible."""
        rest = dict(stored or {})
        limits = rest.pop(_RANGE, None)
        form = rest.get(_WHOLE, {**self.form, **rest})
        if not isinstance(form, dict):
            raise DataError("a form is no JSON object")
        if not self.own_range:
            return form, (self.low, self.high)
        numbers = isinstance(limits, list) and all(type(v) in (int, float) for v in limits)
        if not numbers or len(limits) != 2 or not -1e300 < limits[0] < limits[1] < 1e300:
            raise DataError("a signal's range is missing or impossible")
        return form, (float(limits[0]), float(limits[1]))
