"""Charts of a run under STDET: what is embedded, how well modes hold, and trajectories."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from lictor.analysis.modes import Modes, ModeStory, tracked_over_time
from lictor.reporting.chart_file import save_chart

_LOOKS = {
    "axes.grid": True,
    "text.parse_math": False,  # a dollar in a name is a dollar
}
_MAX_LABELS = 50


def save_run_chart(path: Path, story: ModeStory) -> None:
    """Draw embedded share, optimizer memory, correlations, drift and step time to a PNG file."""
    save_chart(path, lambda: _run_figure(story), _LOOKS)


def save_layer_chart(path: Path, story: ModeStory) -> None:
    """Draw the embedded share of each parameter over the steps as a heat map, to a PNG file."""
    save_chart(path, lambda: _layer_figure(story), _LOOKS)


def save_trajectory_chart(path: Path, story: ModeStory) -> None:
    """Draw tracked weights and their reconstruction from the reference, to a PNG file."""
    save_chart(path, lambda: _trajectory_figure(story), _LOOKS)


def _run_figure(story: ModeStory) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    grid = figure.subplots(2, 3)
    steps = [row.step for row in story.snapshots]
    _draw_share(grid[0, 0], steps, story)
    memory = [row.optimizer_bytes / 2**20 for row in story.snapshots]
    grid[0, 1].step(steps, memory, where="post", color="#1f6fb2")
    grid[0, 1].set(title="optimizer state, MiB", ylim=(0, 1.08 * max([*memory, 1e-6])))
    if story.step_s:
        times = [1000 * seconds for _, seconds in story.step_s]
        grid[0, 2].plot([step for step, _ in story.step_s], times, color="#4d4d4d", linewidth=0.9)
        grid[0, 2].set_ylim(0, 1.3 * float(np.median(times)))
    grid[0, 2].set_title("training step, ms")
    _draw_correlations(grid[1, 0], story)
    _draw_drift(grid[1, 1], story)
    _draw_sizes(grid[1, 2], story)
    for axes in (*grid[0], *grid[1, :2]):
        axes.set_xlim(0, max(steps))
        axes.set_xlabel("steps")
    figure.suptitle(story.name)
    return figure


def _draw_share(axes: Any, steps: list[int], story: ModeStory) -> None:
    shares = [100 * row.share for row in story.snapshots]
    axes.step(steps, shares, where="post", color="#c0392b")
    axes.fill_between(steps, shares, step="post", color="#c0392b", alpha=0.15, linewidth=0)
    title = f"embedded weights, % (mean {100 * story.mean_share:.1f})"
    axes.set(title=title, ylim=(0, max(10, 1.15 * max(shares))))
    if story.modes:
        axes.axvline(story.modes.step, color="#777777", linewidth=0.8, linestyle=":")
        axes.annotate(
            " modes found", (story.modes.step, 0.93), xycoords=("data", "axes fraction"), fontsize=7
        )


def _draw_correlations(axes: Any, story: ModeStory) -> None:
    axes.set(title="mean |correlation| of each mode", ylim=(0, 1.02))
    rows = [row for row in story.snapshots if row.correlation]
    if not rows or story.modes is None:
        return
    for number, size in enumerate(story.modes.sizes):
        width = 0.6 + 2 * math.sqrt(size / max(story.modes.sizes))
        values = [row.correlation[number] for row in rows]
        axes.plot(
            [row.step for row in rows], values, linewidth=width, color=f"C{number % 10}", alpha=0.8
        )
    axes.annotate("thicker: more weights", (0.98, 0.04), xycoords="axes fraction", ha="right")


def _draw_drift(axes: Any, story: ModeStory) -> None:
    axes.set_title("drift of lines since the last event")
    rows = [row for row in story.snapshots if len(row.drift) == 5]
    if not rows:
        axes.annotate("no event yet", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    steps, drift = [row.step for row in rows], np.array([row.drift for row in rows])
    drift = np.maximum(drift, 1e-12)
    axes.fill_between(steps, drift[:, 0], drift[:, 4], alpha=0.15, color="#1f6fb2", label="5-95 %")
    axes.fill_between(steps, drift[:, 1], drift[:, 3], alpha=0.3, color="#1f6fb2", label="25-75 %")
    axes.plot(steps, drift[:, 2], color="#1f6fb2", marker=".", label="median")
    _log_scale(axes)
    axes.legend(loc="best")


def _draw_sizes(axes: Any, story: ModeStory) -> None:
    axes.set_title("weights of each mode")
    if story.modes is None:
        return
    sizes = story.modes.sizes
    axes.bar(range(len(sizes)), sizes, color=[f"C{n % 10}" for n in range(len(sizes))])
    axes.set_xticks(range(len(sizes)))
    axes.ticklabel_format(axis="y", style="plain")
    axes.set_xlabel("mode")
    axes.grid(visible=False, axis="x")


def _log_scale(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _layer_figure(story: ModeStory) -> Any:
    from matplotlib.figure import Figure

    rows = [row for row in story.snapshots if row.shares]
    names = story.modes.parameters if story.modes else ()
    figure = Figure(figsize=(9, max(2.5, 1 + 0.16 * min(len(names), _MAX_LABELS))))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.set_title(f"{story.name}: embedded share of each tensor, %")
    if not rows:
        axes.annotate("no modes yet", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return figure
    shares = 100 * np.array([row.shares for row in rows]).T
    edges = [rows[0].step - (rows[1].step - rows[0].step if len(rows) > 1 else 1)]
    image = axes.pcolormesh(
        [*edges, *(row.step for row in rows)],
        np.arange(len(names) + 1) - 0.5,
        shares,
        cmap="viridis",
        vmin=0,
        vmax=100,
    )
    axes.invert_yaxis()
    stride = max(1, math.ceil(len(names) / _MAX_LABELS))
    axes.set_yticks(range(0, len(names), stride), names[::stride], fontsize=6)
    axes.grid(visible=False)
    axes.set_xlabel("steps")
    figure.colorbar(image, ax=axes, pad=0.01)
    return figure


def _trajectory_figure(story: ModeStory) -> Any:
    from matplotlib.figure import Figure

    if story.modes is None:
        figure = Figure(figsize=(6, 2))
        figure.text(0.5, 0.5, f"{story.name}: no modes have been found yet", ha="center")
        return figure
    count = len(story.modes.references)
    columns = min(5, count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(2.6 * columns, 0.8 + 2.2 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    for number, axes in zip(range(count), grid.flat, strict=False):
        _draw_mode(axes, story, story.modes, number)
    figure.supxlabel(
        "steps   (black: reference; colours: weights of the mode; dashed: their latest lines, slope"
        "\ntimes reference plus offset; triangle: embedded from here; all less their mean)",
        fontsize=8,
    )
    return figure


def _draw_mode(axes: Any, story: ModeStory, modes: Modes, number: int) -> None:
    steps, values = tracked_over_time(story)
    lined = [row for row in story.snapshots if row.slope]
    members = [k for k, mode in enumerate(modes.tracked_modes) if mode == number]
    reference = values[number]
    for colour, k in enumerate(k for k in members if k != number):
        centre = values[k].mean()
        axes.plot(steps, values[k] - centre, color=f"C{colour}", linewidth=1.4, alpha=0.7)
        if lined:
            line = lined[-1].slope[k] * reference + lined[-1].offset[k]
            axes.plot(steps, line - centre, color=f"C{colour}", linewidth=0.8, linestyle="--")
        since = next((row for row in lined if row.tracked_embedded[k]), None)
        if since:
            at = int(np.searchsorted(steps, since.step))
            axes.plot(since.step, values[k, at] - centre, marker="v", color=f"C{colour}", ms=5)
    axes.plot(steps, reference - reference.mean(), color="black", linewidth=1.2)
    axes.axvline(modes.step, color="#777777", linewidth=0.8, linestyle=":")
    name = modes.references[number]
    axes.set_title(f"mode {number}: {name if len(name) < 34 else '...' + name[-31:]}", fontsize=7)
    axes.tick_params(labelsize=6)
