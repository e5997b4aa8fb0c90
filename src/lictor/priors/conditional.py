"""Priors whose parameters a network computes for each element: a scale and, optionally, a mean."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lictor.coding.tables import CdfTables
from lictor.errors import CheckpointError, ConfigError
from lictor.layers.entropy_network import FRACTION_BITS
from lictor.ops import lower_bound
from lictor.priors.base import AbstractPrior
from lictor.priors.families import (
    DEVIATION_MAX,
    LEAST_BOUND,
    MOST_BOUND,
    NUM_SCALES,
    Family,
    Gaussian,
    GeneralizedGaussian,
    Laplace,
    interval_bits,
    table_rows,
)

# Scales from 2^20 up are one: far above every table, and far below where int32 ends.
_MAX_UNITS = 2.0**30


def scale_table(
    scale_bound: float | None = None, family: Family | None = None
) -> Float[np.ndarray, " 64"]:
    """Return the 64 scales that have a table row, ascending, float64; a Gaussian's by default.

    They go from the bound, the family's own if not given, to the scale of standard deviation 256.
    """
    family = family or Gaussian()
    first = checked_bound(family, scale_bound)
    last = DEVIATION_MAX / family.deviation
    return np.exp(np.linspace(math.log(first), math.log(last), NUM_SCALES))


def checked_bound(family: Family, scale_bound: float | None) -> float:
    """Return the least scale of a prior, the family's own if None; raises `ConfigError`."""
    if scale_bound is None:
        return family.default_bound
    if not LEAST_BOUND <= scale_bound <= MOST_BOUND:
        raise ConfigError(
            f"scale_bound = {scale_bound} must be from {LEAST_BOUND} to {MOST_BOUND:g}"
        )
    return scale_bound


class AbstractConditionalPrior(AbstractPrior):
    """A density of a family with given scales and, optionally, means.

    Params: `(means, scales)` or `(scales,)`, each of the latent's shape. The scales are the
    family's own parameter. Subclasses say the family, nothing else.

    Args:
        family: a symmetric density of scale 1.
        scale_bound: the least scale, 0.01 to 16, the family's own if None: a smaller one counts as
            this. The table's 64 rows go from here to the standard deviation 256.

    Raises:
        ConfigError: the bound is outside of its range.
    """

    def __init__(self, family: Family, scale_bound: float | None):
        super().__init__()
        self.family = family
        self.scale_bound = checked_bound(family, scale_bound)

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
        return interval_bits(residual, self.bounded(params[-1]), self.family)

    def bounded(self, scales: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the scales that count: those given, at least the bound."""
        return lower_bound(scales, self.scale_bound)

    def deviations(self, scales: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the standard deviations of the densities that count."""
        return self.bounded(scales) * self.family.deviation

    def tables(self) -> CdfTables:
        """Build one row for each scale of `scale_table`, and the thresholds between them.

        A scale belongs to the row nearest to it in ratio: the boundaries are the geometric means of
        neighbours, as float32. A frozen scale is a multiple of 2^-10, so that the largest multiple
        up to a boundary says as much as the boundary itself.
        """
        rows = table_rows(self.family, scale_table(self.scale_bound, self.family).tolist())
        return replace(rows, thresholds=self._thresholds())

    def _thresholds(self) -> Int[np.ndarray, " 63"]:
        """Return the largest multiple of 2^-10 up to each boundary between rows."""
        table = scale_table(self.scale_bound, self.family)
        boundaries = np.sqrt(table[:-1] * table[1:]).astype(np.float32)
        return np.floor(boundaries * 2**FRACTION_BITS).astype(np.int32)

    def check_tables(self, tables: CdfTables) -> None:
        """Raise `CheckpointError` when there is nothing to choose rows by."""
        if tables.thresholds is None:
            raise CheckpointError(
                f"tables: a {self.family.name} prior needs thresholds to choose rows by"
            )

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


class GaussianPrior(AbstractConditionalPrior):
    """Normal distribution; the scales are standard deviations, the bound 0.11 if none is given.

    Source: Balle et al., ICLR 2018 (arXiv:1802.01436), section 3; with means, Minnen et al.,
    NeurIPS 2018 (arXiv:1809.02736).
    """

    def __init__(self, *, scale_bound: float | None = None):
        super().__init__(Gaussian(), scale_bound)


class LaplacePrior(AbstractConditionalPrior):
    """Laplace distribution; the scales are `b`, the bound about 0.0523 if none is given."""

    def __init__(self, *, scale_bound: float | None = None):
        super().__init__(Laplace(), scale_bound)


class GeneralizedGaussianPrior(AbstractConditionalPrior):
    """Density `exp(-|v / alpha|^beta)` of one beta, 0.5 to 4; the scales are `alpha`.

    The bound is 0.12 for beta 1.5 if none is given (`bound_of_beta`). Raises `ConfigError` for
    another beta or bound. Source: Zhang, Li and Liu (arXiv:2411.19320), of which the abstract was
    seen; beta 1.5 and the bound 0.12 as in public code of the same group.
    """

    def __init__(self, beta: float = 1.5, *, scale_bound: float | None = None):
        super().__init__(GeneralizedGaussian(beta), scale_bound)
