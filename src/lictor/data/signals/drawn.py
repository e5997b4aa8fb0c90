"""Patches for training: drawn by step and position alone, or all of them in order."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from lictor.data.crops import draws
from lictor.data.order import permuted
from lictor.data.signals.folder import SignalFolder
from lictor.data.signals.patches import Patching
from lictor.data.signals.signal import unit_of

Block = tuple[Float[np.ndarray, "_ _ _"], Bool[np.ndarray, "_ _"] | None]
_BLOCK_SAMPLES = 1 << 22


def normalised(values: np.ndarray, kind: str, low: float, high: float) -> np.ndarray:
    """Return samples as networks see them: float32, 0 for `low` and 1 for `high`.

    `low` and `high` are in the unit of the kind, see `unit_of`.
    """
    scale, offset = unit_of(kind, values.dtype)
    in_unit = values.astype(np.float64) * scale + offset
    return ((in_unit - low) / (high - low)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class DrawnPatches:
    """Patches at random places, a pure function of seed, step and position.

    In an epoch each item is drawn once for every patch that it would be cut into, in an order of
    its own; each time at another place.

    Args:
        folder: the items.
        size: sides of a patch; items that are shorter are padded as `Patching` does.
        seed: of order and places.
        batch_size: patches in a step, of all processes together.
        low: value that becomes 0, in the unit of the kind.
        high: value that becomes 1, likewise.
        mirrored: mirror patches along their last axis by chance.
    """

    folder: SignalFolder
    size: tuple[int, ...]
    seed: int
    batch_size: int
    low: float
    high: float
    mirrored: bool = False

    @cached_property
    def _ends(self) -> np.ndarray:
        patching = Patching(self.size)
        counts = [patching.count(values.shape[:-1]) for values, _ in self.folder.items]
        return np.cumsum(counts)

    @cached_property
    def _masked(self) -> bool:
        short = any(
            n < s
            for values, _ in self.folder.items
            for n, s in zip(values.shape[:-1], self.size, strict=True)
        )
        return short or any(mask is not None for _, mask in self.folder.items)

    @property
    def items(self) -> int:
        """How many patches make an epoch."""
        return int(self._ends[-1])

    def batch(
        self, step: int, positions: range
    ) -> tuple[Float[np.ndarray, "b n c"], Bool[np.ndarray, "b n"] | None]:
        """Return the patches at some positions of a step, and where they have values."""
        cut = [self._patch(step, position) for position in positions]
        values = np.stack([normalised(v, self.folder.kind, self.low, self.high) for v, _ in cut])
        values = values.reshape(len(cut), -1, values.shape[-1])
        if not self._masked:
            return values, None
        return np.where(np.isnan(values), 0, values), np.stack([m.reshape(-1) for _, m in cut])

    def _patch(self, step: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, place = divmod(step * self.batch_size + position, self.items)
        number = permuted(place, self.items, (self.seed, epoch))
        values, mask = self.folder.item(int(np.searchsorted(self._ends, number, side="right")))
        grid = values.shape[:-1]
        key = [self.seed, step, position]
        chances = [c for part in range(1 + len(self.size) // 4) for c in draws(*key, part)]
        firsts = [
            int(chance * (max(n - s, 0) + 1))
            for chance, n, s in zip(chances[1:], grid, self.size, strict=False)
        ]
        part = tuple(slice(f, f + s) for f, s in zip(firsts, self.size, strict=True))
        values = values[part]
        there = np.ones(values.shape[:-1], bool) if mask is None else mask[part]
        if there.shape != self.size:
            inside = Patching(self.size).inside(there.shape, 0, 1)[0]
            values = Patching(self.size).cut(values, 0, 1)[0]
            there = Patching(self.size).cut(there[..., None], 0, 1)[0, ..., 0] & inside
        if self.mirrored and chances[0] < 0.5:
            last = len(self.size) - 1
            values, there = np.flip(values, last), np.flip(there, last)
        return values, there


@dataclass(frozen=True, eq=False)
class AllPatches:
    """All patches of a folder's items in order, or a random part of them, in blocks.

    Padding is masked out. It may be iterated over several times.

    Args:
        folder: the items.
        size: sides of a patch.
        low: value that becomes 0, in the unit of the kind.
        high: value that becomes 1, likewise.
        at_most: so many patches; a drawn part when there are more. None for all.
        seed: of the draw.
    """

    folder: SignalFolder
    size: tuple[int, ...]
    low: float
    high: float
    at_most: int | None = None
    seed: int = 0

    def __iter__(self) -> Iterator[Block]:
        patching = Patching(self.size)
        most = max(1, _BLOCK_SAMPLES // math.prod(self.size))
        cut: list[Block] = []
        waiting = 0
        for number, chosen in enumerate(self._chosen(patching)):
            values, mask = self.folder.item(number)
            while len(chosen):
                here, chosen = chosen[: most - waiting], chosen[most - waiting :]
                cut.append(self._block(patching, values, mask, here))
                waiting += len(here)
                if waiting == most:
                    yield _joined(cut)
                    cut, waiting = [], 0
        if cut:
            yield _joined(cut)

    def _chosen(self, patching: Patching) -> list[np.ndarray]:
        """Return which patches of each item are taken."""
        counts = [patching.count(values.shape[:-1]) for values, _ in self.folder.items]
        total = sum(counts)
        if self.at_most is None or total <= self.at_most:
            return [np.arange(count) for count in counts]
        drawn = np.random.default_rng(self.seed).permutation(total)[: self.at_most]
        places = np.sort(drawn)
        ends = np.cumsum(counts)
        parts = np.split(places, np.searchsorted(places, ends[:-1]))
        return [part - (end - count) for part, end, count in zip(parts, ends, counts, strict=True)]

    def _block(
        self, patching: Patching, values: np.ndarray, mask: np.ndarray | None, chosen: np.ndarray
    ) -> Block:
        raw = normalised(patching.take(values, chosen), self.folder.kind, self.low, self.high)
        raw = raw.reshape(len(chosen), -1, raw.shape[-1])
        grid = values.shape[:-1]
        if mask is None and all(n % s == 0 for n, s in zip(grid, self.size, strict=True)):
            return raw, None
        whole = np.broadcast_to(np.True_, grid) if mask is None else mask
        there = patching.take_mask(whole, chosen)
        return np.where(np.isnan(raw), 0, raw), there.reshape(len(chosen), -1)


def _joined(blocks: list[tuple[np.ndarray, np.ndarray | None]]) -> Block:
    values = np.concatenate([block for block, _ in blocks])
    if all(mask is None for _, mask in blocks):
        return values, None
    masks = [np.ones(v.shape[:2], bool) if m is None else m for v, m in blocks]
    return values, np.concatenate(masks)
