"""Two prices of a stand-in for rounding: train-test mismatch, and the risk of its gradient.

A latent `y = theta + s X` with normal `X` is rounded and a loss taken, so that the objective
`L(theta) = E loss(round(y))` is smooth in `theta`, and its derivative is known exactly: it is what
the loss jumps by at the edges of the bins, weighted with the density there. A path gives another
objective, whose distance is the mismatch, and a random gradient, whose distance has two parts, bias
and variance; their sum `bias^2 + variance` is the risk. A batch of `n` divides the variance by `n`
and leaves the bias.

Our reading of the terms of Zhang, Li and Liu (arXiv:2309.17051), of which only the abstract was
seen: definitions, losses and figures are not the paper's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lictor.analysis.surrogates.rate import gaussian_log_bits
from lictor.errors import ConfigError
from lictor.layers.quantize.noise import Draw
from lictor.layers.quantize.paths import ChargingPath, Path

_INVERSE_ROOT = 1 / math.sqrt(2 * math.pi)
# Samples that are worked on at once: what fits a cache, whatever a path keeps for its gradient.
_CHUNK = 2**17


# A loss of single quantized values, differentiable, element by element.
PointLoss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DecoderLoss:
    """Squared error of a decoder `v + amplitude * sin(frequency * v)`: rough if that is not 0."""

    amplitude: float = 0.0
    frequency: float = 1.5 * math.pi
    target: float = 0.37

    def __call__(self, value: Float[Tensor, "*shape"], /) -> Float[Tensor, "*shape"]:
        """Return the squared error of each value."""
        decoded = value + self.amplitude * torch.sin(self.frequency * value)
        return (decoded - self.target).square()


LINEAR, ROUGH = DecoderLoss(), DecoderLoss(amplitude=0.3)


@dataclass(frozen=True)
class RateLoss:
    """Bits of a value under a Gaussian of a given standard deviation, without a floor."""

    scale: float

    def __call__(self, value: Float[Tensor, "*shape"], /) -> Float[Tensor, "*shape"]:
        """Return the bits of each value."""
        return gaussian_log_bits(value, self.scale)


def uniform_draw(generator: torch.Generator) -> Draw:
    """Return what draws U(-1/2, 1/2) noise from a generator, for the `noise` of a path."""

    def draw(like: Tensor) -> Tensor:
        drawn = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
        return drawn - 0.5

    return draw


def true_gradient(
    loss: PointLoss, theta: Float[Tensor, " t"], spread: float
) -> Float[Tensor, " t"]:
    """Return `d/dtheta E loss(round(theta + spread * X))` for normal `X`, exactly.

    The sum over the bins' edges of the loss' jump there times the density of `y`; it ends 12
    standard deviations away.
    """
    reach = math.ceil(12 * spread + float(theta.abs().max())) + 1
    k = torch.arange(-reach, reach + 1, dtype=torch.float64)
    values = loss(k)
    at = (k[:-1] + 0.5 - theta[:, None]) / spread
    density = torch.exp(-0.5 * at.square()) * (_INVERSE_ROOT / spread)
    return (density * (values[1:] - values[:-1])).sum(1)


@dataclass(frozen=True)
class Risk:
    """What a path costs: means over `theta`.

    Args:
        mismatch: `E loss(v) - E loss(round(y))`, in units of the loss; negative if it flatters.
        squared_bias: of the gradient. The Monte Carlo's own error is taken off, so that an unbiased
            path is as often below 0 as above.
        variance: of the gradient of a single sample.
        scale: mean square of the true gradient, what the two before are to be compared with.
        bias_error: standard error of `squared_bias`.
    """

    mismatch: float
    squared_bias: float
    variance: float
    scale: float
    bias_error: float

    @property
    def relative_bias(self) -> float:
        """Squared bias as a share of the mean square of the true gradient, at least 0."""
        return max(self.squared_bias, 0.0) / self.scale

    @property
    def relative_variance(self) -> float:
        """Variance of a single sample's gradient, as a share of the same."""
        return self.variance / self.scale

    def relative_risk(self, batch: int) -> float:
        """Squared bias plus variance of the mean gradient of `batch` samples, as such a share."""
        return self.relative_bias + self.relative_variance / batch


# Gives value and gradient of a loss at each y.
Estimator = Callable[[PointLoss, Tensor, Draw], tuple[Tensor, Tensor]]


def through(path: Path) -> Estimator:
    """Return the estimator that training has: the loss of the path's value, differentiated.

    A path that charges the rate in a way of its own does so with any loss here.
    """

    def estimate(loss: PointLoss, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        y = y.detach().reshape(-1, 1, 1, 1).requires_grad_()
        with torch.enable_grad():
            noise = path.noise(y.detach(), draw)
            if isinstance(path, ChargingPath):
                value = path.charge(y, noise, loss)
            else:
                value = loss(path(y, noise))
            (gradient,) = torch.autograd.grad(value.sum(), y)
        return value.detach().flatten(), gradient.flatten()

    return estimate


def thetas(count: int = 20, period: float = 1.0) -> Float[Tensor, " t"]:
    """Return `count` places in `[0, period)`, equally far from each other, float64."""
    return torch.arange(count, dtype=torch.float64) * (period / count)


def gradient_risk(
    estimator: Estimator,
    loss: PointLoss,
    spread: float,
    *,
    places: Float[Tensor, " t"],
    samples: int,
    seed: int,
) -> Risk:
    """Measure mismatch, bias and variance of an estimator by simulation.

    Args:
        estimator: `through(path)` for what training does.
        loss: taken of the quantized value.
        spread: standard deviation of the latent, in steps of the quantizer; positive.
        places: means of the latent, float64; results are averages over them.
        samples: for each place, at least 2.
        seed: of the simulation; the same latents for every estimator.

    Raises `ConfigError` when there is nothing to take a variance of.
    """
    if samples < 2 or spread <= 0:
        raise ConfigError("a risk needs at least 2 samples and a positive spread")
    # The lower 32 bits of a seed are all that count: two seeds for two streams.
    generator, draws = (torch.Generator().manual_seed(2 * seed + i) for i in range(2))
    draw = uniform_draw(draws)
    truth = true_gradient(loss, places, spread)
    sums = [_place(estimator, loss, float(p), spread, samples, generator, draw) for p in places]
    gaps, means, variances = (
        torch.tensor(column, dtype=torch.float64) for column in zip(*sums, strict=True)
    )
    noise = variances / samples
    squares = (means - truth).square() - noise
    errors = 2 * noise.square() + 4 * squares.clamp_min(0) * noise
    return Risk(
        float(gaps.mean()),
        float(squares.mean()),
        float(variances.mean()),
        float(truth.square().mean()),
        float(errors.sum().sqrt()) / len(places),
    )


def _place(
    estimator: Estimator,
    loss: PointLoss,
    theta: float,
    spread: float,
    samples: int,
    generator: torch.Generator,
    draw: Draw,
) -> tuple[float, float, float]:
    """Return mismatch, mean gradient and variance of the gradient at one place."""
    gap, gradients = 0.0, list[Tensor]()
    for start in range(0, samples, _CHUNK):
        count = min(_CHUNK, samples - start)
        y = theta + spread * torch.randn(count, generator=generator, dtype=torch.float64)
        value, gradient = estimator(loss, y, draw)
        gap += float((value - loss(y.round())).sum())
        gradients.append(gradient)
    every = torch.cat(gradients)
    return gap / samples, float(every.mean()), float(every.var())
