"""How a picture is cut into tiles: arithmetic of integers that encoder and decoder share.

Tiles lie on a grid of 64 pixels. A side of `length` pixels has `units = ceil(length / 64)` of them
and is cut into `count = ceil(units / (side / 64))` parts, as equal as the grid allows: part `i`
begins at pixel `64 * (units * i // count)` and ends where the next one begins, the last one with
the picture. Tiles are counted row by row, from the top left.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from lictor.errors import DataError

UNIT = 64


@dataclass(frozen=True)
class Rectangle:
    """Pixels from column `x` and row `y` on, `width` x `height` of them."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height} at {self.x},{self.y}"

    def meets(self, other: Rectangle) -> bool:
        """Tell whether two rectangles have a pixel in common."""
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )


@dataclass(frozen=True)
class Grid:
    """The tiles of a picture.

    Args:
        width: of the picture in pixels, 1 or more.
        height: likewise.
        side: the most pixels of a tile's sides, a multiple of 64; 0: one tile is the picture.

    Raises:
        DataError: a number is outside of its range.
    """

    width: int
    height: int
    side: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or self.side < 0 or self.side % UNIT:
            raise DataError(
                f"{self.width} x {self.height} pixels cannot be cut into tiles of {self.side}: "
                f"a side is a multiple of {UNIT}"
            )

    @property
    def columns(self) -> int:
        """Tiles in a row."""
        return self._parts(self.width)

    @property
    def rows(self) -> int:
        """Tiles in a column."""
        return self._parts(self.height)

    @property
    def count(self) -> int:
        """All tiles."""
        return self.columns * self.rows

    def tile(self, index: int) -> Rectangle:
        """Return where the tile of this number is."""
        row, column = divmod(index, self.columns)
        x, right = self._begin(self.width, column), self._begin(self.width, column + 1)
        y, bottom = self._begin(self.height, row), self._begin(self.height, row + 1)
        return Rectangle(x, y, right - x, bottom - y)

    def meeting(self, area: Rectangle) -> Iterator[int]:
        """Yield the numbers of the tiles that have a pixel in common with an area, in order."""
        columns = self._between(self.width, area.x, area.x + area.width)
        for row in self._between(self.height, area.y, area.y + area.height):
            yield from (row * self.columns + column for column in columns)

    def _parts(self, length: int) -> int:
        return -(-_units(length) // (self.side // UNIT)) if self.side else 1

    def _begin(self, length: int, part: int) -> int:
        """Return where a part begins; the one behind the last begins where the picture ends."""
        return min(UNIT * (_units(length) * part // self._parts(length)), length)

    def _between(self, length: int, start: int, stop: int) -> range:
        parts = range(self._parts(length))
        first = bisect_right(parts, start, key=lambda part: self._begin(length, part)) - 1
        last = bisect_right(parts, stop - 1, key=lambda part: self._begin(length, part)) - 1
        return parts[max(first, 0) : last + 1]


def _units(length: int) -> int:
    return -(-length // UNIT)
