"""Soft paths: smooth steps whose slope says where in its bin a value lies.

They estimate the gradient of rounding with little bias and much variance: near the edge of a bin
the slope is steep. All have a temperature: at 0 they round.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lictor.layers.quantize.paths import (
    COLDEST,
    NoDraw,
    OneDraw,
    atanh_score,
    check_temperature,
    choice,
)

# Softer than this a soft round is the identity, to the last bit of float32.
_IDENTITY = 1e-3
# The closest that the argument of an atanh comes to 1, in float32.
_CLOSEST = 1 - 2.0**-23
# Where the slope of a step departs by more than a tenth from that of the identity, it counts as
# telling positions. Seen: nothing of it at 1/t = 0.1, much at 3.
_TELLING = 1.0
# Integers on each side that an annealed soft assignment looks at.
_REACH = 2


def soft_round(x: Float[Tensor, "*shape"], alpha: float) -> Float[Tensor, "*shape"]:
    """Return smooth steps through integers and half-integers; the identity at `alpha = 0`.

    `m + tanh(alpha (x - m)) / (2 tanh(alpha / 2))` with `m` the middle between two integers.
    Source: Agustsson and Theis, NeurIPS 2020 (arXiv:2006.09952), section 4.1.
    """
    if alpha < _IDENTITY:
        return x
    middle = x.detach().floor() + 0.5
    return middle + (alpha * (x - middle)).tanh() / (2 * math.tanh(alpha / 2))


def soft_round_inverse(x: Float[Tensor, "*shape"], alpha: float) -> Float[Tensor, "*shape"]:
    """Undo `soft_round`."""
    if alpha < _IDENTITY:
        return x
    middle = x.detach().floor() + 0.5
    inner = (2 * math.tanh(alpha / 2) * (x - middle)).clamp(-_CLOSEST, _CLOSEST)
    return middle + inner.atanh() / alpha


def soft_round_mean(x: Float[Tensor, "*shape"], alpha: float) -> Float[Tensor, "*shape"]:
    """Return the mean of a uniform `y`, given that `soft_round(y)` plus U(-1/2, 1/2) noise is `x`.

    Source: Agustsson and Theis, section 4.2.
    """
    return soft_round_inverse(x - 0.5, alpha) + 0.5


def _alpha(temperature: float) -> float:
    return 1 / max(temperature, COLDEST)


@dataclass(frozen=True)
class SoftRound(NoDraw):
    """Take smooth steps, without noise: `soft_round` with `alpha = 1 / t`."""

    temperature: float = 0.2

    resolves_bins = True

    def __post_init__(self) -> None:
        check_temperature(self.temperature, 0, 1000)

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the residual on smooth steps."""
        del noise
        return soft_round(residual, _alpha(self.temperature))


@dataclass(frozen=True)
class NoisySoftRound(OneDraw):
    """Take smooth steps, add noise, and say which residual was meant.

    `alpha = 1 / t`: additive noise as `t` grows, rounding at 0; the error of a uniform residual is
    1/12 at each. Source: Agustsson and Theis, NeurIPS 2020 (arXiv:2006.09952), section 4.
    """

    temperature: float = 0.2

    resolves_bins = True

    def __post_init__(self) -> None:
        check_temperature(self.temperature, 0, 1000)

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the mean of what the noisy step may have been."""
        assert noise is not None
        alpha = _alpha(self.temperature)
        return soft_round_mean(soft_round(residual, alpha) + noise, alpha)


@dataclass(frozen=True)
class SoftRoundChannel(OneDraw):
    """`NoisySoftRound` with a temperature from 0 (rounding) to 1 (additive noise).

    Variant C of our reading of stochastic uniform annealing: `alpha = 1 / t - 1`.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    @property
    def resolves_bins(self) -> bool:
        """At each temperature but that of additive noise."""
        return self.temperature < 1

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the mean of what the noisy step may have been."""
        assert noise is not None
        alpha = _alpha(self.temperature) - 1
        return soft_round_mean(soft_round(residual, alpha) + noise, alpha)


@dataclass(frozen=True)
class KumaraswamySoftRound(OneDraw):
    """`NoisySoftRound` with noise that gathers around zero while it is warm.

    Noise of the Kumaraswamy distribution: mode at 0, uniform at `shape = 1`. Shape and temperature
    fall together as they do in C3: 2 at `t = 0.3`, 1 at `t = 0.1`. Source: Kim et al., CVPR 2024
    (arXiv:2312.02753), as in its public code.
    """

    temperature: float = 0.3

    resolves_bins = True

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    @property
    def shape(self) -> float:
        """The first parameter of the noise."""
        return min(max(1 + (self.temperature - 0.1) / 0.2, 1.0), 4.0)

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the mean of what the noisy step may have been, had the noise been uniform."""
        assert noise is not None
        alpha = _alpha(self.temperature)
        return soft_round_mean(soft_round(residual, alpha) + kumaraswamy(noise, self.shape), alpha)


