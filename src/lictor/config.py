"""Recipes: one tree of frozen dataclasses, loaded strictly from TOML.

A recipe has a section for each field of `RunConfig`; what it leaves out takes the default below.
An unknown key, a wrong type or a value out of range is an error that names the file, the key and
the nearest valid name. Nothing here imports torch, so that the command line starts fast.
"""

import dataclasses
import difflib
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

from lictor.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig:
    """Which model to train; keys other than `name` are handed to its constructor."""

    name: str = "mbt2018-mean"
    """A name from the table of models."""
    hyperparameters: dict[str, int] = field(default_factory=dict)
    """Constructor arguments, such as `n` and `m`; in a recipe they stand beside `name`."""


@dataclass(frozen=True)
class LossConfig:
    """The rate-distortion trade-off: loss = bpp + lmbda * 255^2 * MSE."""

    lmbda: float = 0.0067
    """Weight of the distortion; larger means better pictures and larger files."""


@dataclass(frozen=True)
class SurrogateConfig:
    """What stands for rounding while training."""

    name: str = "mixed"
    """A name from the table of surrogates."""


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its learning rate."""

    name: str = "adam"
    """A name from the table of optimizers."""
    lr: float = 1e-4
    """Peak learning rate."""
    beta1: float = 0.9
    """Memory of the gradient."""
    beta2: float = 0.999
    """Memory of the squared gradient; 0.99 recovers sooner from a sudden large gradient."""
    schedule: str = "flat-cosine"
    """A name from the table of schedules: constant, cosine, flat-cosine."""
    warmup: float = 0.01
    """Share of the steps over which the rate rises linearly from zero."""
    final: float = 0.01
    """Learning rate at the end, as a share of `lr`."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    weight_decay: float = 0.0
    """Pull of the weights towards zero: added to the gradient by adam, decoupled in all others."""
    factor_beta: float = 0.95
    """soap: memory of the factors, which the bases follow."""
    precondition_every: int = 10
    """soap: steps between refreshes of the bases."""
    shapes: str = "split"
    """soap: which axes of a weight get a factor."""
    max_factor: int = 2048
    """soap: an axis longer than this gets no factor."""


@dataclass(frozen=True)
class StdetConfig:
    """STDET: embedding weights in few modes while training; off unless snapshots are taken."""

    snapshot_every: int = 0
    """Steps between snapshots of the weights; 0 for no STDET."""
    snapshot_epochs: float = 0.0
    """The same in passes over the training pictures, in place of steps."""
    warmup: int = 20
    """Snapshots before the one at which modes are found; at least 9."""
    window: int = 5
    """Snapshots between events, at each of which weights are embedded."""
    share: float = 0.05
    """Share of the weights that an event embeds."""
    cap: float = 0.5
    """Largest share to be embedded in all; below 1."""
    modes: int = 10
    """Modes to look for."""
    samples: int = 1000
    """Weights whose trajectories are clustered; memory and time grow with the square."""
    sensitivity: str = "grad2"
    """How the loss minds a weight being moved: grad2, gradabs, snip, delta_fisher."""
    selection: str = "both"
    """What weights are chosen by: both (drift and sensitivity), drift, sensitivity, random."""
    dummy: str = "line"
    """Modal but sensitive weights: none, line (once), window, averaged (in evaluations)."""
    reference: str = "own"
    """A reference moves by its own gradient, or also by the chain rule: own, chain."""
    anchor: bool = True
    """A line keeps the fitted slope but goes through the weight's present value."""
    least_correlation: float = 0.0
    """Correlation with the reference below which a weight is never embedded."""
    release_share: float = 0.75
    """Embedded share of a tensor beyond which Adam keeps no state for its embedded entries."""


@dataclass(frozen=True)
class SmaConfig:
    """SMA: a moving average of sampled weights, which is what gets evaluated and frozen."""

    interval: int = 0
    """Steps between samples; 0 for no average."""
    alpha: float = 0.02
    """Weight of a new sample; 0 with `debias` for the plain mean of all samples."""
    feedback: bool = False
    """Continue training from the averaged weights (Lookahead)."""
    start: float = 0.01
    """Share of the steps over which the average is the trained weights themselves."""
    debias: bool = True
    """Begin with the plain mean, until a sample's weight in it falls to `alpha`."""


@dataclass(frozen=True)
class DataConfig:
    """How training crops are cut."""

    crop_size: int = 256
    """Side of the square crops, pixels; a multiple of 64."""
    min_scale: float = 0.5
    """Crops are taken from the picture scaled by a random factor from here to 1."""
    held_out: int = 16
    """Pictures kept out of training for the evaluation (at most a tenth of all)."""
    cache_mib: int = 4096
    """Decoded pictures are kept in one memory-mapped file up to this size."""


