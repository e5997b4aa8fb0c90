"""Who takes part in an evaluation: text such as `avif:30,60` becomes a codec at some settings.

A setting is made by a function that can be pickled, so that other processes can make it too, and
has a configuration that says what it is: rows are measured again when it changes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from lictor.codecs.batch import codec_from_bytes
from lictor.codecs.learned import Codec
from lictor.codecs.shipped import DEFAULT, OF_SIGNALS
from lictor.errors import ConfigError
from lictor.evaluation.external import CommandCodec, load_command_config
from lictor.evaluation.peers import PEERS
from lictor.evaluation.pictures import ORIGINAL, safe_name
from lictor.runtime import choose_device

SPEC = re.compile(
    r"^((?P<name>[\w.+-]+)=)?(?P<what>.+?)(:(?P<qualities>-?[\d.]+(,-?[\d.]+)*))?$", re.DOTALL
)


# What is measured: an `ImageCodec`, or a `SignalCoder`.
CodecT = TypeVar("CodecT", covariant=True)

# Codec files, by name, that were sent to this process to be read in place of those on its disk.
SENT: dict[str, bytes] = {}


@dataclass(frozen=True)
class Setting(Generic[CodecT]):
    """One point of a curve: its label, how to make its codec (picklable), what that codec is.

    `file` is a codec file that `make` reads: whoever makes the codec elsewhere has it in `SENT`.
    """

    label: str
    make: Callable[[], CodecT]
    config: Mapping[str, Any]
    file: str | None = None


@dataclass(frozen=True)
class Contender(Generic[CodecT]):
    """A codec with the settings that make its curve; `name` is also the results file's."""

    name: str
    settings: tuple[Setting[CodecT], ...]
    description: str = ""

    def __post_init__(self) -> None:
        if safe_name(self.name) != self.name or self.name == ORIGINAL:
            raise ConfigError(
                f"{self.name!r} cannot name a curve: letters, digits and .+-_ only, not {ORIGINAL}"
            )
        labels = [setting.label for setting in self.settings]
        for label in labels:
            if labels.count(label) > 1:
                raise ConfigError(f"{self.name}: the setting {label} is there twice")


def parse_contender(spec: str, *, device: str = "cpu") -> Contender:
    """Return the codec that a text means; raises `ConfigError` when it means none.

    The transforms of learned codecs run on the device of that name.

    `[NAME=]WHAT[:Q1,Q2,...]`, where WHAT is `default` (the codec that ships), a key of `PEERS`,
    one or more codec files with commas between (a curve of one model at several rates), or the
    `.toml` of a command codec.
    """
    match = SPEC.match(spec)
    if match is None:
        raise ConfigError("an empty text names no codec")
    name, what, qualities = match["name"] or "", match["what"], None
    if match["qualities"]:
        try:
            qualities = tuple(float(quality) for quality in match["qualities"].split(","))
        except ValueError as error:
            raise ConfigError(f"{spec!r}: {error}") from error
    if what in PEERS:
        return _peer(name or what, what, qualities)
    if what.endswith(".toml"):
        return _command(name, Path(what), qualities)
    if not all(part == DEFAULT or is_codec_file(part) for part in what.split(",")):
        raise ConfigError(
            f"{what!r} is no codec: choose {', '.join([DEFAULT, *PEERS, *OF_SIGNALS])}, "
            "a .lcodec file, or the .toml of a command codec"
        )
    if qualities is not None:
        raise ConfigError(f"{spec!r}: a .lcodec file has one rate; name several, with commas")
    return _learned(name, what, device)


def is_codec_file(text: str) -> bool:
    """Tell whether a text means a codec file: by its ending, or because there is a file."""
    try:
        return text.endswith(".lcodec") or Path(text).is_file()
    except OSError:  # a name that no file can have
        return False


def parse_contenders(specs: Sequence[str], *, device: str = "cpu") -> tuple[Contender, ...]:
    """Parse several texts; raises `ConfigError` when two would write the same file."""
    contenders = tuple(parse_contender(spec, device=device) for spec in specs)
    names = [contender.name.lower() for contender in contenders]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two codecs are called {name!r}; name one: other-{name}=...")
    return contenders


def _label(quality: float) -> str:
    return f"q{quality:g}"


def _peer(name: str, what: str, qualities: tuple[float, ...] | None) -> Contender:
    peer = PEERS[what]
    library = {"library": peer.library(), "description": peer.description}
    settings = []
    for quality in qualities or peer.qualities:
        if not peer.lowest <= quality <= peer.highest:
            raise ConfigError(
                f"{what}: quality {quality:g} is not from {peer.lowest:g} to {peer.highest:g}"
            )
        if peer.whole and quality != int(quality):
            raise ConfigError(f"{what}: quality is a whole number, not {quality:g}")
        codec = peer.make(quality)
        assert hasattr(codec, "__dataclass_fields__")
        config = {**asdict(codec), **library}  # pyright: ignore[reportArgumentType]
        settings.append(Setting(_label(quality), partial(peer.make, quality), config))
    return Contender(name, tuple(settings), peer.description)


def _command(name: str, path: Path, qualities: tuple[float, ...] | None) -> Contender:
    command = load_command_config(path)
    settings = [
        Setting(
            _label(quality),
            partial(CommandCodec, command, quality),
            {**asdict(command), "qualities": None, "quality": quality},
        )
        for quality in qualities or command.qualities
    ]
    return Contender(name or command.name, tuple(settings), command.description)


def _on(device: torch.device, make: Callable[[], Codec]) -> Codec:
    return make().to(device)


def _load(file: str) -> Codec:
    return codec_from_bytes(SENT[file]) if file in SENT else Codec.load(file)


def _learned(name: str, what: str, device: str) -> Contender:
    settings, description, place = [], "", choose_device(device)
    for part in what.split(","):
        make = Codec.default if part == DEFAULT else partial(_load, part)
        config = make().describe()
        if place.type != "cpu":  # pixels may differ by a grey level
            make = partial(_on, place, make)
            config["device"] = place.type
        description = f"lictor {config['model']}"
        label = DEFAULT if part == DEFAULT else Path(part).stem
        settings.append(Setting(label, make, config, None if part == DEFAULT else part))
    stem = DEFAULT if what == DEFAULT else Path(what.split(",")[0]).stem
    return Contender(name or stem, tuple(settings), description)
