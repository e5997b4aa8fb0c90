"""Rate-distortion optimised quantization: the integers that cost least, bits and error together.

A decoder takes any integers. The nearest ones make the latent's error least, not the cost: an
integer towards zero is often cheaper by more than it does harm. What an error of one element does
to the picture is its gain, the diagonal of `J^T J` of the synthesis' jacobian.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lictor.coders import Shape, nearest
from lictor.models.base import AbstractCodecModel, Latents
from lictor.ops import crop
from lictor.priors.base import AbstractPrior

# One probe says little of one element; neighbours of a channel have much the same gain.
_NEIGHBOURHOOD = 5
# A gain below this share of the mean one counts as so much: nothing is moved without end.
_LEAST_SHARE, _TINY = 1e-3, 1e-12


@dataclass(frozen=True)
class Goal:
    """The picture that is to come back, `x` in [0, 1] with one channel if it is grey.

    `weight` is what a squared error costs in bits: `lmbda * 255^2` over the number of channels.
    """

    x: Float[Tensor, "1 c h w"]
    weight: float

    def view(self, x_hat: Float[Tensor, "1 3 hp wp"]) -> Float[Tensor, "1 c h w"]:
        """Return what is seen of a padded reconstruction."""
        seen = crop(x_hat, *self.x.shape[-2:])
        return seen.mean(1, keepdim=True) if self.x.shape[1] == 1 else seen

    def distortion(self, x_hat: Float[Tensor, "1 3 hp wp"]) -> Float[Tensor, ""]:
        """Return what the error of a padded reconstruction costs in bits, differentiable."""
        return self.weight * (self.view(x_hat).clamp(0, 1) - self.x).square().sum()

    def exact(self, x_hat: Float[Tensor, "1 3 hp wp"]) -> float:
        """Return what the error of the 8-bit picture costs in bits."""
        levels = self.view(x_hat).mul(255).round().clamp(0, 255)
        return self.weight * float((levels.div(255) - self.x).square().sum(dtype=torch.float64))


def cheapest(
    residual: Float[Tensor, "*shape"],
    weights: Float[Tensor, "*shape"],
    bits: Callable[[Tensor], Tensor],
) -> Float[Tensor, "*shape"]:
    """Return of the integers below and above each residual, and 0, the one that costs least.

    The cost of `q` is `weights * (q - residual)^2 + bits(q)`.
    """
    below = residual.floor()
    chosen = residual.round()
    least = weights * (chosen - residual).square() + bits(chosen)
    for candidate in (below, below + 1, torch.zeros_like(below)):
        cost = weights * (candidate - residual).square() + bits(candidate)
        chosen = torch.where(cost < least, candidate, chosen)
        least = torch.minimum(cost, least)
    return chosen


class RateDistortionRounding:
    """Chooses the cheapest integers of one picture; a latent without weights is rounded.

    `weights` are in bits for a squared step, of each latent in the parts in which a model codes it
    (`parts`). It is used up by coding one picture.
    """

    def __init__(self, weights: Mapping[str, Sequence[Float[Tensor, "b _ _ _"]]]):
        self._weights: dict[str, Iterator[Tensor]] = {n: iter(w) for n, w in weights.items()}

    def __call__(
        self,
        name: str,
        residual: Float[Tensor, "b c h w"],
        prior: AbstractPrior,
        params: tuple[Tensor, ...],
    ) -> Float[Tensor, "b c h w"]:
        """Return whole numbers, as floats, of the residual's shape."""
        if name not in self._weights:
            return nearest(name, residual, prior, params)
        weights = next(self._weights[name]).expand_as(residual)
        return cheapest(residual, weights, lambda symbols: prior.bits(symbols, params))


class _Parts:
    """A coder that notes the parts in which a model codes its latents, and codes nothing."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}

    def code(
        self,
        name: str,
        latent: Float[Tensor, "b c h w"] | None,
        prior: AbstractPrior,
        *params: Tensor,
        shape: Shape,
    ) -> Float[Tensor, "b c h w"]:
        """Note a latent; the decoded one is zeros."""
        del prior, params
        assert latent is not None
        self.parts.setdefault(name, []).append(latent)
        return torch.zeros(shape)


@torch.no_grad()
def parts(model: AbstractCodecModel, values: Latents, shape: Shape) -> dict[str, list[Tensor]]:
    """Return values that belong to latents in the parts, in the order, in which a model codes them.

    `shape` is that of the padded picture. A model takes its latents apart by position alone.
    """
    coder = _Parts()
    model.code(coder, values, shape)
    return coder.parts


@dataclass(frozen=True)
class Local:
    """What is known of the distortion around latents, for each element of those that it depends on.

    `slopes` are its gradient, in bits for a step; `gains` estimate what an error of one adds to the
    summed squared error of a picture in [0, 1].
    """

    slopes: Mapping[str, Float[Tensor, "b _ _ _"]]
    gains: Mapping[str, Float[Tensor, "b _ _ _"]]


def look_around(
    synthesise: Callable[[Latents], Tensor], goal: Goal, latents: Latents, seed: int
) -> Local:
    """Find slopes and gains at latents with one pass through the synthesis and two back.

    The gains come from one probe of signs at random (Hutchinson's estimate of a diagonal), averaged
    over neighbours.
    """
    free = {name: t.detach().clone().requires_grad_() for name, t in latents.items()}
    x_hat = synthesise(free)
    seen = goal.view(x_hat)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, seen.shape, generator=generator).to(seen) * 2 - 1
    leaves = list(free.values())
    probes = torch.autograd.grad(seen, leaves, signs, retain_graph=True, allow_unused=True)
    slopes = torch.autograd.grad(goal.distortion(x_hat), leaves, allow_unused=True)
    known = [name for name, probe in zip(free, probes, strict=True) if probe is not None]
    return Local(
        {n: t for n, t in zip(free, slopes, strict=True) if n in known and t is not None},
        {n: _smooth(t.square()) for n, t in zip(free, probes, strict=True) if t is not None},
    )


def _smooth(squares: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    side = _NEIGHBOURHOOD
    mean = F.avg_pool2d(squares, side, 1, side // 2, count_include_pad=False)
    return mean.clamp_min(max(float(squares.mean()) * _LEAST_SHARE, _TINY))
