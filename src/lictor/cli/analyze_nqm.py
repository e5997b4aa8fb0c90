"""`lictor analyze nqm`: the noisy quadratic model, as tables and charts."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from lictor.cli.messages import say
from lictor.cli.outputs import output_files
from lictor.errors import ConfigError

if TYPE_CHECKING:
    from lictor.analysis.nqm.tables import Settings
    from lictor.analysis.table import Cell, Table

Numbers = Annotated[tuple[float, ...], arg(help_behavior_hint="")]
Counts = Annotated[tuple[int, ...], arg(help_behavior_hint="")]
_TABLES = ("ratios", "transient", "spectrum", "curves", "equal-risk", "embedding", "modes")
_CHARTS = ("alpha.png", "interval.png", "risk.png", "speed.png", "modes.png")
_OUTPUTS = ("nqm.json", *(f"{name}.csv" for name in _TABLES), *_CHARTS)
_PIPE_WIDTH = 160


def nqm(
    *,
    out: Annotated[Path, arg(aliases=["-o"], metavar="DIR")],
    gamma: float = 0.1,
    gammas: Numbers = (0.1, 0.5, 1.0),
    alphas: Numbers = (0.1, 0.25, 0.5, 0.8),
    intervals: Counts = (1, 5, 10, 50),
    alpha: float = 0.5,
    interval: int = 5,
    dimensions: int = 100,
    sizes: Counts = (1, 2, 4, 8, 16, 19, 20, 32),
    particles: int = 2000,
    seed: int = 0,
    force: bool = False,
) -> int:
    """Tabulate and draw what averaging and embedding do to the noise of gradient descent.

    The model is a quadratic whose optimum is hidden by fresh noise at each step; it needs no data.
    Every number is computed twice, by formula and by simulation.

    Args:
        out: Folder for nqm.json, a CSV file for each table, and charts.
        gamma: Step size, in units of 1 over the curvature, of all tables but the spectrum's.
        gammas: Step sizes of the spectrum, in units of 1 over its largest curvature.
        alphas: Interpolations of the averages that are compared, above 0 to 1.
        intervals: Steps between the samples of the averages that are compared.
        alpha: Interpolation where there is one average.
        interval: Steps between its samples.
        dimensions: Coordinates of the spectrum, whose curvatures are 1, 1/2, 1/3, ...
        sizes: Sizes of the modes of embedded coordinates.
        particles: Simulated at once; twice as many, a variance is 1.4 times as exact.
        seed: Seed of the simulations.
        force: Overwrite existing files.
    """
    from lictor.analysis.nqm.tables import NUM_GROUPS, Settings, all_tables
    from lictor.cli.progress import follow

    settings = Settings(
        gamma, gammas, alphas, intervals, alpha, interval, dimensions, sizes, particles
    )
    if seed < 0:
        raise ConfigError(f"--seed must not be negative, as {seed} is")
    targets = output_files(out, _OUTPUTS, force=force)
    groups = follow(all_tables(settings, seed), NUM_GROUPS, "simulating")
    tables = {table.name: table for group in groups for table in group}
    _write(targets, settings, seed, tables)
    _show([table for name, table in tables.items() if name != "curves"])
    say(f"{out}  {', '.join(_OUTPUTS)}")
    return 0


def _write(
    targets: Mapping[str, Path], settings: "Settings", seed: int, tables: "Mapping[str, Table]"
) -> None:
    """Write charts and tables, each file whole or not at all."""
    from lictor.analysis.nqm.tables import tables_to_json
    from lictor.analysis.table import table_to_csv
    from lictor.files import write_file
    from lictor.reporting import nqm_charts as charts

    charts.save_alpha_chart(targets["alpha.png"], settings, tables["ratios"])
    charts.save_interval_chart(targets["interval.png"], settings, tables["ratios"])
    charts.save_risk_chart(targets["risk.png"], settings, tables["curves"])
    charts.save_speed_chart(targets["speed.png"], settings)
    charts.save_mode_chart(targets["modes.png"], settings, tables["modes"])
    for name, table in tables.items():
        write_file(targets[f"{name}.csv"], table_to_csv(table).encode())
    content = tables_to_json(settings, seed, list(tables.values()))
    write_file(targets["nqm.json"], content.encode())


def _show(tables: "Sequence[Table]") -> None:
    """Print every table, and how far the simulations were from the closed forms."""
    from rich.console import Console

    from lictor.analysis.nqm.tables import deviations
    from lictor.cli.progress import table as lay_out

    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    for table in tables:
        console.print(lay_out([_line(row) for row in table.rows], title=table.title))
    largest = max(share for table in tables for share in deviations(table))
    console.print(
        f"simulations are within {100 * largest:.1f} % of the closed forms", highlight=False
    )


def _line(row: "Mapping[str, Cell]") -> dict[str, str]:
    return {key.replace(", simulated", " sim."): _figure(value) for key, value in row.items()}


def _figure(value: "Cell") -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
