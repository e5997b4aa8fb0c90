"""Choosing how weights round by what it does to the rate-distortion loss.

Rounding each weight to the nearest integer is not what makes the least loss: AdaRound (Nagel et al.
2020, arXiv:2004.10568) chooses up or down by the error of a layer's output; RDO-PTQ (Shi et al.
2022, arXiv:2211.02854) argues for the rate-distortion loss in its place. Both are known to us from
general knowledge, and this is neither: the whole network is optimized at once, by Adam, with
straight-through gradients, integers stay close to their weights, and what costs nothing (steps of
inputs, scales of outputs, biases) moves along.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lictor.errors import ConfigError
from lictor.layers.quantize.catalogue import mixed
from lictor.layers.quantize.noise import Noise
from lictor.layers.quantize.surrogate import Surrogate
from lictor.models.base import AbstractCodecModel, Output
from lictor.ops import round_ste
from lictor.ptq.fake_quant import along, code_range
from lictor.ptq.layer import QuantizedLayer, channel_axis, with_steps
from lictor.ptq.scheme import replace_layer
from lictor.ptq.storage import quantized_layers

Loss = Callable[[Float[Tensor, "b 3 h w"], Output], Float[Tensor, ""]]
_WARMUP = 10
MIXED = mixed()


@dataclass(frozen=True)
class Settings:
    """How to optimize: Adam's rates rise over 10 steps, then fall to zero along a cosine.

    `codes_lr` is in integers a step; `factors_lr` is relative, for steps and scales; `bias_lr` in
    the bias's own unit. A code stays within `reach` of the weight that it stands for, in integers.
    Raises `ConfigError` for numbers that are not positive.
    """

    steps: int = 300
    codes_lr: float = 1e-3
    factors_lr: float = 3e-4
    bias_lr: float = 1e-4
    reach: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.reach < 0.5:
            raise ConfigError("optimizing takes at least 1 step and a reach of at least 0.5")
        if min(self.codes_lr, self.factors_lr, self.bias_lr) < 0:
            raise ConfigError("learning rates must be at least 0")

    def share(self, step: int) -> float:
        """Return the share of its peak that a rate has at a step."""
        return min(1, (step + 1) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class Progress:
    """The loss of one step's crops, before the step, with the surrogate's noise."""

    step: int
    loss: float


class _Learning(nn.Module):
    """A quantized layer whose numbers learn; see `QuantizedLayer` for what they mean."""

    def __init__(self, quantized: QuantizedLayer, weight: Float[Tensor, "..."], reach: float):
        super().__init__()
        self.bits, self.axis, self.reach = quantized.bits, quantized.axis, reach
        self.layer, self.copies = quantized.layer, quantized.copies
        self.start_scales, self.start_steps = quantized.scales, quantized.steps
        if self.start_steps is not None:
            weight = with_steps(weight, self.start_steps, self.axis)
        self.start = weight / along(self.start_scales, self.axis, weight.dim())
        learns = self.bits.weights is not None
        self.codes = nn.Parameter(self.start.clone(), requires_grad=learns)
        self.bias = nn.Parameter(quantized.bias.detach().clone())
        self.log_scales = nn.Parameter(torch.zeros_like(self.start_scales))
        self.log_steps: nn.Parameter | None = None
        if self.start_steps is not None:
            learns = not _is_exact(self.start_steps)
            self.log_steps = nn.Parameter(torch.zeros_like(self.start_steps), learns)

    def weight(self) -> Float[Tensor, "..."]:
        """Return the integers."""
        if self.bits.weights is None:
            return self.codes
        half = 2 ** (self.bits.weights - 1)
        close = self.start + (self.codes - self.start).clamp(-self.reach, self.reach)
        return round_ste(close).clamp(-half, half - 1)

    def scales(self) -> Float[Tensor, " c"]:
        return self.start_scales * self.log_scales.exp()

    def steps(self) -> Float[Tensor, " c"] | None:
        return None if self.log_steps is None else self.start_steps * self.log_steps.exp()

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        axis, steps = channel_axis(self.layer, x), self.steps()
        if steps is not None and self.bits.inputs is not None:
            low, high = code_range(self.bits.inputs, self.bits.zero)
            copies = along(self.copies, axis, x.dim())
            codes = round_ste(x / along(steps, axis, x.dim()))
            x = torch.minimum(torch.maximum(codes, low * copies), high * copies)
        out = torch.func.functional_call(self.layer, {"weight": self.weight()}, (x,))
        out = out * along(self.scales(), axis, out.dim())
        return out + along(self.bias, axis, out.dim())

    @torch.no_grad()
    def write(self, into: QuantizedLayer) -> None:
        """Put what was learned into the layer."""
        into.layer.weight.copy_(self.weight())
        into.scales.copy_(self.scales())
        into.bias.copy_(self.bias)
        steps = self.steps()
        if steps is not None:
            into.steps.copy_(steps)


def _is_exact(steps: Float[Tensor, " c"]) -> bool:
    """Return whether a grid holds its inputs exactly: a picture's, or one of whole numbers."""
    step = float(steps[0])
    whole = step == round(step) or abs(255 * step - 1) < 1e-6
    return whole and bool((steps == steps[0]).all())


