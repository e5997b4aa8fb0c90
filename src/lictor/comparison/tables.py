"""Tables of comparisons as Markdown, CSV, LaTeX and JSON; as cells for anything else."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lictor.comparison.bd import Comparison, Range
from lictor.comparison.curve import METRICS
from lictor.comparison.point import PointComparison
from lictor.errors import ConfigError
from lictor.files import json_ready

BD_FORMAT = "lictor-bd-1"
_NOTHING = "-"
# What goes into the title, with a word before it, where all comparisons have the same.
_SHARED = {"anchor": "against", "aggregation": "average", "method": "method"}


@dataclass(frozen=True)
class Table:
    """Cells of text: a row is as long as `columns`, and its first cell names it.

    Cells of the column `notes` have numbers, from 1, of the lines in `notes`.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def bd_table(comparisons: Sequence[Comparison]) -> Table:
    """Return one row a comparison; what all of them share is in the title.

    Raises `ConfigError` when there is no comparison, or they are in different metrics.
    """
    if not comparisons or len({c.metric for c in comparisons}) > 1:
        raise ConfigError("a table needs comparisons, all in one metric")
    metric = METRICS[comparisons[0].metric]
    notes = tuple(dict.fromkeys(note for c in comparisons for note in _notes(c)))
    columns: dict[str, Callable[[Comparison], str]] = {"test": lambda c: c.test}
    shared, different = _shared(comparisons)
    for name in different:
        columns[name] = lambda c, name=name: getattr(c, name)
    columns["BD-rate %"] = lambda c: "refused" if c.refused else _signed(c.bd_rate, 2)
    intervals = [c.interval for c in comparisons if c.interval is not None]
    if intervals:
        confidence = intervals[0].bootstrap.confidence
        columns[f"{100 * confidence:g} % interval"] = _interval
    columns |= {
        f"BD-{metric.label}": lambda c: _signed(c.bd_quality, metric.digits),
        metric.label: lambda c: _range(c.quality_range, metric.digits),
        "overlap %": lambda c: _shares(c.overlap),
        "points": lambda c: f"{c.num_points[0]}/{c.num_points[1]}",
        "notes": lambda c: " ".join(str(notes.index(note) + 1) for note in _notes(c)),
    }
    rows = tuple(tuple(cell(c) for cell in columns.values()) for c in comparisons)
    title = "; ".join([*shared, "overlap and points: anchor/test"])
    return Table(title, tuple(columns), rows, notes)


def point_table(points: Sequence[PointComparison]) -> Table:
    """Return one row a comparison of a single point; what all of them share is in the title.

    Raises `ConfigError` as `bd_table` does.
    """
    if not points or len({c.metric for c in points}) > 1:
        raise ConfigError("a table needs comparisons, all in one metric")
    metric = METRICS[points[0].metric]
    rates, qualities = point_columns(points[0].metric)
    notes = tuple(dict.fromkeys(note for c in points for note in _notes(c)))
    shared, different = _shared(points)
    columns: dict[str, Callable[[PointComparison], str]] = {"test": lambda c: c.test}
    for name in different:
        columns[name] = lambda c, name=name: getattr(c, name)
    columns |= {
        rates: lambda c: "refused" if c.refused else _signed(c.point_rate, 2),
        qualities: lambda c: _signed(c.point_quality, metric.digits),
        "bpp": lambda c: _number(c.bpp, 4),
        metric.label: lambda c: _number(c.quality, metric.digits),
        "notes": lambda c: " ".join(str(notes.index(note) + 1) for note in _notes(c)),
    }
    rows = tuple(tuple(cell(c) for cell in columns.values()) for c in points)
    title = "; ".join(["single points, which have no BD-rate", *shared])
    return Table(title, tuple(columns), rows, notes)


def point_columns(metric: str) -> tuple[str, str]:
    """Return how `point_table` heads its two numbers in a metric of `METRICS`."""
    label = METRICS[metric].label
    quality = label.removesuffix(" dB")
    return f"bits at equal {quality} %", f"{quality} at equal bits{label.removeprefix(quality)}"


