"""How the charts of this folder look, and how they get onto the disk."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lictor.files import atomic_file

_LOOKS: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.color": "#e2e2e2",
    "legend.frameon": False,
}


def save_chart(path: Path, draw: Callable[[], Any], looks: Mapping[str, Any]) -> None:
    """Write the figure that `draw` returns to a PNG file, with matplotlib settings of its own.

    Raises `DataError` when the file cannot be written.
    """
    import matplotlib as mpl

    settings: dict[Any, Any] = {**_LOOKS, **looks}
    with warnings.catch_warnings(), mpl.rc_context(settings), atomic_file(path) as file:
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for the letter
        warnings.filterwarnings("ignore", "Attempt to set non-positive")
        draw().savefig(file, format="png", dpi=160)
