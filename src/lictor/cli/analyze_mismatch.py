"""`lictor analyze mismatch`: how far the loss of training was from that of rounding."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from lictor.cli.messages import complain, say
from lictor.cli.outputs import output_files

Runs = Annotated[tuple[Path, ...], arg(metavar="RUN...", help_behavior_hint="")]
_OUTPUTS = ("mismatch.png", "mismatch.csv")


def mismatch(
    runs: Positional[Runs],
    /,
    *,
    out: Annotated[Path, arg(aliases=["-o"], metavar="DIR")],
    force: bool = False,
) -> int:
    """Draw and tabulate how far the loss under a surrogate was from the loss under rounding.

    Each run is a folder of `lictor train` with train.mismatch set.

    Args:
        runs: Run folders; their names are the names in the chart and the table.
        out: Folder for mismatch.png and mismatch.csv.
        force: Overwrite existing files.
    """
    from lictor.analysis.mismatch import load_mismatch_run, mismatch_to_csv
    from lictor.files import write_file

    if not runs:
        complain("analyze mismatch needs at least one run folder; see --help")
        return 2
    loaded = [load_mismatch_run(folder) for folder in runs]
    targets = output_files(out, _OUTPUTS, force=force)
    from lictor.reporting.mismatch_chart import save_mismatch_chart

    save_mismatch_chart(targets["mismatch.png"], loaded)
    write_file(targets["mismatch.csv"], mismatch_to_csv(loaded).encode())
    for run in loaded:
        rates = "  ".join(f"{name} {values[-1]:+.4f} bpp" for name, values in run.rate_bpp.items())
        print(
            f"{run.name}  step {run.steps[-1]}  loss {run.loss[-1]:.4f}  "
            f"mismatch {run.total[-1]:+.4f}: distortion {run.distortion[-1]:+.4f}  {rates}"
        )
        if run.warning:
            print(f"lictor: warning: {run.warning}", file=sys.stderr, flush=True)
    say(f"{out}  {', '.join(_OUTPUTS)}")
    return 0
