"""Priors whose parameters a network computes for each element: mean and scale of a Gaussian."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from lictor.coding.tables import CdfTables, build_tables
from lictor.errors import CheckpointError, ConfigError
from lictor.layers.entropy_network import FRACTION_BITS
from lictor.ops import lower_bound
from lictor.priors.base import MIN_LIKELIHOOD, TAIL_MASS, AbstractPrior

# The customary table of hyperprior codecs: 64 scales, log-spaced. A Gaussian narrower than 0.11
# costs the same (nothing) at zero and only makes surprises dearer.
SCALE_BOUND, SCALE_MAX, NUM_SCALES = 0.11, 256.0, 64

# Scales from 2^20 up are one: far above every table, and far below where int32 ends.
_MAX_UNITS = 2.0**30

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


def scale_table(scale_bound: float = SCALE_BOUND) -> Float[np.ndarray, " 64"]:
    """Return the 64 standard deviations that have a table row, ascending, float64."""
    return np.exp(np.linspace(math.log(scale_bound), math.log(SCALE_MAX), NUM_SCALES))


class GaussianPrior(AbstractPrior):
    """Normal distribution with given standard deviations and, optionally, means.

    Params: `(means, scales)` or `(scales,)`, each of the latent's shape. Source: Balle et al.,
    ICLR 2018 (arXiv:1802.01436), section 3; with means, Minnen et al., NeurIPS 2018
    (arXiv:1809.02736).

    Args:
        scale_bound: the least standard deviation, 0.01 to 16: a smaller one counts as this. The
            table's 64 rows go from here to 256.

    Raises:
        ConfigError: the bound is outside of its range.
    """

    def __init__(self, *, scale_bound: float = SCALE_BOUND):
        super().__init__()
        if not 0.01 <= scale_bound <= 16:
            raise ConfigError(f"scale_bound = {scale_bound} must be from 0.01 to 16")
        self.scale_bound = scale_bound

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
        """Return the cost in bits of each element under its own scale, at least the bound."""
        return gaussian_bits(residual, self.bounded(params[-1]))

    def bounded(self, scales: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the standard deviations that count: those given, at least the bound."""
        return lower_bound(scales, self.scale_bound)

    def tables(self) -> CdfTables:
        """Build one row for each scale of `scale_table`, and the thresholds between them.

        A scale belongs to the row nearest to it in ratio: the boundaries are the geometric means of
        neighbours, as float32. A frozen scale is a multiple of 2^-10, so that the largest multiple
        up to a boundary says as much as the boundary itself.
        """
        rows, tails, offsets = [], [], []
        table = scale_table(self.scale_bound)
        for scale in table:
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
        boundaries = np.sqrt(table[:-1] * table[1:]).astype(np.float32)
        thresholds = np.floor(boundaries * 2**FRACTION_BITS).astype(np.int32)
        built = build_tables(rows, np.array(tails), np.array(offsets, dtype=np.int32))
        return replace(built, thresholds=thresholds)

    def check_tables(self, tables: CdfTables) -> None:
        """Raise `CheckpointError` when there is nothing to choose rows by."""
        if tables.thresholds is None:
            raise CheckpointError("tables: a Gaussian prior needs thresholds to choose rows by")

    def indexes(
        self, shape: tuple[int, int, int, int], params: tuple[Tensor, ...], tables: CdfTables
    ) -> Int[Tensor, "b c h w"]:
        """Return how many thresholds are below each scale, in units of 2^-10.

        No floating-point function decides: a multiple of 2^-10, as a frozen network gives, becomes
        an integer exactly. NaN counts as infinite. Raises `CheckpointError` when the tables have no
        thresholds.
        """
        scales = params[-1]
        assert scales.shape == shape
        self.check_tables(tables)
        units = (scales.float() * 2**FRACTION_BITS).nan_to_num_(nan=_MAX_UNITS)
        units = units.clamp_(-_MAX_UNITS, _MAX_UNITS).round_().to(torch.int32).contiguous()
        thresholds = torch.tensor(tables.thresholds, device=scales.device)
        return torch.bucketize(units, thresholds, out_int32=True)
