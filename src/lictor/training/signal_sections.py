"""The sections of recipes for networks of signals, beside those that all recipes share."""

from dataclasses import dataclass
from typing import Any

from lictor.coding.archive import KINDS
from lictor.config import (
    POSITIVE,
    Rule,
    Settings,
    at_least,
    between,
    chosen,
    one_of,
    option,
)
from lictor.errors import ConfigError
from lictor.implicit.coordinates import COORDINATES
from lictor.implicit.model import IMPLICIT

_SIDES = Rule(lambda v: all(side >= 1 for side in v), "sides of 1 or more")
_MOST_QUALITIES = 64


@dataclass(frozen=True)
class SignalConfig(Settings):
    """What kind of signals, and how they are cut."""

    kind: str = option("image", one_of(*KINDS))
    """What files hold: image, audio, volume, field (on the sphere), array."""
    patch: tuple[int, ...] = option((), _SIDES)
    """Sides of the patches that a latent stands for; none: `item_shape`."""
    item_shape: tuple[int, ...] = option((), _SIDES)
    """Files hold several items of this shape one after the other; none: one item."""
    coordinates: str | None = option(None, one_of(*COORDINATES))
    """Where points lie: unit, audio, sphere, pixels; by the kind if not given."""
    channels: int = option(1, between(1, 64))
    """Values of a sample: 3 for colour, 2 for stereo."""
    low: float | None = None
    """Value that becomes 0; if not given, 0 for pictures, -1 for sounds, else the data's least."""
    high: float | None = None
    """Value that becomes 1; if not given, 1 for pictures and sounds, else the data's greatest."""
    variable: str | None = None
    """Which variable of files that hold several."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.patch or self.item_shape):
            raise ConfigError("signal.patch: say the sides of the patches, such as [32, 32]")
        if (self.low is None) != (self.high is None):
            raise ConfigError("signal.low and signal.high: give both or neither")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ConfigError(f"signal.low = {self.low} must be below signal.high = {self.high}")

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the patches."""
        return self.patch or self.item_shape

    @property
    def points(self) -> str:
        """Name of the coordinates in their table."""
        return self.coordinates or {"audio": "audio", "field": "sphere"}.get(self.kind, "unit")


@dataclass(frozen=True)
class ImplicitModelConfig(Settings):
    """Which network of signals to train; its own settings stand beside its name."""

    name: str = "linear-coinpp"
    """A name from the table of networks of signals."""
    settings: Any = chosen(IMPLICIT, "network")
    """Settings of the network, such as `latent` and `width`."""


@dataclass(frozen=True)
class FitConfig(Settings):
    """How latents are found while training: the inner loop."""

    steps: int = option(3, between(0, 100), may_change=True)
    """Steps of gradient descent on the latents."""
    order: str = option("second", one_of("second", "first"))
    """Whether the outer gradient goes through the inner gradients (second) or not (first)."""
    points: int = option(0, at_least(0), may_change=True)
    """Points of a patch that a step looks at, drawn anew for each; 0 for all."""
    checkpoint: bool = option(False, may_change=True)
    """Compute inner steps again when their gradients are needed: less memory, more time."""


@dataclass(frozen=True)
class RateConfig(Settings):
    """The rate in the loss, and the qualities that files may have."""

    weight: float = option(1.0, at_least(0))
    """Weight of the rate beside the distortion; 0 for the distortion alone, as in the paper."""
    step: float = option(0.02, POSITIVE)
    """Quantization step of the latents at quality 0, as a share of the range of values."""
    lowest: int = option(0, between(-64, 64))
    """Lowest quality of files; four more halve the step."""
    highest: int = option(12, between(-64, 64))
    """Highest quality of files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lowest <= self.highest < self.lowest + _MOST_QUALITIES:
            raise ConfigError(
                f"rate.highest = {self.highest} must be from rate.lowest = {self.lowest} to "
                f"{_MOST_QUALITIES - 1} above it"
            )


@dataclass(frozen=True)
class SignalDataConfig(Settings):
    """How training patches are drawn."""

    held_out: float = option(0.1, Rule(lambda v: 0 < v < 1, "above 0 and below 1"))
    """Share of the items kept out of training, for the evaluation."""
    cache_mib: int = option(4096, at_least(1), may_change=True)
    """Memory for the signals; more than this is refused."""
    mirrored: bool = False
    """Patches are mirrored along their last axis by chance."""
    evaluated: int = option(512, at_least(1))
    """The evaluation sees so many held-out patches at most."""
    started: int = option(65536, at_least(2))
    """Principal components, for a linear part to start from, see so many patches at most."""
    workers: int = option(1, between(1, 64), may_change=True)
    """Threads that cut patches in advance."""
