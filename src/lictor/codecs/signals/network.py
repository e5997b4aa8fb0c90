"""The network at work on many patches: blocks of bounded size, latents found, values restored."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lictor.codecs.signals.domain import Domain, Range
from lictor.codecs.signals.order import Grid
from lictor.data.signals.patches import Patching
from lictor.data.signals.signal import Signal
from lictor.errors import DataError
from lictor.implicit.meta import Decode, InnerLoop, Target, fit
from lictor.implicit.model import ImplicitModel

# Samples of the patches that a network works on at once, channels counted.
BLOCK_SAMPLES = 1 << 17


@contextmanager
def own_torch_state() -> Iterator[None]:
    """Shield the network from the caller's autocast and default dtype; translate lack of memory."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast("cpu", enabled=False), torch.device("cpu"):
            yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise DataError("the signal needs more memory than there is; split it") from error
        raise
    finally:
        torch.set_default_dtype(dtype)


@dataclass(frozen=True)
class Piece:
    """Consecutive patches of one item of one signal."""

    signal: int
    item: int
    start: int
    stop: int


def grids_of(domain: Domain, shapes: Sequence[tuple[int, ...]]) -> list[Grid]:
    """Return the patches along each axis, items first, of signals "items *grid c"."""
    return [(shape[0], *domain.patches(shape[1:-1])) for shape in shapes]


def blocks(grids: Sequence[Grid], patch_samples: int) -> Iterator[list[Piece]]:
    """Cut all patches of signals into blocks of bounded size, in order."""
    most = max(1, BLOCK_SAMPLES // patch_samples)
    block: list[Piece] = []
    room = most
    for number, grid in enumerate(grids):
        count = math.prod(grid[1:])
        for item in range(grid[0]):
            start = 0
            while start < count:
                stop = min(count, start + room)
                block.append(Piece(number, item, start, stop))
                room -= stop - start
                start = stop
                if not room:
                    yield block
                    block, room = [], most
    if block:
        yield block


class Network:
    """A frozen model and the domain that it is for."""

    def __init__(self, model: ImplicitModel, domain: Domain):
        self._model, self._domain = model, domain
        self._patching = Patching(() if domain.whole else domain.grid)
        self._points = math.prod(domain.grid)
        self._samples = self._points * domain.channels

    def blocks(self, grids: Sequence[Grid]) -> Iterator[list[Piece]]:
        """Cut all patches of grids into the blocks that this network works on."""
        return blocks(grids, self._samples)

    def cut(
        self, signals: Sequence[Signal], ranges: Sequence[Range], block: Sequence[Piece]
    ) -> tuple[Float[Tensor, "b n c"], Bool[Tensor, "b n"] | None]:
        """Return the values of a block's patches, and where they have some."""
        values, masks = [], []
        masked = any(signals[p.signal].mask is not None for p in block)
        for piece in block:
            signal, limits = signals[piece.signal], ranges[piece.signal]
            raw = self._patching.cut(signal.samples[piece.item], piece.start, piece.stop)
            values.append(self._domain.normalised(raw, limits).reshape(len(raw), self._points, -1))
            if masked:
                masks.append(_mask(self._patching, signal.mask, piece, self._points))
        mask = torch.from_numpy(np.concatenate(masks)) if masked else None
        return torch.from_numpy(np.concatenate(values)), mask

    def latents(
        self, y: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None, steps: int
    ) -> Float[Tensor, "b d"]:
        """Return the latents of patches; those of a patch without any value are not finite."""
        target, rates = Target.of(y, mask), self._model.rates()
        with torch.no_grad():
            start = self._model.first(target.values, mask)
        if steps:
            start = fit(self._model.at(), target, start, rates.detach(), InnerLoop(steps, "first"))
        if mask is not None:
            start = torch.where(mask.any(1)[:, None], start.detach(), torch.nan)
        return start.detach()

    def coded(
        self, masks: Sequence[np.ndarray | None], grids: Sequence[Grid]
    ) -> Bool[np.ndarray, " n"] | None:
        """Return which patches of signals with these masks have any value; None: all have."""
        if all(mask is None for mask in masks):
            return None
        found = []
        for block in self.blocks(grids):
            for piece in block:
                mask = masks[piece.signal]
                found.append(_mask(self._patching, mask, piece, self._points).any(1))
        return np.concatenate(found)

    def decoder(self) -> Decode:
        """Return the network as a function of latents."""
        return self._model.at()

    def values(self, z: Float[np.ndarray, "b d"]) -> Float[np.ndarray, "b n c"]:
        """Return what latents stand for."""
        with torch.no_grad():
            return self._model.decode(torch.from_numpy(z)).numpy()

    def restore(
        self,
        outs: Sequence[np.ndarray],
        ranges: Sequence[Range],
        z: Float[np.ndarray, "b d"],
        block: Sequence[Piece],
    ) -> None:
        """Write the samples of a block into arrays "items *grid c"."""
        values, at = self.values(z), 0
        for piece in block:
            count, out = piece.stop - piece.start, outs[piece.signal]
            part = values[at : at + count].reshape(count, *self._domain.grid, -1)
            samples = self._domain.samples(part, out.dtype, ranges[piece.signal])
            self._patching.join(out[piece.item], samples, piece.start)
            at += count

    def gains(self, z: Float[np.ndarray, "b d"]) -> Float[np.ndarray, " d"]:
        """Return the mean squared error of a patch for a small squared error of each latent.

        Finite differences of half a deviation, around a few latents.
        """
        chosen = torch.from_numpy(z[:: max(1, len(z) // 32)][:32].astype(np.float32))
        moves = torch.from_numpy(np.maximum(z.std(0), 1e-6).astype(np.float32)) / 2
        decode = self._model.at()
        result = np.empty(z.shape[1])
        with torch.no_grad():
            base = decode(chosen)
            for i, move in enumerate(moves):
                there = chosen.clone()
                there[:, i] += move
                change = (decode(there) - base).square().mean().item()
                result[i] = change / float(move) ** 2
        return result


def _mask(
    patching: Patching, mask: np.ndarray | None, piece: Piece, points: int
) -> Bool[np.ndarray, "p n"]:
    """Return where the patches of a piece have values."""
    if mask is None:
        return np.ones((piece.stop - piece.start, points), bool)
    cut = patching.cut(mask[piece.item][..., None], piece.start, piece.stop)
    return cut.reshape(len(cut), points)