@dataclass(frozen=True)
class TrainConfig:
    """Length and cadence of a run."""

    steps: int = 100_000
    """Optimizer steps in all."""
    batch_size: int = 8
    """Crops in a step."""
    seed: int = 0
    """Seed of the weights, the crops and the noise."""
    precision: str = "float32"
    """Arithmetic of the transforms: float32 or bfloat16 (rates always use float32)."""
    log_every: int = 50
    """Steps between lines of the metrics file."""
    eval_every: int = 1000
    """Steps between evaluations on the held-out pictures."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    conflict_every: int = 0
    """Steps between probes of the conflict of rate and distortion; 0 for none."""
    conflict_lag: int = 0
    """Probes also compare gradients so many steps apart; 0 for not."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    stdet: StdetConfig = field(default_factory=StdetConfig)
    sma: SmaConfig = field(default_factory=SmaConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


# Ranges and choices that a type cannot say: key -> (test, what is allowed).
_RULES = {
    "loss.lmbda": (lambda v: v > 0, "positive"),
    "optim.lr": (lambda v: v > 0, "positive"),
    "optim.beta1": (lambda v: 0 <= v < 1, "from 0 to below 1"),
    "optim.beta2": (lambda v: 0 <= v < 1, "from 0 to below 1"),
    "optim.warmup": (lambda v: 0 <= v < 1, "from 0 to below 1"),
    "optim.final": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "optim.max_grad_norm": (lambda v: v > 0, "positive"),
    "optim.weight_decay": (lambda v: v >= 0, "at least 0"),
    "optim.factor_beta": (lambda v: 0 <= v < 1, "from 0 to below 1"),
    "optim.precondition_every": (lambda v: v >= 1, "at least 1"),
    "optim.shapes": (lambda v: v in ("split", "spatial", "matrix"), "split, spatial or matrix"),
    "optim.max_factor": (lambda v: v >= 1, "at least 1"),
    "stdet.snapshot_every": (lambda v: v >= 0, "at least 0"),
    "stdet.snapshot_epochs": (lambda v: v >= 0, "at least 0"),
    "stdet.warmup": (lambda v: v >= 9, "at least 9"),
    "stdet.window": (lambda v: v >= 1, "at least 1"),
    "stdet.share": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "stdet.cap": (lambda v: 0 < v < 1, "above 0 and below 1"),
    "stdet.modes": (lambda v: v >= 1, "at least 1"),
    "stdet.samples": (lambda v: 2 <= v <= 20_000, "from 2 to 20000"),
    "stdet.sensitivity": (
        lambda v: v in ("grad2", "gradabs", "snip", "delta_fisher"),
        "grad2, gradabs, snip or delta_fisher",
    ),
    "stdet.selection": (
        lambda v: v in ("both", "drift", "sensitivity", "random"),
        "both, drift, sensitivity or random",
    ),
    "stdet.dummy": (
        lambda v: v in ("none", "line", "window", "averaged"),
        "none, line, window or averaged",
    ),
    "stdet.reference": (lambda v: v in ("own", "chain"), "own or chain"),
    "stdet.least_correlation": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "stdet.release_share": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "sma.interval": (lambda v: v >= 0, "at least 0"),
    "sma.alpha": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "sma.start": (lambda v: 0 <= v < 1, "from 0 to below 1"),
    "data.crop_size": (
        lambda v: 64 <= v <= 4096 and v % 64 == 0,
        "a multiple of 64, up to 4096",
    ),
    "data.min_scale": (lambda v: 0.1 <= v <= 1, "from 0.1 to 1"),
    "data.held_out": (lambda v: v >= 1, "at least 1"),
    "data.cache_mib": (lambda v: v >= 0, "at least 0"),
    "train.steps": (lambda v: v >= 1, "at least 1"),
    "train.batch_size": (lambda v: 1 <= v <= 4096, "from 1 to 4096"),
    "train.seed": (lambda v: 0 <= v < 2**63, "from 0 to 2^63 - 1"),
    "train.precision": (lambda v: v in ("float32", "bfloat16"), "float32 or bfloat16"),
    "train.log_every": (lambda v: v >= 1, "at least 1"),
    "train.eval_every": (lambda v: v >= 1, "at least 1"),
    "train.checkpoint_every": (lambda v: v >= 1, "at least 1"),
    "train.conflict_every": (lambda v: v >= 0, "at least 0"),
    "train.conflict_lag": (lambda v: v >= 0, "at least 0"),
}


def nearest(name: str, valid: list[str]) -> str:
    """Return a hint that names the valid word closest to `name`, or all of them."""
    close = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(valid)}"


