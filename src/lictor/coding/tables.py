"""Turn float probabilities into the integer tables that encoder and decoder must share to the bit.

A row of `CdfTables` is a cumulative histogram of `2**PRECISION` counts over a short range of
integers, plus one escape symbol, always the last, for everything outside of that range. How a
row comes about, in three steps:

1. Scale. The probabilities are divided by their exact sum, so a pmf need not be normalized.
2. Round. Each symbol gets the nearest integer count, but at least 1: what has a count can be coded.
3. Settle. Counts are added or taken away one at a time, each where it changes the expected cost
   least, until the row sums to `2**PRECISION`. With the derivative of the cost taken half-way
   between two counts this is Webster's divisor method: it needs divisions and comparisons only,
   so that IEEE 754 fixes the result on every machine; equal costs go to the lowest symbol.

Only NumPy is needed here; the tables of a codec are built once, when it is frozen.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lictor.errors import CheckpointError, ConfigError, DataError

PRECISION = 16
TOTAL = 1 << PRECISION

_INT32 = np.iinfo(np.int32)
_VARINT_ENDS = np.array([1 << 7, 1 << 14, 1 << 21, 1 << 28])


@dataclass(frozen=True, eq=False)
class CdfTables:
    """Integer CDF rows with an escape symbol each; immutable, and valid once constructed.

    A value `v` under row `i` is symbol `v - offset[i]` if that is in `[0, lengths[i] - 1)`, and the
    escape symbol `lengths[i] - 1` otherwise; then its distance from the range goes to the side
    section of the stream as a varint (`escape_code`), so that every int32 can be coded.

    Args:
        cdf: int32 `[rows, width + 1]`; `cdf[i, 0] == 0`, strictly increasing up to
            `cdf[i, lengths[i]] == 2**16`, then padded with `2**16`.
        lengths: int32 `[rows]`, symbols of each row including the escape symbol; at least 1.
        offset: int32 `[rows]`, the value of symbol 0 of each row; `offset + lengths - 1` must be
            an int32 too.

    Raises:
        CheckpointError: the arrays break one of these rules; tables come out of a codec file.
    """

    cdf: NDArray[np.int32]
    lengths: NDArray[np.int32]
    offset: NDArray[np.int32]
    thresholds: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        arrays = {"cdf": 2, "lengths": 1, "offset": 1}
        if self.thresholds is not None:
            arrays["thresholds"] = 1
        for name, ndim in arrays.items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.ndim != ndim or array.dtype != np.int32:
                raise CheckpointError(f"tables: {name} must be an int32 array of {ndim} dimensions")
            # A private copy that nobody can write to: compiled loops trust what is checked here.
            array = np.array(array, order="C")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        self._check()

    def _check(self) -> None:
        rows, width = self.cdf.shape[0], self.cdf.shape[1] - 1
        if rows < 1 or self.lengths.shape != (rows,) or self.offset.shape != (rows,):
            raise CheckpointError(
                "tables: cdf, lengths and offset must have the same rows, 1 or more"
            )
        if width < 1 or self.lengths.min() < 1 or self.lengths.max() > width:
            raise CheckpointError(f"tables: lengths must be in [1, {width}], the width of cdf")
        column = np.arange(width)
        inside = column < self.lengths[:, None]
        rising = np.diff(self.cdf, axis=1) > 0
        if self.cdf[:, 0].any() or (rising != inside).any() or (self.cdf[:, -1] != TOTAL).any():
            raise CheckpointError(
                f"tables: each cdf row must start at 0, rise with every symbol to {TOTAL}, and stay"
            )
        if (self.offset.astype(np.int64) + self.lengths - 1 > _INT32.max).any():
            raise CheckpointError("tables: offset + lengths leaves the range of int32")
        if self.lengths.sum(dtype=np.int64) > _INT32.max:
            raise CheckpointError("tables: more than 2**31 symbols in all rows")
        if self.thresholds is not None and (
            self.thresholds.shape != (rows - 1,)
            or (np.diff(self.thresholds.astype(np.int64)) <= 0).any()
        ):
            raise CheckpointError(
                f"tables: thresholds must be rows - 1 = {rows - 1} integers, each above the last"
            )

    def bits(
        self, symbols: NDArray[np.integer], indexes: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """Return what each symbol costs, in bits: -log2 of its mass, plus 8 per escape byte.

        Args:
            symbols: values to be coded, any shape, each in the range of int32.
            indexes: row of each symbol, in `[0, rows)`, same shape.

        Raises:
            DataError: shapes differ, or an index is out of range.
        """
        symbols, indexes = np.asarray(symbols), np.asarray(indexes)
        if symbols.shape != indexes.shape:
            raise DataError(f"symbols {symbols.shape} and indexes {indexes.shape} differ in shape")
        if indexes.size and (indexes.min() < 0 or indexes.max() >= len(self.lengths)):
            raise DataError(f"an index is outside of [0, {len(self.lengths)})")
        position = symbols.astype(np.int64) - self.offset[indexes]
        last = self.lengths[indexes].astype(np.int64) - 1
        escaped = (position < 0) | (position >= last)
        symbol = np.where(escaped, last, position)
        mass = self.cdf[indexes, symbol + 1] - self.cdf[indexes, symbol]
        side_bytes = varint_bytes(escape_code(position, last))
        return PRECISION - np.log2(mass) + np.where(escaped, 8.0 * side_bytes, 0.0)


def escape_code(position: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fold the distance of `position` from `[0, last)` into one integer: even above, odd below."""
    return np.where(position < 0, -2 * position - 1, 2 * (position - last))


