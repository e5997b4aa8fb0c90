"""A chart of what quantization costs, as a file for a paper."""

import math
from collections.abc import Sequence
from pathlib import Path

from lictor.evaluation.quantization import Cost, FamilyCost
from lictor.files import atomic_file

_COLOURS = {"all": "#4d5b66", "g_a": "#0067a8", "g_s": "#c04a00", "entropy": "#00785a"}


def save_cost_chart(path: Path, costs: Sequence[Cost], families: Sequence[FamilyCost]) -> None:
    """Write a bar for each scheme and scope, its length the cost in percent on a symlog axis.

    The cost is the BD-rate where there are families, else the rate equivalent; where a codec lacks
    it, all bars are of added rates. Raises `DataError` when the file cannot be written.
    """
    from matplotlib.figure import Figure

    entries, axis = list[tuple[str, str, float]](), "rate equivalent of the loss, %"
    if families:
        axis = "BD-rate, %"
        entries = [(f"{f.family} {f.scheme.label}", f.scheme.scope, f.bd_rate) for f in families]
    else:
        several = len({cost.codec for cost in costs}) > 1
        without_lmbda = any(math.isnan(cost.rate_equivalent) for cost in costs)
        if without_lmbda:
            axis = "added rate, %"
        for cost in costs:
            name = f"{cost.codec} {cost.scheme.label}" if several else cost.scheme.label
            value = cost.delta_bpp_percent if without_lmbda else cost.rate_equivalent
            entries.append((name, cost.scheme.scope, value))
    figure = Figure(figsize=(6.5, 1.0 + 0.26 * len(entries)), layout="constrained")
    axes = figure.subplots()
    for position, (_, scope, value) in enumerate(entries):
        if value == value:
            axes.barh(position, value, color=_COLOURS[scope], height=0.7)
        text = f" {value:.2f}" if value == value else " none"
        at = max(value, 0.0) if value == value else 0.0
        axes.text(at, position, text, va="center", fontsize=8)
    axes.set_yticks(range(len(entries)), [f"{name}  {scope}" for name, scope, _ in entries])
    axes.tick_params(labelsize=8)
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.8)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.margins(x=0.15)
    axes.set_xlabel(axis, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=160)
