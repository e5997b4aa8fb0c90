"""COIN: a small network of sines for one item, whose weights are what is sent.

Many items are fitted at once, each by its own network: all begin with the same weights, and no item
knows of the others.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lictor.config import POSITIVE, Settings, at_least, between, option
from lictor.implicit.meta import Target
from lictor.implicit.siren import Siren

# The weights of a network for each item, by their names: "b *shape".
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class CoinSettings(Settings):
    """The network of an item; the paper has 5 x 20 for 0.07 bpp of a photograph of Kodak."""

    width: int = option(20, between(1, 4096))
    """Of each layer of sines."""
    layers: int = option(6, at_least(2))
    """The linear output layer included, which the paper's own count leaves out."""
    w0: float = option(30.0, POSITIVE)
    """Frequency of the sines."""


@dataclass(frozen=True)
class CoinFit(Settings):
    """How the networks are fitted: Adam over all points."""

    steps: int = option(50_000, at_least(0))
    """Steps of Adam; the paper's number."""
    learning_rate: float = option(2e-4, POSITIVE)
    """The paper's."""
    seed: int = option(0, at_least(0))
    """Of the weights that all items begin with."""


def coin_network(settings: CoinSettings, in_features: int, channels: int) -> Siren:
    """Build the network of one item; it adds no centre.

    Source: COIN (arXiv:2103.03123) in its official code.
    """
    return Siren(in_features, channels, settings.width, settings.layers, settings.w0, centre=0.0)


def fit_coin(
    items: Float[Tensor, "b n c"],
    points: Float[Tensor, "n d"],
    settings: CoinSettings,
    fit: CoinFit,
    mask: Bool[Tensor, "b n"] | None = None,
) -> Weights:
    """Return weights for each item: the best of the second half of the steps.

    The same seed gives the same weights, and an item's do not depend on the items beside it.

    Args:
        items: about in [0, 1]; those outside the mask may be anything.
        points: where the values are, such as a `pixel_grid`.
        settings: the networks'.
        fit: how long and how fast.
        mask: where there is a value; everywhere if None.

    Source: COIN (arXiv:2103.03123): Adam of rate 2e-4 over the whole item, 50 000 times.
    """
    target = Target.of(items, mask)
    network = _seeded(settings, fit.seed, points.shape[1], items.shape[2]).to(points)
    weights = {
        name: start.detach().expand(len(items), *start.shape).clone().requires_grad_()
        for name, start in network.named_parameters()
    }
    best = {name: weight.detach().clone() for name, weight in weights.items()}
    least = torch.full_like(target.values[:, 0, 0], torch.inf)
    adam = torch.optim.Adam(list(weights.values()), lr=fit.learning_rate)
    with torch.enable_grad():
        for step in range(fit.steps + 1):
            distortion = target.distortion(_decode(weights, points, settings))
            if 2 * step >= fit.steps:
                least = _keep_better(best, least, weights, distortion.detach())
            if step < fit.steps:
                adam.zero_grad()
                distortion.sum().backward()
                adam.step()
    return best


def decode_coin(
    weights: Weights, points: Float[Tensor, "n d"], settings: CoinSettings
) -> Float[Tensor, "b n c"]:
    """Return the values of each item at points that all share, not clamped.

    Args:
        weights: as `fit_coin` returns them.
        points: as they were fitted at.
        settings: the networks'.
    """
    with torch.no_grad():
        return _decode(weights, points, settings)


def _seeded(settings: CoinSettings, seed: int, in_features: int, channels: int) -> Siren:
    """Build a network from a seed, without touching the random numbers of anybody else."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return coin_network(settings, in_features, channels)


def _decode(weights: Weights, points: Tensor, settings: CoinSettings) -> Tensor:
    """Evaluate all networks at once: a layer is one product of stacks of matrices."""
    h = points.expand(len(weights["layers.0.bias"]), -1, -1)
    for i in range(settings.layers - 1):
        weight, bias = weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"]
        h = torch.sin(torch.baddbmm(settings.w0 * bias[:, None], h, settings.w0 * weight.mT))
    last = f"layers.{settings.layers - 1}"
    return torch.baddbmm(weights[f"{last}.bias"][:, None], h, weights[f"{last}.weight"].mT)


def _keep_better(best: Weights, least: Tensor, weights: Weights, distortion: Tensor) -> Tensor:
    """Put the weights of the items that improved into `best`; return the least distortions."""
    better = distortion < least
    for name, weight in weights.items():
        chosen = better.view(-1, *[1] * (weight.dim() - 1))
        best[name] = torch.where(chosen, weight.detach(), best[name])
    return torch.where(better, distortion, least)
