"""The two grids of integers that stand for weights and for activations, as pure functions.

Weights lie on a symmetric grid, one scale per output channel; activations on one asymmetric grid
per tensor, with a code for exactly zero. Rounding is to nearest, halves to even (Krishnamoorthi
2018, arXiv:1806.08342, section 2; which we know from general knowledge).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lictor.errors import ConfigError
from lictor.layers.checkerboard import CheckerboardConv

MIN_BITS, MAX_BITS = 2, 16
_LEAST_STEP = 1e-30
Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear | CheckerboardConv
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, CheckerboardConv)


def check_bits(bits: int) -> int:
    """Return `bits`; raises `ConfigError` unless it is from 2 to 16."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ConfigError(f"quantization takes {MIN_BITS} to {MAX_BITS} bits, not {bits}")
    return bits


def output_axis(layer: nn.Module) -> int:
    """Return the axis of a layer's weight that counts output channels.

    PyTorch keeps it first, but second for a transposed convolution. Raises `ConfigError` for a
    transposed convolution in groups, whose second axis counts only the channels of one group.
    """
    if not isinstance(layer, nn.ConvTranspose2d):
        return 0
    if layer.groups != 1:
        raise ConfigError("a transposed convolution in groups cannot be quantized")
    return 1


def along(values: Float[Tensor, " c"], axis: int, dims: int) -> Float[Tensor, "..."]:
    """Shape a vector so that it broadcasts along one axis of a tensor of so many dimensions."""
    return values.view([-1 if i == axis else 1 for i in range(dims)])


def weight_scales(weight: Float[Tensor, "..."], bits: int, axis: int) -> Float[Tensor, " c"]:
    """Return the grid's step for each channel of `axis`: its largest weight over `2^(bits-1) - 1`.

    A channel of zeros gets the step 1.
    """
    largest = weight.detach().abs().amax([i for i in range(weight.dim()) if i != axis])
    scales = largest / (2 ** (check_bits(bits) - 1) - 1)
    return torch.where(scales > _LEAST_STEP, scales, torch.ones_like(scales))


def weight_codes(
    weight: Float[Tensor, "..."], scales: Float[Tensor, " c"], bits: int, axis: int
) -> Float[Tensor, "..."]:
    """Return the integers, as floats from `-2^(bits-1)` to `2^(bits-1) - 1`, nearest to weights."""
    half = 2 ** (check_bits(bits) - 1)
    return (weight / along(scales, axis, weight.dim())).round().clamp(-half, half - 1)


def fake_quantize_weight(
    weight: Float[Tensor, "..."], bits: int, axis: int
) -> Float[Tensor, "..."]:
    """Return the weights rounded to the grids of their channels."""
    scales = weight_scales(weight, bits, axis)
    return weight_codes(weight, scales, bits, axis) * along(scales, axis, weight.dim())


@dataclass(frozen=True)
class ActivationGrid:
    """Codes 0 to `2^bits - 1`; code `q` stands for the value `(q - zero) * scale`.

    Raises `ConfigError` for bits outside 2..16, a step that is not positive, or a zero point that
    is no code.
    """

    bits: int
    scale: float
    zero: int

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if not 0 < self.scale < float("inf") or not 0 <= self.zero <= self.top:
            raise ConfigError(
                f"a grid of {self.bits} bits cannot have the step {self.scale} and zero at "
                f"{self.zero}"
            )

    @classmethod
    def from_range(cls, low: float, high: float, bits: int) -> "ActivationGrid":
        """Return the grid that covers `low` to `high` and 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        top = 2 ** check_bits(bits) - 1
        scale = (high - low) / top
        if scale < _LEAST_STEP:  # nothing but zeros; float32 could not hold the step
            scale = 1.0
        return cls(bits, scale, min(max(round(-low / scale), 0), top))

    @property
    def top(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def fake_quantize(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the values rounded to the grid."""
        return integers(x, x.new_tensor(self.scale), self.bits, self.zero) * self.scale


def integers(
    x: Float[Tensor, "*shape"],
    steps: Float[Tensor, "..."],
    bits: int,
    zero: int,
    copies: Float[Tensor, "..."] | int = 1,
) -> Float[Tensor, "*shape"]:
    """Return `q - zero` of the code nearest to each value, as floats: 0 stands for 0.

    A value in so many `copies` is the sum of as many codes, and reaches as many times as far.
    """
    low, high = code_range(bits, zero)
    codes = torch.div(x, steps).round_()
    if isinstance(copies, int):
        return codes.clamp_(low * copies, high * copies)
    return torch.minimum(torch.maximum(codes, low * copies), high * copies)


def code_range(bits: int, zero: int) -> tuple[int, int]:
    """Return the least and the largest `q - zero`."""
    return -zero, 2**bits - 1 - zero
