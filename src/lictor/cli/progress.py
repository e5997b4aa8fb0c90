"""Progress on a terminal; plain lines, or nothing, elsewhere."""

import logging
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from lictor.metrics import psnr_of_mse
from lictor.training.loop import StepReport
from lictor.training.run import Evaluation

T = TypeVar("T")

stderr = Console(stderr=True, markup=False)
_REPORT_EVERY_S = 30.0
_LEAST_TEXT = 16


def log_to_terminal(*, quiet: bool = False) -> None:
    """Show the library's warnings and news above the progress bar.

    With `quiet` nothing is shown, not even a bar: another process of the same run does it.
    """
    stderr.quiet = quiet
    handler = RichHandler(console=stderr, show_time=False, show_path=False, show_level=False)
    logger = logging.getLogger("lictor")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)


def _bar(*columns: str) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(column) for column in columns),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )


def over(items: Sequence[T], description: str) -> Iterator[T]:
    """Iterate with a progress bar when there is more than one item."""
    if len(items) < 2:
        yield from items
        return
    with _bar() as bar:
        task = bar.add_task(description, total=len(items))
        for item in items:
            yield item
            bar.advance(task)


def follow(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Iterate over what comes as it comes, with a progress bar and a line now and then without."""
    with _bar() as bar:
        task = bar.add_task(description, total=total)
        reported = time.monotonic()
        for number, item in enumerate(items, 1):
            yield item
            bar.advance(task)
            if not stderr.is_terminal and time.monotonic() - reported > _REPORT_EVERY_S:
                reported = time.monotonic()
                stderr.print(f"{description}: {number} of {total}")


@contextmanager
def counted(description: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Give what shows a progress bar when told how many of how many are done."""
    if not shown:
        yield lambda *_: None
        return
    with _bar() as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# How a metric is written that has a unit of its own.
_UNITS = {"bpp": "{0:.{1}f} bpp", "psnr": "{0:.2f} dB"}


class _Average:
    """A running mean that follows the last hundred steps or so."""

    def __init__(self) -> None:
        self.value: float | None = None

    def add(self, value: float) -> float:
        self.value = value if self.value is None else 0.98 * self.value + 0.02 * value
        return self.value


def _told(metrics: Mapping[str, float], digits: int) -> str:
    """Write metrics as people say them; a PSNR in place of a squared error."""
    parts = []
    for name, value in metrics.items():
        if name == "mse":
            name, value = "psnr", psnr_of_mse(255**2 * value)
        unit = _UNITS.get(name)
        parts.append(f"{name} {value:.{digits}f}" if unit is None else unit.format(value, digits))
    return "  ".join(parts)


def show_training(
    reports: Iterable[StepReport | Evaluation], *, total: int | None, log_every: int
) -> StepReport | None:
    """Follow a run to its end and return its last step: a live bar, or a line now and then."""
    averages: dict[str, _Average] = defaultdict(_Average)
    step_s, wait_s = _Average(), _Average()
    last: StepReport | None = None
    with _bar("{task.fields[told]}", "{task.fields[rate]} step/s") as bar:
        task = bar.add_task("training", total=total, told="loss -", rate="-")
        for report in reports:
            if isinstance(report, Evaluation):
                told = _told({"loss": report.loss, **report.metrics}, 4)
                stderr.print(f"step {report.step:>7}  held out: {told}")
                continue
            last = report
            if report.skipped:
                where = report.where_not_finite
                stderr.print(
                    f"step {report.step + 1:>7}  skipped: the gradient is not finite{where}"
                )
                continue
            values = {"loss": report.loss, **report.metrics}
            told = _told({name: averages[name].add(value) for name, value in values.items()}, 3)
            rate = f"{1 / max(step_s.add(report.step_s), 1e-9):.1f}"
            wait_s.add(report.wait_s)
            bar.update(task, completed=report.step + 1, told=told, rate=rate)
            if not stderr.is_terminal and (report.step + 1) % (10 * log_every) == 0:
                stderr.print(f"step {report.step + 1:>7}  {told}  {rate} step/s")
    if step_s.value:
        share = (wait_s.value or 0) / step_s.value
        stderr.print(f"waiting for data: {100 * share:.1f} % of a step")
    return last


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a request to stop; the second one interrupts."""
    requested = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        del number, frame
        if requested:
            raise KeyboardInterrupt
        requested = True
        stderr.print("stopping after this step; press Ctrl-C again to stop at once")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def refining(*, alone: bool) -> Iterator[tuple[Callable[[int, int], bool], Callable[[], bool]]]:
    """Give what watches a search, and what says whether the first Ctrl-C has come.

    There is a bar for the steps of a picture that is `alone`; several have a bar of their own.
    """
    with stop_on_interrupt() as should_stop, counted("refining", shown=alone) as show:

        def watch(done: int, total: int) -> bool:
            show(done, total)
            return should_stop()

        yield watch, should_stop


def table(rows: Sequence[Mapping[str, str]], *, title: str = "") -> Table:
    """Lay out rows of equal keys; the first column is text, the others are numbers.

    In a narrow terminal the headers are folded at spaces, then the text: a number that is cut off
    would be another number. Some text stays, or nobody knows what the numbers are of; print with
    `crop=False` what is wider than that.
    """
    result = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for position, key in enumerate(rows[0] if rows else ()):
        widest = max(len(row[key]) for row in rows)
        if position == 0:
            least = min(_LEAST_TEXT, max(widest, len(key)))
            result.add_column(key, overflow="fold", min_width=least)
        else:
            least = max(widest, *map(len, key.split()))
            result.add_column(key, justify="right", min_width=least)
    for row in rows:
        result.add_row(*map(Text, row.values()))  # a name may look like markup
    return result


def deadline(seconds: float) -> Callable[[], bool]:
    """Return a test that is true once so many seconds have passed."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end
