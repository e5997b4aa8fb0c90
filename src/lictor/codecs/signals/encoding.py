"""From signals to symbols: the network's latents, the nearest integers, and a search for better."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lictor.codecs.signals.domain import Range
from lictor.codecs.signals.latents import MAX_SYMBOL, LatentCoding, StepLatents, estimate_bits
from lictor.codecs.signals.network import Network
from lictor.codecs.signals.order import Grid
from lictor.coding.tables import TOTAL, CdfTables
from lictor.data.signals.signal import Signal
from lictor.implicit.meta import Target
from lictor.implicit.refine import Effort, Quantizer, Rate, refine
from lictor.priors.families import Laplace, interval_bits


@dataclass(frozen=True)
class Search:
    """How better symbols are looked for.

    Args:
        effort: how long.
        lmbda: what a bit is worth, in mean squared error of a patch.
    """

    effort: Effort
    lmbda: float


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be coded.

    Args:
        signals: such as the network is for.
        ranges: what becomes 0 and 1 of each.
        grids: their patches along each axis, the items first.
        coded: which patches have any value; None: all.
        q: quality.
    """

    signals: Sequence[Signal]
    ranges: Sequence[Range]
    grids: Sequence[Grid]
    coded: Bool[np.ndarray, " n"] | None
    q: int


def find_symbols(
    network: Network, coding: LatentCoding, task: Task, steps: int, search: Search | None
) -> Int[np.ndarray, "n d"]:
    """Return the symbols of all patches; 0 for those that are not coded.

    Args:
        network: finds latents.
        coding: quantizes them.
        task: what is coded.
        steps: of the inner loop.
        search: what follows on the nearest symbols, if anything; the paper's have no search.
    """
    searched = search is not None and isinstance(coding, StepLatents)
    symbols = np.zeros((sum(map(math.prod, task.grids)), coding.dimensions), np.int32)
    z = np.empty(symbols.shape if searched else (0, coding.dimensions), np.float32)
    nothing, at = coding.dequantize(np.zeros((1, coding.dimensions), np.int32), task.q), 0
    for block in network.blocks(task.grids):
        found = network.latents(*network.cut(task.signals, task.ranges, block), steps).numpy()
        here = slice(at, at + len(found))
        if task.coded is not None:
            found[~task.coded[here]] = nothing
        symbols[here] = coding.quantize(found, task.q)
        if searched:
            z[here] = found
        at = here.stop
    _only(symbols, task.coded)
    if search is None or not isinstance(coding, StepLatents):
        return symbols
    # Predictions and rows are taken as those of the nearest symbols, and others follow from others:
    # only a real gain counts.
    better, gain = _refined(network, coding, task, z, symbols, search)
    better = _only(better, task.coded)
    before, after = (
        estimate_bits(coding, chosen, task.grids, task.q, task.coded)
        for chosen in (symbols, better)
    )
    return better if gain + search.lmbda * (before - after) > 0 else symbols


def _only(symbols: np.ndarray, coded: np.ndarray | None) -> np.ndarray:
    if coded is not None:
        symbols[~coded] = 0
    return symbols


def _refined(
    network: Network,
    coding: StepLatents,
    task: Task,
    z: Float[np.ndarray, "n d"],
    symbols: Int[np.ndarray, "n d"],
    search: Search,
) -> tuple[Int[np.ndarray, "n d"], float]:
    """Return other symbols, and by how much their squared error is less, over all patches."""
    guesses, rows = coding.circumstances(symbols, task.grids, task.q)
    scales = laplace_scales(coding.tables, rows)
    widths = torch.from_numpy(coding.steps_at(task.q)).float()
    quantizer = Quantizer(torch.from_numpy(coding.means), widths)
    decode = network.decoder()
    better, gain, at = np.empty_like(symbols), 0.0, 0
    for block in network.blocks(task.grids):
        here = slice(at, at + sum(piece.stop - piece.start for piece in block))
        target = Target.of(*network.cut(task.signals, task.ranges, block))
        rate = _rate(guesses[here], scales[here])
        start = torch.from_numpy(z[here]).float()
        found = refine(decode, target, start, quantizer, rate, search.lmbda, search.effort)
        better[here] = found.clamp(-MAX_SYMBOL, MAX_SYMBOL).numpy()
        for chosen, sign in ((symbols, 1), (better, -1)):
            values = torch.from_numpy(network.values(coding.dequantize(chosen[here], task.q)))
            gain += sign * float(target.distortion(values).sum())
        at = here.stop
    return better, gain


def _rate(guesses: Int[np.ndarray, "b d"], scales: Float[np.ndarray, "b d"]) -> Rate:
    """Return the bits of symbols whose predictions and Laplace scales are known."""
    known, spread = torch.from_numpy(guesses).float(), torch.from_numpy(scales).float()

    def rate(symbols: Tensor) -> Tensor:
        return interval_bits(symbols - known, spread, Laplace()).sum(1)

    return rate


def laplace_scales(tables: CdfTables, rows: Int[np.ndarray, "b d"]) -> Float[np.ndarray, "b d"]:
    """Return the Laplace scales whose symbols have the mean size that table rows expect."""
    sizes = np.empty(len(tables.lengths))
    for row, length in enumerate(tables.lengths):
        mass = np.diff(tables.cdf[row, : length + 1])[:-1] / TOTAL
        sizes[row] = mass @ np.abs(tables.offset[row] + np.arange(length - 1))
    # The mean size of a rounded Laplace variable of scale b is 1 / (2 sinh(1 / (2 b))).
    scales = 0.5 / np.arcsinh(0.5 / np.maximum(sizes, 1e-6))
    return np.maximum(scales, Laplace().default_bound)[rows]