def varint_bytes(code: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the length in bytes of each code (below 2**35) as a varint of 7 bits a byte."""
    return 1 + np.searchsorted(_VARINT_ENDS, code, side="right")


def build_tables(
    pmf: Sequence[NDArray[np.float64]],
    tail_mass: NDArray[np.float64],
    offset: NDArray[np.integer],
) -> CdfTables:
    """Quantize probability rows to counts of `2**-16`, each at least 1, as cheaply as counts allow.

    Args:
        pmf: one row per table, `pmf[i][s]` the probability of the value `offset[i] + s`;
            non-negative, finite, not necessarily normalized, up to 65,535 symbols.
        tail_mass: `[rows]`, probability of all other values, on the same scale as the row.
        offset: integers `[rows]` in the range of int32.

    Raises:
        ConfigError: a probability is negative or not finite, a row has no mass or too many
            symbols, or the arguments differ in length.
    """
    tail_mass = np.asarray(tail_mass, dtype=np.float64)
    offset = np.asarray(offset)
    if not len(pmf) or tail_mass.shape != (len(pmf),) or offset.shape != (len(pmf),):
        raise ConfigError("pmf, tail_mass and offset must have the same number of rows, 1 or more")
    if offset.dtype.kind not in "iu" or offset.min() < _INT32.min or offset.max() > _INT32.max:
        raise ConfigError("offset must be integers in the range of int32")
    counts = []
    for i, row in enumerate(pmf):
        row = np.append(np.asarray(row, dtype=np.float64), tail_mass[i])
        if len(row) > TOTAL:
            raise ConfigError(f"pmf row {i} has {len(row) - 1} symbols; {TOTAL - 1} is the most")
        if not np.isfinite(row).all() or (row < 0).any():
            raise ConfigError(f"pmf row {i} has a probability that is negative or not finite")
        if not 0 < row.max() < 1e300:
            raise ConfigError(f"pmf row {i} has no mass, or far too much")
        mass = math.fsum(row)  # exact, so the order of summation cannot matter
        counts.append(_quantize(row / mass))
    lengths = np.array([len(c) for c in counts], dtype=np.int32)
    cdf = np.full((len(counts), int(lengths.max()) + 1), TOTAL, dtype=np.int32)
    for i, count in enumerate(counts):
        cdf[i, 0] = 0
        cdf[i, 1 : len(count) + 1] = np.cumsum(count)
    return CdfTables(cdf, lengths, offset.astype(np.int32))


def _quantize(p: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return counts that sum to TOTAL, each at least 1, minimizing `-sum(p * log2(counts))`."""
    counts = np.maximum(1, np.rint(p * TOTAL)).astype(np.int64)
    excess = int(counts.sum()) - TOTAL
    # d/dc of p*log(c) half-way between two counts is p / (c +- 0.5). The heap holds that price of
    # the next count of each symbol with the symbol's number, which settles ties.
    if excess > 0:
        heap = [(p[s] / (counts[s] - 0.5), s) for s in np.flatnonzero(counts > 1).tolist()]
    else:
        heap = [(-p[s] / (counts[s] + 0.5), s) for s in range(len(p))]
    heapq.heapify(heap)
    for _ in range(abs(excess)):
        _, s = heap[0]
        counts[s] -= 1 if excess > 0 else -1
        if excess < 0:
            heapq.heapreplace(heap, (-p[s] / (counts[s] + 0.5), s))
        elif counts[s] > 1:
            heapq.heapreplace(heap, (p[s] / (counts[s] - 0.5), s))
        else:
            heapq.heappop(heap)
    return counts
