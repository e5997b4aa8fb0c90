"""Where samples lie: ends, order, the sphere."""

import numpy as np
import pytest
import torch

from lictor.errors import ConfigError
from lictor.implicit.coordinates import (
    AUDIO,
    COORDINATES,
    global_sphere,
    pixel_grid,
    regular_grid,
    sphere,
)


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (1, 4), (2, 1, 3, 2)])
def test_a_regular_grid_is_what_numpy_makes_row_by_row(shape):
    axes = [np.linspace(0, 1, count) for count in shape]
    wanted = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], -1)
    points = regular_grid(shape)
    assert points.dtype == torch.float32
    np.testing.assert_allclose(points.numpy(), wanted, atol=1e-7)


def test_each_axis_may_have_its_range():
    points = regular_grid((3, 2), [(-1.0, 1.0), AUDIO])
    assert points.tolist() == [[-1, -5], [-1, 5], [0, -5], [0, 5], [1, -5], [1, 5]]


@pytest.mark.parametrize(
    ("shape", "ranges"),
    [((), [(0.0, 1.0)]), ((0, 3), [(0.0, 1.0)]), ((2, 2, 2), [(0.0, 1.0)] * 2)],
)
def test_a_grid_that_cannot_be_is_refused(shape, ranges):
    with pytest.raises(ConfigError):
        regular_grid(shape, ranges)


def test_points_of_the_sphere_have_length_one_and_lie_where_degrees_say():
    points = sphere(torch.tensor([0.0, 45.0, -90.0]), torch.tensor([0.0, 90.0, 180.0]))
    torch.testing.assert_close(points.norm(dim=1), torch.ones(9))
    half = 0.5**0.5
    wanted = {0: (1, 0, 0), 1: (0, 1, 0), 2: (-1, 0, 0), 4: (0, half, half), 8: (0, 0, -1)}
    for place, point in wanted.items():
        torch.testing.assert_close(points[place], torch.tensor(point).float(), atol=1e-7, rtol=0)


def test_a_pole_is_one_point_and_a_turn_changes_nothing():
    longitudes = torch.tensor([0.0, 33.3, 181.0, -120.0])
    points = sphere(torch.tensor([90.0, 12.0, -90.0]), longitudes).view(3, 4, 3)
    assert (points[0] == points[0, :1]).all()
    assert (points[2] == points[2, :1]).all()
    assert not (points[1] == points[1, :1]).all()
    turned = sphere(torch.tensor([90.0, 12.0, -90.0]), torch.tensor([360.0, 393.3, 181.0, 240.0]))
    torch.testing.assert_close(turned.view(3, 4, 3), points, atol=1e-6, rtol=0)
    assert (turned.view(3, 4, 3)[1, [0, 3]] == points[1, [0, 3]]).all()


def test_a_global_grid_has_both_poles_and_no_column_twice():
    points = global_sphere((5, 8)).view(5, 8, 3)
    assert (points[0] == torch.tensor([0.0, 0.0, 1.0])).all()
    assert (points[-1] == torch.tensor([0.0, 0.0, -1.0])).all()
    assert len(torch.unique(points[2], dim=0)) == 8
    # The step from the last column back to the first is as long as any other.
    steps = (points[2] - points[2].roll(-1, 0)).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(8))


@pytest.mark.parametrize("shape", [(4,), (4, 0), (2, 3, 4)])
def test_a_sphere_has_two_axes(shape):
    with pytest.raises(ConfigError, match="rows and columns"):
        global_sphere(shape)


def test_latitudes_beyond_a_pole_are_refused():
    for latitude in (90.5, float("nan")):
        with pytest.raises(ConfigError, match="-90 to 90"):
            sphere(torch.tensor([latitude]), torch.tensor([0.0]))


def test_pixels_are_square_and_the_rows_span_two():
    points = pixel_grid((3, 5)).view(3, 5, 2)
    assert points[:, 0, 0].tolist() == [-1, 0, 1]
    assert points[0, :, 1].tolist() == [-1, 0, 1, 2, 3]


def test_every_named_grid_has_a_point_for_each_sample():
    for name, points in COORDINATES.items():
        shape = (6, 4) if name in ("sphere", "unit", "pixels") else (6,)
        assert len(points(shape)) == np.prod(shape)
    assert COORDINATES["audio"]((11,))[[0, 5, 10], 0].tolist() == [-5, 0, 5]
