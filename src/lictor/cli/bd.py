"""`lictor bd` and `lictor anchors`: what a curve is worth against another, and against whose."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from lictor.cli.messages import complain, say
from lictor.errors import ConfigError, DataError, LictorError

if TYPE_CHECKING:
    from rich.console import Console

    from lictor.comparison.bd import Comparison
    from lictor.comparison.curve import Curve
    from lictor.comparison.findings import Finding
    from lictor.comparison.point import PointComparison
    from lictor.comparison.tables import Table

Anchor = Annotated[str, arg(metavar="ANCHOR", help_behavior_hint="")]
Tests = Annotated[tuple[str, ...], arg(metavar="TEST...", help_behavior_hint="")]
Metric = Literal["psnr", "psnr-y", "ms-ssim", "ms-ssim-db", "lpips"]
Aggregation = Literal["mean-psnr", "mean-mse"]
Method = Literal["pchip", "akima", "cubic", "all"]
Format = Literal["terminal", "markdown", "csv", "latex", "json"]

_PIPE_WIDTH, _WIDE = 200, 100
_FIRST_COLUMN = 16  # characters that a name gets, if it has them, before other columns


def bd(
    anchor: Positional[Anchor],
    tests: Positional[Tests],
    /,
    *,
    metric: Metric = "psnr",
    aggregation: Annotated[
        Aggregation | None, arg(metavar="{mean-psnr,mean-mse}", help_behavior_hint="")
    ] = None,
    method: Method = "pchip",
    per_image: bool = False,
    bootstrap: Annotated[int, arg(metavar="N")] = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    format: Annotated[
        Format | None,
        arg(metavar="{terminal,markdown,csv,latex,json}", help_behavior_hint=""),
    ] = None,
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")] = None,
    force: bool = False,
) -> int:
    """Compare curves with an anchor: bits saved at equal quality, quality gained at equal bits.

    A codec of one rate is a point: it has both numbers against the anchor's curve, but no BD-rate.

    Each curve is a results file of `lictor evaluate` or of CompressAI, or the name of a published
    one (see `lictor anchors`); a file that exists wins. A comparison that would mislead is refused,
    the others go on, and the exit code is 1.

    Args:
        anchor: What to compare with.
        tests: What to compare.
        metric: Measure of quality.
        aggregation: How it is averaged over pictures; as both curves have it if not given.
        method: Interpolation between the points; cubic is the classic polynomial.
        per_image: Show the BD-rate of every picture too, where results have pictures.
        bootstrap: Resamples of the pictures for the interval of confidence; 0 for none.
        seed: Seed of the resampling.
        confidence: Confidence of the interval.
        format: Form of the table; by the suffix of the output (.md, .csv, .tex, .json), or for the
            terminal, if not given.
        out: Write the table to this file.
        force: Compare all the same, where there is still a number, and only warn.
    """
    from lictor.comparison.bd import Bootstrap, Comparison
    from lictor.comparison.point import PointComparison
    from lictor.comparison.tables import FORMATS

    if not tests:
        complain("bd needs at least one curve to compare with the anchor; see --help")
        return 2
    if bootstrap < 0:
        raise ConfigError(f"--bootstrap must be at least 0, not {bootstrap}")
    form = _format(format, out)
    how = {
        "metric": metric,
        "aggregation": aggregation,
        "bootstrap": Bootstrap(bootstrap, seed, confidence) if bootstrap else None,
        "force": force,
    }
    methods = ("pchip", "akima", "cubic") if method == "all" else (method,)
    found, failed = _compare_all(anchor, tests, how, methods=methods)
    numbers = [one for one in found if not one.refused]
    curves = [one for one in found if isinstance(one, Comparison)]
    points = [one for one in found if isinstance(one, PointComparison)]
    if numbers and form == "terminal":
        _show(curves, points, per_image=per_image)
    elif numbers:
        text = FORMATS[form](curves, points, per_image=per_image)
        _deliver(text, out, [finding for one in numbers for finding in one.findings])
        if points and per_image and form == "csv":
            _warn("single points have no BD-rates of pictures: they are not in the table")
    return 1 if failed or len(numbers) < len(found) else 0


def _format(wanted: str | None, out: Path | None) -> str:
    """Choose the form of the table from --format and the output's suffix."""
    from lictor.comparison.tables import SUFFIXES

    if out is None:
        return wanted or "terminal"
    if wanted == "terminal":
        raise ConfigError("--format terminal is not for a file; choose another, or leave -o away")
    if wanted is None and out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{out}: the output must end in one of {', '.join(SUFFIXES)}")
    return wanted or SUFFIXES[out.suffix.lower()]


