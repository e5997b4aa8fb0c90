"""Where the samples of a signal lie: the points that a network of signals is asked at.

All are float32 "n d", in row-major order of the grid: the last axis runs fastest.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lictor.errors import ConfigError

Range = tuple[float, float]

UNIT: Range = (0.0, 1.0)
# One period of a sine of the first layer is a few samples long only over a wider range.
AUDIO: Range = (-5.0, 5.0)


def regular_grid(shape: Sequence[int], ranges: Sequence[Range] = (UNIT,)) -> Float[Tensor, "n d"]:
    """Return the points of a regular grid, both ends of each range included.

    Args:
        shape: points along each axis; an axis of one point lies at the beginning of its range.
        ranges: one for each axis, or one for all.

    Raises `ConfigError` on an axis without points, or on ranges that do not fit the axes.

    Source: COIN++ (arXiv:2201.12904) in its official code: [0, 1] along each axis, whatever the
    aspect, [-5, 5] for audio.
    """
    if not shape or min(shape) < 1:
        raise ConfigError(f"a grid of {tuple(shape)} points: give each axis at least one")
    if len(ranges) not in (1, len(shape)):
        raise ConfigError(f"{len(ranges)} ranges for {len(shape)} axes: give one, or one per axis")
    each = list(ranges) * len(shape) if len(ranges) == 1 else ranges
    axes = [
        torch.linspace(low, high, count) for (low, high), count in zip(each, shape, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def sphere(
    latitudes: Float[Tensor, " h"], longitudes: Float[Tensor, " w"]
) -> Float[Tensor, "h*w 3"]:
    """Return the points of a grid of latitudes and longitudes on the unit sphere.

    x = (cos la cos lo, cos la sin lo, sin la). A whole turn changes nothing, and a pole is one
    point, whatever its longitude: both hold to the bit.

    Args:
        latitudes: degrees, from -90 to 90.
        longitudes: degrees, of any number of turns.

    Raises `ConfigError` on a latitude beyond a pole.
    """
    latitude, longitude = latitudes.double(), longitudes.double()
    if not bool((latitude.abs() <= 90).all()):
        raise ConfigError("latitudes must be from -90 to 90 degrees")
    # cos(90 degrees) is not 0 in floating point; sin(0) is.
    from_axis = torch.deg2rad(90 - latitude.abs()).sin()[:, None]
    height = torch.deg2rad(latitude).sin()[:, None]
    turn = torch.deg2rad(torch.remainder(longitude, 360))
    points = [from_axis * turn.cos(), from_axis * turn.sin(), height.expand(-1, len(turn))]
    # Adding 0 makes one zero of the two.
    return (torch.stack(points, -1).flatten(0, 1) + 0.0).float()


def global_sphere(shape: Sequence[int]) -> Float[Tensor, "n 3"]:
    """Return the points of a regular global grid: both poles, and a turn without its end.

    Args:
        shape: rows from the north pole to the south pole, and columns from 0 degrees eastwards.

    Raises `ConfigError` on a grid that has not two axes.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ConfigError(f"a sphere has rows and columns, at least one of each: {tuple(shape)}")
    rows, columns = shape
    east = torch.arange(columns, dtype=torch.float64) * 360 / columns
    return sphere(torch.linspace(90, -90, rows, dtype=torch.float64), east)


def pixel_grid(shape: Sequence[int]) -> Float[Tensor, "n d"]:
    """Return the points of a grid whose pixels are square: the first axis spans [-1, 1].

    A longer axis ends beyond 1.

    Source: COIN (arXiv:2103.03123) in its official code.
    """
    last = max(shape[0] - 1, 1) if shape else 1
    return regular_grid(shape, [(-1.0, 2 * (count - 1) / last - 1) for count in shape])


def _unit_grid(shape: Sequence[int]) -> Float[Tensor, "n d"]:
    return regular_grid(shape)


def _audio_grid(shape: Sequence[int]) -> Float[Tensor, "n d"]:
    return regular_grid(shape, [AUDIO])


# What a codec file can name: from the grid of a signal, or of a patch, to its points.
COORDINATES: Mapping[str, Callable[[Sequence[int]], Float[Tensor, "n d"]]] = {
    "unit": _unit_grid,
    "audio": _audio_grid,
    "sphere": global_sphere,
    "pixels": pixel_grid,
}
