"""What STDET recorded of a run, read back.

A run that was trained with `stdet.snapshot_every` has a file modes.jsonl: a row for each snapshot
or event, and one for the finding of modes (see `lictor.training.stdet.hook.STDET`).
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lictor.errors import DataError
from lictor.training.run import METRICS, MODES


@dataclass(frozen=True)
class Modes:
    """The modes of a run, as found after `step` steps.

    `trajectories` are those of the tracked weights over the first snapshots, one each `every`
    steps; `correlation` is each mode's mean absolute correlation with its reference.
    """

    step: int
    every: int
    references: tuple[str, ...]
    sizes: tuple[int, ...]
    correlation: tuple[float, ...]
    parameters: tuple[str, ...]
    tracked: tuple[str, ...]
    tracked_modes: tuple[int, ...]
    trajectories: Float[np.ndarray, "k t"]
    history_bytes: int


@dataclass(frozen=True)
class Snapshot:
    """A row: counts of weights, and, once there are modes, how well they hold.

    `tracked` are values, `slope` and `offset` the lines that they have. `correlation` counts the
    embedded weights too, which follow their references by construction. `drift` has the 5, 25, 50,
    75 and 95 % quantiles over the candidates of an event, and is empty elsewhere.
    """

    step: int
    embedded: int
    total: int
    optimizer_bytes: int
    correlation: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    tracked: tuple[float, ...] = ()
    slope: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    tracked_embedded: tuple[bool, ...] = ()
    drift: tuple[float, ...] = ()

    @property
    def share(self) -> float:
        """Embedded share of all trainable weights."""
        return self.embedded / self.total


@dataclass(frozen=True)
class ModeStory:
    """A run's rows in order; `modes` is None as long as none have been found.

    `step_s` are pairs of step and mean seconds of a training step, from the run's metrics.
    """

    name: str
    snapshots: tuple[Snapshot, ...]
    modes: Modes | None
    step_s: tuple[tuple[int, float], ...]

    @property
    def mean_share(self) -> float:
        """Embedded share, averaged over the snapshots, those before the first event included."""
        return sum(row.share for row in self.snapshots) / len(self.snapshots)


def load_mode_story(folder: Path | str) -> ModeStory:
    """Read the rows of a run folder.

    Raises `DataError` when it is none, was trained without STDET, or a line is damaged.
    """
    folder = Path(folder)
    path = folder / MODES
    if not folder.is_dir():
        raise DataError(f"{folder}: no such run folder")
    if not path.exists():
        raise DataError(f"{folder}: has no {MODES}; train with --set stdet.snapshot_every=...")
    snapshots, modes = list[Snapshot](), None
    for number, line in enumerate(_lines(path), 1):
        try:
            row = json.loads(line)
            if row["kind"] == "modes":
                modes = _modes(row)
            else:
                snapshots.append(_snapshot(row, modes))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise DataError(f"{path}: line {number} is no row of STDET ({error})") from error
    if not snapshots:
        raise DataError(f"{path}: holds no snapshots yet; let the run go on")
    return ModeStory(folder.resolve().name, tuple(snapshots), modes, _step_times(folder / METRICS))


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot read ({error.strerror})") from error
    # A run that is being written, or was killed, may end in half a line.
    return lines[:-1] if lines and not lines[-1].endswith("}") else lines


def _floats(values: Any, count: int | None = None) -> tuple[float, ...]:
    result = tuple(float(value) for value in values)
    if count is not None and len(result) != count:
        raise ValueError(f"{len(result)} values instead of {count}")
    return result


def _modes(row: dict[str, Any]) -> Modes:
    count, tracked = len(row["references"]), len(row["tracked"])
    trajectories = np.array(row["trajectories"], dtype=np.float64)
    if trajectories.ndim != 2 or not 1 <= count <= len(trajectories) == tracked:
        raise ValueError("trajectories do not fit")
    return Modes(
        step=int(row["step"]),
        every=int(row["every"]),
        references=tuple(map(str, row["references"])),
        sizes=tuple(int(size) for size in _floats(row["sizes"], count)),
        correlation=_floats(row["correlation"], count),
        parameters=tuple(map(str, row["parameters"])),
        tracked=tuple(map(str, row["tracked"])),
        tracked_modes=tuple(int(mode) for mode in _floats(row["tracked_modes"], tracked)),
        trajectories=trajectories,
        history_bytes=int(row["history_bytes"]),
    )


def _snapshot(row: dict[str, Any], modes: Modes | None) -> Snapshot:
    names = ("step", "embedded", "total", "optimizer_bytes")
    step, embedded, total, optimizer_bytes = (int(row[name]) for name in names)
    if not 0 <= embedded <= total or not total:
        raise ValueError("counts that cannot be")
    if modes is None or "correlation" not in row:
        return Snapshot(step, embedded, total, optimizer_bytes)
    tracked = len(modes.tracked)
    inside = _floats(row["tracked_embedded"], tracked)
    return Snapshot(
        step,
        embedded,
        total,
        optimizer_bytes,
        correlation=_floats(row["correlation"], len(modes.references)),
        shares=_floats(row["shares"], len(modes.parameters)),
        tracked=_floats(row["tracked"], tracked),
        slope=_floats(row["slope"], tracked),
        offset=_floats(row["offset"], tracked),
        tracked_embedded=tuple(map(bool, inside)),
        drift=_floats(row.get("drift", ())),
    )


def _step_times(path: Path) -> tuple[tuple[int, float], ...]:
    """Return steps and seconds from the run's metrics, as far as there are any."""
    times = list[tuple[int, float]]()
    for line in _lines(path) if path.exists() else ():
        try:
            row = json.loads(line)
            if row["kind"] == "train":
                times.append((int(row["step"]), float(row["step_s"])))
        except (ValueError, KeyError, TypeError):
            continue  # they are beside the point here
    return tuple(times)


