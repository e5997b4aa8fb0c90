"""A chart of outliers, layer by layer, as a file for a paper."""

from collections.abc import Sequence
from pathlib import Path

from lictor.analysis.outliers import CodecReport
from lictor.files import atomic_file

_PANELS = {
    "channel_kurtosis": "channel kurtosis",
    "range_over_sigma": "range / sigma",
    "sqnr": "8-bit SQNR, dB",
}


def save_outlier_chart(path: Path, reports: Sequence[CodecReport]) -> None:
    """Write three panels over the tensors of the data path, one line a codec.

    Raises `DataError` when the file cannot be written.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(t.name for report in reports for t in report.tensors))
    width = 2.5 + 0.2 * len(names)
    figure = Figure(figsize=(width, 6.5), layout="constrained")
    panels = figure.subplots(len(_PANELS), 1, sharex=True)
    for axes, (key, label) in zip(panels, _PANELS.items(), strict=True):
        for report, marker in zip(reports, "osD^vXP*" * len(reports), strict=False):
            places = [names.index(t.name) for t in report.tensors]
            values = [getattr(t.measures, key) for t in report.tensors]
            axes.plot(places, values, marker=marker, ms=4, lw=0.8, label=report.codec)
        if key != "sqnr":
            axes.set_yscale("log")
        axes.set_ylabel(label, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(axis="x", linewidth=0.3)
    panels[0].legend(fontsize=7)
    panels[-1].set_xticks(range(len(names)), names, rotation=90)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=160)
