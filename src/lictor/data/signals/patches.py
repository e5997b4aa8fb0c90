"""Cutting an item into blocks of one size, and putting it together again."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Integer, Shaped

Span = tuple[int, int]


@dataclass(frozen=True)
class Patching:
    """Row-major, non-overlapping blocks of one size; () means the item whole.

    An item is padded at the end of each axis by reflection, by its edge where it is shorter than
    the block. Only the patches that are asked for are made: nothing is ever padded as a whole.

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

    def cut(
        self, item: Shaped[np.ndarray, "*grid c"], start: int, stop: int
    ) -> Shaped[np.ndarray, "p *size c"]:
        """Return the patches from `start` to `stop` of an item; what is returned may be a view."""
        if not self.size:
            return item[None][start:stop]
        sides = self.size
        parts = [np.empty((0, *sides, item.shape[-1]), item.dtype)]
        for box in _boxes(start, stop, self.counts(item.shape[:-1])):
            parts.append(_apart(_padded_block(item, box, sides), box, sides))
        return parts[-1] if len(parts) <= 2 else np.concatenate(parts)

    def cut_mask(
        self, mask: Bool[np.ndarray, "*grid"], start: int, stop: int
    ) -> Bool[np.ndarray, "p *size"]:
        """Return where patches have values: False beyond the item's end."""
        return self.cut(mask[..., None], start, stop)[..., 0] & self.inside(mask.shape, start, stop)

    def inside(self, grid: tuple[int, ...], start: int, stop: int) -> Bool[np.ndarray, "p *size"]:
        """Return where patches are not padding."""
        if not self.size:
            return np.ones((stop - start, *grid), bool)
        where = np.unravel_index(np.arange(start, stop), self.counts(grid))
        return self._inside(grid, where)

    def take(
        self, item: Shaped[np.ndarray, "*grid c"], numbers: Integer[np.ndarray, " p"]
    ) -> Shaped[np.ndarray, "p *size c"]:
        """Return any patches of an item, by number."""
        if not self.size:
            return np.repeat(item[None], len(numbers), 0)
        grid = item.shape[:-1]
        where = np.unravel_index(numbers, self.counts(grid))
        index = tuple(
            _along(_padded(w[:, None] * side + np.arange(side), side, n), axis, len(grid))
            for axis, (w, side, n) in enumerate(zip(where, self.size, grid, strict=True))
        )
        return item[index]

    def take_mask(
        self, mask: Bool[np.ndarray, "*grid"], numbers: Integer[np.ndarray, " p"]
    ) -> Bool[np.ndarray, "p *size"]:
        """Return where any patches have values: False beyond the item's end."""
        there = self.take(mask[..., None], numbers)[..., 0]
        if not self.size:
            return there
        return there & self._inside(mask.shape, np.unravel_index(numbers, self.counts(mask.shape)))

    def join(
        self,
        out: Shaped[np.ndarray, "*grid c"],
        patches: Shaped[np.ndarray, "p *size c"],
        start: int,
    ) -> None:
        """Write patches from number `start` on into an item, without what is padding."""
        if not self.size:
            out[...] = patches[0]
            return
        used = 0
        for box in _boxes(start, start + len(patches), self.counts(out.shape[:-1])):
            lengths = [end - first for first, end in box]
            count = math.prod(lengths)
            block = _together(patches[used : used + count], lengths, self.size)
            corner = tuple(
                slice(first * side, end * side)
                for (first, end), side in zip(box, self.size, strict=True)
            )
            place = out[corner]
            place[...] = block[tuple(slice(n) for n in place.shape[:-1])]
            used += count

    def _inside(self, grid: tuple[int, ...], where: Sequence[np.ndarray]) -> np.ndarray:
        result = np.ones((len(where[0]), *self.size), bool)
        for axis, (w, side, n) in enumerate(zip(where, self.size, grid, strict=True)):
            result &= _along(w[:, None] * side + np.arange(side) < n, axis, len(grid))
        return result


def _boxes(start: int, stop: int, counts: tuple[int, ...]) -> Iterator[tuple[Span, ...]]:
    """Yield boxes of a grid which in row-major order are a range of its cells, one by one.

    Whole rows go together, so that there are at most two boxes for each axis.
    """
    if start >= stop:
        return
    if len(counts) == 1:
        yield ((start, stop),)
        return
    row = math.prod(counts[1:])
    whole, end = -(-start // row), stop // row
    if start % row:
        last = min(stop, whole * row)
        first = whole - 1
        for box in _boxes(start - first * row, last - first * row, counts[1:]):
            yield ((first, whole), *box)
    if whole < end:
        yield ((whole, end), *((0, count) for count in counts[1:]))
    if stop % row and end >= whole:
        for box in _boxes(0, stop - end * row, counts[1:]):
            yield ((end, end + 1), *box)


def _padded_block(item: np.ndarray, box: tuple[Span, ...], sides: tuple[int, ...]) -> np.ndarray:
    """Return what lies under a box of patches, padded; a view where nothing is."""
    corner, crop, beyond = [], [], []
    for (first, end), side, length in zip(box, sides, item.shape[:-1], strict=True):
        places = _padded(np.arange(length, end * side), side, length)
        # Reflection may go back to before the box.
        low = min(first * side, *places.tolist()) if len(places) else first * side
        corner.append(slice(low, min(end * side, length)))
        crop.append(slice(first * side - low, None))
        beyond.append(places - low)
    block = item[tuple(corner)]
    for axis, places in enumerate(beyond):
        if len(places):
            block = np.concatenate([block, block.take(places, axis)], axis)
    return block[tuple(crop)]


def _apart(block: np.ndarray, box: tuple[Span, ...], sides: tuple[int, ...]) -> np.ndarray:
    """Return a block of an item, "*(n * side) c", as patches, "(prod n) *side c"."""
    axes = len(sides)
    shape = [k for (first, end), side in zip(box, sides, strict=True) for k in (end - first, side)]
    order = (*range(0, 2 * axes, 2), *range(1, 2 * axes, 2), 2 * axes)
    return (
        block.reshape(*shape, block.shape[-1]).transpose(order).reshape(-1, *sides, block.shape[-1])
    )


def _together(patches: np.ndarray, lengths: Sequence[int], sides: tuple[int, ...]) -> np.ndarray:
    """Undo `_apart`."""
    axes, channels = len(sides), patches.shape[-1]
    order = (*(k for axis in range(axes) for k in (axis, axes + axis)), 2 * axes)
    whole = [n * side for n, side in zip(lengths, sides, strict=True)]
    return patches.reshape(*lengths, *sides, channels).transpose(order).reshape(*whole, channels)


def _along(values: np.ndarray, axis: int, axes: int) -> np.ndarray:
    """Return values "p side" so that they lie along one of the axes of patches."""
    shape = [1] * axes
    shape[axis] = values.shape[1]
    return values.reshape(len(values), *shape)


def _padded(at: np.ndarray, side: int, length: int) -> np.ndarray:
    """Return the places of an axis of some length that stand for places up to its padded length."""
    if length < side:
        return np.minimum(at, length - 1)
    return np.where(at < length, at, 2 * (length - 1) - at)
