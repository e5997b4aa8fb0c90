"""The network of sines: its beginning, its shifts and scales, its derivatives."""

import math

import pytest
import torch

from lictor.implicit.coordinates import global_sphere, regular_grid
from lictor.implicit.modulation import Modulation
from lictor.implicit.siren import Siren, sine


def _by_hand(siren, points, shifts, scales=None):
    """The network of one item, as the formula says."""
    h, width = points, siren.width
    *inner, last = siren.layers
    for i, layer in enumerate(inner):
        u = h @ layer.weight.T + layer.bias
        if scales is not None:
            u = u * scales[i * width : (i + 1) * width]
        h = torch.sin(siren.w0 * (u + shifts[i * width : (i + 1) * width]))
    return h @ last.weight.T + last.bias + siren.centre


@pytest.mark.parametrize("layers", [2, 3, 5])
@pytest.mark.parametrize("scaled", [False, True])
def test_values_are_those_of_the_formula(layers, scaled):
    siren = Siren(2, 3, 7, layers, 20.0).double()
    points = regular_grid((4, 5)).double()
    shifts = 0.1 * torch.randn(6, siren.num_modulations).double()
    scales = 1 + 0.1 * torch.randn_like(shifts) if scaled else None
    y_hat = siren(points, shifts, scales)
    for i in range(6):
        wanted = _by_hand(siren, points, shifts[i], None if scales is None else scales[i])
        torch.testing.assert_close(y_hat[i], wanted, atol=1e-12, rtol=0)


def test_a_shift_is_a_bias():
    siren = Siren(2, 1, 6, 4, 30.0).double()
    points = regular_grid((5, 5)).double()
    shifts = 0.05 * torch.randn(1, siren.num_modulations).double()
    shifted = siren(points, shifts)
    with torch.no_grad():
        for i, layer in enumerate(siren.layers[:-1]):
            layer.bias += shifts[0, i * 6 : (i + 1) * 6]
    torch.testing.assert_close(siren(points, torch.zeros_like(shifts)), shifted, atol=1e-11, rtol=0)


def test_weights_and_biases_begin_in_their_ranges_and_fill_them():
    siren = Siren(3, 2, 256, 4, 30.0)
    bounds = [1 / 3, *[math.sqrt(6 / 256) / 30] * 3]
    for i, (layer, bound) in enumerate(zip(siren.layers, bounds, strict=True)):
        for tensor in (layer.weight, layer.bias):
            assert tensor.abs().max() <= bound
            if tensor.numel() > 100:
                assert tensor.abs().max() > 0.95 * bound, i
                assert tensor.mean().abs() < 0.2 * bound


def test_the_output_begins_about_the_centre():
    siren = Siren(2, 3, 64, 5, 30.0)
    points, still = regular_grid((16, 16)), torch.zeros(1, siren.num_modulations)
    moved = Siren(2, 3, 64, 5, 30.0, centre=0.0)
    moved.load_state_dict(siren.state_dict())
    difference = siren(points, still) - moved(points, still)
    torch.testing.assert_close(difference, torch.full_like(difference, 0.5))
    siren.silence()
    assert (siren(points, still) == 0.5).all()


def test_a_latent_of_zero_gives_the_bias_of_the_modulation():
    siren = Siren(2, 1, 6, 4, 30.0)
    modulation = Modulation(5, siren.num_modulations)
    points = regular_grid((5, 5))
    shifts, scales = modulation(torch.zeros(1, 5))
    assert scales is None
    wanted = siren(points, modulation.map.bias.detach()[None])
    torch.testing.assert_close(siren(points, shifts), wanted)


def test_scales_are_the_first_half_and_shifts_the_second():
    modulation = Modulation(3, 4, scales=True)
    z = torch.randn(2, 3)
    shifts, scales = modulation(z)
    said = z @ modulation.map.weight.T + modulation.map.bias
    torch.testing.assert_close(scales, 1 + said[:, :4])
    torch.testing.assert_close(shifts, said[:, 4:])
    bound = 3**-0.5  # any affine map of torch
    assert modulation.map.weight.abs().max() <= bound


def test_scales_of_one_are_no_scales():
    siren = Siren(2, 3, 7, 4, 20.0)
    points, shifts = regular_grid((4, 5)), 0.1 * torch.randn(3, siren.num_modulations)
    torch.testing.assert_close(
        siren(points, shifts, torch.ones_like(shifts)), siren(points, shifts), atol=1e-5, rtol=0
    )


def test_a_pole_has_one_value_and_the_columns_meet():
    siren = Siren(3, 1, 32, 4, 30.0)
    y_hat = siren(global_sphere((6, 400)), 0.1 * torch.randn(2, siren.num_modulations))
    rows = y_hat.view(2, 6, 400)
    for pole in (0, -1):
        assert (rows[:, pole] - rows[:, pole, :1]).abs().max() < 1e-6
    assert rows[:, 2].std() > 1e-3
    step = (rows[:, :, 1:] - rows[:, :, :-1]).abs().max()
    assert (rows[:, :, 0] - rows[:, :, -1]).abs().max() <= 1.5 * step


def test_the_sine_has_all_its_derivatives():
    u = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sine, u)
    assert torch.autograd.gradgradcheck(sine, u)
    signs, value = [(1, torch.cos), (-1, torch.sin), (-1, torch.cos), (1, torch.sin)], sine(u)
    for sign, function in signs:
        (value,) = torch.autograd.grad(value.sum(), u, create_graph=True)
        torch.testing.assert_close(value, sign * function(u))


def test_functional_transforms_see_the_sine():
    u = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    slopes = torch.func.vmap(torch.func.grad(lambda row: sine(row).sum()))(u)
    torch.testing.assert_close(slopes, torch.cos(u))