def optimize(
    quantized: AbstractCodecModel,
    original: AbstractCodecModel,
    batches: Iterable[Tensor],
    loss: Loss,
    settings: Settings,
    *,
    surrogate: Surrogate = MIXED,
) -> Iterator[Progress]:
    """Improve what `quantize` made of a model, in place, and yield after each step.

    Batches are `b 3 h w` in [0, 1]; both models may be on a device. `loss` is what the model was
    trained for, of a batch and the model's output. The model is whole again when the iterator ends,
    also when it is closed early or the batches run out; in between it must not be used. Raises
    `ConfigError` for a model that is not quantized or is of another kind than `original`, and when
    the loss is not finite.
    """
    layers = quantized_layers(quantized)
    if not layers:
        raise ConfigError("the model is not quantized: there is nothing to round")
    weights = {name: _weight_of(original, name) for name in layers}
    if any(weights[name].dim() != layer.layer.weight.dim() for name, layer in layers.items()):
        raise ConfigError("the model that was quantized is another")
    learning = {
        name: _Learning(layer, weights[name], settings.reach) for name, layer in layers.items()
    }
    for name, learner in learning.items():
        replace_layer(quantized, name, learner)
    optimizer = _optimizer(learning.values(), settings)
    device = next(quantized.parameters()).device
    peaks = [group["lr"] for group in optimizer.param_groups]
    try:
        for step, x in zip(range(settings.steps), batches, strict=False):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * settings.share(step)
            x = x.to(device)
            total = loss(x, quantized(x, surrogate=surrogate, noise=Noise(settings.seed, step)))
            if not total.isfinite():
                raise ConfigError(f"step {step}: the loss is not finite; optimize with lower rates")
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            yield Progress(step, float(total.detach()))
    finally:
        for name, learner in learning.items():
            learner.write(layers[name])
            replace_layer(quantized, name, layers[name])


def _weight_of(model: AbstractCodecModel, name: str) -> Tensor:
    try:
        weight = model.get_submodule(name).weight
    except AttributeError as error:
        raise ConfigError(f"the model that was quantized is another: it has no {name}") from error
    assert isinstance(weight, Tensor)
    return weight.detach()


def _optimizer(learning: Iterable[_Learning], settings: Settings) -> torch.optim.Optimizer:
    codes, factors, biases = list[Tensor](), list[Tensor](), list[Tensor]()
    for learner in learning:
        if learner.codes.requires_grad:
            codes.append(learner.codes)
        factors.append(learner.log_scales)
        if learner.log_steps is not None and learner.log_steps.requires_grad:
            factors.append(learner.log_steps)
        biases.append(learner.bias)
    rates = (settings.codes_lr, settings.factors_lr, settings.bias_lr)
    groups = [
        {"params": params, "lr": lr}
        for params, lr in zip((codes, factors, biases), rates, strict=True)
        if params
    ]
    return torch.optim.Adam(groups, betas=(0.9, 0.99))
