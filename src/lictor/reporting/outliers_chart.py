"""A chart of outliers, layer by layer, as a file for a paper."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lictor.analysis.outliers import CodecReport
from lictor.reporting.chart_file import save_chart

_PANELS = {
    "channel_kurtosis": "channel kurtosis",
    "range_over_sigma": "range / sigma",
    "sqnr": "8-bit SQNR, dB",
}
_LOOKS = {"text.parse_math": False}  # a dollar in a name is a dollar


def save_outlier_chart(path: Path, reports: Sequence[CodecReport]) -> None:
    """Write three panels over the tensors of the data path, one line a codec, to a PNG file.

    A line is interrupted at tensors that a codec does not have. Raises `DataError` when the file
    cannot be written.
    """
    save_chart(path, lambda: _figure(reports), _LOOKS)


def tensors_in_order(reports: Sequence[CodecReport]) -> list[str]:
    """Return the names of all codecs' tensors, those of a network beside each other."""
    part_of = {t.name: t.part for report in reports for t in report.tensors}
    parts = list(dict.fromkeys(part_of.values()))
    return sorted(part_of, key=lambda name: parts.index(part_of[name]))


def _figure(reports: Sequence[CodecReport]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    names = tensors_in_order(reports)
    figure = Figure(figsize=(2.5 + 0.2 * len(names), 6.8), layout="constrained")
    panels = figure.subplots(len(_PANELS), 1, sharex=True)
    for axes, (key, label) in zip(panels, _PANELS.items(), strict=True):
        for report, marker in zip(reports, "osD^vXP*" * len(reports), strict=False):
            found = {t.name: getattr(t.measures, key) for t in report.tensors}
            values = [found.get(name, math.nan) for name in names]
            axes.plot(range(len(names)), values, marker=marker, ms=4, lw=0.8, label=report.codec)
        if key != "sqnr":
            axes.set_yscale("log")
            for axis_format in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                axis_format(FuncFormatter(lambda value, _: f"{value:g}"))
            low, high = axes.get_ylim()
            if high / low > 10:  # then powers of ten are labels enough
                axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel(label)
        axes.tick_params(which="both", labelsize=7)
        axes.grid(axis="x", visible=True)
    panels[-1].set_xticks(range(len(names)), names, rotation=90)
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper center", ncols=min(len(reports), 5))
    return figure
