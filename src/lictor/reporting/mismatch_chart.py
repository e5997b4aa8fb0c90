"""The chart of train-test mismatch: total, distortion and rate over the steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lictor.analysis.mismatch import MismatchRun
from lictor.reporting.chart_file import save_chart

_LOOKS = {"legend.fontsize": 8, "text.parse_math": False}
_FLATTERS = "#f6e3e0"


def save_mismatch_chart(path: Path, runs: Sequence[MismatchRun]) -> None:
    """Draw the mismatch of each run over the steps to a PNG file.

    One panel for the loss with rounding, one for the mismatch of the loss, one for its part of the
    distortion, and one for the rate of each latent. Below 0, where training flatters, the ground is
    shaded. A dotted line is where a run went on with other pictures.
    """
    save_chart(path, lambda: _figure(runs), _LOOKS)


def _figure(runs: Sequence[MismatchRun]) -> Any:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    latents = list(dict.fromkeys(name for run in runs for name in run.rate_bpp))
    panels = ["loss with rounding", "mismatch of the loss", "of its distortion"]
    panels += [f"of the rate of {name} (bpp)" for name in latents]
    columns = 3 if len(panels) > 4 else 2
    num_rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.4 * columns, 0.7 + 2.5 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, columns, sharex=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for number, (axes, title) in enumerate(zip(grid.flat, panels, strict=False)):
        for run, colour in zip(runs, map(colormaps["tab10"], range(len(runs))), strict=True):
            series = [run.loss, run.total, run.distortion]
            series += [run.rate_bpp.get(name) for name in latents]
            values = series[number]
            if values is not None:
                axes.plot(run.steps, values, color=colour, marker=".", label=run.name)
            for step in run.other_data:
                axes.axvline(step, color=colour, linewidth=0.8, linestyle=":")
        axes.set_title(title, fontsize=9)
        if number >= len(panels) - columns:  # the lowest of each column
            axes.tick_params(labelbottom=True)
        axes.grid(alpha=0.3)
        if number:
            low, high = axes.get_ylim()
            axes.axhspan(min(low, 0), 0, color=_FLATTERS, zorder=-1)
            axes.axhline(0, color="grey", linewidth=0.8)
            axes.set_ylim(low, max(high, 0))
    lines, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside upper center", ncols=min(len(runs), 4), frameon=False)
    legend = "shaded: the loss of training is below the real one"
    if any(run.other_data for run in runs):
        legend += "; dotted: from here on other pictures"
    figure.supxlabel(f"steps   ({legend})", fontsize=8)
    return figure