def _shared(comparisons: Sequence[Comparison | PointComparison]) -> tuple[list[str], list[str]]:
    """Return what all have in common, for a title, and the names of what needs a column."""
    shared, different = list[str](), list[str]()
    for name, label in _SHARED.items():
        values = dict.fromkeys(getattr(c, name) for c in comparisons if not c.refused)
        if len(values) > 1:
            different.append(name)
        else:
            shared += [f"{label} {value}" for value in values]
    return shared, different


def image_table(comparisons: Sequence[Comparison]) -> Table:
    """Return one row a picture: the BD-rate of its own curves, for each comparison that has it.

    The last row is the mean over the pictures that have one. Empty when no comparison has pictures.
    """
    of_images = [c for c in comparisons if c.per_image]
    several = len({c.method for c in of_images}) > 1
    columns = [f"{c.test} {c.method}" if several else c.test for c in of_images]
    images = list(dict.fromkeys(delta.image for c in of_images for delta in c.per_image))
    values = [{delta.image: delta.bd_rate for delta in c.per_image} for c in of_images]
    rows = [(i, *(_signed(column.get(i, math.nan), 2) for column in values)) for i in images]
    if rows:
        means = (_mean([delta.bd_rate for delta in c.per_image]) for c in of_images)
        rows.append(("mean", *(_signed(mean, 2) for mean in means)))
    anchors = " and ".join(dict.fromkeys(c.anchor for c in of_images))
    return Table(f"BD-rate % of each picture against {anchors}", ("image", *columns), tuple(rows))


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def _notes(comparison: Comparison | PointComparison) -> list[str]:
    return [
        f"refused: {finding}" if finding.level == "error" else str(finding)
        for finding in comparison.findings
    ]


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}" if math.isfinite(value) else _NOTHING


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else _NOTHING


def _range(bounds: Range, digits: int) -> str:
    if not all(map(math.isfinite, bounds)):
        return _NOTHING
    return f"{bounds[0]:.{digits}f}–{bounds[1]:.{digits}f}"


def _shares(shares: Range) -> str:
    if not all(map(math.isfinite, shares)):
        return _NOTHING
    return f"{100 * shares[0]:.0f}/{100 * shares[1]:.0f}"


def _interval(comparison: Comparison) -> str:
    if comparison.interval is None:
        return _NOTHING
    low, high = comparison.interval.bd_rate
    return f"[{_signed(low, 2)}, {_signed(high, 2)}]"


def _tables(
    comparisons: Sequence[Comparison], points: Sequence[PointComparison], *, per_image: bool
) -> list[Table]:
    tables = [bd_table(comparisons)] if comparisons or not points else []
    tables += [point_table(points)] if points else []
    tables += [image_table(comparisons)] if per_image else []
    return [table for table in tables if table.rows]


def to_markdown(
    comparisons: Sequence[Comparison],
    points: Sequence[PointComparison] = (),
    *,
    per_image: bool = False,
) -> str:
    """Return the tables for a page of Markdown: curves, points, with `per_image` the pictures."""
    return "\n".join(map(_markdown, _tables(comparisons, points, per_image=per_image)))


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(_markdown_text, cells))} |"

    rule = "|".join(["---", *["--:"] * (len(table.columns) - 1)])
    lines = [_markdown_text(table.title), "", line(table.columns), f"|{rule}|"]
    lines += [line(row) for row in table.rows]
    if table.notes:
        lines += ["", *(f"{i}. {_markdown_text(note)}" for i, note in enumerate(table.notes, 1))]
    return "\n".join(lines) + "\n"


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", " ".join(text.split()))


def to_latex(
    comparisons: Sequence[Comparison],
    points: Sequence[PointComparison] = (),
    *,
    per_image: bool = False,
) -> str:
    r"""Return each table as a `tabular` with the rules of `\usepackage{booktabs}`, notes below."""
    return "\n".join(map(_latex, _tables(comparisons, points, per_image=per_image)))


