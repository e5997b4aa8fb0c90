"""`lictor evaluate`: codecs on pictures, to a table and one results file a curve."""

import math
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from lictor.cli.batch import EngineName, check_places, engine_of
from lictor.cli.codec_file import Device
from lictor.cli.coding import Address, Jobs
from lictor.cli.evaluate_signals import evaluate_signals
from lictor.cli.failures import report_failures
from lictor.cli.messages import complain
from lictor.errors import ConfigError, LictorError

if TYPE_CHECKING:
    from lictor.comparison.curve import Curve
    from lictor.evaluation.contenders import Contender
    from lictor.evaluation.sweep import Outcome, Picture

Codecs = Annotated[tuple[str, ...], arg(name="codecs", metavar="CODEC...", help_behavior_hint="")]
OutFolder = Annotated[str | None, arg(aliases=["-o"], metavar="FOLDER", help_behavior_hint="")]
_RESULTS = (".json", ".jsonl")


def evaluate(
    folder: Positional[str],
    /,
    *,
    codecs: Codecs = ("default",),
    out: OutFolder = None,
    jobs: Jobs = None,
    limit: int | None = None,
    dataset: str | None = None,
    keep: int = 0,
    lpips: bool = False,
    speed: bool = False,
    device: Device = "cpu",
    engine: EngineName = "local",
    address: Address = None,
    variable: str | None = None,
    value_range: tuple[float, float] | None = None,
) -> int:
    """Measure codecs on a folder of pictures: real file sizes, decoded 8-bit pictures, times.

    Codecs of signals are measured on sounds, volumes, fields or arrays: .lcodec files of that kind,
    the names of shipped ones (speech:-4,0,4), mp3, opus, flac, jpeg2000, jpegxl, sz3, zfp, x265.

    A codec is `default` (the one that ships), a .lcodec file (several with commas between make one
    curve), jpeg, jpeg-444, jpeg2000, webp, avif, jpegxl, or the .toml of a command codec; with
    qualities if wanted (avif:30,50,70) and a name if wanted (mine=a.lcodec,b.lcodec).

    Args:
        folder: Folder tree of pictures, or its URL.
        codecs: Who takes part; the codec that ships if not given.
        out: Folder, or its URL, for one results file a curve. An evaluation that was interrupted
            goes on where it was; rows that are still valid are not measured again.
        jobs: Pictures measured at a time; as many as there are cores if not given. Times are clean
            only with 1, or with --speed.
        limit: Take the first pictures only.
        dataset: What the pictures are called in results; the folder's name if not given.
        keep: Keep this many pictures decoded, in the output folder, for a report to show.
        lpips: Measure LPIPS too (needs the extra lpips and its weights).
        speed: Then measure time, memory and operations of each codec, one at a time, here.
        device: Where the transforms of learned codecs run: auto, cpu, cuda, cuda:1, mps, xpu.
        engine: Who measures: local, or ray (needs the extra ray).
        address: Where a Ray runs, HOST:PORT or auto; one is started here if not given.
        variable: Which variable of files of fields that hold several.
        value_range: Range that errors of fields, volumes and arrays are shares of; that of the
            first codec's training data if not given, else each file's own.
    """
    from lictor.data.places import is_url
    from lictor.evaluation.contenders import parse_contenders
    from lictor.evaluation.signals.contenders import kind_of, with_shipped

    if out is None and (keep or speed):
        raise ConfigError("--keep and --speed need a place for what they make: add -o FOLDER")
    for name, value, least in (("jobs", jobs, 1), ("limit", limit, 1), ("keep", keep, 0)):
        if value is not None and value < least:
            raise ConfigError(f"--{name} must be at least {least}, not {value}")
    codecs = tuple(map(with_shipped, codecs))
    kind = kind_of(codecs, folder)
    if kind is not None:
        if lpips or speed or engine != "local" or address is not None or device != "cpu":
            raise ConfigError("--lpips, --speed, --engine and --device are for codecs of pictures")
        return evaluate_signals(
            folder, codecs, kind, out=out, limit=limit, dataset=dataset or _title(folder),
            keep=keep, variable=variable, value_range=value_range,
        )  # fmt: skip
    if variable is not None or value_range is not None:
        raise ConfigError("--variable and --value-range are for codecs of signals")
    if keep and engine == "ray":
        raise ConfigError("--keep writes pictures on the machine that decodes them: not with ray")
    places = [folder if is_url(folder) else str(Path(folder))]
    if engine == "ray":  # its workers stand in other folders
        places = [place if is_url(place) else os.path.abspath(place) for place in places]  # noqa: PTH100
    check_places(places, out)
    contenders = parse_contenders(codecs, device=device)
    asked = jobs or (None if engine == "ray" else os.cpu_count() or 1)
    with engine_of(engine, address, asked) as workers, results_folder(out, contenders) as results:
        asked = asked or int(getattr(workers, "jobs", 1))
        options = {"jobs": asked, "lpips": lpips, "keep": keep}
        if engine == "ray":
            options["engine"] = workers
        name = dataset or _title(folder)
        return _evaluate(
            contenders, places[0], results, out, name, limit=limit, speed=speed, options=options
        )


def _title(folder: str) -> str:
    from lictor.data.places import is_url

    name = folder.rstrip("/").rpartition("/")[2] if is_url(folder) else Path(folder).resolve().name
    return name.lower()


