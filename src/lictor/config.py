"""Settings: frozen dataclasses whose fields carry their rules, read strictly from nested tables.

A setting is stated once, as a field: `option` gives it a default, a rule, and whether a resumed run
may change it. A thing that is chosen by its name (a model, an optimizer, a schedule) has settings
of its own: a table of names maps each name to a `Choice`, and in a recipe those settings stand flat
beside the name. They may choose in turn: a model names its prior, which has settings. An unknown
key, a wrong type or a value out of range is an error that names the source, the key and the nearest
valid name. Nothing here imports torch.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Generic, TypeVar, get_args, get_origin

from lictor.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Rule:
    """What a type cannot say of a value: a test, and words for what passes it.

    `choices` are all values that pass, where there are so many: the nearest is named.
    """

    allows: Callable[[Any], bool]
    words: str
    choices: tuple[str, ...] = ()


POSITIVE = Rule(lambda v: v > 0, "positive")
SHARE = Rule(lambda v: 0 <= v <= 1, "from 0 to 1")
SHARE_BELOW_ONE = Rule(lambda v: 0 <= v < 1, "from 0 to below 1")


def at_least(least: float) -> Rule:
    """Allow numbers from `least` on."""
    return Rule(lambda v: v >= least, f"at least {least}")


def between(least: float, most: float) -> Rule:
    """Allow numbers from `least` to `most`, both included."""
    return Rule(lambda v: least <= v <= most, f"from {least} to {most}")


def one_of(*words: str) -> Rule:
    """Allow these words."""
    listed = ", ".join(words[:-1])
    said = f"{listed} or {words[-1]}" if listed else words[-1]
    return Rule(lambda v: v in words, said, words)


def option(
    default: Any = dataclasses.MISSING, rule: Rule | None = None, *, may_change: bool = False
) -> Any:
    """Declare a setting: the default of a dataclass field (none: it is required), and its rule.

    A resumed run may change what `may_change`: it is read anew at each step, or does not touch what
    a run computes.
    """
    return field(default=default, metadata={"rule": rule, "may_change": may_change})


class Settings:
    """Base of the dataclasses that hold settings: whatever makes one, its rules hold.

    Choices may be given as a mapping, or not at all; lists become tuples. Raises `ConfigError`.
    """

    def __post_init__(self) -> None:
        _settle(self)


@dataclass(frozen=True)
class NoSettings(Settings):
    """The settings of a choice that has none."""


@dataclass(frozen=True)
class Choice(Generic[T]):
    """A line of a table of names: which settings a choice takes, and what is made of them.

    Args:
        build: called with what `make` is given first, then the settings as keywords.
        settings: a frozen dataclass; its fields are declared by `option`.
        tiny: settings of a small form, for tests.
        recipe: the recipe that trains it, if one ships.
    """

    build: Callable[..., T]
    settings: type = NoSettings
    tiny: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""

    def make(self, settings: Any, *args: Any) -> T:
        """Build the thing from a settings object, after other arguments that it needs."""
        return self.build(*args, **_flat(settings))

    def __call__(self, *args: Any, **settings: Any) -> T:
        """Build the thing from settings as keywords; raises `ConfigError` on a wrong one."""
        return self.make(read(self.settings, settings, "", ""), *args)


def chosen(table: Mapping[str, Choice[Any]], kind: str, by: str = "name") -> Any:
    """Declare the settings of what another field, `by`, names; `kind` is what people call it.

    They may be given as a mapping, or not at all.
    """
    return field(default=None, metadata={"table": table, "kind": kind, "by": by})


def _choices(cls: type) -> Iterator[tuple[str, Mapping[str, Choice[Any]], str, str]]:
    """Yield the fields of a section with settings of a choice: name, table, named by, kind."""
    for f in dataclasses.fields(cls):
        if "table" in f.metadata:
            yield f.name, f.metadata["table"], f.metadata["by"], f.metadata["kind"]


def pick(table: Mapping[str, Choice[Any]], name: str, kind: str) -> Choice[Any]:
    """Return a line of a table; raises `ConfigError` on an unknown name, with those that exist."""
    if name not in table:
        close = _closest(str(name), table)
        hint = "" if close is None else f"did you mean {close!r}? "
        raise ConfigError(f"unknown {kind} {name!r}: {hint}choose one of {', '.join(table)}")
    return table[name]


def _settle(section: Any) -> None:
    """Check a section's own fields and fill in the settings of its choices."""
    for f in dataclasses.fields(section):
        if "table" not in f.metadata:
            value = _checked(getattr(section, f.name), f, f.name)
            object.__setattr__(section, f.name, value)
    for place, table, by, kind in _choices(type(section)):
        name, given = getattr(section, by), getattr(section, place)
        wanted = pick(table, name, kind).settings
        if given is None or isinstance(given, Mapping):
            _refuse_foreign(given or {}, wanted, table, name, kind)
            given = read(wanted, dict(given or {}), "", kind)
        if type(given) is not wanted:
            raise ConfigError(
                f"{type(given).__name__} are not settings of {name!r}: give {place}=None as well"
            )
        object.__setattr__(section, place, given)


def _refuse_foreign(
    keys: Mapping[str, Any], wanted: type, table: Mapping[str, Choice[Any]], name: str, where: str
) -> None:
    """Refuse keys that another choice has but this one has not, saying whose they are."""
    own = names(wanted)
    for key in keys:
        owners = [other for other, line in table.items() if key in names(line.settings)]
        if key not in own and owners:
            hint = f"; {nearest(key, own)}" if own else ""
            raise ConfigError(
                f"{where}.{key} is a setting of {' and '.join(owners)}, not of {name}{hint}"
            )


