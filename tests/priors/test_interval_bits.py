"""The Gaussian's bits equal minus log2 of the mass between two values of its cumulative."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lictor.ops import lower_bound
from lictor.priors.base import MIN_LIKELIHOOD
from lictor.priors.conditional import GaussianPrior, gaussian_bits

MOST_BITS = -math.log2(MIN_LIKELIHOOD)


def slow_bits(residual: Tensor, scales: Tensor) -> Tensor:
    """The definition, one operation a time, both ends in the left tail; autograd's gradient."""
    far, near = -residual.abs() - 0.5, -residual.abs() + 0.5
    upper = 0.5 * torch.erfc(-near / scales / math.sqrt(2))
    lower = 0.5 * torch.erfc(-far / scales / math.sqrt(2))
    return -torch.log2(lower_bound(upper - lower, MIN_LIKELIHOOD))


def samples(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Residuals within eight of their scale, of every scale from 0.11 to 256."""
    scales = torch.logspace(math.log10(0.11), math.log10(256), 400, dtype=torch.float64)
    residual = torch.randn(20, 400, dtype=torch.float64) * 2 * scales
    residual = torch.where(residual.abs() < 8 * scales, residual, 0.25)
    return residual.to(dtype), scales.expand(20, -1).to(dtype)


def values_and_gradients(function, residual: Tensor, scales: Tensor) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (residual, scales)]
    value = function(*leaves)
    return [value.detach(), *torch.autograd.grad(value.sum(), leaves)]


def test_float64_values_and_gradients_are_those_of_the_definition():
    inputs = samples(torch.float64)
    for ours, slow in zip(
        values_and_gradients(gaussian_bits, *inputs),
        values_and_gradients(slow_bits, *inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-10)


def test_float32_values_and_gradients_are_near_those_in_float64():
    residual, scales = samples(torch.float32)
    ours = values_and_gradients(gaussian_bits, residual, scales)
    exact = values_and_gradients(slow_bits, residual.double(), scales.double())
    # Where scales are wide, neighbouring tail masses cancel: the bits lose digits, gradients more.
    for got, expected, tolerance in zip(ours, exact, (2e-3, 1e-2, 1e-2), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


def test_gradcheck():
    residual = torch.tensor([-9.0, -2.3, -0.4, 0.2, 1.7, 40.0], dtype=torch.float64)
    scales = torch.tensor([2.0, 0.5, 0.11, 3.0, 1.1, 30.0], dtype=torch.float64)
    inputs = (residual.requires_grad_(), scales.requires_grad_())
    assert torch.autograd.gradcheck(gaussian_bits, inputs)


@given(st.floats(-1e6, 1e6, width=32), st.floats(0.125, 256, width=32))
def test_bits_are_even_finite_and_bounded(residual, scale):
    pair = torch.tensor([residual, -residual]).requires_grad_()
    scales = torch.full((2,), scale).requires_grad_()
    bits = gaussian_bits(pair, scales)
    assert bits[0] == bits[1]
    assert -1e-6 <= bits[0].item() <= MOST_BITS + 1e-4
    bits.sum().backward()
    assert pair.grad is not None
    assert scales.grad is not None
    assert pair.grad.isfinite().all()
    assert scales.grad.isfinite().all()
    assert pair.grad[0] == -pair.grad[1]


def test_descent_never_moves_a_residual_away_from_the_mean():
    residual, scales = samples(torch.float32)
    _, gradient, _ = values_and_gradients(gaussian_bits, residual, scales)
    assert (gradient * residual >= 0).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_is_kept_and_does_not_matter(layout):
    residual = torch.randn(2, 6, 4, 5)
    scales = 0.2 + torch.rand(2, 6, 4, 5)
    plain = values_and_gradients(gaussian_bits, residual, scales)
    cut = [t.contiguous(memory_format=layout) for t in (residual, scales)]
    for ours, expected in zip(values_and_gradients(gaussian_bits, *cut), plain, strict=True):
        torch.testing.assert_close(ours, expected)
        assert ours.is_contiguous(memory_format=layout)


def test_under_bfloat16_autocast_bits_and_gradients_stay_float32():
    residual = torch.randn(2, 6, 4, 5)
    means, scales = torch.zeros_like(residual), 0.2 + torch.rand(2, 6, 4, 5)
    outside = values_and_gradients(gaussian_bits, residual, scales)

    def bits(residual, scales):
        return GaussianPrior().bits(residual, (means, scales))

    with torch.autocast("cpu", torch.bfloat16):
        inside = values_and_gradients(bits, residual, scales)
    for ours, expected in zip(inside, outside, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected)