def _evaluate(
    contenders: "Sequence[Contender]",
    folder: str,
    out: Path | None,
    shown: str | None,
    dataset: str,
    *,
    limit: int | None,
    speed: bool,
    options: dict[str, Any],
) -> int:
    """Measure, write and print; `shown` is what `out` is called."""
    from lictor.cli.progress import stderr
    from lictor.data.places import joined
    from lictor.evaluation.provenance import provenance
    from lictor.evaluation.sweep import finish, read_pictures, set_hash

    pictures, unreadable = read_pictures(folder, limit=limit, exclude=out)
    for reason in unreadable:
        complain(reason)
    outcomes = _measure(contenders, pictures, out=out, **options)
    curves = finish(
        contenders,
        outcomes,
        out=out,
        dataset=dataset,
        provenance=provenance(images=len(pictures), images_sha256=set_hash(pictures)),
        errors=[f"not a readable picture: {reason}" for reason in unreadable],
    )
    _print_tables(curves)
    failed = len(unreadable)
    if out is not None and speed:
        failed += _measure_speed(contenders, curves, pictures, out)
    if shown is not None and curves:
        files = ", ".join(joined(shown, f"{curve.name}.json") for curve in curves)
        stderr.print(f"results in {files}", soft_wrap=True)
    return report_failures(outcomes, curves, failed)


@contextmanager
def results_folder(out: str | None, contenders: "Sequence[Contender]") -> "Iterator[Path | None]":
    """Give the folder that results are written in: `out`, or one here whose files go to that URL.

    Rows of an earlier evaluation come from the URL first; what there is goes there however it ends.
    """
    from lictor.data.places import (
        exists,
        is_url,
        joined,
        list_files,
        read_bytes,
        remove,
        whole_file,
    )

    if out is None or not is_url(out):
        yield None if out is None else Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="lictor-results-") as temporary:
        here = Path(temporary)
        for contender in contenders:
            for name in (f"{contender.name}.json", f"{contender.name}.partial.jsonl"):
                if exists(joined(out, name)):
                    (here / name).write_bytes(read_bytes(joined(out, name)))
        before = {name: (here / name).read_bytes() for name in list_files(temporary, _RESULTS)}
        try:
            yield here
        finally:
            after = list_files(temporary, (*_RESULTS, ".png"))
            for name in after:
                data = (here / name).read_bytes()
                if data != before.get(name):
                    with whole_file(joined(out, name)) as file:
                        file.write(data)
            for name in before:
                if name not in after:
                    remove(joined(out, name))


def _measure(
    contenders: "Sequence[Contender]", pictures: "Sequence[Picture]", **options: Any
) -> "list[Outcome]":
    from lictor.cli.progress import follow, stderr
    from lictor.evaluation.sweep import evaluate as sweep

    total = len(pictures) * sum(len(contender.settings) for contender in contenders)
    # A polite request to stop ends as Ctrl-C does: with every row kept and no process left.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcomes = list(follow(sweep(contenders, pictures, **options), total, "evaluating"))
    finally:
        signal.signal(signal.SIGTERM, previous)
    reused = sum(outcome.reused for outcome in outcomes)
    if reused:
        stderr.print(f"{reused} of {total} rows were measured before and are taken as they are")
    return outcomes


def _measure_speed(
    contenders: "Sequence[Contender]",
    curves: "Sequence[Curve]",
    pictures: "Sequence[Picture]",
    out: Path,
) -> int:
    """Add the costs of each setting to its curve's file, one at a time; return how many fail."""
    from lictor.cli.progress import over
    from lictor.evaluation.cost import with_speed
    from lictor.evaluation.journal import save_curve

    by_name = {contender.name: contender for contender in contenders}
    failed = 0
    for curve in over(curves, "measuring speed"):
        try:
            measured = with_speed(curve, by_name[curve.name], pictures)
            save_curve(measured, out / f"{curve.name}.json")
        except LictorError as error:
            failed += 1
            complain(f"{curve.name}: no speed ({error})")
    return failed


def _print_tables(curves: "Sequence[Curve]") -> None:
    from rich.console import Console

    from lictor.cli.progress import table

    console = Console(width=None if sys.stdout.isatty() else 120)
    if len(curves) == 1 and len(curves[0].settings) == 1:
        rows = [{"image": r.image, **_row_figures(vars(r))} for r in curves[0].rows]
        console.print(table(rows, title=curves[0].description or curves[0].name), crop=False)
    if curves:
        console.print(table([row for curve in curves for row in _point_figures(curve)]), crop=False)


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _row_figures(row: dict[str, Any]) -> dict[str, str]:
    return {
        "bytes": f"{row['bytes']:.0f}",
        "bpp": _number(row["bpp"], 4),
        "est. bpp": _number(row["estimated_bpp"], 4),
        "PSNR": _number(row["psnr"], 2),
        "MS-SSIM": _number(row["ms_ssim"], 4),
        "enc s": _number(row["encode_s"], 3),
        "dec s": _number(row["decode_s"], 3),
    }


def _point_figures(curve: "Curve") -> list[dict[str, str]]:
    return [
        {
            "curve": curve.name,
            "setting": setting,
            "images": str(len(curve.at(setting))),
            "bpp": _number(curve.columns["bpp"][i], 4),
            "PSNR": _number(curve.columns["psnr"][i], 2),
            "of mean MSE": _number(curve.columns["psnr-of-mean-mse"][i], 2),
            "PSNR-Y": _number(curve.columns["psnr-y"][i], 2),
            "MS-SSIM": _number(curve.columns["ms-ssim"][i], 4),
            "enc s": _number(curve.columns["encoding_time"][i], 3),
            "dec s": _number(curve.columns["decoding_time"][i], 3),
        }
        for i, setting in enumerate(curve.settings)
    ]
