"""The sections of recipes: frozen dataclasses, one for each table of the TOML file.

What a recipe leaves out takes the default here. The settings of what a section names (a model, an
optimizer, ...) stand in it beside the name; the tables of names are where the named things are.
"""

from dataclasses import dataclass
from typing import Any

from lictor.config import (
    POSITIVE,
    SHARE,
    SHARE_BELOW_ONE,
    Rule,
    Settings,
    at_least,
    between,
    chosen,
    one_of,
    option,
)
from lictor.layers.quantize.catalogue import SURROGATES
from lictor.models.zoo import MODELS
from lictor.optim.factory import OPTIMIZERS
from lictor.runtime import PRECISIONS
from lictor.training.schedule import SCHEDULES
from lictor.training.stdet.selection import DUMMIES, SELECTIONS
from lictor.training.stdet.sensitivity import KINDS

_CROP_SIZE = Rule(lambda v: 64 <= v <= 4096 and v % 64 == 0, "a multiple of 64, up to 4096")


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Which model to train; its own settings stand beside its name."""

    name: str = "mbt2018-mean"
    """A name from the table of models."""
    settings: Any = chosen(MODELS, "model")
    """Settings of the model, such as `n` and `m`."""


@dataclass(frozen=True)
class LossConfig(Settings):
    """The rate-distortion trade-off: loss = bpp + lmbda * 255^2 * MSE."""

    lmbda: float = option(0.0067, POSITIVE)
    """Weight of the distortion; larger means better pictures and larger files."""


@dataclass(frozen=True)
class SurrogateConfig(Settings):
    """What stands for rounding while training."""

    name: str = "sua"
    """A name from the table of surrogates."""
    settings: Any = chosen(SURROGATES, "surrogate")
    """Settings of the surrogate."""


@dataclass(frozen=True)
class OptimConfig(Settings):
    """The optimizer and its learning rate; the settings of both stand beside their names."""

    name: str = "adam"
    """A name from the table of optimizers."""
    lr: float = option(1e-4, POSITIVE, may_change=True)
    """Peak learning rate."""
    schedule: str = option("flat-cosine", may_change=True)
    """A name from the table of schedules."""
    warmup: float = option(0.01, SHARE_BELOW_ONE, may_change=True)
    """Share of the steps over which the rate rises linearly from zero."""
    final: float = option(0.01, SHARE, may_change=True)
    """Learning rate at the end, as a share of `lr`."""
    max_grad_norm: float = option(1.0, POSITIVE, may_change=True)
    """Gradients are scaled down to this global norm."""
    settings: Any = chosen(OPTIMIZERS, "optimizer")
    """Settings of the optimizer."""
    shape: Any = chosen(SCHEDULES, "schedule", by="schedule")
    """Settings of the schedule."""


@dataclass(frozen=True)
class StdetConfig(Settings):
    """STDET: embedding weights in few modes while training; off unless snapshots are taken."""

    snapshot_every: int = option(0, at_least(0))
    """Steps between snapshots of the weights; 0 for no STDET."""
    snapshot_epochs: float = option(0.0, at_least(0))
    """The same in passes over the training pictures, in place of steps."""
    warmup: int = option(20, at_least(9))
    """Snapshots before the one at which modes are found; at least 9."""
    window: int = option(5, at_least(1))
    """Snapshots between events, at each of which weights are embedded."""
    share: float = option(0.05, SHARE)
    """Share of the weights that an event embeds."""
    cap: float = option(0.5, Rule(lambda v: 0 < v < 1, "above 0 and below 1"))
    """Largest share to be embedded in all; below 1."""
    modes: int = option(10, at_least(1))
    """Modes to look for."""
    samples: int = option(1000, between(2, 20_000))
    """Weights whose trajectories are clustered; memory and time grow with the square."""
    sensitivity: str = option("grad2", one_of(*KINDS))
    """How the loss minds a weight being moved: grad2, gradabs, snip, delta_fisher."""
    selection: str = option("both", one_of(*SELECTIONS))
    """What weights are chosen by: both (drift and sensitivity), drift, sensitivity, random."""
    dummy: str = option("line", one_of(*DUMMIES))
    """Modal but sensitive weights: none, line (once), window, averaged (in evaluations)."""
    reference: str = option("own", one_of("own", "chain"))
    """A reference moves by its own gradient, or also by the chain rule: own, chain."""
    anchor: bool = True
    """A line keeps the fitted slope but goes through the weight's present value."""
    least_correlation: float = option(0.0, SHARE)
    """Correlation with the reference below which a weight is never embedded."""
    release_share: float = option(0.75, SHARE)
    """Embedded share of a tensor beyond which Adam keeps no state for its embedded entries."""