_TYPES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def _convert(value: Any, wanted: Any, where: str) -> Any:
    """Return `value` as the wanted scalar type; an int is welcome as a float, nothing else."""
    if wanted is float and type(value) is int:
        value = float(value) if abs(value) < 2**1000 else math.inf
    if type(value) is not wanted:
        raise ConfigError(f"{where} = {value!r} must be {_TYPES[wanted]}")
    if wanted is float and not math.isfinite(value):
        raise ConfigError(f"{where} = {value!r} must be finite")
    return value


def _section(cls: type, entries: Any, name: str, source: str) -> Any:
    if not isinstance(entries, dict):
        raise ConfigError(f"{source}: {name!r} must be a section, written [{name}]")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    extra_field = next((f for f in fields.values() if get_origin(f.type) is dict), None)
    values: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key, value in entries.items():
        where = f"{source}: {name}.{key}"
        if key in fields and fields[key] is not extra_field:
            values[key] = _convert(value, fields[key].type, where)
            allowed, description = _RULES.get(f"{name}.{key}", (None, ""))
            if allowed and not allowed(values[key]):
                raise ConfigError(f"{where} = {value!r} must be {description}")
        elif extra_field is not None:
            extra[key] = _convert(value, get_args(extra_field.type)[1], where)
        else:
            raise ConfigError(
                f"{source}: unknown key {key!r} in [{name}]; {nearest(key, list(fields))}"
            )
    if extra_field is not None:
        values[extra_field.name] = extra
    return cls(**values)


def config_from_dict(tree: dict[str, Any], *, source: str) -> RunConfig:
    """Build a `RunConfig` from nested tables; `source` names their origin in error messages.

    Raises `ConfigError` on an unknown section or key, a wrong type, or a value out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(RunConfig)}
    for name in tree:
        if name not in fields:
            raise ConfigError(f"{source}: unknown section [{name}]; {nearest(name, list(fields))}")
    sections = {}
    for name, entries in tree.items():
        cls = fields[name].type
        assert isinstance(cls, type)
        sections[name] = _section(cls, entries, name, source)
    return RunConfig(**sections)


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Return the nested tables that `config_from_dict` turns into an equal `config`."""
    tree = dataclasses.asdict(config)
    tree["model"].update(tree["model"].pop("hyperparameters"))
    return tree


def load_recipe(path: Path | str, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a TOML recipe, then apply overrides such as `"train.steps=1000"`.

    An override without a value, such as `"model.depth="`, takes the key out of the recipe, so that
    its default holds. One that switches `model.name` takes the other model's own keys out as well.
    Raises `ConfigError` when the file cannot be read or anything in it is not valid.
    """
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the recipe: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    written = {section: set(keys) for section, keys in tree.items() if isinstance(keys, dict)}
    # The model's name goes first: a switch takes out what the file says, not the other overrides.
    for override in sorted(overrides, key=lambda text: not text.startswith("model.name=")):
        _apply_override(tree, override, written)
    return config_from_dict(tree, source=str(path))


def _apply_override(tree: dict[str, Any], override: str, written: dict[str, set[str]]) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.partition(".")
    if not (equals and dot):
        raise ConfigError(
            f"override {override!r} must look like section.key=value, or section.key="
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string: optim.name=adam
    table = tree.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"override {override!r}: {section!r} is not a section")
    if not text.strip():
        _check_can_be_unset(section, name, written.get(section, set()) | set(table), override)
        table.pop(name, None)
        return
    if (section, name) == ("model", "name") and value != table.get("name", ModelConfig.name):
        table.clear()  # the hyperparameters belong to the model that the recipe names
    table[name] = value


def _check_can_be_unset(section: str, name: str, written: set[str], override: str) -> None:
    """Refuse to unset a key that nobody has set and that does not exist."""
    sections = {f.name: f.type for f in dataclasses.fields(RunConfig)}
    if section not in sections:
        hint = nearest(section, list(sections))
        raise ConfigError(f"override {override!r}: unknown section [{section}]; {hint}")
    cls = sections[section]
    assert isinstance(cls, type)
    known = written | {f.name for f in dataclasses.fields(cls) if get_origin(f.type) is not dict}
    if name not in known:
        hint = nearest(name, sorted(known))
        raise ConfigError(f"override {override!r}: unknown key {name!r} in [{section}]; {hint}")
