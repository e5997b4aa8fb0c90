"""Rate-distortion and time charts: as Plotly's figures for a page, as files for a paper.

A figure here is plain data (`{"data": [...], "layout": {...}}`), ready for `json.dumps`; the page
adds the colours of its theme. Names are escaped, because Plotly reads a little HTML in its labels.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from lictor.comparison.curve import AGGREGATIONS, MEAN_MSE, MEAN_PSNR, METRICS, Curve
from lictor.comparison.findings import MEAN_MS_SSIM, known_aggregations, values
from lictor.comparison.unit import shared_unit
from lictor.errors import DataError
from lictor.files import atomic_file
from lictor.reporting.chart_file import CHART_FORMATS, NO_DATE
from lictor.reporting.words import words_of

_INSIDE, _COLUMNS = 6, 3  # curves whose legend fits into a chart; columns of one below it
RATE_TICKS = tuple(m * 10.0**e for e in range(-3, 3) for m in (1, 2, 5))

# After Okabe and Ito's colours, each darkened or lightened until it keeps a contrast of 3:1 with
# the page; the shape of the marker tells curves apart without any colour.
_LIGHT = ("#0067a8", "#c04a00", "#00785a", "#9c3d80", "#8a6a00", "#4b4f9e", "#a1322d", "#4d5b66")
_DARK = ("#62b5ec", "#ff9a5c", "#3fcf9f", "#e79bcb", "#e3bd4c", "#a9aefc", "#f4897f", "#b7c3cd")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "x", "cross", "star")
_MARKERS = ("o", "s", "D", "^", "v", "X", "P", "*")
_PAPER: dict[Any, Any] = {
    "font.family": ["STIXGeneral", "DejaVu Sans"],
    "font.size": 9,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.color": "#d9d9d9",
    "legend.fontsize": 8,
    "pdf.fonttype": 42,  # whole TrueType outlines: what publishers ask for
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "lictor",  # the same chart is the same file
    "text.parse_math": False,  # a dollar in a name is a dollar
}
_OF_MEANS = {MEAN_MSE: " of the mean squared error", MEAN_MS_SSIM: " of the mean MS-SSIM"}


@dataclass(frozen=True)
class View:
    """A metric of `METRICS` and one of its `AGGREGATIONS`: what a chart or table is about."""

    metric: str
    aggregation: str

    @property
    def key(self) -> str:
        """What the page calls it."""
        return f"{self.metric}|{self.aggregation}"

    @property
    def label(self) -> str:
        """The metric as an axis calls it; says so when it is a PSNR of the mean error."""
        return METRICS[self.metric].label + _OF_MEANS.get(self.aggregation, "")

    def known(self, curve: Curve) -> bool:
        """Whether a curve has at least one finite point in this view."""
        return self.aggregation in known_aggregations(curve, self.metric) and bool(
            np.isfinite(values(curve, self.metric, self.aggregation)).any()
        )


def views(curves: Sequence[Curve]) -> tuple[View, ...]:
    """Return every view that at least one curve has, in the order of `METRICS`.

    Decibels of MS-SSIM come once: the mean of decibels, unless a curve has only the mean MS-SSIM.
    """
    found = []
    for metric in METRICS:
        ways = [known for c in curves if (known := known_aggregations(c, metric))]
        usual = list(AGGREGATIONS)
        if any(MEAN_MS_SSIM in known for known in ways):
            usual = [MEAN_PSNR if all(MEAN_PSNR in known for known in ways) else MEAN_MS_SSIM]
        found += [View(metric, aggregation) for aggregation in usual]
    return tuple(view for view in found if any(view.known(curve) for curve in curves))


def is_published(curve: Curve) -> bool:
    """Whether a curve is numbers only, with no measured pictures behind them."""
    return not curve.rows


@dataclass(frozen=True)
class Style:
    """How a curve looks everywhere: colour on light and on dark, marker, dashes."""

    light: str
    dark: str
    symbol: str
    marker: str
    published: bool

    @property
    def width(self) -> float:
        """Width of the line in pixels."""
        return 1.4 if self.published else 2.2


def styles(curves: Sequence[Curve]) -> tuple[Style, ...]:
    """Give each curve its looks; those with the same colour (from the ninth on) differ in shape."""
    count = len(_LIGHT)
    return tuple(
        Style(
            _LIGHT[i % count],
            _DARK[i % count],
            _SYMBOLS[(i + i // count) % count],
            _MARKERS[(i + i // count) % count],
            is_published(curve),
        )
        for i, curve in enumerate(curves)
    )


def points(curve: Curve, view: View) -> list[tuple[str, float, float]]:
    """Return setting, bits per pixel and quality of each point that can be drawn."""
    quality = values(curve, view.metric, view.aggregation)
    points = zip(curve.settings, curve.bpp, quality, strict=True)
    return [(s, float(b), float(q)) for s, b, q in points if math.isfinite(q)]


def rd_figure(curves: Sequence[Curve], view: View) -> dict[str, Any]:
    """Return the rate-distortion chart of all curves that have the view."""
    metric, data = METRICS[view.metric], []
    unit = shared_unit(curve.unit for curve in curves)
    for index, (curve, style) in enumerate(zip(curves, styles(curves), strict=True)):
        if not view.known(curve):
            continue
        drawn = points(curve, view)
        data.append(
            {
                **_trace(curve, style, index),
                "mode": "lines+markers",
                "line": {
                    "color": style.light,
                    "width": style.width,
                    "dash": "dash" if style.published else "solid",
                },
                "x": [round(b * unit.per_bpp, 6) for _, b, _ in drawn],
                "y": [round(q, 6) for _, _, q in drawn],
                "customdata": [escape(s) for s, _, _ in drawn],
                "hovertemplate": "<b>%{fullData.name}</b>  %{customdata}<br>"
                f"%{{x:.4f}} {unit.name}<br>{metric.label} %{{y:.{metric.digits}f}}<extra></extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": f"Rate in {unit.words}"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": escape(view.label)}},
    }
    if not metric.higher_is_better:
        layout["yaxis"]["title"]["text"] += ", lower is better"
    return {"data": data, "layout": layout}


def _trace(curve: Curve, style: Style, index: int) -> dict[str, Any]:
    """Return what every trace of a curve says; `meta` is the curve's number, for the page."""
    return {
        "type": "scatter",
        "name": escape(curve.name, quote=False),
        "meta": index,
        "marker": {
            "symbol": style.symbol + ("-open" if style.published else ""),
            "color": style.light,
            "size": 7 if style.published else 8,
        },
    }


