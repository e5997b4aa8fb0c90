"""Refinement: an encoder that looks for better latents of one picture; no decoder can tell.

The encoder's network guesses the latents of every picture at once. For one picture there are better
ones: a search goes down the gradient of its own cost, `bits + lmbda * 255^2 * MSE * pixels`,
through soft choices of integers (Yang et al., NeurIPS 2020, arXiv:2006.04240), and then chooses the
integers with regard to what they cost (`lictor.codecs.rdoq`). What it found counts by its exact
cost, that of the codec's own frozen model and of the 8-bit picture: a refined file never costs more
than a plain one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lictor.codecs.pieces import Piece, cut
from lictor.codecs.rdoq import Goal, Local, RateDistortionRounding, look_around, parts
from lictor.coders import RateCoder, Rounding, Shape, nearest
from lictor.errors import ConfigError
from lictor.layers.quantize.gumbel import GumbelAnnealing, LogitScore
from lictor.layers.quantize.noise import Noise
from lictor.layers.quantize.schedule import LinearTemperature
from lictor.layers.quantize.surrogate import Surrogate
from lictor.models.base import AbstractCodecModel, Latents
from lictor.priors.base import AbstractPrior

MAX_EFFORT = 9
# Told after every step how many of how many are done; True stops the search where it is.
Watch = Callable[[int, int], bool]
# Sides of the pieces that a large picture is refined in, and what is seen around each, in pixels.
TILE, MARGIN = 768, 64
# A latent is moved by at most so much before it is rounded.
_FARTHEST = 1.0
# Symbols from here on belong to elements for which the theory of high rates holds.
_LARGE = 2


def go_on(done: int, total: int) -> bool:
    """Let a search come to its end."""
    del done, total
    return False


_PATH = GumbelAnnealing(1.0, LogitScore(2.0))
# The best of those that docs/effort.md tells of.
SOFT_CHOICE = Surrogate(_PATH, _PATH, temperature=LinearTemperature(1.0, 0.2, 0.0, 1.0))


@dataclass(frozen=True)
class Refinement:
    """How to look for better latents.

    Args:
        steps: of gradient descent, each a pass through the synthesis and back; with 0, only the
            integers are chosen.
        lr: Adam's, in steps of the quantizer.
        surrogate: stands for rounding while descending; its temperature goes from the first step to
            the last.
        lmbda: what quality is worth, as in training; larger for a better picture and a larger file.
            If not given, that of the codec's training, or an estimate at the picture.
        damping: of the choice of integers, at least 1. Errors of neighbours add up: each element
            reckons with so many times the harm that it does alone.
        checks: how often on its way a search looks at the exact cost of what it has.
        seed: of the noise.

    Raises `ConfigError` when a number is out of its range.
    """

    steps: int = 0
    lr: float = 0.02
    surrogate: Surrogate = SOFT_CHOICE
    lmbda: float | None = None
    damping: float = 4.0
    checks: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or self.checks < 1:
            raise ConfigError(
                f"refinement: steps = {self.steps} must be at least 0, "
                f"checks = {self.checks} at least 1"
            )
        if not (0 < self.lr < math.inf and 1 <= self.damping < math.inf):
            raise ConfigError(
                f"refinement: lr = {self.lr} must be positive, damping = {self.damping} at least 1"
            )
        if self.lmbda is not None and not 0 < self.lmbda < math.inf:
            raise ConfigError(f"lmbda = {self.lmbda} must be positive and finite")


_STEPS = (0, 10, 20, 40, 80, 160, 320, 640, 1280)


def effort(level: int, *, lmbda: float | None = None) -> Refinement | None:
    """Return the refinement of an effort from 1 to 9, each about twice as long as the last.

    None for 0, the plain encoder. Raises `ConfigError` on another level.
    """
    if not 0 <= level <= MAX_EFFORT:
        raise ConfigError(f"effort = {level} must be from 0 to {MAX_EFFORT}")
    if level == 0:
        return None
    return Refinement(steps=_STEPS[level - 1], lmbda=lmbda)


@dataclass(frozen=True)
class Networks:
    """A codec's frozen model, and a copy that gradients pass; None where no step is to be made.

    `device` is where the copy and the frozen model's transforms are.
    """

    frozen: AbstractCodecModel
    free: AbstractCodecModel | None
    device: torch.device

    def synthesise(self, quantized: Latents) -> Float[Tensor, "b c hp wp"]:
        """Run the synthesis; the result is on the CPU."""
        there = {name: t.to(self.device) for name, t in quantized.items()}
        return self.frozen.synthesise(there).cpu()


class _Search:
    """Looks for the best latents of one picture, or of one piece of it."""

    def __init__(self, networks: Networks, goal: Goal, shape: Shape, how: Refinement):
        self.networks, self.goal, self.shape, self.how = networks, goal, shape, how
        self.best: Latents = {}
        self.cost = math.inf

    @torch.no_grad()
    def consider(self, latents: Latents, rounding: Rounding = nearest) -> None:
        """Quantize latents as the codec does, and keep them if they cost less than the best."""
        coder = RateCoder(rounding=rounding)
        quantized = self.networks.frozen.code(coder, latents, self.shape)
        bits = float(torch.stack(list(coder.bits.values())).sum(dtype=torch.float64))
        cost = bits + self.goal.exact(self.networks.synthesise(quantized))
        if cost < self.cost:
            self.best, self.cost = quantized, cost

    def choose_integers(self, latents: Latents) -> None:
        """Consider latents moved to where the distortion is least, rounded to what costs least."""
        local = look_around(self.networks.synthesise, self.goal, latents, self.how.seed)
        weights = {n: self.goal.weight * self.how.damping * g for n, g in local.gains.items()}
        moved = {n: latents[n] - _newton(local, weights, n) for n in weights}
        taken_apart = parts(self.networks.frozen, {**latents, **weights}, self.shape)
        rounding = RateDistortionRounding({n: taken_apart[n] for n in weights})
        self.consider({**latents, **moved}, rounding)

    def descend(self, latents: Latents, watch: Watch) -> tuple[Latents, bool]:
        """Return where gradient descent leads, and whether it was stopped on the way."""
        free, how, device = self.networks.free, self.how, self.networks.device
        if free is None or how.steps == 0:
            return latents, False
        moving = {n: t.to(device, copy=True).requires_grad_() for n, t in latents.items()}
        optimizer = torch.optim.Adam(moving.values(), how.lr)
        goal = replace(self.goal, x=self.goal.x.to(device))
        every, stopped = -(-how.steps // how.checks), False
        for step in range(how.steps):
            surrogate = how.surrogate.at(step / max(how.steps - 1, 1))
            coder = RateCoder(surrogate, Noise(how.seed, step))
            x_hat = free.synthesise(free.code(coder, moving, self.shape))
            cost = torch.stack(list(coder.bits.values())).sum() + goal.distortion(x_hat)
            optimizer.zero_grad(set_to_none=True)
            cost.backward()
            optimizer.step()
            del x_hat, cost, coder  # a picture's worth of activations
            stopped = watch(step + 1, how.steps)
            if stopped or (step + 1) % every == 0 or step + 1 == how.steps:
                self.consider({n: t.detach().cpu() for n, t in moving.items()})
            if stopped:
                break
        return {n: t.detach().cpu() for n, t in moving.items()}, stopped

    def run(self, latents: Latents, watch: Watch) -> bool:
        """Search from the encoder's latents; return whether it was stopped."""
        self.consider(latents)
        self.choose_integers(latents)
        if self.how.steps == 0:
            return watch(1, 1)
        found, stopped = self.descend(latents, watch)
        if not stopped:
            self.choose_integers(found)
        return stopped


