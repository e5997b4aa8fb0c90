"""What the distortion tells a mean: the three modes of a surrogate, against the true gradient.

A latent is rounded around its mean, `y_hat = round(y - mean) + mean`, so that the mean is also a
level of reconstruction. The true gradient of the squared error in the mean is known; a surrogate
gives 0 (`none`), the gradient of the level (`recon`), or that and what goes through the path
(`full`). Our reading of the "partial stop-gradient" of Zhang, Li and Liu (arXiv:2309.17051), of
which only the abstract was seen.
"""

import math
from dataclasses import dataclass

import torch

from lictor.analysis.surrogates.risk import uniform_draw
from lictor.layers.quantize.surrogate import Surrogate
from lictor.priors.conditional import GaussianPrior


@dataclass(frozen=True)
class MeanGradient:
    """The gradient in a mean: the true one, and mean and standard deviation of a surrogate's."""

    truth: float
    mean: float
    deviation: float
    samples: int

    @property
    def standard_error(self) -> float:
        """How far `mean` is from what many more samples would give."""
        return self.deviation / math.sqrt(self.samples)


def true_mean_gradient(spread: float, offset: float) -> float:
    """Return the derivative of `E (y_hat - y)^2` in the mean, for `y - mean ~ N(offset, spread^2)`.

    The error of rounding is continuous, so that its derivative is the mean of
    `2 (round(y - mean) - (y - mean))`.
    """
    reach = math.ceil(12 * spread + abs(offset)) + 1
    k = torch.arange(-reach, reach + 1, dtype=torch.float64)
    upper = torch.special.ndtr((k + 0.5 - offset) / spread)
    mass = upper - torch.special.ndtr((k - 0.5 - offset) / spread)
    return float(2 * ((k * mass).sum() - offset))


def mean_gradient(
    surrogate: Surrogate, spread: float, offset: float, *, samples: int, seed: int
) -> MeanGradient:
    """Measure the gradient of the squared error in the mean that a surrogate gives.

    The latent is `N(mean + offset, spread^2)`, in steps of the quantizer; `samples` are drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, 1, 1, 1)
    residual = offset + spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    means = torch.zeros_like(residual, requires_grad=True)
    params = (means, torch.ones_like(residual))
    with torch.enable_grad():
        y_hat, _ = surrogate(residual, GaussianPrior(), params, uniform_draw(generator))
        distortion = (y_hat - residual).square().sum()
        if distortion.requires_grad:
            distortion.backward()
    gradient = torch.zeros_like(residual) if means.grad is None else means.grad
    return MeanGradient(
        true_mean_gradient(spread, offset), float(gradient.mean()), float(gradient.std()), samples
    )