def load(name: str) -> "Curve":
    """Return the curve of a results file, else of a published anchor of that name.

    Raises `DataError` when it is neither, with the anchors of nearly that name.
    """
    from lictor.comparison.anchors import anchor_names, load_anchor, near_anchors
    from lictor.comparison.curve import load_curve

    try:
        exists = Path(name).exists()
    except (OSError, ValueError):  # too long, or a character that no path has
        exists = False
    if exists:
        curve = load_curve(name)
        called = Path(name).stem if curve.name == "unnamed" else curve.name
        return replace(curve, name=_one_line(called))
    if name.casefold().strip() in anchor_names():
        return load_anchor(name)
    near = near_anchors(Path(name).stem)
    hint = f"anchors like it: {', '.join(near)}" if near else "lictor anchors lists all anchors"
    raise DataError(f"{name}: neither a results file nor an anchor; {hint}")


def _compare_all(
    anchor_name: str, names: Sequence[str], how: dict[str, Any], *, methods: Sequence[str]
) -> tuple[list["Comparison | PointComparison"], int]:
    """Compare each curve that can be read; return how many cannot. Say why something is refused."""
    anchor = load(anchor_name)
    tests: list[tuple[str, Curve]] = []
    failed = 0
    for name in names:
        try:
            tests.append((name, load(name)))
        except LictorError as error:
            failed += 1
            complain(error)
    labels = [curve.name for _, curve in tests]
    comparisons: list[Comparison | PointComparison] = []
    complaints = dict[str, None]()
    for name, curve in tests:
        label = f"{curve.name} ({name})" if labels.count(curve.name) > 1 else curve.name
        test = replace(curve, name=label)
        for method in methods:
            comparison = _compare(anchor, test, how, method=method)
            comparisons.append(comparison)
            hint = ""
            if comparison.refused and not how["force"]:
                forced = _compare(anchor, test, {**how, "force": True}, method=method)
                hint = "" if forced.refused else " (or --force)"
            for finding in comparison.findings:
                if finding.level == "error":
                    complaints[_one_line(f"{label} against {anchor.name}: {finding}{hint}")] = None
    for complaint in complaints:
        complain(complaint)
    return comparisons, failed


def _compare(
    anchor: "Curve", test: "Curve", how: dict[str, Any], *, method: str
) -> "Comparison | PointComparison":
    """Compare two curves, or the one point of a curve with the other."""
    from lictor.comparison.bd import compare
    from lictor.comparison.point import compare_point, is_point

    if not is_point(anchor) and not is_point(test):
        return compare(anchor, test, method=method, **how)
    of_point = {key: how[key] for key in ("metric", "aggregation", "force")}
    return compare_point(anchor, test, method=method, **of_point)


