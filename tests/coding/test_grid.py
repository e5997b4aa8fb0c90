"""Tiles: they cover the picture once, on a grid of 64 pixels, none larger than its side."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lictor.coding.grid import UNIT, Grid, Rectangle
from lictor.errors import DataError

SIDES = st.sampled_from([0, 64, 128, 192, 1024])


@given(st.integers(1, 700), st.integers(1, 700), SIDES)
def test_tiles_cover_each_pixel_once_and_begin_on_the_grid(width, height, side):
    grid = Grid(width, height, side)
    seen = np.zeros((height, width), int)
    for i in range(grid.count):
        tile = grid.tile(i)
        assert tile.x % UNIT == tile.y % UNIT == 0
        assert min(tile.width, tile.height) >= 1
        assert side == 0 or max(tile.width, tile.height) <= side
        seen[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] += 1
    assert (seen == 1).all()


@given(st.integers(1, 5000), st.sampled_from([64, 128, 192, 1024]))
def test_parts_differ_by_a_unit_at_most(length, side):
    grid = Grid(length, 1, side)
    units = [-(-grid.tile(i).width // UNIT) for i in range(grid.count)]
    assert max(units) - min(units) <= 1
    assert grid.count == -(-sum(units) // (side // UNIT))  # as few as can be


@given(st.integers(1, 700), st.integers(1, 700), SIDES, st.data())
def test_the_tiles_that_meet_an_area_are_those_that_share_a_pixel(width, height, side, data):
    grid = Grid(width, height, side)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    area = Rectangle(
        x, y, data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    )
    assert list(grid.meeting(area)) == [i for i in range(grid.count) if grid.tile(i).meets(area)]


def test_a_huge_grid_costs_nothing():
    grid = Grid(2**32 - 1, 2**32 - 1, 64)
    assert grid.count == 2**52
    assert grid.tile(grid.count - 1) == Rectangle(2**32 - 64, 2**32 - 64, 63, 63)
    assert list(grid.meeting(Rectangle(2**31, 2**31, 1, 1))) == [2**25 * 2**26 + 2**25]


@pytest.mark.parametrize("fields", [(0, 1, 0), (1, 0, 0), (1, 1, 63), (1, 1, -64)])
def test_what_cannot_be_cut_is_refused(fields):
    with pytest.raises(DataError, match="cannot be cut"):
        Grid(*fields)
