"""Networks of integers: what decides a probability, as a short list of operations on integers.

Values are arrays `c h w` of integers that stand for multiples of 2^-10 (`FRACTION_BITS`). A network
is a chain of operations; each is exact, so that it has one result, whoever computes it and in
whatever order sums are taken:

- `Convolve`, `Deconvolve`, `HalfConvolve`: sums of products with integer weights;
- `Rescale`: a multiplication, an offset and a shift for each channel, then a clamp: from sums back
  to multiples of 2^-10, the bias included;
- `Leaky`: a rectifier whose slope below zero is a fraction of 2^16;
- `Lookup`: any other function of one value, as a table.

`check` proves from the weights how large anything can become. What stays below 2^52 may be computed
in float64, where sums and products of such integers are exact in any order; what stays below 2^24,
in float32. `reference` is a slow and readable interpreter; the fast one is in `layers`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lictor.errors import CheckpointError, LictorError

FRACTION_BITS = 10
# Inputs of a network are clamped to this: 8192 in units of 2^-10. Means and scales stay below, too.
REACH = 1 << 23
EXACT64, EXACT32 = 1 << 52, 1 << 24
SLOPE_BITS = 16
_MOST_SHIFT = 52
_MOST_ENTRIES = 1 << 20

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Convolve:
    """Sums of `weight[d, c, i, j] * x[c, stride row + i - padding, stride column + j - padding]`.

    Args:
        weight: `[d, c / groups, k, k]`.
        stride: 1 or more.
        padding: zeros on all four sides.
        groups: each sees as many input channels and makes as many output channels as any other.
    """

    weight: Integers
    stride: int = 1
    padding: int = 0
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Deconvolve:
    """A transposed convolution.

    `x[c, row, column] * weight[c, d, i, j]` is added at row `stride row + i - padding` and column
    `stride column + j - padding` of a result whose sides are `stride (side - 1) + k - 2 padding +
    extra`.

    Args:
        weight: `[c, d, k, k]`.
        stride: 1 or more.
        padding: how many rows and columns of the result are cut off on all four sides.
        extra: rows and columns at the end.
    """

    weight: Integers
    stride: int = 1
    padding: int = 0
    extra: int = 0


@dataclass(frozen=True, eq=False)
class HalfConvolve:
    """`Convolve`, padding `k / 2`, of the even half of a checkerboard, taken at the odd half.

    Both halves are packed: in row `r`, element `j` of the even half is column `2 j + r % 2`, of the
    odd half column `2 j + 1 - r % 2`. The odd half counts as zero in the input.

    Args:
        weight: `[d, c, k, k]`, k odd.
    """

    weight: Integers


@dataclass(frozen=True, eq=False)
class Rescale:
    """`clamp((x * multiplier + offset) >> shift, low, high)`, the shift rounding down.

    Args:
        multiplier, offset, shift, low, high: `[c]`, one for each channel.
    """

    multiplier: Integers
    offset: Integers
    shift: Integers
    low: Integers
    high: Integers


@dataclass(frozen=True, eq=False)
class Leaky:
    """`max(x, (x * slope + 2^15) >> 16)`.

    Args:
        slope: 0 to 2^16.
    """

    slope: int


@dataclass(frozen=True, eq=False)
class Lookup:
    """`table[x - first]`, x clamped to what the table has.

    Args:
        first: what the first entry is for.
        table: `[n]`.
    """

    first: int
    table: Integers


Op = Convolve | Deconvolve | HalfConvolve | Rescale | Leaky | Lookup
OPS: dict[str, type[Op]] = {
    "convolve": Convolve,
    "deconvolve": Deconvolve,
    "half-convolve": HalfConvolve,
    "rescale": Rescale,
    "leaky": Leaky,
    "lookup": Lookup,
}
_NAMES = {kind: name for name, kind in OPS.items()}


@dataclass(frozen=True)
class Margin:
    """How large an operation's sums and products can become, in absolute value, with any input."""

    op: str
    largest: int

    @property
    def spare_bits(self) -> float:
        """Return how many times they could double and still be exact in float64."""
        return math.log2(EXACT64) - math.log2(max(self.largest, 1))


def name_of(op: Op) -> str:
    """Return an operation's name in files."""
    return _NAMES[type(op)]


