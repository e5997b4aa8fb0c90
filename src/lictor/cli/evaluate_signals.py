"""`lictor evaluate` for codecs of signals: sounds, volumes, fields, arrays."""

import signal as signals_of_the_system
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lictor.cli.failures import report_failures
from lictor.cli.messages import complain
from lictor.errors import ConfigError

if TYPE_CHECKING:
    from lictor.comparison.curve import Curve


def evaluate_signals(
    folder: str,
    codecs: Sequence[str],
    kind: str,
    *,
    out: str | None,
    limit: int | None,
    dataset: str,
    keep: int,
    variable: str | None,
    value_range: tuple[float, float] | None,
) -> int:
    """Measure codecs of signals of a kind, print and write what came out; return the exit code."""
    from lictor.cli.progress import follow, stderr
    from lictor.data.places import is_url
    from lictor.evaluation.provenance import provenance
    from lictor.evaluation.signals import sweep
    from lictor.evaluation.signals.contenders import parse_signal_contenders
    from lictor.evaluation.signals.items import read_signals, set_hash
    from lictor.evaluation.signals.quality import Peak

    if is_url(folder) or (out is not None and is_url(out)):
        raise ConfigError("signals are read and results written on this machine, not at a URL")
    contenders = parse_signal_contenders(codecs, kind)
    peak = sweep.common_peak(contenders, kind)
    if value_range is not None:
        if not value_range[0] < value_range[1]:
            raise ConfigError("--value-range needs the lower end first")
        peak = Peak(*value_range, "--value-range")
    domains = [one.domain for one in contenders if one.domain is not None]
    axes, channels = domains[0][1:] if domains else (None, None)
    place = None if out is None else Path(out)
    found = read_signals(
        folder,
        kind,
        axes=axes,
        channels=channels,
        variable=variable,
        limit=limit,
        exclude=place,
    )
    for reason in found.errors:
        complain(reason)
    entries = sweep.entries_of(contenders, found, peak)
    total = len(found.items) * sum(len(entry.contender.settings) for entry in entries)
    measured = sweep.evaluate_signals(entries, found, peak=peak, out=place, keep_items=keep)
    # A polite request to stop ends as Ctrl-C does: with every row kept.
    stop = signals_of_the_system.SIGTERM
    previous = signals_of_the_system.signal(stop, signals_of_the_system.default_int_handler)
    try:
        outcomes = list(follow(measured, total, "evaluating"))
    finally:
        signals_of_the_system.signal(stop, previous)
    reused = sum(outcome.reused for outcome in outcomes)
    if reused:
        stderr.print(f"{reused} of {total} rows were measured before and are taken as they are")
    about: dict[str, Any] = provenance(images=len(found.items), images_sha256=set_hash(found.items))
    curves = sweep.finish_signals(
        entries, outcomes, found, out=place, dataset=dataset, provenance=about
    )
    _print_points(curves)
    if out is not None and curves:
        files = ", ".join(f"{out}/{curve.name}.json" for curve in curves)
        stderr.print(f"results in {files}", soft_wrap=True)
    return report_failures(outcomes, curves, len(found.errors))


def _print_points(curves: "Sequence[Curve]") -> None:
    from rich.console import Console

    from lictor.cli.progress import table
    from lictor.evaluation.signals.figures import point_figures

    console = Console(width=None if sys.stdout.isatty() else 120)
    rows = [row for curve in curves for row in point_figures(curve)]
    told = [key for key in (rows[0] if rows else ()) if any(row[key] != "-" for row in rows)]
    if rows:
        console.print(table([{key: row[key] for key in told} for row in rows]), crop=False)
