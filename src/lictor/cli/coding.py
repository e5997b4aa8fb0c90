"""`lictor compress` and `lictor decompress`: pictures to files and back, here or in many places."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from lictor.cli.batch import EngineName, check_places, choose_targets, engine_of, run_batch
from lictor.cli.codec_file import Device, codec_bytes, load_codec
from lictor.cli.messages import complain
from lictor.errors import ConfigError

if TYPE_CHECKING:
    from lictor.codecs.refinement import Refinement

Inputs = Annotated[Positional[tuple[str, ...]], arg(metavar="SRC...", help_behavior_hint="")]
Output = Annotated[str | None, arg(aliases=["-o"], metavar="DST", help_behavior_hint="")]
CodecFile = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
Jobs = Annotated[int | None, arg(aliases=["-j"], metavar="N", help_behavior_hint="")]
Effort = Annotated[int, arg(metavar="LEVEL", help_behavior_hint="")]
Lmbda = Annotated[float | None, arg(metavar="LMBDA", help_behavior_hint="")]
Address = Annotated[str | None, arg(metavar="HOST:PORT", help_behavior_hint="")]


def compress(
    inputs: Inputs,
    /,
    *,
    out: Output = None,
    codec: CodecFile = None,
    force: bool = False,
    jobs: Jobs = None,
    engine: EngineName = "local",
    address: Address = None,
    device: Device = "cpu",
    effort: Effort = 0,
    lmbda: Lmbda = None,
) -> int:
    """Compress pictures (PNG, JPEG, WebP, ...) into .lic files beside them.

    Of several pictures, those are skipped whose .lic file is there already, made by this codec from
    a picture of this size: a batch that was stopped goes on with the same command.

    Args:
        inputs: Pictures, 8-bit grey or RGB; folder trees of PNG, JPEG and WebP; URLs of either.
        out: Output file, or folder or URL for several inputs; a tree is mirrored in it.
        codec: Codec file; the one that ships with lictor if not given.
        force: Overwrite existing files, finished ones as well.
        jobs: Pictures coded at a time, each in a process of its own with one thread; 1 if not
            given, with ray one for each of its cores.
        engine: Who does the work: local, or ray (needs the extra ray).
        address: Where a Ray runs, HOST:PORT or auto; one is started here if not given.
        device: Where the transforms run: auto, cpu, cuda, cuda:1, mps, xpu.
        effort: 0 to 9: how long to look for a file that costs less, bits and error together; about
            twice as long each. Any decoder reads it. Ctrl-C keeps the best so far.
        lmbda: With an effort, what quality is worth; larger for a better picture and a larger file.
            If not given, what the codec was trained for.
    """
    from lictor.codecs.batch import LIC
    from lictor.data.images import IMAGE_SUFFIXES

    if not inputs:
        return _usage("compress needs at least one picture")
    what = _Verb("compress", LIC, IMAGE_SUFFIXES, "pictures")
    workers = _Workers(engine, address, jobs, device)
    return _code(what, inputs, out, codec, force, workers, _refinement(effort, lmbda))


def _refinement(level: int, lmbda: float | None) -> "Refinement | None":
    if level == 0:
        if lmbda is not None:
            raise ConfigError("--lmbda is for a search: add --effort, 1 to 9")
        return None
    from lictor.codecs.refinement import effort

    return effort(level, lmbda=lmbda)


def decompress(
    inputs: Inputs,
    /,
    *,
    out: Output = None,
    codec: CodecFile = None,
    force: bool = False,
    jobs: Jobs = None,
    engine: EngineName = "local",
    address: Address = None,
    device: Device = "cpu",
) -> int:
    """Restore pictures from .lic files, as PNG beside them.

    Of several files, those are skipped whose picture is there already, in the right size: a batch
    that was stopped goes on with the same command.

    Args:
        inputs: Files made by `lictor compress`, folder trees of them, or URLs of either.
        out: Output file (.png, .ppm, .bmp, .tif, lossless .webp), or folder or URL for several
            inputs; a tree is mirrored in it.
        codec: Codec file; the one that ships with lictor if not given.
        force: Overwrite existing files, finished ones as well.
        jobs: Files decoded at a time, each in a process of its own with one thread; 1 if not
            given, with ray one for each of its cores.
        engine: Who does the work: local, or ray (needs the extra ray).
        address: Where a Ray runs, HOST:PORT or auto; one is started here if not given.
        device: Where the transforms run: auto, cpu, cuda, cuda:1, mps, xpu.
    """
    from lictor.codecs.batch import LIC

    if not inputs:
        return _usage(f"decompress needs at least one {LIC} file")
    what = _Verb("decompress", ".png", (LIC,), "files")
    return _code(what, inputs, out, codec, force, _Workers(engine, address, jobs, device))


@dataclass(frozen=True)
class _Verb:
    """What is done: from files with one of the ends `sources`, `kind`, to one with `suffix`."""

    name: Literal["compress", "decompress"]
    suffix: str
    sources: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class _Workers:
    """Who does it."""

    engine: EngineName
    address: str | None
    jobs: int | None
    device: str


def _code(
    verb: _Verb,
    inputs: Sequence[str],
    out: str | None,
    codec: Path | None,
    force: bool,
    workers: _Workers,
    refinement: "Refinement | None" = None,
) -> int:
    from lictor.codecs.batch import LOSSLESS, Coder, Rules, coder_from_bytes
    from lictor.data.places import suffix_of
    from lictor.workers.engine import InProcess

    away = workers.engine == "ray"  # its workers stand in other folders
    inputs = [_written(place, absolute=away) for place in inputs]
    out = None if out is None else _written(out, absolute=away)
    check_places(inputs, out)
    with engine_of(workers.engine, workers.address, workers.jobs) as engine:
        batch = choose_targets(inputs, out, verb.suffix, verb.sources, verb.kind)
        for item in batch.items if verb.name == "decompress" else ():
            if suffix_of(item.target) not in LOSSLESS:
                raise ConfigError(
                    f"{item.target}: the output must end in one of {', '.join(LOSSLESS)}"
                )
        # A worker elsewhere has devices of its own.
        loaded = load_codec(codec, "cpu" if away else workers.device)
        rules = Rules(
            verb.name,
            force=force,
            skip=batch.many,
            folders=batch.mirrors,
            device=workers.device,
            refinement=refinement,
        )
        if refinement is not None:
            loaded.check_refinable()
        doing = f"{verb.name}ing"
        if engine is not None:
            make = partial(coder_from_bytes, codec_bytes(codec), rules)
            return run_batch(batch, engine, make, verb=doing)
        if refinement is None:
            return run_batch(batch, InProcess(), partial(Coder, loaded, rules), verb=doing)
        from lictor.cli.progress import refining

        with refining(alone=len(batch.items) + len(batch.bad) < 2) as (watch, should_stop):
            make = partial(Coder, loaded, rules, watch)
            return run_batch(batch, InProcess(), make, verb=doing, should_stop=should_stop)


def _written(place: str, *, absolute: bool) -> str:
    """Return a path as messages write it, a URL as it is."""
    from lictor.data.places import is_url

    if is_url(place):
        return place
    return os.path.abspath(place) if absolute else str(Path(place))  # noqa: PTH100 - no link is followed


def _usage(text: str) -> int:
    complain(f"{text}; see --help")
    return 2