def _own_names(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls) if "table" not in f.metadata]


def names(cls: type) -> list[str]:
    """Return the keys that a section may have, those of anything that it may choose too."""
    keys = _own_names(cls)
    for _, table, *_ in _choices(cls):
        keys += [key for line in table.values() for key in names(line.settings)]
    return list(dict.fromkeys(keys))


def nearest(name: str, valid: list[str]) -> str:
    """Return a hint that names the valid word closest to `name`, or all of them."""
    close = _closest(name, valid)
    return f"valid: {', '.join(valid)}" if close is None else f"did you mean {close!r}?"


def _closest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid word closest to `name`, whatever the case of either; None if none is."""
    words = {word.casefold(): word for word in valid}
    close = difflib.get_close_matches(name.casefold(), words, n=1)
    return words[close[0]] if close else None


_TYPES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def _convert(value: Any, wanted: Any, where: str) -> Any:
    """Return `value` as the wanted type; an int is welcome as a float, a list as a tuple."""
    if isinstance(wanted, UnionType):  # what may be left out: None has no notation in a recipe
        if value is None:
            return None
        (wanted,) = (kind for kind in get_args(wanted) if kind is not type(None))
    if get_origin(wanted) is tuple:
        kind = get_args(wanted)[0]
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} = {value!r} must be a list")
        return tuple(_convert(item, kind, f"{where}[{i}]") for i, item in enumerate(value))
    if wanted is float and type(value) is int:
        value = float(value) if abs(value) < 2**1000 else math.inf
    if type(value) is not wanted:
        raise ConfigError(f"{where} = {value!r} must be {_TYPES[wanted]}")
    if wanted is float and not math.isfinite(value):
        raise ConfigError(f"{where} = {value!r} must be finite")
    return value


def read(cls: type[T], entries: Any, source: str, name: str) -> T:
    """Build a section from a table; `source` and `name` say in messages where it stands.

    Raises `ConfigError` on an unknown key, a wrong type, or a value that its rule does not allow.
    """
    prefix = f"{source}: " if source else ""
    if not isinstance(entries, dict):
        raise ConfigError(f"{prefix}{name!r} must be a section, written [{name}]")
    dot = f"{prefix}{name}." if name else prefix
    plain = {f.name: f for f in dataclasses.fields(cls) if "table" not in f.metadata}  # pyright: ignore[reportArgumentType]
    values = {key: _checked(entries[key], plain[key], dot + key) for key in entries if key in plain}
    rest = {key: value for key, value in entries.items() if key not in plain}
    for place, table, by, kind in _choices(cls):
        chosen_name = values.get(by, plain[by].default)
        try:
            wanted = pick(table, chosen_name, kind).settings
            own = {key: rest.pop(key) for key in list(rest) if key in names(wanted)}
            _refuse_foreign(rest, wanted, table, chosen_name, name)
        except ConfigError as error:
            raise ConfigError(f"{prefix}{error}") from error
        values[place] = read(wanted, own, source, name)
    if rest:
        key = next(iter(rest))
        known = [*plain, *(k for p, *_ in _choices(cls) for k in names(type(values[p])))]
        place = f" in [{name}]" if name else ""
        raise ConfigError(f"{prefix}unknown key {key!r}{place}; {nearest(key, known)}")
    missing = [k for k, f in plain.items() if k not in values and _is_required(f)]
    if missing:
        raise ConfigError(f"{prefix}{name}.{missing[0]} is missing")
    return cls(**values)


def _is_required(f: "dataclasses.Field[Any]") -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _checked(value: Any, f: "dataclasses.Field[Any]", where: str) -> Any:
    converted, rule = _convert(value, f.type, where), f.metadata.get("rule")
    if rule is not None and converted is not None and not rule.allows(converted):
        close = _closest(str(value), rule.choices)
        hint = "" if close is None else f"; did you mean {close!r}?"
        raise ConfigError(f"{where} = {value!r} must be {rule.words}{hint}")
    return converted


def _flat(settings: Any) -> dict[str, Any]:
    """Return the settings by name, those of what they choose beside them."""
    flat: dict[str, Any] = {}
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        flat |= _flat(value) if "table" in f.metadata else {f.name: value}
    return flat


def write(section: Any) -> dict[str, Any]:
    """Return the table that `read` turns into an equal section: plain values, lists for tuples."""
    table: dict[str, Any] = {}
    for f in dataclasses.fields(section):
        value = getattr(section, f.name)
        if "table" in f.metadata:
            table |= write(value)
        elif value is not None:
            table[f.name] = list(value) if isinstance(value, tuple) else value
    return table


def changeable(section: Any) -> set[str]:
    """Return the keys of a section that a resumed run may change, those of its choices too."""
    keys = {f.name for f in dataclasses.fields(section) if f.metadata.get("may_change")}
    for place, *_ in _choices(type(section)):
        keys |= changeable(getattr(section, place))
    return keys


def without_foreign(cls: type, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section's table without the settings of choices that it does not name."""
    kept = dict(entries)
    for _, table, by, _ in _choices(cls):
        default = next(f.default for f in dataclasses.fields(cls) if f.name == by)
        line = table.get(kept.get(by, default))
        own = names(line.settings) if line is not None else []
        foreign = {k for other in table.values() for k in names(other.settings)} - set(own)
        kept = {k: v for k, v in kept.items() if k not in foreign or k in _own_names(cls)}
    return kept
