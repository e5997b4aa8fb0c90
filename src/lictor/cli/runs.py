"""`lictor runs`: where several trainings are, as a table and a chart, also while they go on."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from lictor.cli.messages import complain, say
from lictor.cli.outputs import check_output_file
from lictor.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console

    from lictor.reporting.runs import Runs, RunSummary

Places = Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR...", help_behavior_hint="")]
Chart = Annotated[
    Path | None, arg(aliases=["-o"], metavar="FILE.{png,svg,pdf}", help_behavior_hint="")
]

_PIPE_WIDTH = 200
_LEAST_S, _MOST_S = 0.1, 86400.0
_NOTHING = "-"
# What is left out first where the terminal is too narrow for everything.
_SPARE = ("peak MiB", "waiting", "lr", "optimizer", "model", "step/s", "PSNR", "bpp", "train loss")
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def runs(
    places: Places,
    /,
    *,
    out: Chart = None,
    follow: bool = False,
    every: Annotated[float, arg(metavar="SECONDS")] = 5.0,
    json: bool = False,
    force: bool = False,
) -> int:
    """Show where several trainings are and how good, as a table and a chart.

    Held-out numbers are of the pictures that a run keeps out of training; the age is that of the
    last line it has written. A narrow terminal shows fewer columns.

    Args:
        places: Run folders of `lictor train`, or folders that hold some.
        out: Draw held-out and training loss over the steps to this file.
        follow: Show it again and again, and new runs too, until all are done or Ctrl-C is pressed.
        every: Seconds between two looks when following.
        json: Print JSON, when following one line a look.
        force: Overwrite an existing chart.
    """
    from lictor.reporting.chart_file import CHART_FORMATS
    from lictor.reporting.runs import Runs

    if not places:
        complain("runs needs at least one folder; see --help")
        return 2
    if not _LEAST_S <= every <= _MOST_S:
        raise ConfigError(f"--every must be from {_LEAST_S:g} to {_MOST_S:g} seconds, not {every}")
    if out is not None:
        if out.suffix.lower() not in CHART_FORMATS:
            raise ConfigError(f"{out}: a chart must end in one of {', '.join(CHART_FORMATS)}")
        check_output_file(out, force=force)
    found = Runs(places)
    if follow:
        _follow(found, out, every, as_json=json)
        return 0
    found.update()
    if not found.named():
        where = ", ".join(map(str, places))
        raise DataError(f"{where}: no run of `lictor train` in it; add --follow to wait for one")
    if json:
        say(_to_json(found.summaries(), indent=2))
    else:
        console = _console()
        console.print(_table(found.summaries(), console), crop=False)
    if out is not None:
        _draw(out, found)
        if not json:
            say(f"{out}  {len(found.named())} runs")
    return 0


def _wait(seconds: float) -> None:
    time.sleep(seconds)


def _follow(found: "Runs", out: Path | None, every: float, *, as_json: bool) -> None:
    """Show runs until all are done; Ctrl-C is the usual way to leave earlier."""
    try:
        with _shower(as_json=as_json) as show:
            first = True
            while True:
                changed = found.update()
                show(found.summaries())
                if out is not None and (changed or first):
                    _draw(out, found)
                if found.finished:
                    return
                first = False
                _wait(every)
    except KeyboardInterrupt:
        return


@contextmanager
def _shower(*, as_json: bool) -> "Iterator[Callable[[Sequence[RunSummary]], None]]":
    """Give what shows summaries: in place on a terminal, else below what it has shown before."""
    from rich.live import Live

    console = _console()
    if as_json:
        yield lambda summaries: say(_to_json(summaries))
    elif not console.is_terminal:
        yield lambda summaries: console.print(_table(summaries, console), crop=False)
    else:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda summaries: live.update(_table(summaries, console), refresh=True)


def _draw(out: Path, found: "Runs") -> None:
    from lictor.reporting.runs_chart import save_runs_chart

    save_runs_chart(out, found.named())


def _console() -> "Console":
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, markup=False)


def _to_json(summaries: "Sequence[RunSummary]", indent: int | None = None) -> str:
    from lictor.files import json_ready

    return json.dumps(json_ready([asdict(summary) for summary in summaries]), indent=indent)


def _table(summaries: "Sequence[RunSummary]", console: "Console") -> Any:
    """Lay out runs, on a terminal without the columns that it has no room for."""
    from lictor.cli.progress import table

    if not summaries:
        return "no run yet"
    rows = [_cells(summary) for summary in summaries]
    result = table(rows)
    for spare in _SPARE if console.is_terminal else ():
        if _width(result, console) <= console.width:
            break
        for row in rows:
            del row[spare]
        result = table(rows)
    return result


def _width(table: Any, console: "Console") -> int:
    """Return how wide a table gets, which may be more than there is room for."""
    from rich.segment import Segment

    lines = Segment.split_lines(console.render(table))
    return max(map(Segment.get_line_length, lines), default=0)


def _cells(run: "RunSummary") -> dict[str, str]:
    steps = "?" if run.steps is None else run.steps
    return {
        "run": run.run,
        "model": run.model or _NOTHING,
        "optimizer": run.optimizer or _NOTHING,
        "step": _NOTHING if run.step is None else f"{run.step}/{steps}",
        "train loss": _number(run.train_loss, ".4f"),
        "held-out loss": _number(run.eval_loss, ".4f"),
        "best": _number(run.best_eval_loss, ".4f"),
        "bpp": _number(run.bpp, ".4f"),
        "PSNR": _number(run.psnr, ".2f"),
        "lr": _number(run.lr, ".3g"),
        "step/s": _number(run.steps_per_s, ".3g"),
        "waiting": _number(run.wait_share, ".1%"),
        "peak MiB": _number(run.peak_mib, ".0f"),
        "age": run.problem or _age(run.age_s),
    }


def _number(value: float | None, form: str) -> str:
    return _NOTHING if value is None else format(value, form)


def _age(seconds: float | None) -> str:
    if seconds is None:
        return _NOTHING
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "0 s"
