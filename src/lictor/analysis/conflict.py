"""What the conflict probe recorded, read back and averaged over phases of training.

A run that was trained with `train.conflict_every` has a file conflict.jsonl; its rows are described
at `lictor.training.probe.ConflictProbe`.
"""

import csv
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lictor.errors import DataError
from lictor.files import json_ready
from lictor.training.alignment import conflict_rate
from lictor.training.pictures import CONFLICT
from lictor.training.run import CONFIG

# What each score compares, in the order of tables and charts.
SCORES = {
    "intra_raw": "rate vs distortion: gradients",
    "intra_pre": "rate vs distortion: preconditioned",
    "intra_h": "rate vs distortion: preconditioner's metric",
    "inter_raw": "step vs next: gradients",
    "inter_pre": "step vs next: preconditioned",
    "inter_upd": "step vs next: updates, with momentum",
    "inter_raw_lag": "steps further apart: gradients",
    "inter_pre_lag": "steps further apart: preconditioned",
}
_ALWAYS = tuple(SCORES)[:6]
# Runs that differ in these measure the conflict of different problems.
_SAME = ("model", "loss", "surrogate", "data.crop_size", "train.batch_size", "train.conflict_lag")


@dataclass(frozen=True)
class ConflictRun:
    """The rows of one run: scores in [-1, 1] by name, NaN where there is none.

    `layers` has the scores of each shared parameter, in the network's order; `config` is what the
    run folder says about the run, empty if it says nothing.
    """

    name: str
    steps: tuple[int, ...]
    scores: Mapping[str, tuple[float, ...]]
    layers: Mapping[str, Mapping[str, tuple[float, ...]]]
    config: Mapping[str, Any]


def _score(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
        raise ValueError(f"{value!r} is not a score")
    return float(value)


def _parse(line: str) -> dict[str, Any]:
    """Return a row's step, scores and layers; raises `ValueError` or `TypeError` on any other."""
    row = json.loads(line)
    step = row["step"]
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise ValueError(f"{step!r} is not a step")
    scores = {key: _score(row[key]) for key in SCORES if key in row or key in _ALWAYS}
    layers = {
        str(name): {key: _score(own.get(key)) for key in scores}
        for name, own in row["layers"].items()
    }
    if not layers:
        raise ValueError("no layers")
    return {"step": step, "scores": scores, "layers": layers}


def load_conflict_run(folder: Path | str) -> ConflictRun:
    """Read the rows of a run folder.

    Raises `DataError` when it is none, was trained without a probe, or a line is damaged.
    """
    folder = Path(folder)
    path = folder / CONFLICT
    try:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such run folder")
        if not path.exists():
            raise DataError(
                f"{folder}: has no {CONFLICT}; train with --set train.conflict_every=100"
            )
        text = path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder}: cannot read the run ({error})") from error
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append(_parse(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{path}: line {number} is damaged; delete it, or resume the run, which drops it"
            ) from error
        if len(rows) > 1 and rows[-1]["step"] <= rows[-2]["step"]:
            raise DataError(f"{path}: line {number} is out of order: not one run's file")
    if not rows:
        raise DataError(f"{path}: has no rows yet; they come every train.conflict_every steps")
    return _assemble(folder, rows)


def _assemble(folder: Path, rows: Sequence[dict[str, Any]]) -> ConflictRun:
    keys = [key for key in SCORES if any(key in row["scores"] for row in rows)]
    names = list(dict.fromkeys(name for row in rows for name in row["layers"]))
    return ConflictRun(
        folder.resolve().name,
        tuple(row["step"] for row in rows),
        {key: tuple(row["scores"].get(key, math.nan) for row in rows) for key in keys},
        {
            name: {
                key: tuple(row["layers"].get(name, {}).get(key, math.nan) for row in rows)
                for key in keys
            }
            for name in names
        },
        _config(folder / CONFIG),
    )


def _config(path: Path) -> dict[str, Any]:
    """Return the run's configuration with dotted keys, or nothing: it only serves for notes."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return {f"{s}.{key}": value for s, keys in tree.items() for key, value in keys.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def load_conflict_runs(folders: Sequence[Path | str]) -> list[ConflictRun]:
    """Read several runs, each called as its folder; raises `DataError` on two of one name."""
    runs: dict[str, tuple[Path | str, ConflictRun]] = {}
    for folder in folders:
        run = load_conflict_run(folder)
        if run.name in runs:
            raise DataError(
                f"two runs are called {run.name!r}: {runs[run.name][0]} and {folder}; "
                "rename one of the folders"
            )
        runs[run.name] = (folder, run)
    return [run for _, run in runs.values()]


def notes(runs: Sequence[ConflictRun]) -> list[str]:
    """Say what forbids comparing these runs, or a score of theirs."""
    known = [run.config for run in runs if run.config]
    keys = sorted({key for config in known for key in config})
    different = {key for key in keys if len({str(config.get(key)) for config in known}) > 1}
    found = []
    others = [key for key in sorted(different) if key in _SAME or key.split(".")[0] in _SAME]
    if others:
        found.append(f"the runs differ in {', '.join(others)}: not the same problem")
    if "optim.beta1" in different:
        found.append("inter_upd is not comparable: the runs differ in optim.beta1")
    return found


@dataclass(frozen=True)
class PhaseMeans:
    """One score of one run over a phase of training: the steps after `first` up to `last`.

    `mean` and `conflict_rate` (share below 0) are over the phase's probes; `layer_*` are over
    probes and layers, each layer alike. NaN where there is no probe.
    """

    run: str
    score: str
    first: int
    last: int
    num_probes: int
    mean: float
    conflict_rate: float
    layer_mean: float
    layer_conflict_rate: float


def phase_means(runs: Sequence[ConflictRun], num_phases: int = 3) -> list[PhaseMeans]:
    """Average every score over equal phases of the longest run, the same ones for all runs."""
    end = max(run.steps[-1] for run in runs)
    bounds = [round(end * i / num_phases) for i in range(num_phases + 1)]
    return [
        _phase(run, score, first, last)
        for score in SCORES
        for run in runs
        if score in run.scores
        for first, last in itertools.pairwise(bounds)
    ]


def _phase(run: ConflictRun, score: str, first: int, last: int) -> PhaseMeans:
    places = [i for i, step in enumerate(run.steps) if first < step <= last]
    own = [run.scores[score][i] for i in places]
    own = [value for value in own if not math.isnan(value)]
    layers = [scores[score][i] for scores in run.layers.values() for i in places]
    return PhaseMeans(
        run.name,
        score,
        first,
        last,
        len(own),
        _mean(own),
        conflict_rate(own),
        _mean(layers),
        conflict_rate(layers),
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _entry(row: PhaseMeans) -> dict[str, Any]:
    """Return a row for files: to six digits, None for NaN."""
    entries = vars(row).items()
    return json_ready({key: round(v, 6) if isinstance(v, float) else v for key, v in entries})


def means_to_json(runs: Sequence[ConflictRun], means: Sequence[PhaseMeans]) -> str:
    """Return the means, with notes and each run's layers, as one JSON object."""
    tree = {
        "notes": notes(runs),
        "runs": [
            {"name": run.name, "num_probes": len(run.steps), "layers": list(run.layers)}
            for run in runs
        ],
        "means": [_entry(row) for row in means],
    }
    return json.dumps(tree, indent=2) + "\n"


def means_to_csv(means: Sequence[PhaseMeans]) -> str:
    """Return the means as CSV with a header; empty fields where there is no number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(PhaseMeans.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_entry, means))
    return text.getvalue()
