"""From entropy networks to integer operations: weights on a grid, steps and slopes in fixed point.

A float layer gets weights of 14 bits, on a grid of a power of two in each output channel, so that
going back to multiples of 2^-10 is a shift. A `QuantizedLayer` keeps its codes; its steps and
scales become multipliers. Nothing is calibrated: between layers values keep ten bits after the
point, and are clamped far beyond what a network that works gives.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lictor.coding.path_file import Source
from lictor.coding.program import (
    FRACTION_BITS,
    REACH,
    SLOPE_BITS,
    Convolve,
    Deconvolve,
    HalfConvolve,
    Integers,
    Leaky,
    Margin,
    Op,
    Rescale,
)
from lictor.errors import LictorError
from lictor.layers.checkerboard import CheckerboardConv
from lictor.layers.entropy_network import EntropyNetwork
from lictor.layers.integer_network import IntegerNetwork
from lictor.models.base import AbstractCodecModel
from lictor.ptq.fake_quant import LAYERS, Layer, along, code_range, output_axis
from lictor.ptq.layer import QuantizedLayer, input_channels

_WEIGHT_BITS = 14
# Significant bits of a multiplier, where sums leave room for them: its error is 2^-19 of itself.
_MULTIPLIER_BITS = 18
# What a sum times its multiplier stays below: half of it again is for the bias.
_PRODUCT_BITS = 51
_MOST_SHIFT = 40
_FRACTION = torch.tensor(FRACTION_BITS)


@dataclass(frozen=True)
class Chain:
    """A network of integers: its operations, the channels of its input, where its weights are.

    `sources` are by the number of the operation; their names are those of the model's state.
    """

    ops: Sequence[Op]
    channels: int
    sources: Mapping[int, Source]


def make_exact(model: AbstractCodecModel) -> dict[str, Mapping[int, Source]]:
    """Give each entropy network of a frozen model its evaluation in integers.

    Returns where the weights of each network's operations come from. Raises `LictorError` when a
    network has no exact form: a layer of a kind that is not known here, or sums that cannot be
    proven to stay below 2^52.
    """
    sources = {}
    for name, module in model.named_modules():
        if isinstance(module, EntropyNetwork):
            try:
                chain = lower(module.net, f"{name}.net")
                module.integers = IntegerNetwork(chain.ops, chain.channels)
            except LictorError as error:
                raise type(error)(f"{name}: {error}") from error
            sources[name] = chain.sources
    return sources


def lower(net: nn.Module, name: str = "") -> Chain:
    """Return a network, called by a name, as operations on multiples of 2^-10.

    Raises `LictorError` for a layer that has no form in integers.
    """
    ops, sources, channels = list[Op](), dict[int, Source](), 0
    for place, layer in _flat(net, name):
        inner = layer.layer if isinstance(layer, QuantizedLayer) else layer
        lowered = _lowered(layer)
        if isinstance(inner, LAYERS):
            channels = channels or input_channels(inner)
            prefix = f"{place}.layer" if inner is not layer else place
            at, exponents, bits = lowered.weights
            weight = lowered.ops[at]
            assert isinstance(weight, Convolve | Deconvolve | HalfConvolve)
            sources[len(ops) + at] = Source(
                f"{prefix}.weight", weight.weight.shape, exponents, bits
            )
        ops += lowered.ops
    if not channels:
        raise LictorError("a network without a convolution cannot tell how many channels it takes")
    return Chain(ops, channels, sources)


def _flat(net: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(net, nn.Sequential):
        for child_name, child in net.named_children():
            yield from _flat(child, f"{name}.{child_name}")
    elif not isinstance(net, nn.Identity):
        yield name, net


@dataclass(frozen=True)
class _Lowered:
    """Operations of a layer; `weights` are which has weights, their exponents, their bits."""

    ops: Sequence[Op]
    weights: tuple[int, Integers | None, int | None] = (0, None, None)


def _lowered(layer: nn.Module) -> _Lowered:
    if isinstance(layer, QuantizedLayer):
        return _quantized(layer)
    if isinstance(layer, LAYERS):
        return _float(layer)
    if isinstance(layer, nn.ReLU):
        return _Lowered([Leaky(0)])
    if isinstance(layer, nn.LeakyReLU) and 0 <= layer.negative_slope <= 1:
        return _Lowered([Leaky(round(layer.negative_slope * 2**SLOPE_BITS))])
    raise LictorError(
        f"{type(layer).__name__} has no form in integers; entropy networks are made of "
        "convolutions, transposed convolutions, ReLU and LeakyReLU in nn.Sequential"
    )


def _float(layer: Layer) -> _Lowered:
    """Return a layer with its weights on the finest grid of powers of two that has 14 bits."""
    axis = output_axis(layer)
    weight = layer.weight.detach().double().cpu()
    largest = weight.abs().amax([i for i in range(weight.dim()) if i != axis])
    # 2^exponent * largest is from 2^12 to 2^13; a channel of zeros may have any grid.
    exponents = _WEIGHT_BITS - 1 - torch.frexp(largest).exponent
    exponents = torch.where(largest > 0, exponents, 0).clamp(-_MOST_SHIFT, _MOST_SHIFT)
    integers = torch.ldexp(weight, along(exponents.double(), axis, weight.dim())).round()
    # Beyond 2^13, which no trained weight is, a grid is coarser than 1: shifts cannot be negative.
    multiplier = torch.ldexp(torch.ones_like(largest), (-exponents).clamp_min(0))
    bias = torch.zeros_like(largest) if layer.bias is None else layer.bias.detach().double().cpu()
    rescale = _to_units(multiplier, bias, exponents.clamp_min(0))
    ops = [_sums(layer, _integers(integers)), rescale]
    return _Lowered(ops, (0, _integers(exponents), None))


def _quantized(layer: QuantizedLayer) -> _Lowered:
    """Return a layer of integers: its input's codes, its sums, its scales."""
    ops, inner = list[Any](), layer.layer
    assert isinstance(inner, LAYERS)
    if layer.bits.inputs is not None:
        low, high = code_range(layer.bits.inputs, layer.bits.zero)
        copies = _integers(layer.copies)
        inverse = torch.ldexp(layer.steps.double().cpu(), _FRACTION).reciprocal()
        factor, shift = _fixed(inverse, _MULTIPLIER_BITS)
        half = (1 << shift) >> 1
        ops.append(Rescale(factor, half, shift, low * copies, high * copies))
    scales, exponents = layer.scales.double().cpu(), None
    weight = inner.weight.detach().double().cpu()
    if layer.bits.weights is None:  # floats up to 1
        weight = torch.ldexp(weight, torch.tensor(_WEIGHT_BITS - 1)).round()
        scales = torch.ldexp(scales, torch.tensor(1 - _WEIGHT_BITS))
        exponents = np.full(len(scales), _WEIGHT_BITS - 1, np.int64)
    # Without codes of inputs, sums are in units of 2^-10 already.
    coded = layer.bits.inputs is not None
    sums = weight.abs().sum([i for i in range(weight.dim()) if i != layer.axis]).max()
    reach = float(np.abs([ops[0].low, ops[0].high]).max()) if coded else float(REACH)
    room = _PRODUCT_BITS - math.ceil(math.log2(max(float(sums) * reach, 1)))
    bits = min(_MULTIPLIER_BITS, max(room, 1))
    factor, shift = _fixed(torch.ldexp(scales, _FRACTION) if coded else scales, bits)
    bias = layer.bias.detach().double().cpu()
    rescale = _to_units(torch.from_numpy(factor).double(), bias, torch.from_numpy(shift))
    place = len(ops)
    ops += [_sums(inner, _integers(weight)), rescale]
    return _Lowered(ops, (place, exponents, layer.bits.weights))


