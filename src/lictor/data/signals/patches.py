"""Cutting an item into blocks of one size, and putting it together again."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Patching:
    """Row-major, non-overlapping blocks of one size; () means the item whole.

    An item is padded at the end of each axis by reflection, by its edge where it is shorter than
    the padding. Only the patches that are asked for are made: nothing is ever padded as a whole.

    Args:
        size: sides of a patch, one for each axis of the grid.

    Source: COIN++ (arXiv:2201.12904) in its official code; edge padding of short items is ours.
    """

    size: tuple[int, ...]

    def counts(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """Return how many patches lie along each axis of an item."""
        if not self.size:
            return (1,)
        return tuple(-(-n // s) for n, s in zip(grid, self.size, strict=True))

    def count(self, grid: tuple[int, ...]) -> int:
        """Return how many patches an item has."""
        return math.prod(self.counts(grid))

    def cut(self, item: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Return the patches from `start` to `stop`, "p *size c", of an item "*grid c"."""
        if not self.size:
            return item[None][start:stop]
        places = self._places(item.shape[:-1], start, stop)
        axes = len(self.size)
        index = tuple(
            at.reshape(len(at), *(side if a == axis else 1 for a in range(axes)))
            for axis, (at, side) in enumerate(zip(places, self.size, strict=True))
        )
        return item[index]

    def cut_mask(self, mask: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Return where patches have values, "p *size", False beyond the item's end."""
        patches = self.cut(mask[..., None], start, stop)[..., 0]
        return patches & self.inside(mask.shape, start, stop)

    def inside(self, grid: tuple[int, ...], start: int, stop: int) -> np.ndarray:
        """Return where patches are not padding, "p *size"."""
        if not self.size:
            return np.ones((stop - start, *grid), bool)
        where = np.unravel_index(np.arange(start, stop), self.counts(grid))
        result = np.ones((stop - start, *self.size), bool)
        for axis, (w, side, n) in enumerate(zip(where, self.size, grid, strict=True)):
            valid = w[:, None] * side + np.arange(side) < n
            shape = (len(valid), *(side if a == axis else 1 for a in range(len(self.size))))
            result &= valid.reshape(shape)
        return result

    def join(self, out: np.ndarray, patches: np.ndarray, start: int) -> None:
        """Write patches "p *size c" from number `start` on into an item "*grid c", cropped."""
        if not self.size:
            out[...] = patches[0]
            return
        where = np.unravel_index(
            np.arange(start, start + len(patches)), self.counts(out.shape[:-1])
        )
        firsts = np.stack(where, 1) * np.array(self.size)
        for patch, first in zip(patches, firsts.tolist(), strict=True):
            part = out[tuple(slice(f, f + s) for f, s in zip(first, self.size, strict=True))]
            part[...] = patch[tuple(slice(n) for n in part.shape[:-1])]

    def _places(self, grid: tuple[int, ...], start: int, stop: int) -> list[np.ndarray]:
        """Return for each axis which of an item's places each patch shows, "p side"."""
        where = np.unravel_index(np.arange(start, stop), self.counts(grid))
        return [
            _padded(w[:, None] * s + np.arange(s), s, n)
            for w, s, n in zip(where, self.size, grid, strict=True)
        ]


def _padded(at: np.ndarray, side: int, length: int) -> np.ndarray:
    """Return the places of an axis of some length that stand for places up to its padded length."""
    padding = -(-length // side) * side - length
    if padding >= length:
        return np.minimum(at, length - 1)
    return np.where(at < length, at, 2 * (length - 1) - at)
