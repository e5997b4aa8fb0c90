"""`lictor compress` and `lictor decompress`: pictures to files and back, here or in many places."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from lictor.cli.batch import (
    Batch,
    EngineName,
    Workers,
    check_places,
    check_standard,
    choose_targets,
    engine_of,
    run_batch,
    written,
)
from lictor.cli.codec_file import Device, codec_bytes, is_of_signals, load_codec
from lictor.cli.messages import complain
from lictor.cli.signal_coding import (
    SignalRequest,
    archive_signals,
    compress_signals,
    decompress_signals,
)
from lictor.coding.container import MAX_PIXELS as _MAX_PIXELS
from lictor.errors import ConfigError

if TYPE_CHECKING:
    from lictor.codecs.batch import Rules
    from lictor.codecs.refinement import Refinement

Inputs = Annotated[Positional[tuple[str, ...]], arg(metavar="SRC...", help_behavior_hint="")]
Output = Annotated[str | None, arg(aliases=["-o"], metavar="DST", help_behavior_hint="")]
CodecFile = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
Jobs = Annotated[int | None, arg(aliases=["-j"], metavar="N", help_behavior_hint="")]
Effort = Annotated[int, arg(metavar="LEVEL", help_behavior_hint="")]
Lmbda = Annotated[float | None, arg(metavar="LMBDA", help_behavior_hint="")]
Quality = Annotated[int | None, arg(metavar="Q", help_behavior_hint="")]
Variable = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]
MaxPixels = Annotated[int, arg(metavar="N", help_behavior_hint="")]
Region = Annotated[str | None, arg(metavar="X,Y,W,H", help_behavior_hint="")]
Format = Annotated[str | None, arg(aliases=["-f"], metavar="FORMAT", help_behavior_hint="")]
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
    quality: Quality = None,
    archive: CodecFile = None,
    variable: Variable = None,
    strip: bool = False,
    verify: bool = False,
    preserve: bool = False,
    max_pixels: MaxPixels = _MAX_PIXELS,
) -> int:
    """Compress pictures (PNG, JPEG, WebP, ...) into .lic files beside them, or signals into .lsig.

    The codec decides: one of signals takes sounds, volumes, fields, arrays or pictures, whichever
    it was trained for.

    Of several inputs, those are skipped whose result is there already, made by this codec from
    an input of this size: a batch that was stopped goes on with the same command.

    Args:
        inputs: Pictures, folder trees of them, URLs of either; - is standard input. With a codec
            of signals: files of its kind, and folder trees of them.
        out: Output file, or folder or URL for several inputs; a tree is mirrored in it; - is
            standard output.
        codec: Codec file, or the name of one that ships with lictor: thumbnails, speech, climate,
            mri; the shipped one of pictures if not given.
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
        quality: Of a codec of signals: a number of its range (see `lictor info`), the middle if not
            given. Four more halve the quantization step.
        archive: With a codec of signals: put all inputs into this one file.
        variable: With a codec of fields: which variable of files that hold several.
        strip: Leave out profile, EXIF, XMP and comments, and turn the picture upright.
        verify: Decode each file that is made, and compare it with what the encoder meant.
        preserve: Give results the times of their inputs.
        max_pixels: Refuse larger pictures.
    """
    from lictor.codecs.batch import LIC, Rules
    from lictor.data.pictures import PICTURE_SUFFIXES

    if not inputs:
        return _usage("compress needs at least one picture")
    workers = Workers(engine, address, jobs, device)
    if codec is not None and is_of_signals(codec):
        if lmbda is not None:
            raise ConfigError("--lmbda is for codecs of pictures; with one of signals: --quality")
        _only_for_pictures(strip=strip, verify=verify, preserve=preserve)
        request = SignalRequest(inputs, out, codec, force, workers, quality, effort, variable)
        return archive_signals(request, archive) if archive else compress_signals(request)
    for name, value in (("quality", quality), ("archive", archive), ("variable", variable)):
        if value is not None:
            raise ConfigError(f"--{name} is for codecs of signals, and this is a codec of pictures")
    _check_limit(max_pixels)
    rules = Rules(
        "compress",
        force=force,
        device=device,
        refinement=_refinement(effort, lmbda),
        strip=strip,
        verify=verify,
        preserve=preserve,
        max_pixels=max_pixels,
    )
    return _code(_Files(LIC, PICTURE_SUFFIXES, "pictures"), inputs, out, codec, rules, workers)


def _check_limit(max_pixels: int) -> None:
    if max_pixels < 1:
        raise ConfigError(f"--max-pixels must be at least 1, not {max_pixels}")


def _region(text: str | None) -> tuple[int, int, int, int] | None:
    """Return a region as written; raises `ConfigError` when it is none."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(f"--region {text!r} must be four numbers: X,Y,WIDTH,HEIGHT")
    x, y, width, height = map(int, parts)
    if width < 1 or height < 1:
        raise ConfigError(f"--region {text!r} holds no pixel")
    return x, y, width, height


