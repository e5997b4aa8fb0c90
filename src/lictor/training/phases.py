"""Phases: parts of a run that train otherwise, as data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lictor.config import POSITIVE, Rule, Settings, one_of, option
from lictor.errors import ConfigError
from lictor.layers.quantize.catalogue import SURROGATES

# The shares of all phases may be off by this much in sum.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Phase(Settings):
    """A part of the steps in which something is otherwise than the recipe's sections say."""

    share: float = option(rule=Rule(lambda v: 0 < v <= 1, "above 0, at most 1"))
    """Share of the steps; the shares of all phases add up to 1."""
    lr: float | None = option(None, POSITIVE, may_change=True)
    """Peak learning rate in place of `optim.lr`; the schedule goes on over the whole run."""
    surrogate: str | None = option(None, one_of(*SURROGATES))
    """Name of a surrogate, with its defaults; that of [surrogate] has the settings it has there."""
    freeze: tuple[str, ...] = ()
    """Parts of the model, such as "g_a", whose weights rest."""


def check_shares(phases: Sequence[Phase]) -> None:
    """Raise `ConfigError` when the shares of phases do not add up to 1; no phase is fine."""
    total = math.fsum(phase.share for phase in phases)
    if phases and abs(total - 1) > _TOLERANCE:
        shares = " + ".join(f"{phase.share:g}" for phase in phases)
        raise ConfigError(f"the shares of [[phase]] must add up to 1, not {shares} = {total:g}")


def phase_at(phases: Sequence[Phase], progress: float) -> Phase | None:
    """Return the phase at a point of the run, from 0 to 1; None for a run without phases.

    A phase ends with the step at which the shares so far are reached.
    """
    reached = 0.0
    for phase in phases:
        reached += phase.share
        if progress <= reached + _TOLERANCE:
            return phase
    return phases[-1] if phases else None
