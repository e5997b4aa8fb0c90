"""A convolution or linear layer that computes with integers."""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lictor.errors import ConfigError
from lictor.ptq.fake_quant import (
    MIN_BITS,
    Layer,
    along,
    check_bits,
    integers,
    output_axis,
    weight_codes,
    weight_scales,
)


@dataclass(frozen=True)
class LayerBits:
    """How many bits a layer's weights and inputs have, None for float; `zero` is the code of 0.

    Raises `ConfigError` for bits outside 2..16 and a zero that is no code.
    """

    weights: int | None
    inputs: int | None
    zero: int = 0

    def __post_init__(self) -> None:
        for count in (self.weights, self.inputs):
            if count is not None:
                check_bits(count)
        if not 0 <= self.zero < 2 ** (self.inputs or 0):
            raise ConfigError(f"inputs of {self.inputs} bits have no code {self.zero} for 0")


class QuantizedLayer(nn.Module):
    """Computes `layer(integers of the input) * scales + bias`.

    The integer of an input is the nearest to `input / steps`, `steps` being one number for each
    input channel (equal ones make one grid of the tensor). Where `copies` is above 1, the channel
    enters the layer so many times, and its integer is the sum of as many codes: that channel has a
    finer step at the same range, for the price of another channel (outlier channel splitting, Zhao
    et al. 2019, arXiv:1901.09504, which we know from general knowledge). `layer.weight` holds
    integers, as floats, or floats up to 1 if the weights have no bits; the steps are multiplied
    into them before they are rounded. `scales` is one number for each output channel.

    Sums of integers are exact in float64 below 2^53, which 16 by 16 bits do not reach in any
    layer of fewer than 2^22 taps, those of copies counted. An `EntropyNetwork` of such layers gives
    the same bits on every machine: nothing in it depends on the order of a sum.
    """

    def __init__(
        self,
        layer: Layer,
        bits: LayerBits,
        steps: Float[Tensor, " c"] | None = None,
        copies: Float[Tensor, " c"] | None = None,
    ):
        super().__init__()
        self.bits, self.axis = bits, output_axis(layer)
        self.layer = copy.deepcopy(layer).requires_grad_(False)
        weight = self.layer.weight
        bias = weight.new_zeros(weight.shape[self.axis]) if layer.bias is None else layer.bias
        self.layer.register_parameter("bias", None)
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.steps: Tensor
        self.register_buffer("steps", steps if steps is None else steps.to(weight.dtype))
        self.copies: Tensor
        if steps is not None and copies is None:
            copies = torch.ones_like(steps)
        self.register_buffer("copies", copies if copies is None else copies.to(weight.dtype))
        self.scales: Tensor
        self.register_buffer("scales", torch.ones_like(bias).detach())
        with torch.no_grad():
            if steps is not None:
                weight.copy_(with_steps(weight, self.steps, self.axis))
            if bits.weights is not None:
                self.scales.copy_(weight_scales(weight, bits.weights, self.axis))
                weight.copy_(weight_codes(weight, self.scales, bits.weights, self.axis))
            elif steps is not None:
                # Steps make weights so small that 16-bit floats would lose them; a power of two
                # takes nothing away.
                exponents = torch.frexp(weight_scales(weight, MIN_BITS, self.axis)).exponent
                self.scales.copy_(torch.ldexp(self.scales, exponents))
                weight.div_(along(self.scales, self.axis, weight.dim()))

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Map features as the layer would; the dtype stays."""
        axis = channel_axis(self.layer, x)
        if self.bits.inputs is not None:
            steps, copies = (along(t, axis, x.dim()) for t in (self.steps, self.copies))
            x = integers(x, steps, self.bits.inputs, self.bits.zero, copies)
        out = self.layer(x)
        # Two operations, never a fused one: machines differ in whether and how they fuse.
        out = out * along(self.scales, axis, out.dim())
        return out + along(self.bias, axis, out.dim())


def channel_axis(layer: nn.Module, x: Float[Tensor, "..."]) -> int:
    """Return the axis of a layer's input or output that counts channels."""
    return x.dim() - 1 if isinstance(layer, nn.Linear) else 1


def with_steps(
    weight: Float[Tensor, "..."], steps: Float[Tensor, " c"], axis: int
) -> Float[Tensor, "..."]:
    """Return weights for inputs that were divided by steps; `axis` counts output channels.

    In a convolution in groups, a weight belongs to several input channels; their steps must then
    be equal.
    """
    if weight.shape[1 - axis] != len(steps):
        steps = steps[: weight.shape[1 - axis]]
    return weight * along(steps, 1 - axis, weight.dim())


def input_channels(layer: Layer) -> int:
    """Return how many channels a layer takes."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