def _newton(local: Local, weights: Mapping[str, Tensor], name: str) -> Tensor:
    return (local.slopes[name] / (2 * weights[name])).clamp(-_FARTHEST, _FARTHEST)


def refine(
    networks: Networks,
    latents: Latents,
    x: Float[Tensor, "1 c h w"],
    how: Refinement,
    lmbda: float | None,
    watch: Watch,
) -> Latents:
    """Return quantized latents of the picture `x` that cost no more than the plain ones.

    `latents` are the encoder's, of the padded picture. `x` is in [0, 1] and has one channel if the
    picture is grey. `lmbda` is the codec's, if known. A picture larger than a tile is refined piece
    by piece, each with its surroundings, so that memory does not grow with it.
    """
    with torch.inference_mode(False), torch.enable_grad():
        latents = {name: t.clone() for name, t in latents.items()}
        shape = networks.frozen.padded_shape(1, *x.shape[-2:])
        pieces = cut(shape, networks.frozen.stride, TILE, MARGIN)
        value = how.lmbda or lmbda or estimate_lmbda(networks, latents, x, pieces)
        weight = value * 255**2 / x.shape[1]
        found = {name: t.clone() for name, t in latents.items()}
        for number, piece in enumerate(pieces):
            goal = Goal(piece.picture(x), weight)
            search = _Search(networks, goal, piece.shape(shape), how)
            stopped = search.run(piece.of(latents, shape), part_of(watch, number, len(pieces)))
            if len(pieces) == 1:
                return search.best
            piece.put(search.best, found, shape)
            if stopped:
                break
        whole = _Search(networks, Goal(x, weight), shape, how)
        whole.consider(latents)
        whole.consider(found)
        return whole.best


