"""The task of a network of signals: distortion of patches, and the rate of their latents."""

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lictor.errors import ConfigError
from lictor.implicit.meta import InnerLoop, Target, fit
from lictor.layers.quantize.noise import Noise
from lictor.metrics import psnr_of_mse
from lictor.runtime import Runtime
from lictor.training.implicit.learner import Learner
from lictor.training.signal_sections import FitConfig, RateConfig
from lictor.training.task import TaskLoss

_STEPS_PER_OCTAVE = 4
_BLOCK = 256
# The least mean squared error, of values in [0, 1], that a PSNR is told of: 120 dB.
_LEAST_ERROR = 1e-12


@runtime_checkable
class Patches(Protocol):
    """Where training patches come from."""

    @property
    def items(self) -> int:
        """How many patches make an epoch."""
        ...

    def batch(self, step: int, positions: range) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the patches at some positions of a step: values "b n c" as the net sees them.

        Beside them is the mask "b n", True where there is a value; None for everywhere.
        """
        ...


@dataclass(frozen=True)
class Piece:
    """Patches of a step on their way to the device; `first` is the place of the first one."""

    first: int
    values: Float[Tensor, "b n c"]
    mask: Bool[Tensor, "b n"] | None


def bit_price(step: Tensor) -> Tensor:
    """Return the squared error that a bit is worth at a quantization step.

    At a high rate the error of a step is `step^2 / 12` and falls by a factor of 4 for each bit.
    """
    return math.log(2) / 6 * step.square()


@dataclass(frozen=True)
class SignalTask:
    """A `Task`: minimise the distortion of patches, in the unit of a bit's worth, and their bits.

    Each patch is quantized at a quality of its own, drawn evenly from all that files may have, so
    that one network serves all of them: rounded for the distortion, with the gradient of the
    identity, and with additive noise for the rate (Minnen and Singh 2020, section 3.3). With
    `rate.weight = 0` the distortion alone counts, as in the paper.

    Args:
        model: what learns.
        patches: what it learns from.
        held_out: patches for the evaluation, with their masks.
        batch_size: patches in a step, of all processes together.
        fit: the inner loop.
        rate: steps, qualities, and the weight of the rate.
        seed: the run's.
        runtime: where, and in which precision.
        pieces: the patches of a step are worked on in so many pieces, for less memory.
    """

    model: Learner
    patches: Patches
    held_out: tuple[Float[np.ndarray, "k n c"], Bool[np.ndarray, "k n"] | None]
    batch_size: int
    fit: FitConfig
    rate: RateConfig
    seed: int = 0
    runtime: Runtime = field(default_factory=Runtime)
    pieces: int = 1

    def __post_init__(self) -> None:
        if len(self.runtime.share(self.batch_size)) % self.pieces:
            raise ConfigError(
                f"train.batch_size = {self.batch_size} does not split into {self.pieces} pieces "
                f"(train.accumulate) on each of {self.runtime.world_size} processes"
            )
        if not self.rate.weight and not any(p.requires_grad for p in self.model.net.parameters()):
            raise ConfigError(
                f"model.name = {self.model.name!r} learns nothing but rates, and rate.weight = 0 "
                "says that they do not count: set rate.weight = 1"
            )

    @property
    def items(self) -> int:
        """How many patches an epoch has."""
        return self.patches.items

    @property
    def _loop(self) -> InnerLoop:
        return InnerLoop(self.fit.steps, self.fit.order, self.fit.checkpoint)

    def batch(self, step: int) -> list[Piece]:
        """Return this process' patches of a step."""
        own = self.runtime.share(self.batch_size)
        size = len(own) // self.pieces
        pieces = []
        for first in range(own.start, own.stop, size):
            values, mask = self.patches.batch(step, range(first, first + size))
            staged = self.runtime.stage(torch.from_numpy(values))
            there = None if mask is None else self.runtime.stage(torch.from_numpy(mask))
            pieces.append(Piece(first, staged, there))
        return pieces

    def loss(self, piece: Piece, *, step: int, progress: float) -> TaskLoss:
        """Return the loss of patches, with their `mse` and, if it counts, their `bits`."""
        del progress
        y = self.runtime.put(piece.values)
        mask = None if piece.mask is None else self.runtime.put(piece.mask)
        noise = Noise(self.seed, step, piece.first, self.batch_size)
        net, points = self.model.net, self._points(y, step)
        with self.runtime.autocast():
            decode, target = net.at(points), Target.of(y, mask, points)
            z = fit(decode, target, net.first(y, mask), net.rates(), self._loop)
        if not self.rate.weight:
            with self.runtime.autocast():
                mse = target.distortion(decode(z).float()).mean()
            return TaskLoss(mse, {"mse": mse})
        share = noise.uniform(z[:, :1], "quality", 0) + 0.5
        width = self._width(self.rate.lowest + share * (self.rate.highest - self.rate.lowest))
        z = z.float()
        # Noise as wide as a coarse step would drown small latents, which rounding only clears.
        rounded = z + ((z / width).round() * width - z).detach()
        with self.runtime.autocast():
            mse = target.distortion(decode(rounded).float())
        bits = self.model.bits(z + width * noise.uniform(z, "z", 0), width)
        worth = mse / bit_price(width[:, 0])
        total = (worth + self.rate.weight * bits).mean() / net.latent
        return TaskLoss(total, {"mse": mse.mean(), "bits": bits.mean()})

    def _width(self, quality: Tensor) -> Tensor:
        return self.rate.step * 2.0 ** (-quality / _STEPS_PER_OCTAVE)

    def _points(self, y: Tensor, step: int) -> Tensor | None:
        """Return the points that a step looks at: the same for all of its patches."""
        n, count = y.shape[1], self.fit.points
        if not count or count >= n:
            return None
        scores = Noise(self.seed, step).uniform(y.new_empty(n), "points", 0)
        return scores.argsort()[:count].sort().values

    @torch.no_grad()
    def evaluate(self, progress: float = 1.0) -> dict[str, float]:
        """Return means over the held-out patches, with hard rounding, in float32.

        `loss` as in training, over the lowest, the middle and the highest quality; `psnr` of
        latents that are not rounded, and `psnr_q` and `bits_q` for each of these qualities. A PSNR
        is that of the mean squared error of all patches, of unrounded values.
        """
        del progress
        qualities = sorted(
            {self.rate.lowest, (self.rate.lowest + self.rate.highest) // 2, self.rate.highest}
        )
        values, mask = self.held_out
        own = []
        for first in range(0, len(values), _BLOCK):
            if first // _BLOCK % self.runtime.world_size == self.runtime.rank:
                part = None if mask is None else mask[first : first + _BLOCK]
                own.append((first, self._sums(values[first : first + _BLOCK], part, qualities)))
        gathered = sorted((entry for part in self.runtime.gather(own) for entry in part),
                          key=lambda entry: entry[0])  # fmt: skip
        means = {
            key: sum(sums[key] for _, sums in gathered) / len(values) for key in gathered[0][1]
        }
        told = {"loss": means.pop("loss")}
        for key, mean in means.items():
            if key.startswith("mse"):
                told["psnr" + key[3:]] = psnr_of_mse(255**2 * max(mean, _LEAST_ERROR))
            else:
                told[key] = mean
        return told

    def _sums(
        self, values: np.ndarray, mask: np.ndarray | None, qualities: list[int]
    ) -> dict[str, float]:
        """Return sums over a block of held-out patches."""
        net = self.model.net
        y = self.runtime.put(torch.from_numpy(values))
        there = None if mask is None else self.runtime.put(torch.from_numpy(mask))
        decode, target = net.at(), Target.of(y, there)
        z = fit(decode, target, net.first(y, there), net.rates(), self._loop)
        plain = target.distortion(decode(z))
        sums = {"mse": float(plain.sum())}
        if not self.rate.weight:
            return {"loss": sums["mse"], **sums}
        losses = []
        for quality in qualities:
            width = self._width(torch.full_like(z[:, :1], quality))
            rounded = (z / width).round() * width
            mse, bits = target.distortion(decode(rounded)), self.model.bits(rounded, width)
            worth = mse / bit_price(width[:, 0])
            losses.append(float((worth + self.rate.weight * bits).sum()) / net.latent)
            sums |= {f"mse_{quality}": float(mse.sum()), f"bits_{quality}": float(bits.sum())}
        return {"loss": sum(losses) / len(losses), **sums}