def tracked_over_time(
    story: ModeStory,
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, "k t"]]:
    """Return the steps of all snapshots, and the tracked weights' values at them.

    Raises `DataError` when no modes have been found yet.
    """
    if story.modes is None:
        raise DataError(f"{story.name}: no modes have been found yet; let the run go on")
    first = story.modes.trajectories
    later = [row for row in story.snapshots if row.step > story.modes.step and row.tracked]
    steps = [story.modes.every * (k + 1) for k in range(first.shape[1])]
    values = np.concatenate([first, *(np.array(row.tracked)[:, None] for row in later)], axis=1)
    return np.array([*steps, *(row.step for row in later)], dtype=np.float64), values


def story_to_csv(story: ModeStory) -> str:
    """Return a row for each snapshot, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["step", "embedded", "trainable", "share", "optimizer_bytes", "correlation", "drift_median"]
    )
    for row in story.snapshots:
        mean = weighted(row.correlation, story.modes.sizes) if story.modes else None
        median = row.drift[2] if len(row.drift) == 5 else ""
        values = [row.step, row.embedded, row.total - row.embedded, f"{row.share:.6f}"]
        values += [row.optimizer_bytes, "" if mean is None else f"{mean:.6f}", median]
        writer.writerow(values)
    return text.getvalue()


def weighted(values: Sequence[float], sizes: Sequence[int]) -> float | None:
    """Return the mean of values over modes, each counted by its size; None without values."""
    if not values:
        return None
    return sum(v * n for v, n in zip(values, sizes, strict=True)) / max(1, sum(sizes))


def summary_rows(story: ModeStory) -> list[dict[str, str]]:
    """Return a line for each mode, ready to be shown: reference, size, correlation then and now."""
    if story.modes is None:
        return []
    latest = next((row for row in reversed(story.snapshots) if row.correlation), None)
    now = latest.correlation if latest else story.modes.correlation
    return [
        {
            "mode": str(number),
            "reference": reference,
            "weights": str(size),
            "correlation when found": f"{found:.3f}",
            "at last": f"{last:.3f}",
        }
        for number, (reference, size, found, last) in enumerate(
            zip(
                story.modes.references,
                story.modes.sizes,
                story.modes.correlation,
                now,
                strict=True,
            )
        )
    ]
