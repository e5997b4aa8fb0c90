"""In which order patches are coded: in waves, so that many go at once and neighbours go before.

The patches of a signal lie on a grid: its items along the first axis, then the axes of the signal.
A patch may depend on the one before it along each axis. All patches whose coordinates have the same
sum make a wave (an anti-diagonal): none depends on another of its wave. So that a long sound has no
more waves than a short one, each axis is cut into lengths of TILE patches that know nothing of each
other; their waves run side by side.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

# Both are part of the file format: they order the symbols.
TILE = 32
GROUP_PATCHES = 1 << 16

Grid = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Wave:
    """Patches that are coded together, all with the same neighbours there: a range of a plan."""

    start: int
    stop: int
    present: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """The order of the patches of a few grids.

    Args:
        places: where each patch, in coding order, lies among those of all grids one after the
            other, each in C order.
        neighbours: places in coding order of the patch before it along each axis; -1 for none.
        waves: each a list of ranges that are coded together.
    """

    places: Int[np.ndarray, " n"]
    neighbours: Int[np.ndarray, "axes n"]
    waves: Sequence[Sequence[Wave]]


def plan(grids: Sequence[Grid]) -> Plan:
    """Return the coding order of the patches of grids of the same number of axes, 1 or more."""
    sums, neighbours, total = [], [], 0
    for grid in grids:
        coords = np.indices(grid).reshape(len(grid), -1)
        steps = np.array([math.prod(grid[a + 1 :]) for a in range(len(grid))])
        inside = coords % TILE
        own = np.arange(coords.shape[1]) + total
        neighbours.append(np.where(inside > 0, own - steps[:, None], -1))
        sums.append(inside.sum(0))
        total += len(own)
    wave_of, before = np.concatenate(sums), np.concatenate(neighbours, 1)
    kind_of = (1 << np.arange(len(before))) @ (before >= 0)
    places = np.lexsort((kind_of, wave_of))  # stable, so that equal ones keep their order
    turn = np.empty(total, np.int64)
    turn[places] = np.arange(total)
    before = np.where(before >= 0, turn[before], -1)[:, places]
    return Plan(places, before, _waves(wave_of[places], before >= 0))


def _waves(wave_of: Int[np.ndarray, " n"], present: np.ndarray) -> Sequence[Sequence[Wave]]:
    waves: list[list[Wave]] = []
    changes = (np.diff(wave_of) != 0) | (np.diff(present.astype(np.int8), axis=1) != 0).any(0)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(wave_of)]
    for start, stop in itertools.pairwise(edges):
        if start == 0 or wave_of[start] != wave_of[start - 1]:
            waves.append([])
        waves[-1].append(Wave(start, stop, tuple(present[:, start].tolist())))
    return waves


def groups(grids: Sequence[Grid]) -> Iterator[slice]:
    """Cut a list of grids into runs whose patches are coded together.

    As many as have GROUP_PATCHES patches at most; a larger grid goes alone.
    """
    start, patches = 0, 0
    for i, grid in enumerate(grids):
        size = math.prod(grid)
        if i > start and patches + size > GROUP_PATCHES:
            yield slice(start, i)
            start, patches = i, 0
        patches += size
    if grids:
        yield slice(start, len(grids))
