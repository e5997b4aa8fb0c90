"""A second decoder of the latents: slow, short, NumPy's 64-bit integers alone.

It shares nothing with the fast one but the lists of operations and the reader of the stream, and
must find the same symbols. Whoever writes a decoder in another language may follow it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lictor.coding.path import Concatenate, Get, Join, Path, Run, Slice, Split
from lictor.coding.program import (
    FRACTION_BITS,
    REACH,
    SLOPE_BITS,
    Convolve,
    Deconvolve,
    HalfConvolve,
    Integers,
    Leaky,
    Lookup,
    Op,
    Rescale,
)
from lictor.coding.stream import SymbolDecoder
from lictor.coding.tables import CdfTables
from lictor.errors import CheckpointError


def run_op(op: Op, x: Integers) -> Integers:
    """Return what an operation makes of a value `c h w`."""
    match op:
        case Convolve():
            return _convolve(x, op.weight, op.stride, op.padding, op.groups)
        case Deconvolve():
            return _deconvolve(x, op)
        case HalfConvolve():
            side = op.weight.shape[-1]
            whole = _convolve(join(x, np.zeros_like(x)), op.weight, 1, side // 2, 1)
            return split(whole)[1]
        case Rescale():
            moved = (x * _column(op.multiplier) + _column(op.offset)) >> _column(op.shift)
            return np.clip(moved, _column(op.low), _column(op.high))
        case Leaky():
            return np.maximum(x, (x * op.slope + (1 << (SLOPE_BITS - 1))) >> SLOPE_BITS)
        case Lookup():
            return op.table[np.clip(x - op.first, 0, len(op.table) - 1)]


def run_network(ops: tuple[Op, ...], x: Integers) -> Integers:
    """Return what a chain of operations makes of a value, which is clamped first."""
    x = np.clip(x, -REACH, REACH)
    for op in ops:
        x = run_op(op, x)
    return x


def _column(values: Integers) -> Integers:
    return values[:, None, None]


def _convolve(x: Integers, weight: Integers, stride: int, padding: int, groups: int) -> Integers:
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    side = weight.shape[-1]
    height, width = ((n - side) // stride + 1 for n in x.shape[1:])
    parts = []
    for inputs, kernel in zip(np.split(x, groups), np.split(weight, groups), strict=True):
        out = np.zeros((len(kernel), height, width), np.int64)
        for i in range(side):
            for j in range(side):
                seen = inputs[:, i : i + stride * height : stride, j : j + stride * width : stride]
                seen = seen[:, :height, :width]
                out += np.einsum("dc,chw->dhw", kernel[:, :, i, j], seen)
        parts.append(out)
    return np.concatenate(parts)


def _deconvolve(x: Integers, op: Deconvolve) -> Integers:
    side = op.weight.shape[-1]
    sides = [op.stride * (n - 1) + side for n in x.shape[1:]]
    room = op.padding + op.extra
    out = np.zeros((op.weight.shape[1], sides[0] + room, sides[1] + room), np.int64)
    height, width = x.shape[1:]
    for i in range(side):
        for j in range(side):
            rows = slice(i, i + op.stride * height, op.stride)
            columns = slice(j, j + op.stride * width, op.stride)
            out[:, rows, columns] += np.einsum("cd,chw->dhw", op.weight[:, :, i, j], x)
    top = op.padding
    wanted = [n - 2 * op.padding + op.extra for n in sides]
    return out[:, top : top + wanted[0], top : top + wanted[1]]


def split(x: Integers) -> tuple[Integers, Integers]:
    """Return the even and the odd half of a checkerboard; both sides are even."""
    even, odd = np.empty((2, *x.shape[:2], x.shape[2] // 2), x.dtype)
    even[:, 0::2], even[:, 1::2] = x[:, 0::2, 0::2], x[:, 1::2, 1::2]
    odd[:, 0::2], odd[:, 1::2] = x[:, 0::2, 1::2], x[:, 1::2, 0::2]
    return even, odd


def join(even: Integers, odd: Integers) -> Integers:
    """Undo `split`."""
    channels, height, width = even.shape
    x = np.empty((channels, height, 2 * width), even.dtype)
    x[:, 0::2, 0::2], x[:, 1::2, 1::2] = even[:, 0::2], even[:, 1::2]
    x[:, 0::2, 1::2], x[:, 1::2, 0::2] = odd[:, 0::2], odd[:, 1::2]
    return x


def _get(
    step: Get, inputs: list[Integers], tables: CdfTables, decoder: SymbolDecoder, sides: list[int]
) -> Integers:
    shape = (step.channels, sides[0] // step.strides[0], sides[1] // step.strides[1])
    if inputs:
        if tables.thresholds is None or inputs[-1].shape != shape:
            raise CheckpointError(f"scales of {step.latent} do not fit: {inputs[-1].shape}")
        rows = np.searchsorted(tables.thresholds, inputs[-1], side="left").astype(np.int32)
    else:
        rows = np.broadcast_to(np.arange(step.channels, dtype=np.int32)[:, None, None], shape)
    symbols = decoder.get(rows, tables).astype(np.int64)
    value = symbols << FRACTION_BITS
    if len(inputs) == 2:
        value = value + inputs[0]
    return value if step.means is None else value + _column(step.means)


def decode_latents(
    path: Path, tables: Mapping[str, CdfTables], payload: bytes, height: int, width: int
) -> tuple[dict[str, Integers], int]:
    """Read a payload along a path.

    Args:
        path: of the codec.
        tables: of each latent.
        payload: a stream of symbols.
        height: of the padded picture, a multiple of all strides.
        width: likewise.

    Returns the latents in units of 2^-10, `c h w`, and the checksum of all symbols. Raises a
    `BitstreamError` when the payload is damaged, `CheckpointError` when the codec is.
    """
    decoder, values = SymbolDecoder(payload), list[Integers]()
    for step in path.steps:
        inputs = [values[i] for i in step.inputs]
        match step:
            case Get():
                table = tables[step.latent]
                values.append(_get(step, inputs, table, decoder, [height, width]))
            case Run():
                values.append(run_network(tuple(path.networks[step.network]), inputs[0]))
            case Split():
                values.extend(split(inputs[0]))
            case Join():
                values.append(join(inputs[0], inputs[1]))
            case Concatenate():
                values.append(np.concatenate(inputs))
            case Slice():
                values.append(inputs[0][step.start : step.stop])
    decoder.finish()
    return {name: values[number] for name, number in path.results.items()}, decoder.symbol_crc