@dataclass(frozen=True)
class Times:
    """Encoding and decoding of one setting, in seconds; NaN where nobody measured.

    `alone` when a speed measurement of its own stands behind them, rather than the evaluation's.
    """

    setting: str
    encode_s: float
    decode_s: float
    encode_s_per_megapixel: float
    decode_s_per_megapixel: float
    alone: bool

    def seconds(self, verb: str, *, per_megapixel: bool) -> float:
        """Return the time of `encode` or `decode`, for a picture or a megapixel."""
        return getattr(self, f"{verb}_s_per_megapixel" if per_megapixel else f"{verb}_s")


def times_of(curve: Curve) -> tuple[Times, ...]:
    """Return the times of each setting that has any; a speed measurement replaces the rows'."""
    found = []
    for position, setting in enumerate(curve.settings):
        rows = curve.at(setting)
        pixels = float(np.mean([r.width * r.height for r in rows])) / 1e6 if rows else math.nan
        speed = speed_of(curve, setting)
        alone = _is_time(speed.get("encode_s")) or _is_time(speed.get("decode_s"))
        seconds, per_megapixel = [], []
        for verb in ("encode", "decode"):
            column = curve.columns.get("encoding_time" if verb == "encode" else "decoding_time")
            known = math.nan if column is None else float(column[position])
            value = speed.get(f"{verb}_s") if alone else known
            each = speed.get(f"{verb}_s_per_megapixel") if alone else None
            seconds.append(value if _is_time(value) else math.nan)
            per_megapixel.append(each if _is_time(each) else seconds[-1] / pixels)
        if any(map(_is_time, seconds)):
            found.append(Times(setting, *map(float, (*seconds, *per_megapixel)), alone=alone))
    return tuple(found)


