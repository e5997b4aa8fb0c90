"""Recipes: one tree of frozen dataclasses, loaded strictly from TOML.

A recipe has a section for each field of `RunConfig`, or with a section [signal] of
`SignalRunConfig`. The sections are in `lictor.training.sections` and
`lictor.training.signal_sections`, the mechanism is `lictor.config`.
"""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lictor.config import changeable, names, nearest, read, without_foreign, write
from lictor.errors import ConfigError
from lictor.layers.quantize.catalogue import SURROGATES
from lictor.training.phases import Phase, check_shares
from lictor.training.sections import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SmaConfig,
    StdetConfig,
    SurrogateConfig,
    TrainConfig,
)
from lictor.training.signal_sections import (
    FitConfig,
    ImplicitModelConfig,
    RateConfig,
    SignalConfig,
    SignalDataConfig,
)


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines the training of a codec of pictures; in TOML: [[phase]]."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    stdet: StdetConfig = field(default_factory=StdetConfig)
    sma: SmaConfig = field(default_factory=SmaConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", tuple(self.phases))
        check_shares(self.phases)
        _check_surrogate(self.surrogate)


def _check_surrogate(section: SurrogateConfig) -> None:
    """Raise `ConfigError` when no surrogate can be made of its settings, such as one that leaks."""
    try:
        SURROGATES[section.name].make(section.settings)
    except ConfigError as error:
        raise ConfigError(f"[surrogate] name = {section.name!r}: {error}") from error


@dataclass(frozen=True)
class SignalRunConfig:
    """Everything that defines the training of a network of signals."""

    model: ImplicitModelConfig = field(default_factory=ImplicitModelConfig)
    signal: SignalConfig = field(default_factory=lambda: SignalConfig(patch=(32, 32)))
    fit: FitConfig = field(default_factory=FitConfig)
    rate: RateConfig = field(default_factory=RateConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    stdet: StdetConfig = field(default_factory=StdetConfig)
    sma: SmaConfig = field(default_factory=SmaConfig)
    data: SignalDataConfig = field(default_factory=SignalDataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", tuple(self.phases))
        check_shares(self.phases)
        _check_foreign(self)


def _check_foreign(config: SignalRunConfig) -> None:
    """Raise `ConfigError` on settings that only mean something where pictures are coded."""
    default = TrainConfig()
    for key in ("compile", "eval_side", "mismatch", "conflict_every", "conflict_lag"):
        if getattr(config.train, key) != getattr(default, key):
            raise ConfigError(f"train.{key} is for codecs of pictures, not for networks of signals")
    if any(phase.surrogate for phase in config.phases):
        raise ConfigError("[[phase]] surrogate is for codecs of pictures")


AnyRunConfig = RunConfig | SignalRunConfig


def sections_of(config: type[AnyRunConfig]) -> dict[str, Any]:
    """Return the sections of a kind of recipe, by name."""
    return {f.name: f.type for f in dataclasses.fields(config) if f.name != "phases"}


# The sections of a recipe for a codec of pictures, and those of one for signals, by name.
SECTIONS = sections_of(RunConfig)
SIGNAL_SECTIONS = sections_of(SignalRunConfig)
_SIGNAL, _PHASE = "signal", "phase"


def _sections(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the sections that a recipe may have: one with [signal] is for signals."""
    return SIGNAL_SECTIONS if _SIGNAL in tree else SECTIONS


def config_from_dict(tree: dict[str, Any], *, source: str, lenient: bool = False) -> AnyRunConfig:
    """Build a recipe from nested tables; `source` names their origin in error messages.

    One that has a section [signal] is a `SignalRunConfig`, any other a `RunConfig`.

    `lenient` leaves out settings of what is not chosen, as earlier releases wrote them beside those
    of what is. Raises `ConfigError` on an unknown section or key, a wrong type, or a value out of
    range.
    """
    own = _sections(tree)
    known = [*own, _PHASE]
    sections: dict[str, Any] = {}
    for name, entries in tree.items():
        if name not in known:
            raise ConfigError(f"{source}: {_unknown(name, known)}")
        if name == _PHASE:
            sections["phases"] = _phases(entries, source)
            continue
        if lenient and isinstance(entries, dict):
            entries = without_foreign(own[name], entries)
        sections[name] = read(own[name], entries, source, name)
    try:
        return SignalRunConfig(**sections) if own is SIGNAL_SECTIONS else RunConfig(**sections)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _unknown(name: str, known: list[str]) -> str:
    if name in SECTIONS or name in SIGNAL_SECTIONS:
        other = "of signals" if name in SIGNAL_SECTIONS else "of pictures"
        return (
            f"[{name}] is a section of recipes for codecs {other}; with [signal] a recipe is for "
            "signals, without it for pictures"
        )
    return f"unknown section [{name}]; {nearest(name, known)}"


def _phases(entries: Any, source: str) -> tuple[Phase, ...]:
    if not isinstance(entries, list):
        raise ConfigError(f"{source}: {_PHASE!r} must be a list of sections, written [[{_PHASE}]]")
    return tuple(
        read(Phase, entry, source, f"{_PHASE}[{number}]") for number, entry in enumerate(entries)
    )


def config_to_dict(config: AnyRunConfig) -> dict[str, Any]:
    """Return the nested tables that `config_from_dict` turns into an equal `config`."""
    tree: dict[str, Any] = {
        name: write(getattr(config, name)) for name in sections_of(type(config))
    }
    if config.phases:
        tree[_PHASE] = [write(phase) for phase in config.phases]
    return tree


def may_change(config: AnyRunConfig) -> set[str]:
    """Return the keys, such as `train.steps`, that a run of this recipe may change when resumed."""
    return {
        f"{name}.{key}"
        for name in sections_of(type(config))
        for key in changeable(getattr(config, name))
    }


def load_recipe(path: Path | str, overrides: tuple[str, ...] = ()) -> AnyRunConfig:
    """Read a TOML recipe, then apply overrides such as `"train.steps=1000"`.

    An override without a value, such as `"model.depth="`, takes the key out of the recipe, so that
    its default holds. One that names another optimizer, surrogate or schedule takes out what the
    file says of settings that this one lacks; one that names another model, all of the former's.
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
    sections = _sections(tree)
    # Names go first: a switch takes out what the file says, not what the other overrides say.
    for override in sorted(overrides, key=lambda text: _depth_of_choice(text, sections)):
        _apply_override(tree, override, written, sections)
    return config_from_dict(tree, source=str(path))


def _depth_of_choice(override: str, sections: dict[str, Any]) -> int:
    """Return 0 for what names a section's choice, 1 for a choice of that, 2 for all else."""
    section, _, rest = override.partition(".")
    key = rest.partition("=")[0]
    if key not in _choosers(section, sections):
        return 2
    return 0 if _choosers(section, sections)[key] is sections[section] else 1


def _choosers(section: str, sections: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a section that name a choice, each with the dataclass that it is of."""
    found: dict[str, Any] = {}
    classes = [sections[section]] if section in sections else []
    for cls in classes:
        for f in dataclasses.fields(cls):
            if "table" in f.metadata:
                found.setdefault(f.metadata["by"], cls)
                classes += [line.settings for line in f.metadata["table"].values()]
    return found


def _apply_override(
    tree: dict[str, Any],
    override: str,
    written: dict[str, set[str]],
    sections: dict[str, Any],
) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.partition(".")
    if not (equals and dot):
        raise ConfigError(
            f"override {override!r} must look like section.key=value, or section.key="
        )
    if section.partition("[")[0] == _PHASE:
        raise ConfigError(f"override {override!r}: phases are changed in the recipe itself")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string: optim.name=adam
    table = tree.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"override {override!r}: {section!r} is not a section")
    if not text.strip():
        known = written.get(section, set()) | set(table)
        _check_can_be_unset(section, name, known, override, sections)
        table.pop(name, None)
        return
    if name in _choosers(section, sections):
        for foreign in _settings_of_former(section, table, name, value, sections):
            table.pop(foreign, None)
    table[name] = value


def _settings_of_former(
    section: str, table: dict[str, Any], by: str, value: Any, sections: dict[str, Any]
) -> list[str]:
    """Return the keys that belong to what a section named before another name is set."""
    fields = {f.name: f for f in dataclasses.fields(_choosers(section, sections)[by])}
    former = table.get(by, fields[by].default)
    choices = next(f.metadata["table"] for f in fields.values() if f.metadata.get("by") == by)
    if value == former or former not in choices:
        return []
    keys = names(choices[former].settings)
    if section == "model" or value not in choices:
        return (
            keys  # equal names are other widths of another network, other scales of another prior
        )
    kept = names(choices[value].settings)
    return [key for key in keys if key not in kept]


def _check_can_be_unset(
    section: str, name: str, written: set[str], override: str, sections: dict[str, Any]
) -> None:
    """Refuse to unset a key that nobody has set and that does not exist."""
    if section not in sections:
        hint = nearest(section, list(sections))
        raise ConfigError(f"override {override!r}: unknown section [{section}]; {hint}")
    fields = dataclasses.fields(sections[section])
    known = written | {f.name for f in fields if "table" not in f.metadata}
    if name not in known:
        hint = nearest(name, sorted(known))
        raise ConfigError(f"override {override!r}: unknown key {name!r} in [{section}]; {hint}")
