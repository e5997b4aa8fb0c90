"""Learning rates as pure functions of progress, from 0 at the first step to 1 at the last."""

import math
from collections.abc import Callable

from lictor.errors import ConfigError


def constant(progress: float) -> float:
    """Stay at the peak."""
    del progress
    return 1.0


def cosine(progress: float) -> float:
    """Fall from 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def flat_cosine(progress: float) -> float:
    """Stay at the peak for 60 % of the run, then fall to 0 along half a cosine."""
    return cosine(max(0.0, progress - 0.6) / 0.4)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "flat-cosine": flat_cosine,
}


def learning_rate(
    progress: float, *, schedule: str, peak: float, warmup: float, final: float
) -> float:
    """Return the learning rate at a point of the run.

    `progress` and `warmup` are shares of the run in [0, 1]; `final` is the share of `peak` at the
    end. Raises `ConfigError` on an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"unknown schedule {schedule!r}: choose one of {', '.join(SCHEDULES)}")
    ramp = min(1.0, progress / warmup) if warmup > 0 else 1.0
    return peak * ramp * (final + (1 - final) * SCHEDULES[schedule](progress))
