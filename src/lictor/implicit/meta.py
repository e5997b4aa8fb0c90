"""The inner loop: a few steps of gradient descent on a latent, and the gradient through them.

Everything here is a function of a decoder that is bound to its points (`ImplicitModel.at`), so it
knows no model. The step on an item does not depend on the items beside it: an item's loss is a mean
over its valid points and channels, and losses are summed over items.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lictor.config import Settings, at_least, one_of, option
from lictor.errors import ConfigError

# From latents to values at points that were chosen before.
Decode = Callable[[Float[Tensor, "b latent"]], Float[Tensor, "b n c"]]


@dataclass(frozen=True)
class InnerLoop(Settings):
    """How a latent is found by descent."""

    steps: int = option(3, at_least(0), may_change=True)
    """Steps of gradient descent."""
    order: str = option("second", one_of("second", "first"))
    """Whether the outer gradient goes through the inner gradients, or takes them as given."""
    checkpoint: bool = option(False, may_change=True)
    """Compute each step again when its gradient is needed: less memory, more time."""


@dataclass(frozen=True)
class Target:
    """What each item of a batch is to look like at the points that are asked.

    Args:
        values: what counts; what does not may be anything but not-a-number.
        weights: of each point in its item's mean, so that those of all points and channels sum to
            1; None where all points count alike.
    """

    values: Float[Tensor, "b n c"]
    weights: Float[Tensor, "b n 1"] | None = None

    @classmethod
    def of(
        cls,
        y: Float[Tensor, "b n c"],
        mask: Bool[Tensor, "b n"] | None = None,
        points: Int[Tensor, " k"] | None = None,
    ) -> "Target":
        """Take the values of a batch, only those at some points if `points` says which.

        Args:
            y: all values; those outside the mask may be anything, not-a-number too.
            mask: where there is a value; everywhere if None.
            points: places in the grid, the same for each item.
        """
        if points is not None:
            y, mask = y[:, points], None if mask is None else mask[:, points]
        if mask is None:
            return cls(y)
        there = mask[..., None]
        # An item without any valid point has weights of 0, so nothing to learn.
        count = there.sum(1, keepdim=True).clamp(min=1) * y.shape[-1]
        return cls(torch.where(there, y, 0.0), there.to(y.dtype) / count)

    def distortion(self, y_hat: Float[Tensor, "b n c"]) -> Float[Tensor, " b"]:
        """Return the mean squared error of each item over its valid points and channels."""
        squared = (y_hat - self.values).square()
        if self.weights is None:
            return squared.mean((1, 2))
        return (self.weights * squared).sum((1, 2))


def draw_points(n: int, count: int, generator: torch.Generator) -> Int[Tensor, " k"] | None:
    """Draw which points of a grid a step looks at: `count` different ones, in order.

    None means all of them: there are not more. The generator's device is that of the points.
    Raises `ConfigError` if there is nothing to draw.
    """
    if count < 1:
        raise ConfigError(f"{count} points of a grid: draw at least one")
    if count >= n:
        return None
    return torch.randperm(n, generator=generator, device=generator.device)[:count].sort().values


class Rates(nn.Module):
    """How far a latent moves along its gradient: a number from 0 to 1 for each of its entries.

    Args:
        latent: entries of a latent.
        rate: what all begin with.
        learned: whether they are parameters (Meta-SGD); fixed otherwise.

    Source: COIN++ (arXiv:2201.12904) has one fixed rate; functa (arXiv:2201.12204) in its official
    code learns one for each entry and clips it to [0, 1].
    """

    def __init__(self, latent: int, rate: float, learned: bool):
        super().__init__()
        rates = torch.full((latent,), rate)
        if learned:
            self.rates = nn.Parameter(rates)
        else:
            self.register_buffer("rates", rates)

    def forward(self) -> Float[Tensor, " latent"]:
        """Return the rates, clipped."""
        return self.rates.clamp(0, 1)


def fit(
    decode: Decode,
    target: Target,
    start: Float[Tensor, "b latent"],
    rates: Float[Tensor, " latent"] | float,
    loop: InnerLoop,
) -> Float[Tensor, "b latent"]:
    """Return latents after some steps of gradient descent on the distortion.

    z <- z - rates * dl/dz. The result carries gradients with respect to whatever `decode`, `start`
    and `rates` are made of, where gradients are on. Of order "first" the inner gradients are
    constants to them; "second" is exact.

    Args:
        decode: bound to the points of `target`.
        target: the signals.
        start: where the descent begins.
        rates: for each entry of a latent, or one for all.
        loop: how many steps, and how they are differentiated.

    Source: COIN++ (arXiv:2201.12904), section on meta-learning, after CAVIA and MAML; Meta-SGD
    (arXiv:1707.09835) for learned rates.
    """
    exact = loop.order == "second" and torch.is_grad_enabled()

    def step(z: Tensor) -> Tensor:
        return z - rates * _gradient(decode, target, z, exact)

    z = start
    for _ in range(loop.steps):
        # `torch.func.grad` does not work inside of a checkpoint; `torch.autograd.grad` does.
        z = checkpoint(step, z, use_reentrant=False) if loop.checkpoint and exact else step(z)
    return z


def _gradient(decode: Decode, target: Target, z: Tensor, exact: bool) -> Tensor:
    """Return the gradient of the summed distortion; it has a graph of its own if it is `exact`."""
    with torch.enable_grad():
        at = z if exact and z.requires_grad else z.detach().requires_grad_()
        total = target.distortion(decode(at)).sum()
        (gradient,) = torch.autograd.grad(total, at, create_graph=exact)
    return gradient
