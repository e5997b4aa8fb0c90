"""`lictor compress` and `lictor decompress` with a codec of signals."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lictor.cli.batch import Batch, Workers, choose_targets, engine_of, run_batch, written
from lictor.cli.codec_file import codec_bytes
from lictor.cli.messages import say
from lictor.cli.outputs import check_output_file
from lictor.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lictor.codecs.batch import Rules
    from lictor.codecs.signals.batch import Choices
    from lictor.codecs.signals.codec import SignalCodec


@dataclass(frozen=True)
class SignalRequest:
    """What a command was given."""

    inputs: tuple[str, ...]
    out: str | None
    codec: Path
    force: bool
    workers: Workers
    quality: int | None = None
    effort: int = 0
    variable: str | None = None

    def __post_init__(self) -> None:
        from lictor.data.places import STANDARD, is_url

        for place in (*self.inputs, *([] if self.out is None else [self.out])):
            if place == STANDARD:
                raise ConfigError(f"{place}: codecs of signals read and write files; name one")
            if is_url(place):
                raise ConfigError(f"{place}: codecs of signals read and write files; copy it first")
        if self.workers.device not in ("cpu", "auto"):
            raise ConfigError(
                f"--device {self.workers.device}: codecs of signals run on the CPU; leave it out"
            )

    @property
    def places(self) -> list[str]:
        """The inputs as messages write them."""
        return [written(place, absolute=self._away) for place in self.inputs]

    @property
    def target(self) -> str | None:
        """The output, likewise."""
        return None if self.out is None else written(self.out, absolute=self._away)

    @property
    def _away(self) -> bool:
        return self.workers.engine == "ray"  # its workers stand in other folders


def compress_signals(request: SignalRequest) -> int:
    """Compress each input into a file of its own; return the exit code."""
    codec, choices = _checked(request)
    from lictor.codecs.batch import Rules
    from lictor.codecs.signals.files import lsig_beside, source_suffixes

    kind = codec.domain.kind
    batch = choose_targets(
        request.places, request.target, lsig_beside, source_suffixes(kind), f"{kind} files"
    )
    rules = Rules("compress", request.force, skip=batch.many, folders=batch.mirrors)
    return _run(batch, request, codec, rules, choices)


def decompress_signals(request: SignalRequest) -> int:
    """Restore each input: a file of one signal to a file, an archive to a folder."""
    codec, choices = _checked(request)
    from lictor.codecs.batch import LSIG, Item, Rules
    from lictor.codecs.signals.files import check_output, restored_beside, restored_suffix

    places, out = request.places, request.target
    beside = partial(restored_beside, codec)
    alone = len(places) == 1 and not Path(places[0]).is_dir()
    archive = alone and restored_suffix(codec, places[0]) == ""
    if archive and out is not None:
        batch = Batch((Item(places[0], out),), (), False, False)
    else:
        batch = choose_targets(places, out, beside, (LSIG,), "files")
    for item in batch.items:
        if restored_suffix(codec, item.source):
            check_output(codec, item.target)
    rules = Rules("decompress", request.force, skip=batch.many, folders=batch.mirrors)
    return _run(batch, request, codec, rules, choices)


def archive_signals(request: SignalRequest, target: Path) -> int:
    """Compress all inputs into one file; return the exit code."""
    codec, choices = _checked(request)
    from lictor.codecs.signals.archives import Source, pack
    from lictor.codecs.signals.files import source_suffixes
    from lictor.data.places import list_files

    if request.out is not None:
        raise ConfigError("--archive names the output: leave out --out")
    if request.workers.engine != "local" or request.workers.jobs not in (None, 1):
        raise ConfigError("--archive makes one file in one process: leave out --engine and --jobs")
    check_output_file(target, force=request.force)
    sources, suffixes = list[Source](), source_suffixes(codec.domain.kind)
    for place in request.places:
        path = Path(place)
        if path.is_dir() and not (path.suffix.lower() == ".zarr" and ".zarr" in suffixes):
            names = list_files(place, suffixes)
            if not names:
                raise DataError(
                    f"{place}: contains no {codec.domain.kind} files ({', '.join(suffixes)})"
                )
            sources += [Source(str(path / name), name) for name in names]
        else:
            sources.append(Source(place, path.name))
    assert choices.quality is not None
    packed = pack(
        codec,
        sources,
        target,
        quality=choices.quality,
        search=choices.search,
        variable=choices.variable,
    )
    rate = 8 * packed.num_bytes / packed.samples
    say(
        f"{packed.signals} signals -> {target}  {packed.num_bytes} bytes  "
        f"{rate:.4f} bits per sample"
    )
    return 0


def _checked(request: SignalRequest) -> "tuple[SignalCodec, Choices]":
    """Load the codec, and raise `ConfigError` for choices that it does not have."""
    from lictor.codecs.shipped import find_codec
    from lictor.codecs.signals.batch import Choices
    from lictor.codecs.signals.codec import SignalCodec

    codec = SignalCodec.load(find_codec(request.codec))
    return codec, Choices(request.quality, request.effort, request.variable).checked(codec)


def _run(
    batch: Batch, request: SignalRequest, codec: "SignalCodec", rules: "Rules", choices: "Choices"
) -> int:
    from lictor.codecs.signals.batch import SignalCoder, signal_coder_from_bytes
    from lictor.workers.engine import InProcess

    workers, doing = request.workers, f"{rules.verb}ing"
    with engine_of(workers.engine, workers.address, workers.jobs) as engine:
        if engine is None:
            make = partial(SignalCoder, codec, rules, choices)
            return run_batch(batch, InProcess(), make, verb=doing)
        data = codec_bytes(request.codec)
        make = partial(signal_coder_from_bytes, data, rules, choices)
        return run_batch(batch, engine, make, verb=doing)