def speed_of(curve: Curve, setting: str) -> Mapping[str, Any]:
    """Return what a speed measurement wrote about a setting, empty without one."""
    speed = curve.codec.get("speed")
    found = speed.get(setting) if isinstance(speed, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def time_figure(curves: Sequence[Curve], *, per_megapixel: bool) -> dict[str, Any]:
    """Return encoding (filled) and decoding (hollow) time of each codec, over its settings."""
    data, names, words = [], [], words_of(curves)
    for index, (curve, style) in enumerate(zip(curves, styles(curves), strict=True)):
        spreads = _spreads(curve, per_megapixel=per_megapixel)
        for verb, spread in spreads.items():
            aside = -0.13 if verb == "encode" else 0.13
            trace = _trace(curve, style, index)
            trace["marker"] |= {"symbol": _symbol(style, verb), "size": 11}
            data.append({**trace, **_spread_marker(verb, *spread), "y": [len(names) + aside]})
        if spreads:
            names.append(curve.name if len(curve.name) <= 24 else f"{curve.name[:23]}…")
    layout = {
        "xaxis": {
            "title": {"text": f"Time per {words.million if per_megapixel else words.one}"},
            "type": "log",
        },
        "yaxis": {
            "range": [len(names) - 0.5, -0.5],
            "tickvals": list(range(len(names))),
            "ticktext": [escape(name, quote=False) for name in names],
        },
    }
    return {"data": data, "layout": layout}


def _spread_marker(verb: str, low: float, middle: float, high: float) -> dict[str, Any]:
    """Return a marker at the middle of a line from low to high."""
    return {
        "mode": "markers",
        "x": [middle],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - middle],
            "arrayminus": [middle - low],
            "width": 0,
            "thickness": 1.5,
        },
        "customdata": [[verb, low, high]],
        "hovertemplate": "<b>%{fullData.name}</b><br>%{customdata[0]} %{x:.3~s}s, "
        "from %{customdata[1]:.3~s}s to %{customdata[2]:.3~s}s<extra></extra>",
    }


def _symbol(style: Style, verb: str) -> str:
    return style.symbol + ("-open" if verb == "decode" else "")


def _spreads(curve: Curve, *, per_megapixel: bool) -> dict[str, tuple[float, float, float]]:
    """Return least, median and greatest time over settings of encoding and decoding."""
    times, spreads = times_of(curve), {}
    for verb in ("encode", "decode"):
        seconds = [t.seconds(verb, per_megapixel=per_megapixel) for t in times]
        seconds = [s for s in seconds if _is_time(s)]
        if seconds:
            middle = float(np.median(seconds))
            spreads[verb] = tuple(float(f"{v:.4g}") for v in (min(seconds), middle, max(seconds)))
    return spreads


def save_chart(
    path: Path,
    curves: Sequence[Curve],
    view: View | None = None,
    *,
    log_rate: bool = False,
) -> None:
    """Write a rate-distortion chart for a paper: PDF, SVG or PNG by the file's suffix.

    One column wide, embedded fonts, no date in the file: the same curves are the same bytes. Curves
    without the view (PSNR by default) are left out. Raises `DataError` when none has it, for other
    suffixes, and when the file cannot be written.
    """
    view = view or View("psnr", MEAN_PSNR)
    kind = CHART_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{path}: a chart must end in one of {', '.join(CHART_FORMATS)}")
    if not any(view.known(curve) for curve in curves):
        raise DataError(f"{path}: no curve has {view.label}, so there is nothing to draw")
    import matplotlib as mpl

    with warnings.catch_warnings(), mpl.rc_context(_PAPER), atomic_file(path) as file:
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for the letter
        _paper_figure(curves, view, log_rate).savefig(
            file, format=kind, dpi=300, metadata=NO_DATE[kind]
        )


def _paper_figure(curves: Sequence[Curve], view: View, log_rate: bool) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    figure = Figure(figsize=(3.5, 2.9), layout="constrained")
    axes = figure.add_subplot()
    unit = shared_unit(curve.unit for curve in curves)
    lines, names = [], []
    for curve, style in zip(curves, styles(curves), strict=True):
        if not view.known(curve):
            continue
        drawn = points(curve, view)
        lines += axes.plot(
            [b * unit.per_bpp for _, b, _ in drawn],
            [q for _, _, q in drawn],
            color=style.light,
            marker=style.marker,
            markersize=3.2,
            markeredgewidth=0.7,
            markerfacecolor="white" if style.published else style.light,
            linewidth=0.8 if style.published else 1.2,
            linestyle=(0, (4, 2)) if style.published else "-",
        )
        names.append(curve.name)
    axes.set_xlabel(f"Rate ({unit.words})")
    axes.set_ylabel(view.label.replace(" dB", " (dB)"))
    axes.grid(visible=True)
    if log_rate:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        ticks = [t for t in RATE_TICKS if low <= t <= high]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(left=0)
    if len(names) <= _INSIDE:
        axes.legend(lines, names, frameon=False, loc="best")
    else:  # a long legend would hide curves
        figure.set_figheight(figure.get_figheight() + 0.14 * -(-len(names) // _COLUMNS))
        figure.legend(lines, names, frameon=False, loc="outside lower center", ncols=_COLUMNS)
    return figure
