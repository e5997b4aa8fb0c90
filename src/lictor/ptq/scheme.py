"""What to quantize: bits of weights and of activations, and in which part of a codec."""

import re
from dataclasses import dataclass

from torch import nn

from lictor.config import nearest
from lictor.errors import ConfigError
from lictor.models.base import AbstractCodecModel
from lictor.ptq.fake_quant import LAYERS, Layer, check_bits

ALL = "all"
ENTROPY = "entropy"
SCOPES = {
    "g_a": "the analysis transform: the encoder's alone",
    "g_s": "the synthesis transform",
    ENTROPY: "all other networks: h_a, h_s, context and parameter networks",
    ALL: "all three",
}
_SCHEME = re.compile(r"^(?:W(\d+))?(?:A(\d+))?$", re.IGNORECASE)


@dataclass(frozen=True)
class Scheme:
    """Bits of weights and of activations, 2 to 16 or None for float, and a key of `SCOPES`.

    Raises `ConfigError` for other bits or another scope, and when nothing is quantized.
    """

    weights: int | None = 8
    activations: int | None = 8
    scope: str = ALL

    def __post_init__(self) -> None:
        for bits in (self.weights, self.activations):
            if bits is not None:
                check_bits(bits)
        if self.weights is None and self.activations is None:
            raise ConfigError("neither weights nor activations have bits: nothing to quantize")
        if self.scope not in SCOPES:
            raise ConfigError(f"unknown scope {self.scope!r}: {nearest(self.scope, list(SCOPES))}")

    @property
    def label(self) -> str:
        """The bits as text, such as W8A8, W4 (activations stay float) or A8."""
        weights = "" if self.weights is None else f"W{self.weights}"
        return weights + ("" if self.activations is None else f"A{self.activations}")


def parse_scheme(text: str, scope: str = ALL) -> Scheme:
    """Return what a text such as W8A8, W4 or A6 means; raises `ConfigError` when it means none."""
    match = _SCHEME.match(text.strip())
    if match is None or not text.strip():
        raise ConfigError(f"{text!r} is no scheme: write W8A8, W8 (weights alone) or A8")
    weights, activations = (None if group is None else int(group) for group in match.groups())
    return Scheme(weights, activations, scope)


def scope_of(layer: str) -> str:
    """Return which scope a layer belongs to, by its name in the model."""
    part = layer.split(".")[0]
    return part if part in ("g_a", "g_s") else ENTROPY


def layers_of(model: AbstractCodecModel, scope: str = ALL) -> dict[str, Layer]:
    """Return the layers of a scope that quantization applies to, by name.

    These are all convolutions, transposed convolutions and linear layers. The rest stays in
    floating point: the normalization inside of GDN, activation functions, sums of branches, the
    densities and their tables, and rounding the latents.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LAYERS) and scope in (ALL, scope_of(name))
    }


def replace_layer(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put another module in a model, at a name such as `g_a.body.1`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
