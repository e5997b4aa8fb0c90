"""Families of symmetric densities: what their tails hold, and the rate that follows from it.

A family is a density up to a shift and a scale. The scale is the family's own parameter: sigma of
a Gaussian, b of a Laplace density, alpha of a generalized Gaussian. The rate of a value is the mass
of the unit interval around it, in closed form like its gradient (`interval_bits`); tables are made
from the same tails in float64 (`table_rows`).
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import Polynomial
from numpy.polynomial.chebyshev import Chebyshev
from numpy.typing import NDArray
from scipy import special
from torch import Tensor
from torch.autograd.function import once_differentiable

from lictor.coding.tables import CdfTables, build_tables
from lictor.errors import ConfigError, LictorError
from lictor.priors.base import MIN_LIKELIHOOD, TAIL_MASS

_SQRT_HALF = math.sqrt(0.5)
_DENSITY_PEAK = 1 / math.sqrt(2 * math.pi)

# The customary table of hyperprior codecs: 64 scales, log-spaced. A Gaussian narrower than 0.11
# costs the same (nothing) at zero and only makes surprises dearer. Rows of every family end at the
# standard deviation 256.
SCALE_BOUND, DEVIATION_MAX, NUM_SCALES = 0.11, 256.0, 64

# What a scale bound may be: finer ones have no table rows of their own, multiples of 2^-10 that
# frozen scales are.
LEAST_BOUND, MOST_BOUND = 0.01, 16.0
LEAST_BETA, MOST_BETA = 0.5, 4.0

# A row must leave every symbol at least one count in 2^16.
_MAX_RADIUS = 2**14


class Family(ABC):
    """A symmetric density of scale 1; immutable."""

    name: str

    @property
    @abstractmethod
    def deviation(self) -> float:
        """The standard deviation where the scale is 1."""

    @property
    @abstractmethod
    def default_bound(self) -> float:
        """The least scale that a prior of this family lets count, unless it is told another."""

    @abstractmethod
    def both_tails(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return twice the mass above `t`, a new tensor: 2 at minus infinity, 1 at 0.

        Where it is small it is so precisely.
        """

    @abstractmethod
    def density(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the density at `t`, a new tensor."""

    @abstractmethod
    def tail(self, t: float) -> float:
        """Return the mass above `t`, at least 0, in float64: what tables are made from."""


@dataclass(frozen=True)
class Gaussian(Family):
    """`exp(-t^2 / 2)`: the scale is the standard deviation."""

    name = "gaussian"

    @property
    def deviation(self) -> float:
        """The scale itself."""
        return 1.0

    @property
    def default_bound(self) -> float:
        """0.11, the custom of hyperprior codecs."""
        return SCALE_BOUND

    def both_tails(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the complementary error function."""
        return torch.erfc(t * _SQRT_HALF)

    def density(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the normal density."""
        return t.square().mul_(-0.5).exp_().mul_(_DENSITY_PEAK)

    def tail(self, t: float) -> float:
        """Return the mass above `t`."""
        return 0.5 * math.erfc(t * _SQRT_HALF)


@dataclass(frozen=True)
class Laplace(Family):
    """`exp(-|t|)`: the scale is `b`, the mean distance from the center."""

    name = "laplace"

    @property
    def deviation(self) -> float:
        """The standard deviation where b is 1."""
        return math.sqrt(2)

    @property
    def default_bound(self) -> float:
        """About 0.0523: a zero costs what it does at the bound of a generalized Gaussian."""
        return bound_of_beta(1.0)

    def both_tails(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `exp(-t)`, mirrored below 0."""
        small = t.abs().neg_().exp_()
        return torch.where(t < 0, 2 - small, small)

    def density(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `exp(-|t|) / 2`."""
        return t.abs().neg_().exp_().mul_(0.5)

    def tail(self, t: float) -> float:
        """Return the mass above `t`."""
        return 0.5 * math.exp(-t)


@dataclass(frozen=True)
class GeneralizedGaussian(Family):
    """`exp(-|t|^beta)`, beta from 0.5 to 4: 1 is the Laplace density, 2 a Gaussian.

    The scale is `alpha`; the Gaussian of beta 2 has `sigma = alpha / sqrt(2)`. Raises `ConfigError`
    for another beta. Source of the family for latents: Zhang, Li and Liu (arXiv:2411.19320), of
    which the abstract was seen.
    """

    beta: float = 1.5
    # Found once, here: a compiler sees through no cached function.
    _fit: "_TailPolynomials" = field(init=False, repr=False, compare=False)

    name = "generalized-gaussian"

    def __post_init__(self) -> None:
        if not LEAST_BETA <= self.beta <= MOST_BETA:
            raise ConfigError(f"beta = {self.beta} must be from {LEAST_BETA} to {MOST_BETA}")
        object.__setattr__(self, "_fit", _tail_polynomials(self.beta))

    @property
    def deviation(self) -> float:
        """The standard deviation where alpha is 1."""
        return math.sqrt(math.gamma(3 / self.beta) / math.gamma(1 / self.beta))

    @property
    def default_bound(self) -> float:
        """0.12 for beta 1.5, as in public code; elsewhere a zero costs what it does there."""
        return bound_of_beta(self.beta)

    def both_tails(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the regularized upper incomplete gamma function of `|t|^beta`, mirrored below 0.

        By polynomials (`_tail_polynomials`), some three times as fast as torch's `gammaincc`.
        """
        distance = t.abs()
        x = distance.pow(self.beta)
        inner = _horner(self._fit.inner, x.clamp(max=_SEAM).mul_(2 / _SEAM).sub_(1))
        inner.mul_(distance).neg_().add_(1)
        # x^(1/beta - 1) is |t| / x. Both are clamped, so that no branch has an infinite value.
        far = x.clamp(_SEAM, _END)
        outer = _horner(self._fit.outer, (far + _POLE).reciprocal_().mul_(_SLOPE).add_(_SHIFT))
        outer.mul_(distance).div_(far).mul_(x.neg().exp_())
        small = torch.where(x < _SEAM, inner, outer)
        return torch.where(t < 0, 2 - small, small)

    def density(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `beta exp(-|t|^beta) / (2 Gamma(1 / beta))`."""
        peak = self.beta / 2 / math.gamma(1 / self.beta)
        return t.abs().pow_(self.beta).neg_().exp_().mul_(peak)

    def tail(self, t: float) -> float:
        """Return the mass above `t`."""
        return 0.5 * float(special.gammaincc(1 / self.beta, t**self.beta))


@functools.cache
def bound_of_beta(beta: float) -> float:
    """Return the scale at which a zero costs what it does at beta = 1.5 and 0.12: 0.000102 bits.

    It is 0.01 at least: small betas have tails that no scale of a table keeps so short.
    """
    if beta == 1.5:
        return 0.12
    outside = special.gammaincc(1 / 1.5, (0.5 / 0.12) ** 1.5)
    edge = special.gammainccinv(1 / beta, outside) ** (1 / beta)
    return max(0.5 / float(edge), LEAST_BOUND)


# The tail of a generalized Gaussian, in x = |t|^beta: below the seam a polynomial of x gives
# (1 - tail) / |t|, which is entire in x; from there to the end one of 1 / (x + pole) gives
# tail * e^x x / |t|, which tends to a constant. Beyond the end a tail is below 2^-50.
_SEAM, _END, _POLE = 1.5, 60.0, 1.0
_SLOPE = 2 / (1 / (_SEAM + _POLE) - 1 / (_END + _POLE))
_SHIFT = 1 - _SLOPE / (_SEAM + _POLE)
_FIT_ERROR = 1e-10


_Places = NDArray[np.float64]


@dataclass(frozen=True)
class _TailPolynomials:
    """Coefficients, the constant first, of variables in [-1, 1]."""

    inner: tuple[float, ...]
    outer: tuple[float, ...]


@functools.cache
def _tail_polynomials(beta: float) -> _TailPolynomials:
    """Fit both polynomials, to a relative error of about 1e-10."""
    s = 1 / beta

    def inner(v: _Places) -> _Places:
        x = np.maximum((v + 1) * _SEAM / 2, 1e-12)  # there the quotient is its limit at 0
        return special.gammainc(s, x) / x**s

    def outer(v: _Places) -> _Places:
        x = _SLOPE / (v - _SHIFT) - _POLE
        return special.gammaincc(s, x) * np.exp(x) * x ** (1 - s)

    return _TailPolynomials(_fitted(inner), _fitted(outer))


def _fitted(function: Callable[[_Places], _Places]) -> tuple[float, ...]:
    """Return the coefficients of the shortest polynomial that is near enough on [-1, 1]."""
    places = np.linspace(-1, 1, 2001)
    wanted, degree = function(places), 1
    while True:
        degree += 1
        fit = Chebyshev.interpolate(function, degree)
        if degree == 40 or np.max(np.abs(fit(places) / wanted - 1)) < _FIT_ERROR:
            return tuple(fit.convert(kind=Polynomial).coef.tolist())


def _horner(coefficients: tuple[float, ...], x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    total = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total.mul_(x).add_(coefficient)
    return total


class _IntervalBits(torch.autograd.Function):
    """`-log2` of a density's mass on `[v - 1/2, v + 1/2]`, with its closed-form gradient.

    Both ends are folded to the upper tail, where the difference keeps its relative precision. One
    node replaces about fifteen of autograd's.
    """

    @staticmethod
    def forward(ctx, residual: Tensor, scales: Tensor, family: Family) -> Tensor:
        distance = residual.abs()
        inverse = scales.reciprocal()
        near = (distance - 0.5).mul_(inverse)
        far = (distance + 0.5).mul_(inverse)
        mass = family.both_tails(near).sub_(family.both_tails(far)).mul_(0.5)
        mass.clamp_(min=MIN_LIKELIHOOD)
        ctx.save_for_backward(residual, inverse, near, far, mass)
        ctx.family = family
        return mass.log2().neg_()

    @staticmethod
    @once_differentiable  # a second derivative is refused rather than wrong
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        residual, inverse, near, far, mass = ctx.saved_tensors
        (grad,) = grad_outputs
        at_near, at_far = ctx.family.density(near), ctx.family.density(far)
        # d bits / d mass = -1 / (mass ln 2); the clamp passes it on, because it always points
        # towards more mass.
        common = grad.mul(inverse).div_(mass).mul_(1 / math.log(2))
        grad_residual = (at_near - at_far).mul_(common).mul_(residual.sign())
        at_near.mul_(near)
        at_far.mul_(far)
        grad_scales = at_far.sub_(at_near).mul_(common)
        return grad_residual, grad_scales, None


def interval_bits(
    residual: Float[Tensor, "*shape"], scales: Float[Tensor, "*shape"], family: Family
) -> Float[Tensor, "*shape"]:
    """Return `-log2` of the mass a centered density puts on the unit interval around `residual`.

    `scales` are the family's, positive. Never more than 24 bits.
    """
    result = _IntervalBits.apply(residual, scales, family)
    assert isinstance(result, Tensor)
    return result


def table_rows(family: Family, scales: Iterable[float]) -> CdfTables:
    """Build an integer row for each scale, symmetric about 0, as long as its tails demand.

    Raises `LictorError` when a scale is wider than a table can be.
    """
    rows, tails, offsets = [], [], []
    for scale in scales:
        radius = 1
        while 2 * family.tail((radius + 0.5) / scale) > TAIL_MASS:
            radius += 1
            if radius >= _MAX_RADIUS:
                raise LictorError(
                    f"a {family.name} density of scale {scale:.4g} reaches beyond "
                    f"+-{_MAX_RADIUS}: the model's training diverged"
                )
        edges = (np.arange(-radius, radius + 1) - 0.5) / scale
        # By symmetry only left tails are needed, where they are accurate.
        left = np.array([family.tail(-edge) for edge in edges[: radius + 1]])
        half = np.diff(left)
        middle = 1 - 2 * left[-1]
        rows.append(np.concatenate([half, [middle], half[::-1]]))
        tails.append(2 * left[0])
        offsets.append(-radius)
    return build_tables(rows, np.array(tails), np.array(offsets, dtype=np.int32))
