"""Learning rates as pure functions of progress, from 0 at the first step to 1 at the last."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lictor.config import SHARE_BELOW_ONE, Choice, Settings, option

Shape = Callable[[float], float]


def constant(progress: float) -> float:
    """Stay at the peak."""
    del progress
    return 1.0


def cosine(progress: float) -> float:
    """Fall from 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def flat_cosine(progress: float, *, flat: float = 0.6) -> float:
    """Stay at the peak for a share `flat` of the run, then fall to 0 along half a cosine."""
    return cosine(max(0.0, progress - flat) / (1 - flat))


@dataclass(frozen=True)
class FlatCosineSettings(Settings):
    """How long the rate stays at its peak."""

    flat: float = option(0.6, SHARE_BELOW_ONE, may_change=True)
    """flat-cosine: share of the steps before the rate begins to fall."""


SCHEDULES: dict[str, Choice[Shape]] = {
    "constant": Choice(lambda: constant),
    "cosine": Choice(lambda: cosine),
    "flat-cosine": Choice(lambda flat: partial(flat_cosine, flat=flat), FlatCosineSettings),
}


def learning_rate(
    progress: float, *, shape: Shape, peak: float, warmup: float, final: float
) -> float:
    """Return the learning rate at a point of the run.

    `progress` and `warmup` are shares of the run in [0, 1]; `shape` goes from 1 to 0 over it, and
    `final` is the share of `peak` that is left where it is 0.
    """
    ramp = min(1.0, progress / warmup) if warmup > 0 else 1.0
    return peak * ramp * (final + (1 - final) * shape(progress))