def _one_line(text: str) -> str:
    """Make text from a file fit to print: no line breaks, no control characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _deliver(text: str, out: Path | None, findings: Sequence["Finding"]) -> None:
    """Print the text of a table, or write it to a file and say what its reader should know."""
    from lictor.files import write_file

    if out is None:
        say(text.rstrip("\n"))
        return
    write_file(out, text.encode())
    print(f"table in {out}", file=sys.stderr, flush=True)
    for finding in dict.fromkeys(findings):
        _warn(str(finding))


def _warn(text: str) -> None:
    print(f"lictor: warning: {_one_line(text)}", file=sys.stderr, flush=True)


def _console() -> "Console":
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def _show(
    comparisons: Sequence["Comparison"], points: Sequence["PointComparison"], *, per_image: bool
) -> None:
    from lictor.comparison.tables import bd_table, image_table, point_columns, point_table

    console = _console()
    tables = [(bd_table(comparisons), ("BD-rate %",))] if comparisons else []
    tables += [(point_table(points), point_columns(points[0].metric))] if points else []
    for table, kept in tables:
        spare = [name for name in reversed(table.columns[1:-1]) if name not in kept]
        _print(console, table, text=("anchor", "aggregation", "method"), spare=spare)
    if per_image:
        images = image_table(comparisons)
        if images.rows:
            _print(console, images, spare=images.columns[:1:-1])
        else:
            say("no BD-rate of each picture: that needs results of the same pictures for both")


def _print(
    console: "Console", table: "Table", *, text: Sequence[str] = (), spare: Sequence[str] = ()
) -> None:
    """Print a table with its notes; columns but the first and those named in `text` are numbers.

    In a narrow terminal the `spare` columns go first, then the first column and the headers fold;
    a number is never cut off.
    """
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    cells = dict(zip(table.columns, zip(*table.rows, strict=True), strict=True))
    least = {name: max(map(len, column)) for name, column in cells.items()}
    least[table.columns[0]] = min(_FIRST_COLUMN, least[table.columns[0]])
    gap, dropped = (0 if console.width < _WIDE else 1), list[str]()
    for name in spare:
        words = (max(least[n], max(map(len, n.split()))) for n in least)
        if sum(words) + (gap + 1) * len(least) + 1 > console.width:
            dropped.append(name)
            del least[name]
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap, 0, 0))
    for position, (name, width) in enumerate(least.items()):
        # The unit on a line of its own keeps a column as narrow as its numbers.
        header = Text("\n".join(name.rsplit(" ", 1)) if position else name)
        right = position > 0 and name not in text
        justify = "right" if right else "left"
        shown.add_column(header, justify=justify, overflow="fold", min_width=width)
    for row in zip(*(cells[name] for name in least), strict=True):
        shown.add_row(*(Text(_one_line(cell)) for cell in row))
    wrap = console.is_terminal
    if table.title:
        console.print(Text(table.title, style="bold"), soft_wrap=not wrap)
    console.print(shown)
    for number, note in enumerate(table.notes, 1):
        console.print(Text(f"{number}  {_one_line(note)}"), soft_wrap=not wrap)
    if dropped:
        console.print(Text(f"a wider terminal shows {', '.join(dropped)} too", style="dim"))


def anchors(
    name: Positional[Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]] = None,
    /,
    *,
    filter: Annotated[str, arg(metavar="TEXT", help_behavior_hint="")] = "",
    json: bool = False,
) -> int:
    """List the published curves to compare with, or show one with its points and its source.

    Args:
        name: Show this one.
        filter: List only those with this text in their name, label or source.
        json: Print one JSON object; a single curve is then a results file.
    """
    from lictor.comparison.anchors import anchor_names, load_anchor
    from lictor.comparison.curve import curve_to_json

    if name is not None:
        curve = load_anchor(name)
        if json:
            _print_json(curve_to_json(curve))
        else:
            _show_anchor(curve)
        return 0
    curves = [load_anchor(known) for known in anchor_names()]
    curves = [c for c in curves if filter.casefold() in _searchable(c)]
    if not curves:
        raise DataError(f"no anchor has {filter!r} in its name, label or source")
    if json:
        _print_json({curve.name: _summary(curve) for curve in curves})
    else:
        _list_anchors(curves)
    return 0


def _print_json(value: object) -> None:
    import json

    say(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def _searchable(curve: "Curve") -> str:
    about = curve.provenance
    keys = ("label", "about", "repo", "path", "origin", "reference")
    return " ".join([curve.name, *(str(about.get(key, "")) for key in keys)]).casefold()


def _summary(curve: "Curve") -> dict[str, Any]:
    from lictor.comparison.curve import METRICS

    psnr = curve.columns.get("psnr")
    return {
        "label": curve.provenance["label"],
        "points": len(curve.bpp),
        "bpp": [curve.bpp[0], curve.bpp[-1]],
        "psnr": None if psnr is None else [psnr.min(), psnr.max()],
        "metrics": [metric for metric in METRICS if metric in curve.columns],
        "source": curve.provenance["repo"],
    }


def _list_anchors(curves: Sequence["Curve"]) -> None:
    from lictor.comparison.tables import Table

    console = _console()
    text = ("source", "label", "metrics")
    columns = ("name", "points", "bpp", "PSNR dB", *reversed(text))
    rows = []
    for curve in curves:
        summary = _summary(curve)
        psnr = summary["psnr"]
        row = (
            curve.name,
            str(summary["points"]),
            "{:.3f}–{:.3f}".format(*summary["bpp"]),
            "-" if psnr is None else "{:.2f}–{:.2f}".format(*psnr),
            " ".join(summary["metrics"]),
            summary["label"],
            summary["source"],
        )
        rows.append(row)
    table = Table(f"{len(rows)} published curves", columns, tuple(rows))
    _print(console, table, text=text, spare=(*text, "PSNR dB"))


def _show_anchor(curve: "Curve") -> None:
    from lictor.comparison.tables import Table

    console = _console()
    about = {"name": curve.name, **curve.provenance, "dataset": curve.dataset}
    about["aggregation"] = about.get("aggregation", "not stated")
    width = max(map(len, about))
    for key, value in about.items():
        console.print(f"{key:{width}}  {value}", markup=False, soft_wrap=True)
    named = list(curve.columns)
    cells = zip(*(curve.columns[key] for key in named), strict=True)
    rows = [(s, *(f"{v:g}" for v in row)) for s, row in zip(curve.settings, cells, strict=True)]
    columns = ("point", *named)
    _print(console, Table("", columns, tuple(rows)), spare=columns[:2:-1])
