"""Laws of the two grids."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lictor.errors import ConfigError
from lictor.ptq.fake_quant import (
    ActivationGrid,
    fake_quantize_weight,
    output_axis,
    weight_codes,
    weight_scales,
)


def noise(x: torch.Tensor, quantized: torch.Tensor) -> float:
    return float((quantized - x).detach().square().mean())


@pytest.mark.parametrize(("bits", "decibels"), [(8, 48.1), (6, 36.0), (4, 23.5)])
def test_six_decibels_a_bit(bits, decibels):
    x = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    quantized = ActivationGrid.from_range(-1, 1, bits).fake_quantize(x)
    assert 10 * math.log10(float(x.square().mean()) / noise(x, quantized)) == pytest.approx(
        decibels, abs=0.15
    )


@given(st.floats(-50, 50), st.floats(-50, 50), st.integers(2, 16))
def test_zero_is_exact_and_quantizing_twice_is_once(a, b, bits):
    low, high = sorted((a, b))
    grid = ActivationGrid.from_range(low, high, bits)
    x = torch.cat([torch.zeros(1), torch.linspace(low - 1, high + 1, 301)])
    once = grid.fake_quantize(x)
    assert once[0] == 0
    assert torch.equal(grid.fake_quantize(once), once)
    assert len(once.unique()) <= 2**bits


def test_what_is_inside_the_range_moves_by_half_a_step():
    grid = ActivationGrid.from_range(-0.7, 2.1, 8)
    x = torch.linspace(-0.7, 2.1, 5000)
    moved = (grid.fake_quantize(x) - x).abs()
    # The zero point is rounded, which may cost another half step at the ends.
    assert float(moved.max()) <= grid.scale * 1.0001
    inside = (x > -0.7 + grid.scale) & (x < 2.1 - grid.scale)
    assert float(moved[inside].max()) <= grid.scale * 0.5001


def test_halves_round_to_even():
    grid = ActivationGrid(8, 1.0, 128)
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    assert grid.fake_quantize(x).tolist() == [0, 2, 2, 0, -2]
    weight = torch.tensor([[127.0, 0.5, 1.5, 2.5]])
    assert weight_codes(weight, torch.ones(1), 8, 0).tolist() == [[127, 0, 2, 2]]


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("axis", [0, 1])
def test_weights_quantized_twice_are_quantized_once(bits, axis):
    weight = torch.randn(7, 5, 3, 3)
    once = fake_quantize_weight(weight, bits, axis)
    torch.testing.assert_close(fake_quantize_weight(once, bits, axis), once, rtol=1e-6, atol=1e-7)
    codes = weight_codes(weight, weight_scales(weight, bits, axis), bits, axis)
    assert codes.abs().max() <= 2 ** (bits - 1)
    assert torch.equal(codes, codes.round())


def test_a_step_for_each_channel_is_never_worse_than_one_for_all():
    weight = torch.randn(16, 8, 3, 3) * torch.logspace(-2, 1, 16).view(-1, 1, 1, 1)
    each = noise(weight, fake_quantize_weight(weight, 6, 0))
    one = noise(weight, fake_quantize_weight(weight.reshape(1, -1), 6, 0).view_as(weight))
    assert each < one / 3


def test_the_output_channels_of_a_transposed_convolution_come_second():
    layer = nn.ConvTranspose2d(4, 6, 3)
    axis = output_axis(layer)
    assert weight_scales(layer.weight, 8, axis).shape == (6,)
    with torch.no_grad():
        layer.weight.mul_(torch.logspace(-3, 0, 6).view(1, -1, 1, 1))
    right = noise(layer.weight, fake_quantize_weight(layer.weight, 4, axis))
    assert right < noise(layer.weight, fake_quantize_weight(layer.weight, 4, 0)) / 2
    assert output_axis(nn.Conv2d(4, 6, 3)) == output_axis(nn.Linear(4, 6)) == 0


def test_a_channel_of_zeros_stays_zero():
    weight = torch.randn(3, 4)
    weight[1] = 0
    assert not fake_quantize_weight(weight, 8, 0)[1].any()
    assert not ActivationGrid.from_range(0, 0, 8).fake_quantize(torch.zeros(4)).any()


@pytest.mark.parametrize("bits", [-1, 0, 1, 17, 32])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ConfigError, match="2 to 16"):
        weight_scales(torch.randn(3, 4), bits, 0)
    with pytest.raises(ConfigError, match="2 to 16"):
        ActivationGrid.from_range(-1, 1, bits)


def test_what_cannot_be_a_grid_is_refused():
    for scale, zero in ((0.0, 0), (-1.0, 0), (math.inf, 0), (math.nan, 0), (1.0, 256), (1.0, -1)):
        with pytest.raises(ConfigError):
            ActivationGrid(8, scale, zero)
    with pytest.raises(ConfigError, match="groups"):
        output_axis(nn.ConvTranspose2d(4, 4, 3, groups=2))
