"""The gradient rules and the geometry of `ops`."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lictor.ops import crop, lower_bound, pad_to_multiple, round_ste

SIDES = st.integers(1, 70)


def test_lower_bound_clamps_from_below():
    x = torch.tensor([-3.0, 0.5, 1.0, 7.0])
    assert lower_bound(x, 1.0).tolist() == [1.0, 1.0, 1.0, 7.0]


@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize("slope", [-2.0, 2.0])
def test_lower_bound_blocks_only_the_gradient_that_pushes_further_below(above, slope):
    x = torch.tensor([2.0 if above else 0.0], requires_grad=True)
    (slope * lower_bound(x, 1.0)).backward()
    # Descent moves x by -grad: below the bound a positive gradient would move it further away.
    assert x.grad is not None
    assert x.grad.item() == (0.0 if not above and slope > 0 else slope)


def test_descent_through_lower_bound_can_return_from_below():
    x = torch.tensor([-5.0], requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad((lower_bound(x, 0.0) - 3).square(), x)
        x = (x - 0.1 * gradient).detach().requires_grad_()
    assert abs(x.item() - 3) < 1e-3


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_round_ste_rounds_to_the_nearest_integer_and_has_unit_gradient(values):
    x = torch.tensor(values, requires_grad=True)
    rounded = round_ste(x)
    weights = torch.arange(1.0, len(values) + 1)
    (rounded * weights).sum().backward()
    assert torch.equal(rounded.detach(), rounded.detach().round())
    assert (rounded - x).abs().max() <= 0.5
    assert torch.equal(x.grad, weights)


def test_round_ste_takes_ties_to_even():
    assert round_ste(torch.tensor([0.5, 1.5, 2.5, -0.5])).tolist() == [0, 2, 2, 0]


@given(SIDES, SIDES, st.sampled_from([1, 2, 16, 64]))
def test_crop_undoes_pad_and_pad_is_the_least_multiple(height, width, multiple):
    x = torch.rand(2, 3, height, width)
    padded = pad_to_multiple(x, multiple)
    assert torch.equal(crop(padded, height, width), x)
    for padded_side, side in zip(padded.shape[-2:], (height, width), strict=True):
        assert padded_side % multiple == 0
        assert side <= padded_side < side + multiple


@given(SIDES, SIDES)
def test_padding_repeats_the_edge_and_brings_no_new_values(height, width):
    padded = pad_to_multiple(torch.rand(1, 1, height, width), 64)
    rows = torch.arange(padded.shape[2]).clamp(max=height - 1)
    columns = torch.arange(padded.shape[3]).clamp(max=width - 1)
    assert torch.equal(padded, padded[:, :, rows][:, :, :, columns])
