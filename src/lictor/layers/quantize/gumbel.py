"""Stochastic Gumbel annealing: a soft choice between the integers around a residual, by chance.

The paths here are for refining the latents of one picture, where they are cooled down to rounding;
their gradients are of high variance. A score says how much an integer is preferred at a distance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lictor.layers.quantize.noise import Draw
from lictor.layers.quantize.paths import COLDEST, OneDraw, atanh_score, check_temperature, choice

# How near to 0 and 1 a uniform number may come before its logit is taken, in float32.
_NEAREST = 2.0**-24
# How near to 0 and 1 a fraction comes before it is scored: all scores are infinite there.
_CLOSEST = 1e-5

Score = Callable[[Tensor], Tensor]


def cosine_score(fraction: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the log-odds of up when each integer counts `cos^2(pi / 2 * distance)`."""
    return 2 * (fraction * (math.pi / 2)).tan().log()


@dataclass(frozen=True)
class LogitScore:
    """The log-odds of up when each integer counts `sigmoid(-slope * logit(distance))`.

    At slope 1 that is `1 - distance`, the linear score.
    """

    slope: float = 1.0

    def __call__(self, fraction: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the log-odds of up of a fraction in (0, 1)."""
        return self.slope * fraction.logit()


def annealed(progress: float) -> float:
    """Return the temperature of stochastic Gumbel annealing at a point of the refinement.

    `0.5 exp(-0.001 (k - 700))`, at most 0.5, at step `k` of 2000; fewer steps go through the same
    temperatures. As in the public code of Yang et al., NeurIPS 2020 (arXiv:2006.04240).
    """
    return min(max(0.5 * math.exp(-1e-3 * (2000 * progress - 700)), COLDEST), 0.5)


def logistic(uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Turn U(-1/2, 1/2) noise into logistic noise: the difference of two Gumbel variables."""
    return (uniform + 0.5).logit(_NEAREST)


def gumbel(uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Turn U(-1/2, 1/2) noise into Gumbel noise."""
    return -(-(uniform + 0.5).clamp(_NEAREST, 1 - _NEAREST).log()).log()


@dataclass(frozen=True)
class GumbelAnnealing(OneDraw):
    """Choose the upper or the lower integer by chance, softly; the nearer one more often.

    The temperature counts twice: it divides the score, and the relaxed choice has it too. An
    integer stays what it is, and has no gradient. Source: Yang et al., NeurIPS 2020
    (arXiv:2006.04240), section 3.2, as in its public code; other scores: Perugachi-Diaz et al.
    (arXiv:2401.17789), of which we know the abstract and the public code. Raises `ConfigError` when
    the temperature is not in [0, 1].
    """

    temperature: float = 0.5
    score: Score = atanh_score

    # Its gradient tells where in its bin a value lies: not beside a rate with noise of its own.
    resolves_bins = True

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return a value between the two integers around."""
        assert noise is not None
        cold = max(self.temperature, COLDEST)
        below = residual.detach().floor()
        fraction = residual - below
        logit = self.score(fraction.clamp(_CLOSEST, 1 - _CLOSEST)) / cold
        soft = below + choice((logit + logistic(noise)) / cold)
        return torch.where(fraction.detach() == 0, below, soft)


@dataclass(frozen=True)
class LinearWeight:
    """The logarithm of `(1 - 0.98 distance)^power`; what would be below 0 counts as 1e-5."""

    power: float = 1.5

    def __call__(self, distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the log-weight of an integer at a distance of 0 to 1.5."""
        return self.power * (1 - 0.98 * distance).clamp_min(_CLOSEST).log()


@dataclass(frozen=True)
class SigmoidWeight:
    """The logarithm of `sigmoid(-slope * logit(0.98 / 1.5 * distance))^power`."""

    slope: float = 1.4
    power: float = 1.5

    def __call__(self, distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the log-weight of an integer at a distance of 0 to 1.5."""
        return self.power * F.logsigmoid(-self.slope * (distance * (0.98 / 1.5)).logit(_CLOSEST))


@dataclass(frozen=True)
class ThreeWayGumbelAnnealing:
    """Choose the nearest integer or one beside it by chance, softly; the nearer ones more often.

    In the manner of the three classes of Perugachi-Diaz et al. (arXiv:2401.17789), of which we know
    the abstract and the public code. Raises `ConfigError` when the temperature is not in [0, 1].
    """

    temperature: float = 0.5
    weight: Score = SigmoidWeight()

    resolves_bins = True

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def noise(self, like: Float[Tensor, "*shape"], draw: Draw) -> Float[Tensor, "*shape 3"]:
        """Draw the uniform numbers that become Gumbel noise, three for each element."""
        return torch.stack([draw(like) for _ in range(3)], dim=-1)

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return a value between the integers on both sides of the nearest one."""
        assert noise is not None
        cold = max(self.temperature, COLDEST)
        nearest = residual.detach().round()
        sides = torch.arange(-1.0, 2.0, dtype=residual.dtype, device=residual.device)
        distance = ((residual - nearest)[..., None] - sides).abs()
        logits = (self.weight(distance) / cold + gumbel(noise)) / cold
        return nearest + (logits.softmax(-1) * sides).sum(-1)