def settings(op: Op) -> tuple[dict[str, int], dict[str, Integers]]:
    """Return an operation's plain numbers and its arrays, by name."""
    values = {field.name: getattr(op, field.name) for field in fields(op)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    return {name: value for name, value in values.items() if name not in arrays}, arrays


def make_op(name: str, numbers: dict[str, Any], arrays: dict[str, Integers]) -> Op:
    """Undo `name_of` and `settings`; raises `CheckpointError` for what is no operation."""
    if name not in OPS:
        raise CheckpointError(f"there is no operation {name!r}; this release knows {list(OPS)}")
    wanted = {field.name for field in fields(OPS[name])}
    if set(numbers) | set(arrays) != wanted or any(type(v) is not int for v in numbers.values()):
        raise CheckpointError(f"operation {name}: it has {sorted(wanted)}, all integers")
    made: Any = OPS[name]
    return made(**numbers, **arrays)


def check(ops: Sequence[Op], channels: int) -> list[Margin]:
    """Prove that a chain is exact for all inputs of so many channels up to `REACH`.

    Returns how large the sums and products of each operation can become. Raises `LictorError` when
    one could reach 2^52, or the result `REACH`, and `CheckpointError` when operations do not fit
    each other.
    """
    margins = []
    reach = np.full(channels, REACH, dtype=object)  # Python integers: they never overflow
    for number, op in enumerate(ops):
        place = f"operation {number + 1} ({name_of(op)})"
        largest, reach = _reached(op, reach, place)
        if largest >= EXACT64:
            raise LictorError(
                f"{place}: its sums can reach 2^{math.log2(largest):.1f}, and only those below "
                "2^52 are exact; the weights are too large, or of very unequal sizes"
            )
        margins.append(Margin(name_of(op), int(largest)))
    if reach.max() > REACH:
        raise CheckpointError(f"a network's result can reach {reach.max()}, not {REACH} at most")
    return margins


def _reached(op: Op, reach: NDArray[Any], place: str) -> tuple[int, NDArray[Any]]:
    """Return the largest number on the way, and the largest result of each channel."""
    match op:
        case Convolve():
            return _convolved(op.weight, op.groups, reach, place)
        case HalfConvolve():
            return _convolved(op.weight, 1, reach, place)
        case Deconvolve():
            return _convolved(np.swapaxes(op.weight, 0, 1), 1, reach, place)
        case Rescale():
            return _rescaled(op, reach, place)
        case Leaky():
            if not 0 <= op.slope <= 1 << SLOPE_BITS:
                raise CheckpointError(f"{place}: its slope is {op.slope}, not 0 to 2^16")
            return int(reach.max()) * (1 << SLOPE_BITS), reach
        case Lookup():
            if op.table.ndim != 1 or not 0 < op.table.size <= _MOST_ENTRIES:
                raise CheckpointError(f"{place}: it has {op.table.shape} entries")
            most = max(-int(op.table.min()), int(op.table.max()))
            return max(most, int(reach.max()) + abs(op.first)), np.full_like(reach, most)


def _convolved(
    weight: Integers, groups: int, reach: NDArray[Any], place: str
) -> tuple[int, NDArray[Any]]:
    if weight.ndim != 4 or groups < 1 or len(weight) % groups:
        raise CheckpointError(f"{place}: weights {weight.shape} in {groups} groups")
    if weight.shape[1] * groups != len(reach):
        raise CheckpointError(
            f"{place}: weights {weight.shape} in {groups} groups cannot see {len(reach)} channels"
        )
    sizes = np.abs(weight).sum((2, 3)).astype(object)
    parts = [
        rows @ seen
        for rows, seen in zip(np.split(sizes, groups), np.split(reach, groups), strict=True)
    ]
    sums = np.concatenate(parts)
    return int(sums.max()), sums


def _rescaled(op: Rescale, reach: NDArray[Any], place: str) -> tuple[int, NDArray[Any]]:
    _, arrays = settings(op)
    for name, array in arrays.items():
        if array.shape != reach.shape:
            raise CheckpointError(f"{place}: {name} is {array.shape} for {len(reach)} channels")
    if op.shift.min() < 0 or op.shift.max() > _MOST_SHIFT or (op.low > op.high).any():
        raise CheckpointError(f"{place}: shifts must be 0 to {_MOST_SHIFT}, low at most high")
    multiplier, offset = op.multiplier.astype(object), op.offset.astype(object)
    largest = int((reach * np.abs(multiplier) + np.abs(offset)).max())
    ends = np.maximum(np.abs(op.low.astype(object)), np.abs(op.high.astype(object)))
    return max(largest, int(ends.max())), ends
