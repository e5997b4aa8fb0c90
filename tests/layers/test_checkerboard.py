"""Splitting and joining the colours of a checkerboard."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lictor.layers.checkerboard import CheckerboardConv, checkerboard_join, checkerboard_split

HALF = st.integers(1, 6)


@given(st.integers(1, 3), st.integers(1, 3), HALF, HALF, st.booleans())
def test_join_undoes_split_in_any_memory_layout(batch, channels, rows, columns, channels_last):
    x = torch.randn(batch, channels, 2 * rows, 2 * columns)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    even, odd = checkerboard_split(x)
    assert even.shape == odd.shape == (batch, channels, 2 * rows, columns)
    assert torch.equal(checkerboard_join(even, odd), x)


@given(HALF, HALF)
def test_even_and_odd_are_the_parities_of_row_plus_column(rows, columns):
    row, column = torch.meshgrid(
        torch.arange(2.0 * rows), torch.arange(2.0 * columns), indexing="ij"
    )
    even, odd = checkerboard_split((row + column)[None, None])
    assert (even % 2 == 0).all()
    assert (odd % 2 == 1).all()


@given(HALF, HALF)
def test_each_half_keeps_its_rows_and_the_order_of_its_columns(rows, columns):
    position = torch.arange(4.0 * rows * columns).view(1, 1, 2 * rows, 2 * columns)
    for half in checkerboard_split(position):
        assert torch.equal(half.div(2 * columns, rounding_mode="floor")[0, 0, :, 0],
                           torch.arange(2.0 * rows))  # fmt: skip
        assert torch.equal(half.flatten(), half.flatten().sort().values)


def test_a_change_of_one_half_does_not_touch_the_other():
    x = torch.randn(1, 2, 4, 6)
    even, odd = checkerboard_split(x)
    kept, changed = checkerboard_split(checkerboard_join(even, odd + 1))
    assert torch.equal(kept, even)
    assert torch.equal(changed, odd + 1)


@given(HALF, HALF, st.integers(0, 3), st.booleans())
def test_a_convolution_of_halves_is_that_of_the_whole(rows, columns, half_side, bias):
    side = 2 * half_side + 1
    layer = CheckerboardConv(3, 4, side).double()
    if not bias:
        torch.nn.init.zeros_(layer.bias)
    even = torch.randn(2, 3, 2 * rows, columns, dtype=torch.float64)
    whole = F.conv2d(
        checkerboard_join(even, torch.zeros_like(even)), layer.weight, layer.bias, padding=half_side
    )
    _, odd = checkerboard_split(whole)
    assert torch.allclose(layer(even), odd, rtol=0, atol=1e-12)


def test_it_begins_as_the_convolution_of_that_size_does():
    torch.manual_seed(5)
    layer = CheckerboardConv(4, 6, 5)
    torch.manual_seed(5)
    plain = torch.nn.Conv2d(4, 6, 5, padding=2)
    assert torch.equal(layer.weight, plain.weight)
    assert torch.equal(layer.bias, plain.bias)
    assert set(layer.state_dict()) == {"weight", "bias"}
