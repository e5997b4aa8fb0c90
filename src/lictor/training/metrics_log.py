"""The metrics of a run: one JSON object a line; trimmed when the run is taken up again."""

import contextlib
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from lictor.errors import DataError
from lictor.files import write_file
from lictor.training.loop import StepReport


def trim_metrics(path: Path, step: int) -> None:
    """Drop what was logged after the checkpoint: the resumed run logs it again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # a line cut short when the run was killed
    write_file(path, "".join(kept).encode())


def best_loss(metrics: Path) -> float:
    """Return the least finite loss of the evaluations on the present pictures."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    rows = [json.loads(line) for line in lines]
    last = max((i for i, row in enumerate(rows) if row.get("kind") == "data"), default=-1)
    rows = rows[last + 1 :]
    losses = [row["loss"] for row in rows if row.get("kind") == "evaluation"]
    finite = (loss for loss in losses if loss is not None and math.isfinite(loss))
    return min(finite, default=math.inf)


def mean_report(
    reports: Sequence[StepReport], skipped: int, peak_bytes: int | None
) -> dict[str, Any]:
    """Return a row of means over steps; those that were skipped do not count, unless all were."""
    done = [r for r in reports if not r.skipped] or list(reports)
    rows = [{"loss": r.loss, **r.metrics, "grad_norm": r.grad_norm} for r in done]
    means = {k: sum(row[k] for row in rows) / len(rows) for k in rows[0]}
    step_s = sum(r.step_s for r in reports)
    return {
        "kind": "train",
        "step": reports[-1].step + 1,
        **{k: v if math.isfinite(v) else None for k, v in means.items()},
        "lr": reports[-1].lr,
        "step_s": step_s / len(reports),
        "wait_share": sum(r.wait_s for r in reports) / step_s if step_s else 0.0,
        "skipped": skipped,
        "peak_mib": None if peak_bytes is None else round(peak_bytes / 2**20, 1),
    }


def recorder(path: Path) -> Callable[[dict[str, Any]], None]:
    """Return what appends a row to a file of the run folder."""

    def record(row: dict[str, Any]) -> None:
        with open_log(path) as log:
            append(log, row)

    return record


@contextlib.contextmanager
def no_log() -> Iterator[IO[str]]:
    """Give what takes the lines of a process that does not write."""
    yield io.StringIO()


def open_log(path: Path) -> IO[str]:
    """Open a file to add rows to; raises `DataError` when it cannot be written."""
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot write ({error.strerror})") from error


def append(log: IO[str], row: dict[str, Any]) -> None:
    """Add a row at once; raises `DataError` when the disk is full."""
    try:
        log.write(json.dumps(row) + "\n")
        log.flush()
    except OSError as error:
        raise DataError(
            f"{log.name}: cannot write ({error.strerror}); free some space, then --resume"
        ) from error
