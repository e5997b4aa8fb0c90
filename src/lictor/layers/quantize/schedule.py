"""Temperatures as pure functions of progress: 0 at the first step of training, 1 at the last."""

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
        if not 0 <= self.first <= self.last <= 1:
            raise ConfigError(
                f"temperature from {self.first} to {self.last} of the run: must be a part of [0, 1]"
            )

    def __call__(self, progress: float) -> float:
        """Return the temperature at a point of the run."""
        if progress <= self.first:
            return self.start
        if progress >= self.last:
            return self.end
        way = (progress - self.first) / (self.last - self.first)
        return self.start + way * (self.end - self.start)
