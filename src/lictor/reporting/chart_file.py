"""How the charts of this folder look, and how they get onto the disk."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lictor.files import atomic_file

CHART_FORMATS = {".pdf": "pdf", ".png": "png", ".svg": "svg"}
NO_DATE = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
_LOOKS: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.color": "#e2e2e2",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # whole TrueType outlines: what publishers ask for
    "svg.fonttype": "path",
    "svg.hashsalt": "lictor",  # the same chart is the same file
}


def save_chart(path: Path, draw: Callable[[], Any], looks: Mapping[str, Any]) -> None:
    """Write the figure that `draw` returns, with matplotlib settings of its own.

    It becomes PDF or SVG if the file's suffix says so, else PNG. Raises `DataError` when the file
    cannot be written.
    """
    import matplotlib as mpl

    kind = CHART_FORMATS.get(path.suffix.lower(), "png")
    settings: dict[Any, Any] = {**_LOOKS, **looks}
    with warnings.catch_warnings(), mpl.rc_context(settings), atomic_file(path) as file:
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for the letter
        warnings.filterwarnings("ignore", "Attempt to set non-positive")
        draw().savefig(file, format=kind, dpi=160, metadata=NO_DATE[kind])
