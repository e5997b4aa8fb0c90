"""`lictor analyze modes`: what STDET did in a run, as charts and tables."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from lictor.cli.messages import say
from lictor.cli.outputs import output_files

if TYPE_CHECKING:
    from lictor.analysis.modes import ModeStory

_OUTPUTS = ("run.png", "layers.png", "trajectories.png", "modes.json", "modes.csv")
_PIPE_WIDTH = 120


def modes(
    run: Positional[Path],
    /,
    *,
    out: Annotated[Path, arg(aliases=["-o"], metavar="DIR")],
    force: bool = False,
) -> int:
    """Draw and tabulate which weights a run has embedded, and how well its modes hold.

    The run is a folder of `lictor train` with stdet.snapshot_every set; it may still be going on.

    Args:
        run: Run folder.
        out: Folder for run.png (shares, memory, correlations, drift), layers.png (share of each
            tensor), trajectories.png (weights against their lines), modes.json and modes.csv.
        force: Overwrite existing files.
    """
    from lictor.analysis.modes import load_mode_story, story_to_csv
    from lictor.files import write_file

    story = load_mode_story(run)
    targets = output_files(out, _OUTPUTS, force=force)
    from lictor.reporting.mode_charts import (
        save_layer_chart,
        save_run_chart,
        save_trajectory_chart,
    )

    save_run_chart(targets["run.png"], story)
    save_layer_chart(targets["layers.png"], story)
    save_trajectory_chart(targets["trajectories.png"], story)
    write_file(targets["modes.json"], (json.dumps(_summary(story), indent=1) + "\n").encode())
    write_file(targets["modes.csv"], story_to_csv(story).encode())
    _show(story)
    say(f"{out}  {', '.join(_OUTPUTS)}")
    return 0


def _summary(story: "ModeStory") -> dict[str, Any]:
    last = story.snapshots[-1]
    found = None
    if story.modes is not None:
        found = asdict(story.modes) | {"trajectories": story.modes.trajectories.tolist()}
    return {
        "run": story.name,
        "steps": last.step,
        "embedded": last.embedded,
        "trainable": last.total - last.embedded,
        "total": last.total,
        "share": last.share,
        "mean_share": story.mean_share,
        "optimizer_bytes": last.optimizer_bytes,
        "optimizer_bytes_at_first": story.snapshots[0].optimizer_bytes,
        "modes": found,
    }


def _show(story: "ModeStory") -> None:
    from rich.console import Console

    from lictor.analysis.modes import summary_rows
    from lictor.cli.progress import table

    rows = summary_rows(story)
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    if rows:
        Console(width=width).print(table(rows, title=f"{story.name}: modes"), crop=False)
    last, first = story.snapshots[-1], story.snapshots[0]
    say(
        f"step {last.step}: {100 * last.share:.1f} % of {last.total} weights embedded"
        f" (mean over the run {100 * story.mean_share:.1f} %), optimizer state"
        f" {first.optimizer_bytes / 2**20:.1f} -> {last.optimizer_bytes / 2**20:.1f} MiB"
    )
