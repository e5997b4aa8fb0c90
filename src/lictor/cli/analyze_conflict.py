"""`lictor analyze conflict`: what the conflict probe recorded, as charts and tables."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from lictor.cli.messages import complain, say
from lictor.cli.outputs import output_files
from lictor.errors import ConfigError

if TYPE_CHECKING:
    from lictor.analysis.conflict import PhaseMeans

Runs = Annotated[tuple[Path, ...], arg(metavar="RUN...", help_behavior_hint="")]
_OUTPUTS = ("scores.png", "layers.png", "conflict.json", "conflict.csv")
_PIPE_WIDTH = 120


def conflict(
    runs: Positional[Runs],
    /,
    *,
    out: Annotated[Path, arg(aliases=["-o"], metavar="DIR")],
    phases: int = 3,
    window: int = 5,
    force: bool = False,
) -> int:
    """Draw and tabulate how far gradients of rate and distortion, and of successive steps, agree.

    Each run is a folder of `lictor train` with train.conflict_every set.

    Args:
        runs: Run folders; their names are the names in charts and tables.
        out: Folder for scores.png, layers.png, conflict.json and conflict.csv.
        phases: Equal parts of training that scores are averaged over.
        window: Lines in the chart are means over so many probes; 1 for none.
        force: Overwrite existing files.
    """
    from lictor.analysis.conflict import (
        load_conflict_runs,
        means_to_csv,
        means_to_json,
        notes,
        phase_means,
    )
    from lictor.files import write_file

    if not runs:
        complain("analyze conflict needs at least one run folder; see --help")
        return 2
    if phases < 1 or window < 1:
        raise ConfigError("--phases and --window must be at least 1")
    loaded = load_conflict_runs(runs)
    targets = output_files(out, _OUTPUTS, force=force)
    means = phase_means(loaded, phases)
    from lictor.reporting.conflict_charts import save_layer_chart, save_score_chart

    save_score_chart(targets["scores.png"], loaded, window=window)
    save_layer_chart(targets["layers.png"], loaded)
    write_file(targets["conflict.json"], means_to_json(loaded, means).encode())
    write_file(targets["conflict.csv"], means_to_csv(means).encode())
    _show(means)
    for note in notes(loaded):
        print(f"lictor: warning: {note}", file=sys.stderr, flush=True)
    say(f"{out}  {', '.join(_OUTPUTS)}")
    return 0


def _show(means: "Sequence[PhaseMeans]") -> None:
    """Print a line for each score and run: means by phase, and the share of probes in conflict."""
    from rich.console import Console

    from lictor.cli.progress import table

    lines, shown = [], set[str]()
    for score, run in dict.fromkeys((row.score, row.run) for row in means):
        own = [row for row in means if (row.score, row.run) == (score, run)]
        total = sum(row.num_probes for row in own)
        below = sum(row.num_probes * row.conflict_rate for row in own if row.num_probes)
        lines.append(
            {
                "score": "" if score in shown else score,
                "run": run,
                **{f"{row.first}-{row.last}": _figure(row.mean) for row in own},
                "below 0": f"{100 * below / total:.0f} %" if total else "-",
                "probes": str(total),
            }
        )
        shown.add(score)
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width).print(table(lines, title="Mean score by steps, -1 to 1"), crop=False)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