@dataclass(frozen=True)
class SmaConfig(Settings):
    """SMA: a moving average of sampled weights, which is what gets evaluated and frozen."""

    interval: int = option(0, at_least(0))
    """Steps between samples; 0 for no average."""
    alpha: float = option(0.02, SHARE)
    """Weight of a new sample; 0 with `debias` for the plain mean of all samples."""
    feedback: bool = False
    """Continue training from the averaged weights (Lookahead)."""
    start: float = option(0.01, SHARE_BELOW_ONE)
    """Share of the steps over which the average is the trained weights themselves."""
    debias: bool = True
    """Begin with the plain mean, until a sample's weight in it falls to `alpha`."""


@dataclass(frozen=True)
class DataConfig(Settings):
    """How training crops are cut."""

    crop_size: int = option(256, _CROP_SIZE)
    """Side of the square crops, pixels; a multiple of 64."""
    min_scale: float = option(0.5, between(0.1, 1))
    """Crops are taken from the picture scaled by a random factor from here to 1."""
    held_out: int = option(16, at_least(1))
    """Pictures kept out of training for the evaluation (at most a tenth of all)."""
    cache_mib: int = option(4096, at_least(0), may_change=True)
    """Decoded pictures are kept in one memory-mapped file up to this size."""
    crops_per_decode: int = option(0, between(0, 64))
    """Crops of a picture in an epoch; 0 for 8 if it is decoded on demand and 1 if not."""
    workers: int = option(2, between(1, 64), may_change=True)
    """Threads that make crops in advance, in each process."""


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Length and cadence of a run."""

    steps: int = option(100_000, at_least(1), may_change=True)
    """Optimizer steps in all."""
    batch_size: int = option(8, between(1, 4096))
    """Crops in a step, of all processes together."""
    accumulate: int = option(1, between(1, 4096), may_change=True)
    """A process works on its crops in so many pieces, one after the other, for less memory."""
    compile: bool = option(False, may_change=True)
    """Compile the transforms before the first step: minutes at first, then faster on a GPU."""
    seed: int = option(0, Rule(lambda v: 0 <= v < 2**63, "from 0 to 2^63 - 1"))
    """Seed of the weights, the crops and the noise."""
    precision: str = option("float32", one_of(*PRECISIONS))
    """Arithmetic of the transforms: float32 or bfloat16 (rates always use float32)."""
    log_every: int = option(50, at_least(1), may_change=True)
    """Steps between lines of the metrics file."""
    eval_every: int = option(1000, at_least(1), may_change=True)
    """Steps between evaluations on what is held out."""
    rollback: float = option(0.0, at_least(0), may_change=True)
    """An evaluation worse than the best by more than this share goes back to it; 0 for never."""
    eval_side: int = option(512, at_least(1))
    """The evaluation sees the middle of a picture, at most so many pixels a side."""
    mismatch: bool = option(False, may_change=True)
    """Evaluations also tell how much the surrogate makes of the loss beside rounding."""
    checkpoint_every: int = option(1000, at_least(1), may_change=True)
    """Steps between checkpoints."""
    conflict_every: int = option(0, at_least(0), may_change=True)
    """Steps between probes of the conflict of rate and distortion; 0 for none."""
    conflict_lag: int = option(0, at_least(0), may_change=True)
    """Probes also compare gradients so many steps apart; 0 for not."""
