"""GDN equals its formula, values and gradients, however its input is laid out."""

import pytest
import torch
from torch import Tensor

from lictor.layers.gdn import GDN

SHAPES = [(2, 16, 9, 7), (1, 4, 1, 1), (3, 1, 5, 2), (1, 32, 20, 20)]
INVERSE = pytest.mark.parametrize("inverse", [False, True])


def random_gdn(channels: int, inverse: bool, dtype: torch.dtype = torch.float32) -> GDN:
    module = GDN(channels, inverse=inverse).to(dtype)
    with torch.no_grad():
        module.gamma.add_(0.3 * torch.rand_like(module.gamma))
        module.beta.add_(torch.rand_like(module.beta))
    return module


def formula(x: Tensor, gamma: Tensor, beta: Tensor, inverse: bool) -> Tensor:
    """The definition, one operation a time; autograd differentiates it."""
    pedestal = 2.0**-36
    norm = torch.einsum("ij,bjhw->bihw", gamma.square() - pedestal, x.square())
    norm = norm + (beta.square() - pedestal)[:, None, None]
    return x * norm.sqrt() if inverse else x / norm.sqrt()


def values_and_gradients(function, *inputs: Tensor, weight: Tensor) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    value = function(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves, weight)]


def through(module: GDN, x: Tensor, weight: Tensor) -> list[Tensor]:
    def run(x, gamma, beta):
        return torch.func.functional_call(module, {"gamma": gamma, "beta": beta}, (x,))

    return values_and_gradients(run, x, module.gamma, module.beta, weight=weight)


@INVERSE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_formula(shape, layout, dtype, inverse):
    module = random_gdn(shape[1], inverse, dtype)
    x = torch.randn(shape, dtype=dtype).contiguous(memory_format=layout)
    weight = torch.randn(shape, dtype=dtype)
    expected = values_and_gradients(
        lambda *leaves: formula(*leaves, inverse), x, module.gamma, module.beta, weight=weight
    )
    for ours, theirs in zip(through(module, x, weight), expected, strict=True):
        tolerance = 2e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@INVERSE
def test_gradcheck(inverse):
    module = random_gdn(3, inverse, torch.float64)
    x = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)

    def run(x, gamma, beta):
        return torch.func.functional_call(module, {"gamma": gamma, "beta": beta}, (x,))

    assert torch.autograd.gradcheck(run, (x, module.gamma, module.beta))


@INVERSE
def test_inputs_that_are_zero_have_finite_gradients(inverse):
    module = GDN(4, inverse=inverse)
    x = torch.zeros(1, 4, 3, 3)
    value, *gradients = through(module, x, torch.ones_like(x))
    assert not value.any()
    assert all(gradient.isfinite().all() for gradient in gradients)


@INVERSE
def test_bfloat16_features_give_parameters_gradients_of_their_own_type(inverse):
    module = random_gdn(32, inverse)
    x, weight = torch.randn(2, 32, 12, 12), torch.randn(2, 32, 12, 12)
    expected = through(module, x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        ours = through(module, x.bfloat16(), weight.bfloat16())
    assert [t.dtype for t in ours] == [torch.bfloat16] * 2 + [torch.float32] * 2
    for got, exact in zip(ours, expected, strict=True):
        assert (got.float() - exact).norm() < 0.02 * exact.norm()


@INVERSE
def test_a_channels_last_input_keeps_its_layout_both_ways(inverse):
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    value = GDN(8, inverse=inverse)(x)
    value.backward(torch.randn(2, 8, 6, 6))
    assert value.is_contiguous(memory_format=torch.channels_last)
    assert x.grad is not None
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


def test_the_inverse_multiplies_by_what_the_direct_form_divides_by():
    direct, inverse = GDN(8), GDN(8, inverse=True)
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(direct(x) * inverse(x), x.square())


def test_a_second_derivative_is_refused_not_wrong():
    x = torch.randn(1, 4, 3, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="out="):
        torch.autograd.grad(GDN(4)(x).sum(), x, create_graph=True)