def _only_for_pictures(**options: object) -> None:
    for name, value in options.items():
        if value:
            raise ConfigError(f"--{name} is for codecs of pictures, and this is one of signals")


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
    format: Format = None,
    preserve: bool = False,
    region: Region = None,
    salvage: bool = False,
    max_pixels: MaxPixels = _MAX_PIXELS,
) -> int:
    """Restore pictures from .lic files, as PNG beside them, or signals from .lsig files.

    Of several files, those are skipped whose result is there already, in the right size: a batch
    that was stopped goes on with the same command.

    Args:
        inputs: Files made by `lictor compress`, folder trees of them, or URLs of either; - is
            standard input.
        out: Output file (.png, .tif, .bmp, .ppm, .jp2, lossless .webp; .jpg and .avif lose a
            little), or folder or URL for several inputs; a tree is mirrored in it; - is standard
            output. Of signals also .wav, .flac, .nii, .nii.gz, .nc, .zarr and .npy, as their kind
            is; an archive needs a folder, its name without .lsig if none is given.
        codec: Codec file, or the name of one that ships with lictor: thumbnails, speech, climate,
            mri; the shipped one of pictures if not given.
        force: Overwrite existing files, finished ones as well.
        jobs: Files decoded at a time, each in a process of its own with one thread; 1 if not
            given, with ray one for each of its cores.
        engine: Who does the work: local, or ray (needs the extra ray).
        address: Where a Ray runs, HOST:PORT or auto; one is started here if not given.
        device: Where the transforms run: auto, cpu, cuda, cuda:1, mps, xpu.
        format: What decoded pictures are written as, such as png or jpg, where no name of an
            output says it; png if not given.
        preserve: Give results the times of their inputs.
        region: Restore only so much of a picture, in pixels from its top left: only the tiles in it
            and around it are decoded.
        salvage: Restore what is left of a damaged picture; lost tiles are grey with a cross, they
            are named, and the exit code is 1.
        max_pixels: Refuse files that claim larger pictures.
    """
    from lictor.codecs.batch import LIC, Rules

    if not inputs:
        return _usage(f"decompress needs at least one {LIC} file")
    workers = Workers(engine, address, jobs, device)
    if codec is not None and is_of_signals(codec):
        _only_for_pictures(format=format, preserve=preserve, region=region, salvage=salvage)
        return decompress_signals(SignalRequest(inputs, out, codec, force, workers))
    if region is not None and salvage:
        raise ConfigError("--region and --salvage do not go together: salvage the whole picture")
    _check_limit(max_pixels)
    suffix = _suffix(format)
    rules = Rules(
        "decompress",
        force=force,
        device=device,
        preserve=preserve,
        suffix=suffix,
        region=_region(region),
        salvage=salvage,
        max_pixels=max_pixels,
    )
    return _code(_Files(suffix, (LIC,), "files"), inputs, out, codec, rules, workers)


def _suffix(format: str | None) -> str:
    """Return the end of the names of files of a format; raises `ConfigError` for an unknown one."""
    from lictor.data.picture_files import FORMATS

    suffix = "." + (format or "png").lower().removeprefix(".")
    if suffix not in FORMATS:
        names = ", ".join(known.removeprefix(".") for known in FORMATS)
        raise ConfigError(f"--format {format}: must be one of {names}")
    return suffix


@dataclass(frozen=True)
class _Files:
    """Results end in `suffix`; in trees are looked for files that end in one of `sources`."""

    suffix: str
    sources: tuple[str, ...]
    kind: str


def _code(
    files: _Files,
    inputs: Sequence[str],
    out: str | None,
    codec: Path | None,
    rules: "Rules",
    workers: Workers,
) -> int:
    from lictor.codecs.batch import Coder, coder_from_bytes
    from lictor.data.places import with_suffix
    from lictor.workers.engine import InProcess

    away = workers.engine == "ray"  # its workers stand in other folders
    inputs = [written(place, absolute=away) for place in inputs]
    out = None if out is None else written(out, absolute=away)
    check_places(inputs, out)
    check_standard(inputs, out, workers)
    _check_preserve(inputs, out, rules)
    with engine_of(workers.engine, workers.address, workers.jobs) as engine:
        beside = partial(with_suffix, suffix=files.suffix)
        batch = choose_targets(inputs, out, beside, files.sources, files.kind)
        _check_formats(batch, rules)
        # A worker elsewhere has devices of its own.
        loaded = load_codec(codec, "cpu" if away else workers.device)
        rules = dataclasses.replace(rules, skip=batch.many, folders=batch.mirrors)
        if rules.refinement is not None:
            loaded.check_refinable()
        doing = f"{rules.verb}ing"
        if engine is not None:
            make = partial(coder_from_bytes, codec_bytes(codec), rules)
            return run_batch(batch, engine, make, verb=doing)
        if rules.refinement is None:
            return run_batch(batch, InProcess(), partial(Coder, loaded, rules), verb=doing)
        from lictor.cli.progress import refining

        with refining(alone=len(batch.items) + len(batch.bad) < 2) as (watch, should_stop):
            make = partial(Coder, loaded, rules, watch)
            return run_batch(batch, InProcess(), make, verb=doing, should_stop=should_stop)


def _check_preserve(inputs: Sequence[str], out: str | None, rules: "Rules") -> None:
    """Raise `ConfigError` when times are to be kept where there are none."""
    from lictor.data.places import STANDARD, is_url

    for place in (*inputs, out or ""):
        if rules.preserve and (place == STANDARD or is_url(place)):
            raise ConfigError(f"{place}: --preserve is for files of this machine; leave it out")


def _check_formats(batch: Batch, rules: "Rules") -> None:
    """Raise an error where a decoded picture, or standard output, could not be written at all."""
    from lictor.data.picture_files import FORMATS
    from lictor.data.places import STANDARD, check_standard_output, suffix_of

    if batch.piped:
        check_standard_output()
    for item in batch.items if rules.verb == "decompress" else ():
        if item.target != STANDARD and suffix_of(item.target) not in FORMATS:
            raise ConfigError(f"{item.target}: the output must end in one of {', '.join(FORMATS)}")


def _usage(text: str) -> int:
    complain(f"{text}; see --help")
    return 2