def kumaraswamy(uniform: Float[Tensor, "*shape"], shape: float) -> Float[Tensor, "*shape"]:
    """Turn U(-1/2, 1/2) noise into Kumaraswamy noise on the same interval, with its mode at 0.

    `shape` is at least 1, where the noise is uniform.
    """
    if shape == 1:
        return uniform
    other = (2**shape * (shape - 1) + 1) / shape
    return (1 - (0.5 - uniform).clamp_min(0) ** (1 / other)) ** (1 / shape) - 0.5


@dataclass(frozen=True)
class SoftGradientRound(NoDraw):
    """Round, with the gradient of smooth steps: `soft_round` with `alpha = 1 / t`.

    The curve is that of differentiable soft quantization (Gong et al., ICCV 2019,
    arXiv:1908.05033). At the default temperature it is straight-through rounding to three digits.
    """

    temperature: float = 10.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature, 0, 1000)

    @property
    def resolves_bins(self) -> bool:
        """When the steps are steep enough; where that begins is our choice."""
        return _alpha(self.temperature) > _TELLING

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the rounded residual."""
        del noise
        soft = soft_round(residual, _alpha(self.temperature))
        return residual.detach().round() + (soft - soft.detach())


@dataclass(frozen=True)
class SoftAssignment(NoDraw):
    """Mix the integers nearby, the nearer ones more: weights `exp(-(y - c)^2 / t)`.

    Source: Agustsson et al., NeurIPS 2017 (arXiv:1704.00648), annealed soft-to-hard quantization
    with the integers as centers. With `hard`, the value is rounded and the gradient is soft, as in
    Mentzer et al., CVPR 2018 (arXiv:1801.04260).
    """

    temperature: float = 1.0
    hard: bool = False

    resolves_bins = True

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the mean of the integers nearby, or the rounded residual with its gradient."""
        del noise
        nearest = residual.detach().round()
        steps = torch.arange(-_REACH, _REACH + 1, dtype=residual.dtype, device=residual.device)
        gaps = (residual - nearest).unsqueeze(-1) - steps
        weights = (-gaps.square() / max(self.temperature, COLDEST)).softmax(-1)
        soft = nearest + (weights * steps).sum(-1)
        return nearest + (soft - soft.detach()) if self.hard else soft


@dataclass(frozen=True)
class DeterministicAnnealing(NoDraw):
    """Mix the two integers around, as stochastic Gumbel annealing does on average, without noise.

    Source: Yang et al., NeurIPS 2020 (arXiv:2006.04240), the baseline "deterministic annealing".
    """

    temperature: float = 0.2

    resolves_bins = True

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return a value between the two integers around."""
        del noise
        below = residual.detach().floor()
        return below + choice(atanh_score(residual - below) / max(self.temperature, COLDEST))
