"""Who takes part in an evaluation of signals: peers of the kind, codecs of signals at qualities."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from lictor.codecs.shipped import OF_SIGNALS, shipped_codec
from lictor.codecs.signals.codec import SignalCodec
from lictor.codecs.signals.store import read_signal_codec
from lictor.coding.codec_file import is_signal_codec
from lictor.data.signals.folder import list_signals
from lictor.data.signals.formats import suffix_of
from lictor.data.signals.signal import KINDS, Signal
from lictor.errors import ConfigError, DataError
from lictor.evaluation.contenders import SPEC, Contender, Setting, is_codec_file
from lictor.evaluation.peers import PEERS
from lictor.evaluation.signals.coder import SignalCoder
from lictor.evaluation.signals.peers import SIGNAL_PEERS, SignalPeer
from lictor.evaluation.signals.quality import Peak
from lictor.implicit.refine import Effort

_POINTS = 7


@dataclass(frozen=True)
class LearnedCoder:
    """A codec of signals at one quality."""

    codec: SignalCodec
    quality: int
    effort: Effort | None = None
    delays = False
    scaled = False

    @property
    def name(self) -> str:
        """Network and quality."""
        return f"{self.codec.name} q{self.quality}"

    def encode(self, signals: Sequence[Signal]) -> bytes:
        """Compress one signal, or several into an archive."""
        names = None if len(signals) == 1 else [str(i) for i in range(len(signals))]
        return self.codec.encode(signals, self.quality, self.effort, names=names)

    def decode(self, data: bytes) -> list[np.ndarray]:
        """Restore the samples of each signal."""
        return [signal.samples for signal in self.codec.decode(data, max_samples=1 << 62)]

    def estimate_bytes(self, data: bytes) -> float:
        """Return the size that the codec's tables predict for a file."""
        return self.codec.estimate_bytes(data)


@dataclass(frozen=True)
class SignalContender:
    """A codec with the settings that make its curve.

    Args:
        contender: name and settings; the name is also the results file's.
        archives: whether one file may hold all signals.
        stacks: whether a file of several items is more than its items one after the other.
        network_bytes: of the codec file of each setting; none for peers.
        domain: kind, axes and channels that its signals must have; None for any.
        peak: the range of its training data, None where that is each signal's own, or for peers.
    """

    contender: Contender[SignalCoder]
    archives: bool
    stacks: bool
    network_bytes: dict[str, int]
    domain: tuple[str, int, int] | None = None
    peak: Peak | None = None


def with_shipped(spec: str) -> str:
    """Return a text with the files of shipped codecs of signals where it has their names."""
    match = SPEC.match(spec)
    what = "" if match is None else match["what"]
    parts = [
        str(shipped_codec(part)) if part in OF_SIGNALS and not Path(part).is_file() else part
        for part in what.split(",")
    ]
    if match is None or ",".join(parts) == what:
        return spec
    return spec[: match.start("what")] + ",".join(parts) + spec[match.end("what") :]


def kind_of(specs: Sequence[str], place: str = "") -> str | None:
    """Return the kind of signals that texts mean, None if they are all of codecs of pictures.

    Peers that are of several kinds go with the others; alone they mean what is at a place. Raises
    `ConfigError` when there is no kind that all are for.
    """
    common, signals = list(KINDS), False
    for spec in specs:
        match = SPEC.match(spec)
        what = match["what"] if match is not None else ""
        kinds = [kind for kind, peers in SIGNAL_PEERS.items() if what in peers]
        learned = [] if kinds else [part for part in what.split(",") if is_signal_codec(part)]
        if learned:
            kinds = [str(read_signal_codec(Path(learned[0])).config["domain"]["kind"])]
        elif not kinds:
            kinds = ["image"]  # whoever parses it says what is wrong with it
        signals |= bool(learned) or (what not in PEERS and kinds != ["image"])
        common = [kind for kind in common if kind in kinds]
        if signals and not common:
            raise ConfigError(f"{spec!r} is not for the kind of signals that the others are for")
    if not signals:
        return None
    return next((kind for kind in common if len(common) > 1 and _has(place, kind)), common[0])


def _has(place: str, kind: str) -> bool:
    try:
        # An array's file may hold any kind: what has files of its own comes first.
        files = list_signals(place, kind)
    except DataError:
        return False
    return kind == "array" or any(suffix_of(path) != ".npy" for path in files)


