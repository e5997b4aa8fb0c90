"""Cutting an item into blocks of one size, and putting it together again."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Patching:
    """Row-major, non-overlapping blocks; `size` () means the item whole.

    An item is padded at the end of each axis by reflection, by its edge where it is shorter than
    the padding.
    """

    size: tuple[int, ...]

    def cut(self, item: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Return patches "p *size c" from `start` to `stop` of an item "*grid c"."""
        if not self.size:
            return item[None]
        counts = tuple(-(-n // s) for n, s in zip(item.shape[:-1], self.size, strict=True))
        out = np.empty((stop - start, *self.size, item.shape[-1]), item.dtype)
        for row, place in enumerate(range(start, stop)):
            where = np.unravel_index(place, counts)
            axes = [
                _padded(int(w) * s, s, n)
                for w, s, n in zip(where, self.size, item.shape[:-1], strict=True)
            ]
            out[row] = item[np.ix_(*axes)]
        return out

    def join(self, out: np.ndarray, patches: np.ndarray, start: int) -> None:
        """Write patches "p *size c" from `start` on into an item "*grid c", cropped."""
        if not self.size:
            out[...] = patches[0]
            return
        counts = tuple(-(-n // s) for n, s in zip(out.shape[:-1], self.size, strict=True))
        assert start + len(patches) <= math.prod(counts)
        for row, place in enumerate(range(start, start + len(patches))):
            where = np.unravel_index(place, counts)
            here = tuple(
                slice(int(w) * s, int(w) * s + s) for w, s in zip(where, self.size, strict=True)
            )
            part = out[here]
            part[...] = patches[row][tuple(slice(0, n) for n in part.shape[:-1])]


def _padded(start: int, size: int, length: int) -> np.ndarray:
    """Return the places along an axis of length `length` that a block from `start` on shows."""
    at = np.arange(start, start + size)
    padding = -(-length // size) * size - length
    if padding >= length:
        return np.minimum(at, length - 1)
    return np.where(at < length, at, 2 * (length - 1) - at)
