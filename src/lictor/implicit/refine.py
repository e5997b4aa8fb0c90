"""More effort for a latent: descent on rate and distortion of what the decoder will get."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lictor.config import POSITIVE, Settings, at_least, option
from lictor.implicit.meta import Decode, Target

# Bits of each item, from its symbols as real numbers; differentiable.
Rate = Callable[[Float[Tensor, "b latent"]], Float[Tensor, " b"]]


@dataclass(frozen=True)
class Effort(Settings):
    """How much an encoder does for a latent."""

    steps: int = option(0, at_least(0))
    """Steps of Adam."""
    learning_rate: float = option(0.1, POSITIVE)
    """In steps of the quantizer: how far a latent can move at once."""


@dataclass(frozen=True)
class Quantizer:
    """Symbols are round((z - means) / steps), of any size.

    Args:
        means: what symbol 0 stands for.
        steps: absolute widths, above 0.
    """

    means: Float[Tensor, " latent"]
    steps: Float[Tensor, " latent"]

    def scaled(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b latent"]:
        """Return what rounding makes symbols of."""
        return (z - self.means) / self.steps

    def restore(self, symbols: Float[Tensor, "b latent"]) -> Float[Tensor, "b latent"]:
        """Return the latents that symbols stand for."""
        return self.means + self.steps * symbols


def refine(
    decode: Decode,
    target: Target,
    z: Float[Tensor, "b latent"],
    quantizer: Quantizer,
    rate: Rate,
    lmbda: float,
    effort: Effort,
) -> Float[Tensor, "b latent"]:
    """Return symbols, as whole floats, whose distortion + lmbda * bits is the best that was met.

    Rounding is stood in for by the identity, so each step judges just what would be coded. What
    plain rounding of `z` gives is the first to be judged: an item never gets worse.

    Args:
        decode: bound to the points of `target`.
        target: the signals.
        z: latents to begin with, not quantized.
        quantizer: of the quality that is asked for.
        rate: bits of each item from its symbols.
        lmbda: what a bit is worth, in mean squared error.
        effort: how many steps, and how long they are.
    """
    scaled = quantizer.scaled(z.detach())
    best, least = scaled.round(), torch.full_like(scaled[:, 0], torch.inf)
    with torch.enable_grad():
        place = scaled.clone().requires_grad_()
        adam = torch.optim.Adam([place], lr=effort.learning_rate)
        for step in range(effort.steps + 1):
            symbols = place.detach().round() + (place - place.detach())
            cost = target.distortion(decode(quantizer.restore(symbols))) + lmbda * rate(symbols)
            better = cost.detach() < least
            least = torch.where(better, cost.detach(), least)
            best = torch.where(better[:, None], place.detach().round(), best)
            if step < effort.steps:
                # Not `backward`: the network's own gradients are left alone.
                (place.grad,) = torch.autograd.grad(cost.sum(), place)
                adam.step()
    return best
