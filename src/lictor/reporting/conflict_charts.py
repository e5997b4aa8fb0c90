"""Charts of conflict scores: over the steps of training, and layer by layer."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lictor.analysis.conflict import SCORES, ConflictRun, notes
from lictor.reporting.chart_file import save_chart

# Scores whose layers are drawn: those that say what the optimizer makes of the gradients.
LAYER_SCORES = ("intra_pre", "inter_pre")
_LOOKS = {
    "legend.fontsize": 8,
    "text.parse_math": False,  # a dollar in a name is a dollar
}
_CONFLICT = "#f6e3e0"
_MAX_LABELS = 60


def running_mean(values: Sequence[float], window: int) -> Float[np.ndarray, " n"]:
    """Return the mean of the `window` values around each; NaN where not all of them are known.

    For an even window the one value more is an earlier one.
    """
    result = np.full(len(values), np.nan)
    for i in range(window // 2, len(values) - (window - 1) // 2):
        result[i] = np.mean(values[i - window // 2 : i + (window - 1) // 2 + 1])
    return result


def save_score_chart(path: Path, runs: Sequence[ConflictRun], *, window: int = 5) -> None:
    """Draw every score over the steps, one panel each, to a PNG file.

    Faint points are the probes themselves. A line is their mean over `window` of them, drawn only
    where all of these exist. Below 0, where gradients are in conflict, the ground is shaded.
    """
    save_chart(path, lambda: _score_figure(runs, window), _LOOKS)


def save_layer_chart(path: Path, runs: Sequence[ConflictRun]) -> None:
    """Draw `intra_pre` and `inter_pre` of each layer as a heat map over the steps, to a PNG file.

    A row is a shared parameter, in the network's order; red is conflict, grey is unknown.
    """
    save_chart(path, lambda: _layer_figure(runs), _LOOKS)


def _colours(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["tab10"](i % 10) for i in range(count)]


def _score_figure(runs: Sequence[ConflictRun], window: int) -> Any:
    from matplotlib.figure import Figure

    keys = [key for key in SCORES if any(key in run.scores for run in runs)]
    num_rows = math.ceil(len(keys) / 3)
    figure = Figure(figsize=(10, 0.9 + 2.3 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, 3, sharex=True, squeeze=False)
    for axes in grid.flat[len(keys) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(len(keys) - 3, 0) : len(keys)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    for axes, key in zip(grid.flat, keys, strict=False):
        _draw_score(axes, runs, key, window)
    lines, names = grid.flat[0].get_legend_handles_labels()
    columns = min(len(runs), 5)
    figure.legend(lines, names, loc="outside upper center", ncols=columns, frameon=False)
    smoothing = "dots and thin lines: single probes"
    if window > 1:
        smoothing += f"; thick lines: mean of {window} probes around, where all exist"
    figure.supxlabel("\n".join([f"steps   ({smoothing})", *notes(runs)]), fontsize=8)
    return figure


def _draw_score(axes: Any, runs: Sequence[ConflictRun], key: str, window: int) -> None:
    low = -1.0 if key.startswith("intra") else -0.1
    for run, colour in zip(runs, _colours(len(runs)), strict=True):
        values = run.scores.get(key, (math.nan,) * len(run.steps))
        low = min([low, *(v - 0.05 for v in values if not math.isnan(v))])
        smooth = running_mean(values, window) if window > 1 else np.full(len(values), np.nan)
        alone = bool(np.isnan(smooth).all())
        strength = 0.9 if alone else 0.3
        axes.plot(
            run.steps, values, color=colour, marker=".", markersize=3, linewidth=0.6, alpha=strength
        )
        axes.plot(run.steps, smooth, color=colour, linewidth=1.8, label=run.name)
    axes.set_ylim(max(low, -1.05), 1.05)
    axes.axhspan(-1.05, 0, color=_CONFLICT, linewidth=0, zorder=0)
    axes.axhline(0, color="#777777", linewidth=0.6)
    axes.grid(visible=True)
    axes.set_title(f"{key}\n{SCORES[key]}")


def _edges(steps: Sequence[int]) -> list[float]:
    """Return the borders of cells that end at each step; the first is as wide as the second."""
    first = steps[0] - (steps[1] - steps[0] if len(steps) > 1 else steps[0])
    return [max(first, 0), *steps]


def _layer_figure(runs: Sequence[ConflictRun]) -> Any:
    from matplotlib.figure import Figure

    names = [list(run.layers) for run in runs]
    tallest = min(max(map(len, names)), _MAX_LABELS)
    same = all(own == names[0] for own in names)
    width = 1.8 + (2.4 if same else 3.8) * len(runs)
    figure = Figure(figsize=(width, 1.4 + 0.27 * tallest), layout="constrained")
    grid = figure.subplots(len(LAYER_SCORES), len(runs), squeeze=False, sharex="col")
    drawn: Any = None
    for row, key in zip(grid, LAYER_SCORES, strict=True):
        for column, (axes, run) in enumerate(zip(row, runs, strict=True)):
            drawn = _draw_layers(axes, run, key, labels=column == 0 or not same)
            axes.set_title(f"{run.name}: {key}")
    for axes in grid[-1]:
        axes.set_xlabel("steps")
    bar = figure.colorbar(drawn, ax=grid, fraction=0.02, pad=0.01)
    bar.set_label("score, below 0 is conflict")
    return figure


def _draw_layers(axes: Any, run: ConflictRun, key: str, *, labels: bool) -> Any:
    from matplotlib import colormaps

    names = list(run.layers)
    values = np.ma.masked_invalid([run.layers[name][key] for name in names])
    borders = np.arange(len(names) + 1) - 0.5
    colours = colormaps["RdBu"].with_extremes(bad="#b0b0b0")
    drawn = axes.pcolormesh(
        _edges(run.steps), borders, values, cmap=colours, vmin=-1, vmax=1, rasterized=True
    )
    axes.set_ylim(len(names) - 0.5, -0.5)
    every = math.ceil(len(names) / _MAX_LABELS)
    places = list(range(0, len(names), every)) if labels else []
    axes.set_yticks(places, [names[i] for i in places], fontsize=6)
    return drawn
