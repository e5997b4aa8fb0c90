"""When STDET embeds weights, and which ones."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lictor.errors import ConfigError
from lictor.training.stdet.modes import MIN_SNAPSHOTS

SELECTIONS = ("both", "drift", "sensitivity", "random")
DUMMIES = ("none", "line", "window", "averaged")


@dataclass(frozen=True)
class Schedule:
    """The snapshots of a run of `steps` steps, and the events among them.

    Snapshot `e` (from 0) is taken after `every * (e + 1)` steps. Modes are found at snapshot
    `warmup`; then each `window` snapshots there is an event, at which a `share` of all weights is
    embedded, until that is `cap` of them. Nothing is embedded at the last snapshot: what is moved
    there is never trained again.

    Raises `ConfigError` when a run would have no event, or would embed all its weights.
    """

    every: int
    steps: int
    warmup: int = 20
    window: int = 5
    share: float = 0.05
    cap: float = 0.5

    def __post_init__(self) -> None:
        if self.every < 1 or self.window < 1:
            raise ConfigError("stdet: a snapshot's interval and a window must be at least 1")
        if self.warmup + 1 < MIN_SNAPSHOTS:
            raise ConfigError(
                f"stdet.warmup = {self.warmup} gives {self.warmup + 1} snapshots to find modes in; "
                f"at least {MIN_SNAPSHOTS - 1}, since few points correlate by chance"
            )
        if not 0 <= self.share <= 1 or not 0 < self.cap < 1:
            raise ConfigError(
                f"stdet.share = {self.share}, stdet.cap = {self.cap}: this would embed everything; "
                "the share must be from 0 to 1, the cap above 0 and below 1"
            )
        if not self.events:
            raise ConfigError(
                f"stdet: {self.snapshots} snapshots in {self.steps} steps leave none to embed at; "
                f"needed are {self.warmup + self.window + 2}: take them more often "
                "(stdet.snapshot_every), or lower stdet.warmup or stdet.window"
            )

    @property
    def snapshots(self) -> int:
        """How many snapshots the run takes."""
        return self.steps // self.every

    @property
    def events(self) -> tuple[int, ...]:
        """The snapshots at which weights may be embedded."""
        return tuple(range(self.warmup + self.window, self.snapshots - 1, self.window))

    def is_event(self, snapshot: int) -> bool:
        """Return whether weights may be embedded at a snapshot."""
        return snapshot in self.events

    def target(self, total: int, embedded: int) -> int:
        """Return how many more of `total` weights to embed at an event."""
        return max(0, min(math.ceil(self.share * total), int(self.cap * total) - embedded))

    def shares(self) -> list[float]:
        """Return the embedded share of the weights after each snapshot, if there are candidates."""
        shares, embedded = list[float](), 0.0
        for snapshot in range(self.snapshots):
            if self.is_event(snapshot):
                embedded = min(self.cap, embedded + self.share)
            shares.append(embedded)
        return shares


@dataclass(frozen=True)
class Scores:
    """What a selection goes by, for each of `n` weights.

    `drift` is the distance of a weight's coefficients from those at the last event.
    """

    candidates: Bool[Tensor, " n"]
    drift: Float[Tensor, " n"]
    sensitivity: Float[Tensor, " n"]


def _ascending(score: Tensor) -> np.ndarray:
    """Return the places of scores of at least 0 in ascending order; ties by place, NaN last.

    Floats of one sign are ordered as their bits are. With the place below them all keys differ, so
    that an unstable sort, many times faster, is as good as a stable one.
    """
    if score.is_floating_point():
        bits = score.float().contiguous().numpy().view(np.uint32)
    else:
        bits = score.numpy()
    keys = (bits.astype(np.uint64) << np.uint64(32)) | np.arange(len(bits), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64(2**32 - 1)).astype(np.int64)


def ranks(score: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return each score's place in ascending order, from 0, for scores of at least 0."""
    result = torch.empty(len(score), dtype=torch.int64)
    result[torch.from_numpy(_ascending(score))] = torch.arange(len(score))
    return result


def lowest(score: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the places of the `count` lowest scores, and those of all others; ties by place."""
    order = torch.from_numpy(_ascending(score))
    return order[:count], order[count:]


def select(
    scores: Scores,
    *,
    how: str,
    count: int,
    dummies: int,
    generator: torch.Generator,
) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Choose the weights to embed, and those to put on their lines without embedding them.

    The first are the `count` with the lowest sum of ranks of drift and sensitivity (`how` is
    `both`), of one of them, or any. The second are, of all other candidates, those of least drift:
    modal, but too sensitive to be frozen. Raises `ConfigError` on another `how`.
    """
    places = torch.nonzero(scores.candidates).flatten()
    drift, sensitivity = scores.drift[places], scores.sensitivity[places]
    if how == "both":
        score = ranks(drift) + ranks(sensitivity)
    elif how == "drift":
        score = drift
    elif how == "sensitivity":
        score = sensitivity
    elif how == "random":
        score = torch.rand(len(places), generator=generator)
    else:
        raise ConfigError(f"unknown selection {how!r}: choose one of {', '.join(SELECTIONS)}")
    true, rest = lowest(score, count)
    dummy = rest[lowest(drift[rest], dummies)[0]]
    return _mask(places[true], scores.candidates), _mask(places[dummy], scores.candidates)


def _mask(places: Tensor, like: Tensor) -> Tensor:
    mask = torch.zeros_like(like)
    mask[places] = True
    return mask


def quantiles(values: Float[Tensor, " n"]) -> list[float]:
    """Return the 5, 25, 50, 75 and 95 % quantiles; of a stride of the values if they are many."""
    if not len(values):
        return []
    few = values[:: max(1, len(values) // 2**14)].double()
    return torch.quantile(few, torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]).double()).tolist()
