"""The training techniques that a recipe asks for, as hooks, in the order in which they are safe.

STDET goes before SMA. An average with weights that sum to 1 commutes with a fixed affine map, so
averages of embedded weights stay on their lines; where averages feed back into training, weights
are projected again, so that the projection has the last word.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lictor.errors import ConfigError
from lictor.runtime import Runtime
from lictor.training.hooks import TrainHook
from lictor.training.recipe import AnyRunConfig, StdetConfig
from lictor.training.sma import SMA
from lictor.training.stdet.hook import STDET, Choices
from lictor.training.stdet.selection import Schedule


def snapshot_interval(settings: StdetConfig, steps_per_epoch: float) -> int:
    """Return the steps between snapshots, 0 for none; raises `ConfigError` when told twice."""
    if settings.snapshot_every and settings.snapshot_epochs:
        raise ConfigError("stdet.snapshot_every and stdet.snapshot_epochs: give one of them")
    if settings.snapshot_epochs:
        return max(1, round(min(settings.snapshot_epochs * steps_per_epoch, 2**63)))
    return settings.snapshot_every


def build_techniques(
    config: AnyRunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    items: int,
    history: Path | None = None,
    record: Callable[[dict[str, Any]], None] = lambda _: None,
    runtime: Runtime | None = None,
) -> dict[str, TrainHook]:
    """Build what the sections [stdet] and [sma] ask for; an epoch is `items` crops.

    `history` is the file for STDET's first snapshots, `record` takes the rows of its story;
    `runtime` is one process if not given. Raises `ConfigError` when a section asks for what this
    run cannot have.
    """
    hooks: dict[str, TrainHook] = {}
    steps, averaged = config.train.steps, config.sma
    sma: SMA | None = None
    if averaged.interval:
        start = math.ceil(averaged.start * steps)
        if start + averaged.interval > steps:
            raise ConfigError(
                f"sma.interval = {averaged.interval} and sma.start = {averaged.start}: in {steps} "
                "steps no sample would be taken, and weights as they were at the start evaluated"
            )
        sma = SMA(
            model,
            interval=averaged.interval,
            alpha=averaged.alpha,
            feedback=averaged.feedback,
            start=start,
            debias=averaged.debias,
        )
    every = snapshot_interval(config.stdet, items / config.train.batch_size)
    rests = any(phase.freeze for phase in config.phases)
    if rests and (every or (averaged.interval and averaged.feedback)):
        raise ConfigError(
            "[[phase]] freeze lets weights rest, but [stdet] and sma.feedback move them: use one"
        )
    if config.phases and config.train.conflict_every:
        raise ConfigError(
            "train.conflict_every looks at one loss of all weights: not with [[phase]]"
        )
    if every and config.train.rollback:
        raise ConfigError(
            "train.rollback goes back in time, which the modes of [stdet] do not: use one of them"
        )
    if every and config.train.conflict_every:
        raise ConfigError(
            "train.conflict_every compares gradients of all weights, but STDET takes weights out "
            "of training: turn one of them off"
        )
    if every:
        stdet = STDET(
            model,
            optimizer,
            Schedule(every=every, steps=steps, **_shared(Schedule, config.stdet)),
            Choices(seed=config.train.seed, **_shared(Choices, config.stdet)),
            sma=sma,
            history=history,
            record=record,
            runtime=runtime,
        )
        hooks["stdet"] = stdet
        if sma is not None:
            sma.after_feedback = stdet.project
    return hooks if sma is None else {**hooks, "sma": sma}


def _shared(cls: type, settings: StdetConfig) -> dict[str, Any]:
    """Return the settings whose names are also those of fields of a dataclass."""
    names = {field.name for field in dataclasses.fields(cls)}
    return {k: v for k, v in dataclasses.asdict(settings).items() if k in names}
