"""Temperatures as pure functions of progress: 0 at the first step of training, 1 at the last."""

import math
from dataclasses import dataclass

from lictor.errors import ConfigError


@dataclass(frozen=True)
class LinearTemperature:
    """Hold `start` until `first`, go to `end` on a straight line until `last`, hold `end`.

    `first` and `last` are shares of the run in [0, 1]. Raises `ConfigError` when the line ends
    before it begins, or leaves the run.
    """

    start: float = 1.0
    end: float = 0.0
    first: float = 0.7
    last: float = 0.95

    def __post_init__(self) -> None:
        _check_part(self.first, self.last)

    def __call__(self, progress: float) -> float:
        """Return the temperature at a point of the run."""
        way = _way(progress, self.first, self.last)
        return self.end if way == 1 else self.start + way * (self.end - self.start)


@dataclass(frozen=True)
class ExponentialTemperature:
    """Hold `start` until `first`, go to `end` in equal ratios until `last`, hold `end`.

    `first` and `last` are shares of the run in [0, 1]. Raises `ConfigError` when the curve ends
    before it begins, leaves the run, or goes from or to a temperature that is not positive.
    """

    start: float = 0.5
    end: float = 0.1
    first: float = 0.0
    last: float = 1.0

    def __post_init__(self) -> None:
        _check_part(self.first, self.last)
        if min(self.start, self.end) <= 0:
            raise ConfigError(
                f"temperature from {self.start} to {self.end} in equal ratios: both must be "
                "positive; a linear one may reach 0"
            )

    def __call__(self, progress: float) -> float:
        """Return the temperature at a point of the run."""
        way = _way(progress, self.first, self.last)
        if way in (0, 1):
            return self.end if way else self.start
        return math.exp((1 - way) * math.log(self.start) + way * math.log(self.end))


def _check_part(first: float, last: float) -> None:
    if not 0 <= first <= last <= 1:
        raise ConfigError(
            f"temperature from {first} to {last} of the run: must be a part of [0, 1] that ends "
            "after it begins"
        )


def _way(progress: float, first: float, last: float) -> float:
    """Return how much of the way from `first` to `last` is done, 0 to 1."""
    if progress <= first:
        return 0.0
    return 1.0 if progress >= last else (progress - first) / (last - first)
