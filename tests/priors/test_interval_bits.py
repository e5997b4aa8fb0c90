"""The bits of a family equal minus log2 of the mass between two values of its cumulative."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from torch import Tensor

from lictor.ops import lower_bound
from lictor.priors.base import MIN_LIKELIHOOD
from lictor.priors.conditional import AbstractConditionalPrior
from lictor.priors.families import (
    Family,
    Gaussian,
    GeneralizedGaussian,
    Laplace,
    interval_bits,
)
from lictor.priors.table import PRIORS

MOST_BITS = -math.log2(MIN_LIKELIHOOD)


FAMILIES: dict[str, Family] = {
    "gaussian": Gaussian(),
    "laplace": Laplace(),
    "generalized": GeneralizedGaussian(),
    "beta 1.2": GeneralizedGaussian(1.2),
    "beta 0.5": GeneralizedGaussian(0.5),
    "beta 4": GeneralizedGaussian(4.0),
}


@pytest.fixture(params=FAMILIES)
def family(request) -> Family:
    return FAMILIES[request.param]


class SlowMass(torch.autograd.Function):
    """The mass of an interval above 0 or around it, by SciPy; the gradient of its ends."""

    @staticmethod
    def forward(ctx, near: Tensor, far: Tensor, family: Family) -> Tensor:
        ctx.save_for_backward(near, far)
        ctx.family = family
        beta, unit = SHAPES[type(family)](family)
        near, far = ((t.double() * unit).numpy() for t in (near, far))
        upper = [special.gammaincc(1 / beta, np.abs(t) ** beta) for t in (near, far)]
        lower = [special.gammainc(1 / beta, np.abs(t) ** beta) for t in (near, far)]
        # Near the center the difference of the small lower masses is the precise one.
        apart = np.where(far > 0.5, upper[0] - upper[1], lower[1] - lower[0])
        return torch.from_numpy(np.where(near < 0, lower[0] + lower[1], apart) / 2)

    @staticmethod
    def backward(ctx, *grad_outputs):
        (grad,) = grad_outputs
        near, far = (t.double() for t in ctx.saved_tensors)
        beta, unit = SHAPES[type(ctx.family)](ctx.family)
        peak = unit * beta / 2 / math.gamma(1 / beta)
        slopes = (peak * torch.exp(-((t.abs() * unit) ** beta)) for t in (near, far))
        return -grad * next(slopes), grad * next(slopes), None


# Every family as exp(-|unit t|^beta).
SHAPES = {
    Gaussian: lambda family: (2.0, math.sqrt(0.5)),
    Laplace: lambda family: (1.0, 1.0),
    GeneralizedGaussian: lambda family: (family.beta, 1.0),
}


def slow_bits(residual: Tensor, scales: Tensor, family: Family) -> Tensor:
    """The definition, one operation a time."""
    near, far = (residual.abs() - 0.5) / scales, (residual.abs() + 0.5) / scales
    return -torch.log2(lower_bound(SlowMass.apply(near, far, family), MIN_LIKELIHOOD))


def samples(dtype: torch.dtype, family: Family) -> tuple[Tensor, Tensor]:
    """Residuals within eight of their scale, of every scale from the bound to the widest."""
    first, last = family.default_bound, 256 / family.deviation
    scales = torch.logspace(math.log10(first), math.log10(last), 400, dtype=torch.float64)
    residual = torch.randn(20, 400, dtype=torch.float64) * 2 * scales
    residual = torch.where(residual.abs() < 8 * scales, residual, 0.25)
    return residual.to(dtype), scales.expand(20, -1).to(dtype)


def values_and_gradients(
    function, residual: Tensor, scales: Tensor, family: Family
) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (residual, scales)]
    value = function(*leaves, family)
    return [value.detach(), *torch.autograd.grad(value.sum(), leaves)]


def test_float64_values_and_gradients_are_those_of_the_definition(family):
    inputs = samples(torch.float64, family)
    for ours, slow in zip(
        values_and_gradients(interval_bits, *inputs, family),
        values_and_gradients(slow_bits, *inputs, family),
        strict=True,
    ):
        torch.testing.assert_close(ours, slow, rtol=1e-6, atol=2e-7)


def test_the_gaussian_is_as_precise_as_float64():
    inputs = samples(torch.float64, Gaussian())
    for ours, slow in zip(
        values_and_gradients(interval_bits, *inputs, Gaussian()),
        values_and_gradients(slow_bits, *inputs, Gaussian()),
        strict=True,
    ):
        torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-10)


def test_float32_values_and_gradients_are_near_those_in_float64(family):
    residual, scales = samples(torch.float32, family)
    ours = values_and_gradients(interval_bits, residual, scales, family)
    exact = values_and_gradients(slow_bits, residual.double(), scales.double(), family)
    # Where scales are wide, neighbouring tail masses cancel: the bits lose digits, gradients more.
    for got, expected, tolerance in zip(ours, exact, (2e-3, 1e-2, 1e-2), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


def test_gradcheck(family):
    residual = torch.tensor([-2.5, -0.9, -0.4, 0.2, 1.7, 17.0], dtype=torch.float64)
    scales = torch.tensor([2.0, 0.8, family.default_bound, 3.0, 1.1, 15.0], dtype=torch.float64)
    inputs = (residual.requires_grad_(), scales.requires_grad_())
    # The polynomials of a generalized Gaussian are off by 1e-10, finite differences see the slope.
    assert torch.autograd.gradcheck(
        lambda *leaves: interval_bits(*leaves, family), inputs, rtol=2e-3, atol=1e-6
    )


@pytest.mark.parametrize("name", FAMILIES)
@given(residual=st.floats(-1e6, 1e6, width=32), scale=st.floats(0.125, 256, width=32))
@settings(max_examples=40)
def test_bits_are_even_finite_and_bounded(name, residual, scale):
    pair = torch.tensor([residual, -residual]).requires_grad_()
    scales = torch.full((2,), scale).requires_grad_()
    bits = interval_bits(pair, scales, FAMILIES[name])
    assert bits[0] == bits[1]
    assert -1e-6 <= bits[0].item() <= MOST_BITS + 1e-4
    bits.sum().backward()
    assert pair.grad is not None
    assert scales.grad is not None
    assert pair.grad.isfinite().all()
    assert scales.grad.isfinite().all()
    assert pair.grad[0] == -pair.grad[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("far", [50.0, 3e8])
def test_far_out_at_the_least_bound_values_and_gradients_are_finite(family, dtype, far):
    residual = torch.tensor([far, -far], dtype=dtype)
    for bound in (0.01, family.default_bound):
        scales = torch.full_like(residual, bound)
        bits, *gradients = values_and_gradients(interval_bits, residual, scales, family)
        assert bits.tolist() == pytest.approx([MOST_BITS] * 2)
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_descent_never_moves_a_residual_away_from_the_mean(family):
    residual, scales = samples(torch.float32, family)
    _, gradient, _ = values_and_gradients(interval_bits, residual, scales, family)
    assert (gradient * residual >= 0).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_is_kept_and_does_not_matter(layout, family):
    residual = torch.randn(2, 6, 4, 5)
    scales = 0.2 + torch.rand(2, 6, 4, 5)
    plain = values_and_gradients(interval_bits, residual, scales, family)
    cut = [t.contiguous(memory_format=layout) for t in (residual, scales)]
    laid = values_and_gradients(interval_bits, *cut, family)
    for ours, expected in zip(laid, plain, strict=True):
        torch.testing.assert_close(ours, expected)
        assert ours.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("name", PRIORS)
def test_under_bfloat16_autocast_bits_and_gradients_stay_float32(name):
    prior: AbstractConditionalPrior = PRIORS[name]()
    residual = torch.randn(2, 6, 4, 5)
    means, scales = torch.zeros_like(residual), 0.2 + torch.rand(2, 6, 4, 5)
    outside = values_and_gradients(interval_bits, residual, scales, prior.family)

    def bits(residual, scales, family):
        return prior.bits(residual, (means, scales))

    with torch.autocast("cpu", torch.bfloat16):
        inside = values_and_gradients(bits, residual, scales, prior.family)
    for ours, expected in zip(inside, outside, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected)
