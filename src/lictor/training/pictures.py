"""Training a codec of pictures, as a run sees it."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lictor.data.crops import batch_to_tensor
from lictor.data.folder import ImageFolder
from lictor.data.sources import Source, open_pictures
from lictor.models.base import AbstractCodecModel
from lictor.models.zoo import MODELS
from lictor.runtime import Runtime
from lictor.training.checkpoint import RunState
from lictor.training.hooks import TrainHook
from lictor.training.kind import Record
from lictor.training.probe import ConflictProbe
from lictor.training.rate_distortion import RateDistortionTask, codec_task, decoded_in_use
from lictor.training.recipe import RunConfig

CONFLICT, PROBE = "conflict.jsonl", "conflict"
# With fewer latents than this along a side, padding is most of what the smallest latent sees.
_LEAST_SIDE = 2

_log = logging.getLogger("lictor.training.run")


@dataclass(frozen=True)
class Pictures:
    """A `Kind` of training: rate and distortion of pictures."""

    optional_hooks: tuple[str, ...] = (PROBE,)

    def build(self, config: RunConfig) -> AbstractCodecModel:
        """Build the codec's model."""
        model = MODELS[config.model.name].make(config.model.settings)
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return model

    def open_data(
        self,
        config: RunConfig,
        sources: Sequence[Source | str | Path],
        on_decode: Callable[[int, int], None],
        runtime: Runtime,
    ) -> ImageFolder:
        """Open folders and shards."""
        return open_pictures(
            sources,
            cache_bytes=config.data.cache_mib * 2**20,
            kept=decoded_in_use(config, runtime),
            on_progress=on_decode,
        )

    def make_task(
        self,
        config: RunConfig,
        model: AbstractCodecModel,
        data: ImageFolder,
        runtime: Runtime,
        *,
        begins: bool,
    ) -> RateDistortionTask:
        """Build the task; first weights do not depend on pictures."""
        del begins
        _warn_of_small_crops(config, model)
        return codec_task(config, model, *data.split(config.data.held_out), runtime)

    def probes(
        self,
        config: RunConfig,
        task: RateDistortionTask,
        state: RunState,
        record: Callable[[str], Record],
    ) -> Mapping[str, TrainHook]:
        """Build the probe of the conflict of rate and distortion, if the recipe asks for it."""
        if not config.train.conflict_every:
            return {}
        probe = ConflictProbe(
            task.model,
            state.optimizer,
            # Whatever the run's seed is: runs are compared on the same pictures.
            batch_to_tensor(dataclasses.replace(task.crops, folder=task.held_out, seed=0).batch(0)),
            surrogate=task.surrogate(0.0),
            lmbda=config.loss.lmbda,
            every=config.train.conflict_every,
            lag=config.train.conflict_lag,
            record=record(CONFLICT),
        )
        return {PROBE: probe}


def _warn_of_small_crops(config: RunConfig, model: AbstractCodecModel) -> None:
    side = config.data.crop_size // model.stride
    if side < _LEAST_SIDE:
        _log.warning(
            "data.crop_size = %d: the smallest latent of %s is %dx%d in such crops, so that whole "
            "pictures may be coded worse than crops; take %d or more (or evaluate on crops: "
            "train.eval_side = %d)",
            config.data.crop_size, model.name, side, side, _LEAST_SIDE * model.stride,
            config.data.crop_size,
        )  # fmt: skip
