"""What evaluations with `train.mismatch` recorded, read back from run folders.

A mismatch is the loss under the surrogate less the loss under rounding, of the same weights on the
same pictures: how they come about is `lictor.training.mismatch`.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lictor.errors import DataError
from lictor.training.run import CONFIG, METRICS

_TOTAL, _MSE, _RATE = "mismatch", "mismatch_mse", "mismatch_bpp_"
# A training loss that is lower than the real one by more than this share of it is an alarm.
ALARM = 0.05


@dataclass(frozen=True)
class MismatchRun:
    """The evaluations of one run, in order.

    `loss` is that of rounding; `total`, `distortion` (both in units of the loss) and `rate_bpp` of
    each latent are mismatches: negative where training flatters. After each step of `other_data`
    the run went on with other pictures: a loss from before and one from after do not compare.
    """

    name: str
    steps: tuple[int, ...]
    loss: tuple[float, ...]
    total: tuple[float, ...]
    distortion: tuple[float, ...]
    rate_bpp: Mapping[str, tuple[float, ...]]
    other_data: tuple[int, ...] = ()

    @property
    def warning(self) -> str | None:
        """Words on a mismatch at the end that says that the surrogate is a wrong one; or None."""
        loss, total = self.loss[-1], self.total[-1]
        if not total < -ALARM * abs(loss):
            return None
        return (
            f"{self.name}: the loss of training is {-total:.4g} below that of rounding "
            f"({loss:.4g}): the network hides in the surrogate what no rate is charged for"
        )


def load_mismatch_run(folder: Path | str) -> MismatchRun:
    """Read the evaluations of a run folder.

    Raises `DataError` when it is none, or was trained without `train.mismatch`.
    """
    folder = Path(folder)
    if not (folder / METRICS).is_file():
        raise DataError(f"{folder}: not a run folder: there is no {METRICS} in it")
    try:
        lines = (folder / METRICS).read_text(encoding="utf-8", errors="replace").splitlines()
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        lmbda = float(config["loss"]["lmbda"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{folder}: not a readable run folder ({error})") from error
    every = [row for row in map(_row, lines) if row is not None]
    rows = [row for row in every if _tells_mismatch(row)]
    if not rows:
        raise DataError(
            f"{folder}: no evaluation has told a mismatch; train with --set train.mismatch=true"
        )
    latents = [key for key in rows[0] if key.startswith(_RATE)]
    return MismatchRun(
        folder.resolve().name,
        tuple(row["step"] for row in rows),
        _column(rows, "loss"),
        _column(rows, _TOTAL),
        tuple(lmbda * 255**2 * value for value in _column(rows, _MSE)),
        {key.removeprefix(_RATE): _column(rows, key) for key in latents},
        tuple(row["step"] for row in every if row["kind"] == "data"),
    )


def _row(line: str) -> dict[str, Any] | None:
    """Return a line's row if it says its kind and step; None for any other line."""
    try:
        row = json.loads(line)
        whole = type(row["step"]) is int and isinstance(row["kind"], str)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return row if whole else None


def _tells_mismatch(row: dict[str, Any]) -> bool:
    """Tell whether a row is that of an evaluation with `train.mismatch`."""
    numbers = (row.get(key) for key in ("loss", _TOTAL, _MSE))
    return row["kind"] == "evaluation" and all(isinstance(v, int | float) for v in numbers)


def _column(rows: Sequence[dict[str, Any]], key: str) -> tuple[float, ...]:
    values = (row.get(key) for row in rows)
    return tuple(float(v) if isinstance(v, int | float) else math.nan for v in values)


def mismatch_to_csv(runs: Sequence[MismatchRun]) -> str:
    """Return a table: a line for each evaluation of each run."""
    latents = list(dict.fromkeys(name for run in runs for name in run.rate_bpp))
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    rates = [f"rate_bpp_{name}" for name in latents]
    out.writerow(["run", "step", "loss", "mismatch", "mismatch_distortion", *rates])
    for run in runs:
        for i, step in enumerate(run.steps):
            own = [run.rate_bpp[n][i] if n in run.rate_bpp else "" for n in latents]
            out.writerow([run.name, step, run.loss[i], run.total[i], run.distortion[i], *own])
    return text.getvalue()