def parse_signal_contenders(
    specs: Sequence[str], kind: str, *, effort: Effort | None = None
) -> list[SignalContender]:
    """Parse texts for signals of a kind: `[NAME=]WHAT[:Q1,Q2,...]`.

    WHAT is one of the kind's peers, or one or more codec files with commas between. Raises
    `ConfigError` when a text means nothing, or two would write the same file, and
    `CheckpointError` for codec files that cannot be read.
    """
    found = [_parse(spec, kind, effort) for spec in specs]
    names = [one.contender.name.lower() for one in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two codecs are called {name!r}; name one: other-{name}=...")
    return found


def _parse(spec: str, kind: str, effort: Effort | None) -> SignalContender:
    match = SPEC.match(spec)
    if match is None:
        raise ConfigError("an empty text names no codec")
    name, what, told = match["name"] or "", match["what"], match["qualities"]
    try:
        qualities = tuple(float(quality) for quality in told.split(",")) if told else None
    except ValueError as error:
        raise ConfigError(f"{spec!r}: {error}") from error
    peers = SIGNAL_PEERS[kind]
    if what in peers:
        return _peer(name or what, peers[what], qualities)
    if not all(map(is_codec_file, what.split(","))):
        ours = [name for name, its in OF_SIGNALS.items() if its == kind]
        raise ConfigError(
            f"{what!r} is no codec of signals of kind {kind}: choose {', '.join([*peers, *ours])}, "
            "or a .lcodec file"
        )
    return _learned(name, what, qualities, kind, effort)


def _peer(name: str, peer: SignalPeer, qualities: tuple[float, ...] | None) -> SignalContender:
    library = {"library": peer.library(), "description": peer.description}
    settings = []
    for quality in qualities or peer.qualities:
        if not peer.lowest <= quality <= peer.highest:
            raise ConfigError(
                f"{peer.label}: quality {quality:g} is not from {peer.lowest:g} to "
                f"{peer.highest:g} ({peer.description})"
            )
        codec = peer.make(quality)
        assert hasattr(codec, "__dataclass_fields__")
        config = {**asdict(codec), **library}  # pyright: ignore[reportArgumentType]
        settings.append(Setting(f"q{quality:g}", partial(peer.make, quality), config))
    contender = Contender[SignalCoder](name, tuple(settings), peer.description)
    return SignalContender(contender, archives=False, stacks=peer.stacks, network_bytes={})


@lru_cache(maxsize=4)
def _loaded(path: str) -> SignalCodec:
    return SignalCodec.load(path)


def _made(path: str, quality: int, effort: Effort | None) -> SignalCoder:
    return LearnedCoder(_loaded(path), quality, effort)


def _learned(
    name: str,
    what: str,
    qualities: tuple[float, ...] | None,
    kind: str,
    effort: Effort | None,
) -> SignalContender:
    _loaded.cache_clear()  # a file may have changed since
    settings: list[Setting[SignalCoder]] = []
    network_bytes: dict[str, int] = {}
    parts = what.split(",")
    codecs = [_loaded(part) for part in parts]
    domain = codecs[0].domain
    for part, codec in zip(parts, codecs, strict=True):
        if codec.domain.kind != kind:
            raise ConfigError(f"{part}: is for signals of kind {codec.domain.kind}, not {kind}")
        about = {k: v for k, v in codec.describe().items() if k != "notes"}
        for quality in _qualities(part, codec, qualities):
            label = f"q{quality}" if len(parts) == 1 else f"{Path(part).stem} q{quality}"
            config: dict[str, Any] = {**about, "quality": quality}
            if effort is not None:
                config["effort"] = asdict(effort)
            make = partial(_made, part, quality, effort)
            settings.append(Setting(label, make, config, part))
            network_bytes[label] = Path(part).stat().st_size
    contender = Contender(
        name or Path(parts[0]).stem, tuple(settings), f"lictor {codecs[0].describe()['model']}"
    )
    peak = None if domain.own_range else Peak(domain.low, domain.high, "the codec's training data")
    return SignalContender(
        contender,
        archives=True,
        stacks=True,
        network_bytes=network_bytes,
        domain=(domain.kind, len(domain.grid), domain.channels),
        peak=peak,
    )


def _qualities(
    part: str, codec: SignalCodec, qualities: tuple[float, ...] | None
) -> tuple[int, ...]:
    first, last = codec.latents.qualities
    if qualities is None:
        return tuple(sorted({round(q) for q in np.linspace(first, last, _POINTS)}))
    for quality in qualities:
        if quality != math.floor(quality) or not first <= quality <= last:
            raise ConfigError(
                f"{part}: quality {quality:g} is not a whole number from {first} to {last}"
            )
    return tuple(int(quality) for quality in qualities)


def with_config(
    contender: Contender[SignalCoder], name: str, **more: Any
) -> Contender[SignalCoder]:
    """Return a contender under another name, whose settings say more of what they are."""
    settings = tuple(replace(s, config={**s.config, **more}) for s in contender.settings)
    return replace(contender, name=name, settings=settings)
