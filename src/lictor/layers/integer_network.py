"""Chains of integer operations, computed in floating point that is exact, on any device.

Integers below 2^52 are float64 numbers, and so are their sums and products in whatever order: a
matrix product gives the same with any number of threads, any blocking, fused or not. `check` of
`coding.program` proves that nothing larger comes about. Sums that stay below 2^24 are computed in
float32, which is faster. What is rounded after each convolution is only for algorithms that go
through fractions (transforms of small kernels, as some GPU libraries have): their error is far
below a half at these sizes, and rounding takes it away.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lictor.coding.program import (
    EXACT32,
    FRACTION_BITS,
    REACH,
    SLOPE_BITS,
    Convolve,
    Deconvolve,
    HalfConvolve,
    Integers,
    Leaky,
    Lookup,
    Margin,
    Op,
    Rescale,
    check,
)
from lictor.layers.checkerboard import half_convolution, packed_kernels

_ONE = 2.0**FRACTION_BITS
Step = Callable[[Tensor], Tensor]


class IntegerNetwork:
    """A network of integer operations, from multiples of 2^-10 to multiples of 2^-10.

    Args:
        ops: the chain.
        channels: of the input.

    Raises:
        LictorError: the chain is not exact for every input.
        CheckpointError: operations do not fit each other.
    """

    def __init__(self, ops: Sequence[Op], channels: int):
        self.ops, self.channels = tuple(ops), channels
        self.margins: Sequence[Margin] = check(ops, channels)
        self._steps = [_step(op, margin) for op, margin in zip(ops, self.margins, strict=True)]

    @torch.no_grad()
    def __call__(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hd wd"]:
        """Map features to parameters, float32; what is beyond 8192 counts as 8192."""
        with torch.autocast(features.device.type, enabled=False):
            x = (features.double() * _ONE).round_().clamp_(-REACH, REACH)
            x = x.contiguous(memory_format=torch.channels_last)
            for step in self._steps:
                x = step(x)
            return x.mul_(1 / _ONE).float()


def _step(op: Op, margin: Margin) -> Step:
    """Return an operation as a function of a float64 tensor that it may write to."""
    dtype = torch.float32 if margin.largest < EXACT32 else torch.float64
    match op:
        case Convolve():
            return _Convolution(op, dtype)
        case Deconvolve():
            return _Deconvolution(op, dtype)
        case HalfConvolve():
            return _HalfConvolution(op, dtype)
        case Rescale():
            return _Rescaling(op)
        case Leaky():
            slope = op.slope / 2**SLOPE_BITS  # a float64 number, as its products are
            return lambda x: torch.maximum(x, (x * slope).add_(0.5).floor_())
        case Lookup():
            return _Table(op)


def _weights(weight: Integers, dtype: torch.dtype) -> Tensor:
    found = torch.from_numpy(weight.astype("float64")).to(dtype)
    return found.contiguous(memory_format=torch.channels_last)


class _Convolution:
    def __init__(self, op: Convolve, dtype: torch.dtype):
        self._weight = _weights(op.weight, dtype)
        self._settings = (op.stride, op.padding, 1, op.groups)

    def __call__(self, x: Tensor) -> Tensor:
        weight = self._weight.to(x.device)
        return F.conv2d(x.to(weight.dtype), weight, None, *self._settings).double().round_()


class _HalfConvolution:
    def __init__(self, op: HalfConvolve, dtype: torch.dtype):
        self._kernels = [
            kernel.contiguous(memory_format=torch.channels_last)
            for kernel in packed_kernels(_weights(op.weight, dtype))
        ]

    def __call__(self, x: Tensor) -> Tensor:
        kernels = [kernel.to(x.device) for kernel in self._kernels]
        return half_convolution(x.to(kernels[0].dtype), kernels, None).double().round_()


class _Deconvolution:
    """One convolution for each of the `stride^2` phases of the result.

    PyTorch's own, in float64, takes three times as long: it adds up a matrix of all products.
    """

    def __init__(self, op: Deconvolve, dtype: torch.dtype):
        self._op, self._side = op, op.weight.shape[-1]
        weight = torch.from_numpy(op.weight.astype("float64")).to(dtype)
        self._phases = [
            (row, column, _flipped(weight[:, :, row :: op.stride, column :: op.stride]))
            for row in range(min(op.stride, self._side))
            for column in range(min(op.stride, self._side))
        ]

    def __call__(self, x: Tensor) -> Tensor:
        op, (batch, _, *sides) = self._op, x.shape
        wanted = [op.stride * (n - 1) + self._side - 2 * op.padding + op.extra for n in sides]
        out = x.new_zeros((batch, op.weight.shape[1], *wanted))
        for row, column, kernel in self._phases:
            kernel = kernel.to(x.device)
            pads, places = [], []
            for axis, phase in ((0, row), (1, column)):
                first, pad = self._reach(phase, wanted[axis], sides[axis], kernel.shape[2 + axis])
                places.append(slice(first, None, op.stride))
                pads = [*pad, *pads]  # the last axis comes first
            if 0 in out[:, :, places[0], places[1]].shape:
                continue
            found = F.conv2d(F.pad(x.to(kernel.dtype), pads), kernel)
            out[:, :, places[0], places[1]] = found
        return out.round_()

    def _reach(self, phase: int, length: int, side: int, taps: int) -> tuple[int, tuple[int, int]]:
        """Return where a phase begins in a result, and how its input is padded, or cut if below 0.

        Element `stride m + phase - padding` of the result has taps on inputs `m - taps + 1` to `m`.
        """
        stride, padding = self._op.stride, self._op.padding
        begin = -((phase - padding) // stride)  # the least m whose element is there
        first = stride * begin + phase - padding
        end = begin + (length - 1 - first) // stride
        return first, (taps - 1 - begin, end - side + 1)


def _flipped(weight: Tensor) -> Tensor:
    """Return a transposed convolution's weights as those of a convolution."""
    turned = weight.flip(2, 3).transpose(0, 1)
    return turned.contiguous(memory_format=torch.channels_last)


class _Rescaling:
    def __init__(self, op: Rescale):
        def row(values: Integers) -> Tensor:
            return torch.from_numpy(values.astype("float64")).view(1, -1, 1, 1)

        self._multiplier = None if (op.multiplier == 1).all() else row(op.multiplier)
        self._offset, self._low, self._high = row(op.offset), row(op.low), row(op.high)
        self._unit = torch.ldexp(torch.ones((), dtype=torch.float64), -row(op.shift))

    def __call__(self, x: Tensor) -> Tensor:
        if self._multiplier is not None:
            x = x.mul_(self._multiplier.to(x.device))
        x = x.add_(self._offset.to(x.device)).mul_(self._unit.to(x.device)).floor_()
        return torch.clamp(x, self._low.to(x.device), self._high.to(x.device))


class _Table:
    def __init__(self, op: Lookup):
        self._table = torch.from_numpy(op.table.astype("float64"))
        self._first, self._last = op.first, op.first + len(op.table) - 1

    def __call__(self, x: Tensor) -> Tensor:
        places = x.clamp(self._first, self._last).sub_(self._first).long()
        return self._table.to(x.device)[places]