def _latex(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_latex_cell, cells)) + r" \\"

    lines = [
        f"% {' '.join(table.title.split())}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        line(table.columns),
        r"\midrule",
        *(line(row) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    notes = [f"$^{{{i}}}$ {_latex_text(note)}" for i, note in enumerate(table.notes, 1)]
    if notes:
        lines += ["", r"{\footnotesize", *(f"{note}\\par" for note in notes), "}"]
    return "\n".join(lines) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    # Behind the end of a row these two would be its options.
    "[": "{[}",
    "*": "{*}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex_cell(text: str) -> str:
    """Write the sign of a number as mathematics, and `-` alone as a dash."""
    if re.fullmatch(r"\[?[-+][-+.,\d \]]+", text):
        return f"${text}$"
    return "--" if text == _NOTHING else _latex_text(text)


def to_csv(
    comparisons: Sequence[Comparison],
    points: Sequence[PointComparison] = (),
    *,
    per_image: bool = False,
) -> str:
    """Return one line a comparison, or with `per_image` one a picture; unrounded, nothing for NaN.

    Differences of rates are in percent, overlaps are shares of 1. A point has columns of its own,
    none of them BD, and no pictures.
    """
    records = [*map(_record, comparisons), *map(_point_record, points)]
    if per_image:
        about = [
            (c, {key: getattr(c, key) for key in ("anchor", "test", "metric", "method")})
            for c in comparisons
        ]
        records = [{**a, **json_ready(asdict(delta))} for c, a in about for delta in c.per_image]
    if not records:
        return ""
    text = io.StringIO()
    columns = dict.fromkeys(name for record in records for name in record)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _record(comparison: Comparison) -> dict[str, Any]:
    c, interval = comparison, comparison.interval
    nothing = (math.nan, math.nan)
    pairs = {
        "bd_rate": nothing if interval is None else interval.bd_rate,
        "bd_quality": nothing if interval is None else interval.bd_quality,
        "quality": c.quality_range,
        "bpp": c.bpp_range,
    }
    bounds = {
        f"{k}_{end}": v
        for k, pair in pairs.items()
        for end, v in zip(("low", "high"), pair, strict=True)
    }
    record = {
        "anchor": c.anchor,
        "test": c.test,
        "metric": c.metric,
        "aggregation": c.aggregation,
        "method": c.method,
        "bd_rate": c.bd_rate,
        "bd_quality": c.bd_quality,
        **bounds,
        "overlap_anchor": c.overlap[0],
        "overlap_test": c.overlap[1],
        "points_anchor": c.num_points[0],
        "points_test": c.num_points[1],
        "refused": c.refused,
        "findings": " | ".join(_notes(c)),
    }
    return json_ready(record)


def _point_record(point: PointComparison) -> dict[str, Any]:
    record = {
        "anchor": point.anchor,
        "test": point.test,
        "metric": point.metric,
        "aggregation": point.aggregation,
        "method": point.method,
        "point_rate": point.point_rate,
        "point_quality": point.point_quality,
        "bpp": point.bpp,
        "quality": point.quality,
        "points_anchor": point.num_points,
        "points_test": 1,
        "refused": point.refused,
        "findings": " | ".join(_notes(point)),
    }
    return json_ready(record)


def to_json(
    comparisons: Sequence[Comparison],
    points: Sequence[PointComparison] = (),
    *,
    per_image: bool = False,
) -> str:
    """Return all that is known of the comparisons; pictures only with `per_image`. NaN is null."""
    content = []
    for comparison in comparisons:
        values = {**asdict(comparison), "refused": comparison.refused}
        if not per_image:
            del values["per_image"]
        content.append(json_ready(values))
    of_points = [json_ready({**asdict(point), "refused": point.refused}) for point in points]
    tree = {"format": BD_FORMAT, "comparisons": content, "points": of_points}
    return json.dumps(tree, indent=2, allow_nan=False) + "\n"


# How a table is written, by the name of the format, and the suffix that files of it have.
FORMATS: dict[str, Callable[..., str]] = {
    "markdown": to_markdown,
    "csv": to_csv,
    "latex": to_latex,
    "json": to_json,
}
SUFFIXES = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json"}
