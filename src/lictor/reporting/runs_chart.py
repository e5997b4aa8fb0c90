"""A chart of several runs: the loss of what was held out, and the smoothed training loss."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lictor.reporting.chart_file import save_chart
from lictor.reporting.runs import RunLog, Series

_LOOKS = {
    "axes.grid": True,
    "text.parse_math": False,  # a dollar in a name is a dollar
}
# After Okabe and Ito, dark enough for thin lines on white; from the ninth run on, with dashes.
_COLOURS = ("#0067a8", "#c04a00", "#00785a", "#9c3d80", "#8a6a00", "#4b4f9e", "#a1322d", "#4d5b66")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1)), (0, (5, 1, 1, 1)))
_MEMORY = 0.03  # of the longest run's steps
_FEW = 4  # so many runs show their unsmoothed loss as well
_LONGEST_NAME = 44
_LEGEND_WIDTH = 130  # characters beside each other
# Where an axis has ticks in each power of ten, up to this factor between its ends.
_TICKS = {10: (1.0, 1.5, 2.0, 3.0, 5.0, 7.0), 1000: (1.0, 2.0, 5.0), math.inf: (1.0,)}


def save_runs_chart(path: Path, runs: Mapping[str, RunLog]) -> None:
    """Draw the losses of runs, given by name, over the steps: PDF, SVG or PNG by the file's suffix.

    Raises `DataError` when the file cannot be written.
    """
    save_chart(path, lambda: _figure(runs), _LOOKS)


def smoothed(series: Series, memory: float) -> Series:
    """Return an exponential moving average over steps, without the values that are no numbers.

    It forgets to 1/e in `memory` steps, and has no bias towards the first value.
    """
    result, mean, weight, last = [], 0.0, 0.0, -math.inf
    for step, value in series:
        if not math.isfinite(value):
            continue
        kept = math.exp(-(step - last) / memory) if memory > 0 else 0.0
        mean, weight = kept * mean + (1 - kept) * value, kept * weight + (1 - kept)
        last = step
        result.append((step, mean / weight))
    return result


def _figure(runs: Mapping[str, RunLog]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    labels = [_label(name, log) for name, log in runs.items()]
    columns = max(1, min(4, len(labels), _LEGEND_WIDTH // (6 + max(map(len, labels), default=1))))
    lines = math.ceil(len(labels) / columns)
    figure = Figure(figsize=(8, 6 + 0.16 * lines), layout="constrained")
    held_out, training = figure.subplots(2, 1, sharex=True)
    looks = [
        {
            "color": _COLOURS[i % len(_COLOURS)],
            "linestyle": _DASHES[i // len(_COLOURS) % len(_DASHES)],
        }
        for i in range(len(runs))
    ]
    _draw_held_out(held_out, list(runs.values()), looks)
    _draw_training(training, list(runs.values()), looks)
    training.set_xlabel("steps")
    training.set_xlim(left=0)
    if labels:
        handles = [Line2D([], [], linewidth=1.6, **look) for look in looks]
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    return figure


def _label(name: str, log: RunLog) -> str:
    if len(name) > _LONGEST_NAME:
        half = (_LONGEST_NAME - 3) // 2
        name = f"{name[:half]}...{name[-half:]}"
    if name.startswith("_"):  # matplotlib would leave it out
        name = " " + name
    return name if log.best is None else f"{name}  (best {log.best[1]:.4g})"


def _draw_held_out(axes: Any, logs: Sequence[RunLog], looks: Sequence[dict[str, Any]]) -> None:
    axes.set_title("held-out loss   (circle: best)")
    shown = []
    for log, look in zip(logs, looks, strict=True):
        steps, losses = [s for s, _ in log.evaluations], [v for _, v in log.evaluations]
        marker = "." if len(steps) <= 40 else ""
        axes.plot(steps, losses, linewidth=1.2, marker=marker, markersize=4, **look)
        if log.best is not None:
            axes.plot(
                *log.best, marker="o", markersize=6, markerfacecolor="none", color=look["color"]
            )
        shown += losses
    _scale(axes, shown, "no evaluation yet")


def _draw_training(axes: Any, logs: Sequence[RunLog], looks: Sequence[dict[str, Any]]) -> None:
    axes.set_title("training loss, smoothed")
    longest = max((log.train[-1][0] for log in logs if log.train), default=0)
    shown = []
    for log, look in zip(logs, looks, strict=True):
        if len(logs) <= _FEW:
            steps, losses = [s for s, _ in log.train], [v for _, v in log.train]
            axes.plot(steps, losses, linewidth=0.6, alpha=0.25, color=look["color"])
        mean = smoothed(log.train, _MEMORY * longest)
        marker = "." if len(mean) == 1 else ""
        axes.plot([s for s, _ in mean], [v for _, v in mean], linewidth=1.2, marker=marker, **look)
        shown += [v for _, v in mean]
    _scale(axes, shown, "no step yet")


def _scale(axes: Any, values: Sequence[float], none: str) -> None:
    """Fit the axis to values; a logarithmic one if they differ by a factor of some size."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        axes.annotate(none, (0.5, 0.5), xycoords="axes fraction", ha="center", color="#777777")
        axes.set_yticks([])
        return
    low, high = min(finite), max(finite)
    if low <= 0 or high < 4 * low:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
        return
    margin = (high / low) ** 0.05
    axes.set_yscale("log")
    axes.set_ylim(low / margin, high * margin)
    ticks = next(ticks for factor, ticks in _TICKS.items() if high <= factor * low)
    axes.yaxis.set_major_locator(LogLocator(subs=ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
