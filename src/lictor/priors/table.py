"""The tables of priors that a model's settings can name: of y, and of z."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lictor.config import Choice, Settings, between, chosen, one_of, option
from lictor.priors.base import AbstractPrior
from lictor.priors.channel import ChannelPrior
from lictor.priors.conditional import (
    AbstractConditionalPrior,
    GaussianPrior,
    GeneralizedGaussianPrior,
    LaplacePrior,
)
from lictor.priors.factorized import FactorizedPrior
from lictor.priors.families import (
    LEAST_BETA,
    LEAST_BOUND,
    MOST_BETA,
    MOST_BOUND,
    Gaussian,
    GeneralizedGaussian,
)


@dataclass(frozen=True)
class ScaleSettings(Settings):
    """What all priors with a scale have."""

    scale_bound: float | None = option(None, between(LEAST_BOUND, MOST_BOUND))
    """Least scale; none for the family's own: 0.11, laplace 0.0523, generalized-gaussian 0.12."""


@dataclass(frozen=True)
class BetaSettings(ScaleSettings):
    """What the generalized Gaussian has besides."""

    beta: float = option(1.5, between(LEAST_BETA, MOST_BETA))
    """generalized-gaussian: exponent of the density; 1 is laplace, 2 is gaussian."""


# Of y: a network tells the scales.
PRIORS: dict[str, Choice[AbstractConditionalPrior]] = {
    "gaussian": Choice(GaussianPrior, ScaleSettings),
    "laplace": Choice(LaplacePrior, ScaleSettings),
    "generalized-gaussian": Choice(GeneralizedGaussianPrior, BetaSettings),
}


def _factorized(channels: int, prior_y: AbstractConditionalPrior) -> AbstractPrior:
    del prior_y
    return FactorizedPrior(channels)


def _channel(channels: int, prior_y: AbstractConditionalPrior) -> AbstractPrior:
    return ChannelPrior(channels, prior_y.family, scale_bound=prior_y.scale_bound)


# Of z, called with its channels and the prior of y.
PRIORS_Z: dict[str, Choice[AbstractPrior]] = {
    "factorized": Choice(_factorized),
    "channel": Choice(_channel),
}


@dataclass(frozen=True)
class PriorSettings(Settings):
    """Which densities the latents of a model with a hyperprior have."""

    prior: str = "gaussian"
    """A name from the table of priors: the density of y."""
    prior_z: str = option("factorized", one_of(*PRIORS_Z))
    """Density of z: factorized (learned freely), channel (of the family of y, with a mean)."""
    density: Any = chosen(PRIORS, "prior", by="prior")
    """Settings of the density of y."""


def build_priors(
    channels_z: int, prior: str, prior_z: str, scale_bound: float | None, beta: float | None
) -> tuple[AbstractConditionalPrior, AbstractPrior]:
    """Return the priors of y and of z that names and options say; None leaves an option out.

    Raises `ConfigError` on an unknown name, an option of another prior, or one out of range.
    """
    given = {"scale_bound": scale_bound, "beta": beta}
    given = {key: value for key, value in given.items() if value is not None}
    settings = PriorSettings(prior, prior_z, given)
    prior_y = PRIORS[prior].make(settings.density)
    return prior_y, PRIORS_Z[prior_z](channels_z, prior_y)


def told_priors(
    prior_y: AbstractConditionalPrior, prior_z: AbstractPrior
) -> Mapping[str, str | float]:
    """Return the names and options that give these priors to `build_priors`, but for the customary.

    A model without an entry has a Gaussian of bound 0.11 and a factorized z, as all had at first.
    What is told of another family is complete: its defaults may move.
    """
    family, entries = prior_y.family, dict[str, str | float]()
    if not isinstance(family, Gaussian):
        entries["prior"] = family.name
    if prior_y.scale_bound != Gaussian().default_bound or entries:
        entries["scale_bound"] = prior_y.scale_bound
    if isinstance(family, GeneralizedGaussian):
        entries["beta"] = family.beta
    if isinstance(prior_z, ChannelPrior):
        entries["prior_z"] = "channel"
    return entries
