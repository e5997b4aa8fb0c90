"""`lictor analyze surrogates`: what stands for rounding while a model trains, measured."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from lictor.cli.messages import say
from lictor.cli.outputs import output_files

if TYPE_CHECKING:
    from lictor.analysis.table import Cell, Table

Names = Annotated[tuple[str, ...], arg(metavar="NAME...", help_behavior_hint="")]
_TABLES = (
    *("curves", "moments", "risk", "rate-risk", "rates", "scales", "bounds", "means"),
    *("pairs", "annealing"),
)
_CHARTS = (
    *("curves.png", "mismatch.png", "risk.png", "risk-narrow.png", "gap.png", "bound.png"),
    "toy.png",
)
_OUTPUTS = ("surrogates.json", *(f"{name}.csv" for name in _TABLES), *_CHARTS)
# Too long for a terminal.
_NOT_SHOWN = ("curves", "risk", "rate-risk")
_PIPE_WIDTH = 160


def surrogates(
    *,
    out: Annotated[Path, arg(aliases=["-o"], metavar="DIR")],
    paths: Names = (),
    samples: int = 10_000,
    steps: int = 2000,
    replicas: int = 2,
    seed: int = 0,
    force: bool = False,
) -> int:
    """Tabulate and draw what stands for rounding while a model trains; it needs no data.

    How far each is from rounding, bias and variance of its gradient against the exact one, what a
    lower bound of a prior's scale does, what the distortion tells a mean, and how toy codecs of
    points in a plane learn. Each file is there as soon as it is finished.

    Args:
        out: Folder for surrogates.json, a CSV file for each table, and charts.
        paths: Names of paths, as for synthesis and rate of the surrogate `pair`; a choice of ten if
            not given.
        samples: Drawn at each place of a simulation.
        steps: Steps of each toy codec; few are quick and rank nothing, 8000 are for comparisons.
        replicas: Toy codecs of each kind.
        seed: Seed of everything.
        force: Overwrite existing files.
    """
    from lictor.analysis.surrogates.tables import (
        DEFAULT_PATHS,
        Settings,
        all_tables,
        num_tables,
        tables_to_json,
    )
    from lictor.analysis.table import table_to_csv
    from lictor.cli.progress import follow
    from lictor.files import write_file

    settings = Settings(paths or DEFAULT_PATHS, samples, steps, replicas, seed)
    targets = output_files(out, _OUTPUTS, force=force)
    tables: dict[str, Table] = {}
    for table in follow(all_tables(settings), num_tables(settings), "measuring"):
        if tables and table.name not in tables:
            _draw(targets, tables)
        tables[table.name] = table
        write_file(targets[f"{table.name}.csv"], table_to_csv(table).encode())
    _draw(targets, tables)
    write_file(targets["surrogates.json"], tables_to_json(settings, list(tables.values())).encode())
    _show([table for name, table in tables.items() if name not in _NOT_SHOWN])
    say(f"{out}  {', '.join(_OUTPUTS)}")
    return 0


def _draw(targets: Mapping[str, Path], tables: "Mapping[str, Table]") -> None:
    """Draw what the last table shows."""
    from lictor.analysis.surrogates.tables import SPREADS_OF_RISK
    from lictor.reporting import surrogate_charts as charts

    table = list(tables.values())[-1]
    match table.name:
        case "curves":
            charts.save_curve_chart(targets["curves.png"], table)
        case "moments":
            charts.save_mismatch_chart(targets["mismatch.png"], table)
        case "risk":
            for name, spread in zip(("risk.png", "risk-narrow.png"), SPREADS_OF_RISK, strict=True):
                charts.save_risk_chart(targets[name], table, spread)
        case "rates":
            charts.save_gap_chart(targets["gap.png"], table)
        case "bounds":
            charts.save_bound_chart(targets["bound.png"], table)
        case "annealing":
            charts.save_toy_chart(targets["toy.png"], table, tables["pairs"])


def _show(tables: "Sequence[Table]") -> None:
    from rich.console import Console

    from lictor.cli.progress import table as lay_out

    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    for table in tables:
        lines = [{key: _figure(value) for key, value in row.items()} for row in table.rows]
        console.print(lay_out(lines, title=table.title), crop=False)


def _figure(value: "Cell") -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