def _sums(layer: Layer, weight: Integers) -> Op:
    """Return a layer's sums of products; its settings must be what operations have."""
    if isinstance(layer, CheckerboardConv):
        return HalfConvolve(weight)
    if isinstance(layer, nn.Linear):
        return Convolve(weight[:, :, None, None])
    stride, padding = _one(layer.stride, "stride"), _one(layer.padding, "padding")
    if _one(layer.dilation, "dilation") != 1 or layer.padding_mode != "zeros":
        raise LictorError("dilated convolutions and padding that is not zero have no integer form")
    _one(layer.kernel_size, "kernel_size")
    if isinstance(layer, nn.ConvTranspose2d):
        return Deconvolve(weight, stride, padding, _one(layer.output_padding, "output_padding"))
    return Convolve(weight, stride, padding, layer.groups)


def _one(pair: object, what: str) -> int:
    """Return the number that both axes have."""
    if not isinstance(pair, tuple) or len(set(pair)) != 1:
        raise LictorError(f"a convolution with {what} {pair} has no integer form")
    return int(pair[0])


def _to_units(multiplier: Float[Tensor, " c"], bias: Float[Tensor, " c"], shift: Tensor) -> Rescale:
    """Return what takes sums to multiples of 2^-10 and adds the bias, to the nearest."""
    shifts = _integers(shift)
    fixed = torch.ldexp(bias, torch.from_numpy(shifts) + FRACTION_BITS)
    if not bool((fixed.abs() < 2.0**51).all()):
        raise LictorError(f"a bias of {float(bias.abs().max()):g} is too large for integers")
    offset = _integers(fixed.round()) + ((1 << shifts) >> 1)
    reach = np.full_like(shifts, REACH)
    return Rescale(_integers(multiplier), offset, shifts, -reach, reach)


def _fixed(factors: Float[Tensor, " c"], bits: int) -> tuple[Integers, Integers]:
    """Return multipliers of so many bits, and shifts, whose ratios are positive factors."""
    if not bool((torch.isfinite(factors) & (factors > 0)).all()):
        raise LictorError("a step or a scale is not positive and finite")
    shifts = (bits - torch.frexp(factors).exponent).clamp(0, _MOST_SHIFT)
    return _integers(torch.ldexp(factors, shifts).round()), _integers(shifts)


def _integers(values: Tensor) -> Integers:
    return values.cpu().numpy().astype(np.int64)


def margins(model: AbstractCodecModel) -> dict[str, Sequence[Margin]]:
    """Return how large the sums of each exact network can become, by the network's name."""
    return {
        name: module.integers.margins
        for name, module in model.named_modules()
        if isinstance(module, EntropyNetwork) and module.integers is not None
    }
