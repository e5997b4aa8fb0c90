"""Priors whose parameters a network computes for each element: mean and scale of a Gaussian."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from lictor.coding.tables import CdfTables, build_tables
from lictor.ops import lower_bound
from lictor.priors.base import MIN_LIKELIHOOD, TAIL_MASS, AbstractPrior

# The customary table of hyperprior codecs: 64 scales, log-spaced. A Gaussian narrower than 0.11
# costs the same (nothing) at zero and only makes surprises dearer.
SCALE_MIN, SCALE_MAX, NUM_SCALES = 0.11, 256.0, 64

_SQRT_HALF = math.sqrt(0.5)
_DENSITY_PEAK = 1 / math.sqrt(2 * math.pi)


class _GaussianBits(torch.autograd.Function):
    """`-log2` of a Gaussian's mass on `[v - 1/2, v + 1/2]`, with its closed-form gradient.

    Both ends are folded to the left tail, where the difference keeps its relative precision. One
    node replaces about fifteen of autograd's.
    """

    @staticmethod
    def forward(ctx, residual: Tensor, scales: Tensor) -> Tensor:
        distance = residual.abs()
        inverse = scales.reciprocal()
        upper = (0.5 - distance).mul_(inverse)
        lower = (-0.5 - distance).mul_(inverse)
        mass = torch.erfc(upper * -_SQRT_HALF).sub_(torch.erfc(lower * -_SQRT_HALF)).mul_(0.5)
        mass.clamp_(min=MIN_LIKELIHOOD)
        ctx.save_for_backward(residual, inverse, upper, lower, mass)
        return mass.log2().neg_()

    @staticmethod
    @once_differentiable  # a second derivative is refused rather than wrong
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        residual, inverse, upper, lower, mass = ctx.saved_tensors
        (grad,) = grad_outputs
        density_upper = upper.square().mul_(-0.5).exp_().mul_(_DENSITY_PEAK)
        density_lower = lower.square().mul_(-0.5).exp_().mul_(_DENSITY_PEAK)
        # d bits / d mass = -1 / (mass ln 2); the clamp passes it on, because it always points
        # towards more mass.
        common = grad.mul(inverse).div_(mass).mul_(1 / math.log(2))
        grad_residual = (density_upper - density_lower).mul_(common).mul_(residual.sign())
        density_upper.mul_(upper)
        density_lower.mul_(lower)
        grad_scales = density_upper.sub_(density_lower).mul_(common)
        return grad_residual, grad_scales


def gaussian_bits(
    residual: Float[Tensor, "*shape"], scales: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Return `-log2` of the mass a zero-mean Gaussian puts on the unit interval around `residual`.

    `scales` are standard deviations, positive. Never more than 24 bits.
    """
    result = _GaussianBits.apply(residual, scales)
    assert isinstance(result, Tensor)
    return result


def scale_table() -> np.ndarray:
    """Return the 64 standard deviations that have a table row, ascending, float64."""
    return np.exp(np.linspace(math.log(SCALE_MIN), math.log(SCALE_MAX), NUM_SCALES))


class GaussianPrior(AbstractPrior):
    """Normal distribution with given standard deviations and, optionally, means.

    Params: `(means, scales)` or `(scales,)`, each of the latent's shape. Source: Balle et al.,
    ICLR 2018 (arXiv:1802.01436), section 3; with means, Minnen et al., NeurIPS 2018
    (arXiv:1809.02736).
    """

    def residual(
        self, latent: Float[Tensor, "b c h w"], params: tuple[Tensor, ...]
    ) -> Float[Tensor, "b c h w"]:
        """Subtract the means, if there are any."""
        return latent - params[0] if len(params) == 2 else latent

    def restore(
        self, quantized: Float[Tensor, "b c h w"], params: tuple[Tensor, ...]
    ) -> Float[Tensor, "b c h w"]:
        """Add the means, if there are any."""
        return quantized + params[0] if len(params) == 2 else quantized

    def held(self, params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Cut the means off from gradients."""
        return (params[0].detach(), params[1]) if len(params) == 2 else params

    def bits(
        self, residual: Float[Tensor, "b c h w"], params: tuple[Tensor, ...]
    ) -> Float[Tensor, "b c h w"]:
        """Return the cost in bits of each element under its own scale, at least 0.11."""
        return gaussian_bits(residual, lower_bound(params[-1], SCALE_MIN))

    def tables(self) -> CdfTables:
        """Build one row for each scale of `scale_table`."""
        rows, tails, offsets = [], [], []
        for scale in scale_table():
            radius = 1
            while math.erfc((radius + 0.5) / scale * _SQRT_HALF) > TAIL_MASS:
                radius += 1
            edges = (np.arange(-radius, radius + 1) - 0.5) / scale
            # By symmetry only left tails are needed, where erfc is accurate.
            left = np.array([0.5 * math.erfc(-edge * _SQRT_HALF) for edge in edges[: radius + 1]])
            half = np.diff(left)
            middle = 1 - 2 * left[-1]
            rows.append(np.concatenate([half, [middle], half[::-1]]))
            tails.append(2 * left[0])
            offsets.append(-radius)
        return build_tables(rows, np.array(tails), np.array(offsets, dtype=np.int32))

    def indexes(
        self, shape: tuple[int, int, int, int], params: tuple[Tensor, ...]
    ) -> Int[Tensor, "b c h w"]:
        """Return the row of the nearest scale, in ratio."""
        scales = params[-1]
        assert scales.shape == shape
        table = scale_table()
        boundaries = torch.from_numpy(np.sqrt(table[:-1] * table[1:])).float().to(scales.device)
        return torch.bucketize(scales.float().contiguous(), boundaries, out_int32=True)