def refine_tile(
    networks: Networks,
    latents: Latents,
    x: Float[Tensor, "1 c h w"],
    tile: Piece,
    how: Refinement,
    lmbda: float,
    watch: Watch,
) -> Latents:
    """Return quantized latents of a tile that cost no more than the plain ones, coded alone.

    `latents` and `x` are those of the tile and of a margin around it, as in `refine`; `tile` is
    where it is in them, without its margin. The margin's latents count as they are.
    """
    found = refine(networks, latents, x, how, lmbda, watch)
    shape = networks.frozen.padded_shape(1, *x.shape[-2:])
    goal = Goal(x, (how.lmbda or lmbda) * 255**2 / x.shape[1])
    with torch.no_grad():
        around = networks.frozen.code(RateCoder(), latents, shape)

        def coded_alone(chosen: Latents) -> tuple[float, Latents]:
            coder = RateCoder()
            quantized = networks.frozen.code(coder, tile.of(chosen, shape), tile.shape(shape))
            seen = {name: t.clone() for name, t in around.items()}
            tile.put(quantized, seen, shape)
            bits = float(torch.stack(list(coder.bits.values())).sum(dtype=torch.float64))
            return bits + goal.exact(networks.synthesise(seen)), quantized

        plain, refined = coded_alone(latents), coded_alone(found)
    return refined[1] if refined[0] < plain[0] else plain[1]


def part_of(watch: Watch, number: int, count: int) -> Watch:
    """Return what is told of the steps of one of several parts, as of steps of all."""
    return lambda step, steps: watch(number * steps + step, count * steps)


def estimate_lmbda(
    networks: Networks, latents: Latents, x: Float[Tensor, "1 c h w"], pieces: Sequence[Piece]
) -> float:
    """Estimate the trade-off that a codec was trained for, from what it makes of a picture.

    At high rates, a step of quantization that costs one element `gain / 12` of squared error is the
    best one where `lmbda * 255^2 * gain = 6 / ln 2` (twice the error costs one bit less in two).
    Training puts the elements that have large symbols about there; their mean gain tells `lmbda`.
    Our own; docs/effort.md says how far off it is.
    """
    shape = networks.frozen.padded_shape(1, *x.shape[-2:])
    gain, count, all_gain, all_count = 0.0, 0, 0.0, 0
    for piece in pieces:
        seen, outline = piece.of(latents, shape), piece.shape(shape)
        symbols: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            networks.frozen.code(RateCoder(rounding=_noting(symbols)), seen, outline)
        local = look_around(networks.synthesise, Goal(piece.picture(x), 1.0), seen, 0)
        taken_apart = parts(networks.frozen, {**seen, **local.gains}, outline)
        for name in local.gains:
            for gains, chosen in zip(taken_apart[name], symbols[name], strict=True):
                large = gains[chosen.abs() >= _LARGE]
                gain, count = gain + float(large.sum()), count + large.numel()
                all_gain, all_count = all_gain + float(gains.sum()), all_count + gains.numel()
    mean = gain / count if count else all_gain / all_count
    return 6 / math.log(2) * x.shape[1] / (255**2 * mean)


def _noting(symbols: dict[str, list[Tensor]]) -> Rounding:
    """Return rounding to the nearest integers that also notes them, by latent."""

    def rounding(
        name: str, residual: Tensor, prior: AbstractPrior, params: tuple[Tensor, ...]
    ) -> Tensor:
        chosen = nearest(name, residual, prior, params)
        symbols.setdefault(name, []).append(chosen)
        return chosen

    return rounding
