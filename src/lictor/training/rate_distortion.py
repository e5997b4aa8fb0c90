"""The task of a learned image codec: rate and distortion on crops of photographs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from lictor.data.crops import Crops, to_unit_range
from lictor.data.folder import ImageFolder
from lictor.data.images import image_to_tensor
from lictor.errors import ConfigError
from lictor.layers.quantize.catalogue import SURROGATES
from lictor.layers.quantize.noise import Noise, NotedDraws
from lictor.layers.quantize.surrogate import Surrogate
from lictor.metrics import psnr_of_mse
from lictor.models.base import AbstractCodecModel
from lictor.runtime import Runtime
from lictor.training.loss import rate_distortion
from lictor.training.mismatch import mismatch
from lictor.training.phases import phase_at
from lictor.training.recipe import RunConfig
from lictor.training.task import TaskLoss

# The least mean squared error, of samples in [0, 1], that a PSNR is told of: 120 dB.
_LEAST_ERROR = 1e-12
# Crops that pay for the decoding of a picture, unless a recipe says how many.
ON_DEMAND = 8


@dataclass(frozen=True)
class Piece:
    """Crops of a step, uint8 and channels last, on their way to the device.

    `first` is the place of the first one among all of the step.
    """

    first: int
    crops: UInt8[torch.Tensor, "b size size 3"]


@dataclass(frozen=True)
class RateDistortionTask:
    """A `Task`: minimise `bpp + lmbda * 255^2 * MSE` of crops.

    Args:
        model: what learns.
        crops: what it learns from.
        held_out: pictures for the evaluation, kept out of training.
        lmbda: weight of the distortion.
        surrogate: the stand-in for rounding at a point of the run, 0 to 1; `mixed().at` for one.
        runtime: where, and in which precision.
        evaluation_side: the evaluation sees the middle of a picture, at most so many pixels a side.
        mismatch: the evaluation also tells what the surrogate makes of the loss beside rounding.
        pieces: the crops of a step are worked on in so many pieces, for less memory.
        draws_ahead: draw the noise before the model is called, as one that is compiled needs.

    However many processes and pieces there are, the crops of a step are the same, and their noise.
    Raises `ConfigError` when a step cannot be split so.
    """

    model: AbstractCodecModel
    crops: Crops
    held_out: ImageFolder
    lmbda: float
    surrogate: Callable[[float], Surrogate]
    runtime: Runtime = field(default_factory=Runtime)
    evaluation_side: int = 512
    mismatch: bool = False
    pieces: int = 1
    draws_ahead: bool = False
    _noted: dict[Any, NotedDraws] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if len(self.runtime.share(self.crops.batch_size)) % self.pieces:
            raise ConfigError(
                f"train.batch_size = {self.crops.batch_size} does not split into "
                f"{self.pieces} pieces (train.accumulate) on each of "
                f"{self.runtime.world_size} processes"
            )

    @property
    def items(self) -> int:
        """How many crops an epoch has."""
        return len(self.crops.folder) * self.crops.crops_per_decode

    def batch(self, step: int) -> list[Piece]:
        """Return this process' crops of a step."""
        own = self.runtime.share(self.crops.batch_size)
        size = len(own) // self.pieces
        starts = range(own.start, own.stop, size)
        crops = (self.crops.batch(step, range(start, start + size)) for start in starts)
        return [
            Piece(start, self.runtime.stage(torch.from_numpy(array)))
            for start, array in zip(starts, crops, strict=True)
        ]

    def loss(self, piece: Piece, *, step: int, progress: float) -> TaskLoss:
        """Return the loss of crops, with their `bpp` and `mse`."""
        x = to_unit_range(self.runtime.put(piece.crops))
        noise = Noise(self.crops.seed, step, piece.first, self.crops.batch_size)
        surrogate = self.surrogate(progress)
        if self.draws_ahead and piece.first == self.runtime.share(self.crops.batch_size).start:
            self.runtime.begin_compiled_step()
        with self.runtime.autocast():
            source = noise.drawn(self._draws(x, surrogate)) if self.draws_ahead else noise
            out = self.model(x, surrogate=surrogate, noise=source)
        loss = rate_distortion(x, out, self.lmbda)
        return TaskLoss(loss.total, {"bpp": loss.bpp, "mse": loss.distortion})

    @torch.no_grad()
    def _draws(self, x: Float[torch.Tensor, "b c h w"], surrogate: Surrogate) -> NotedDraws:
        """Return what the model draws for crops like these; tried out once."""
        paths = (surrogate.synthesis, surrogate.rate)
        key = (x.shape, *map(type, paths), paths[0] == paths[1])
        if key not in self._noted:
            self._noted[key] = NotedDraws()
            self.model.forward(x, surrogate=surrogate, noise=self._noted[key])
        return self._noted[key]

    @torch.no_grad()
    def evaluate(self, progress: float = 1.0) -> dict[str, float]:
        """Return mean `loss`, `bpp` and `psnr` (dB) of the held-out pictures.

        In float32, with hard rounding, of the middle of each picture; the PSNR is that of unrounded
        output. With `mismatch` also, as means of `lictor.training.mismatch`: `mismatch` (of the
        loss), `mismatch_mse`, and `mismatch_bpp_y` for each latent such as y, under the surrogate
        of `progress`.
        """
        training = self.model.training
        self.model.eval()
        own = []
        for number in range(self.runtime.rank, len(self.held_out), self.runtime.world_size):
            x = self.runtime.put(image_to_tensor(self._middle(self.held_out.load(number))))
            # Not the compiled one, which would be compiled anew for every size.
            loss = rate_distortion(x, self.model.forward(x), self.lmbda)
            psnr = psnr_of_mse(255**2 * max(float(loss.distortion), _LEAST_ERROR))
            row = {"loss": float(loss.total), "bpp": float(loss.bpp), "psnr": psnr}
            if self.mismatch:
                row |= self._mismatch(x, number, progress)
            own.append((number, row))
        self.model.train(training)
        # Added up in the order of the pictures, whoever has evaluated them.
        gathered = sorted(
            (numbered for part in self.runtime.gather(own) for numbered in part),
            key=lambda numbered: numbered[0],
        )
        rows = [row for _, row in gathered]
        return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}

    def _mismatch(
        self, x: Float[torch.Tensor, "b c h w"], number: int, progress: float
    ) -> dict[str, float]:
        """Return what the surrogate makes of a held-out picture beside rounding."""
        noise = Noise(self.crops.seed, number)
        told = mismatch(self.model, self.surrogate(progress), x, self.lmbda, noise)
        rates = {f"mismatch_bpp_{name}": bpp for name, bpp in told.rate_bpp.items()}
        return {"mismatch": told.total, "mismatch_mse": told.distortion, **rates}

    def _middle(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "a b 3"]:
        height, width = (min(side, self.evaluation_side) for side in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        return image[top : top + height, left : left + width]


def _surrogates(config: RunConfig) -> Callable[[float], Surrogate]:
    """Return the stand-in for rounding at a point of a run: a phase may have its own."""
    default = SURROGATES[config.surrogate.name].make(config.surrogate.settings)
    names = {phase.surrogate for phase in config.phases} - {None, config.surrogate.name}
    others = {name: SURROGATES[name]() for name in names if name is not None}

    def at(progress: float) -> Surrogate:
        phase = phase_at(config.phases, progress)
        name = None if phase is None else phase.surrogate
        return others.get(name or "", default).at(progress)

    return at


def decoded_in_use(config: RunConfig, runtime: Runtime) -> int:
    """Return how many pictures are to be kept decoded while they are decoded on demand.

    Those whose crops are not all cut, and those of the batches that are being made.
    """
    crops = config.data.crops_per_decode or ON_DEMAND
    own = -(-config.train.batch_size // runtime.world_size)
    return own * (crops + config.data.workers + 1)


def codec_task(
    config: RunConfig,
    model: AbstractCodecModel,
    training: ImageFolder,
    held_out: ImageFolder,
    runtime: Runtime,
) -> RateDistortionTask:
    """Build the task that a recipe describes."""
    data, settings = config.data, config.train
    crops = Crops(
        training,
        size=data.crop_size,
        batch_size=settings.batch_size,
        min_scale=data.min_scale,
        seed=settings.seed,
        crops_per_decode=data.crops_per_decode or (ON_DEMAND if training.on_demand else 1),
    )
    return RateDistortionTask(
        model,
        crops,
        held_out,
        lmbda=config.loss.lmbda,
        surrogate=_surrogates(config),
        runtime=runtime,
        evaluation_side=settings.eval_side,
        mismatch=settings.mismatch,
        pieces=settings.accumulate,
        draws_ahead=settings.compile,
    )
