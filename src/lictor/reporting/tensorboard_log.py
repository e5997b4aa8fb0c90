"""The rows of a run's metrics.jsonl as TensorBoard's scalars: train/loss, evaluation/psnr, ..."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lictor.errors import ConfigError, DataError
from lictor.training.run import METRICS

_NOT_SCALARS = ("kind", "step")
_FLUSH_S = 10  # TensorBoard's own default is two minutes


@contextlib.contextmanager
def tensorboard_log(folder: Path | None, run: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Give what writes each row of the metrics of `run` to `folder`; nothing where that is None.

    With the first row the folder is brought to what the metrics say, whatever an earlier run has
    left in it: so no line of a resumed run is there twice, and none is missing. Raises
    `ConfigError` if the package tensorboard is missing, `DataError` if the folder cannot be made or
    written.
    """
    if folder is None:
        yield lambda _: None
        return
    make_writer = _writer_class()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{folder}: cannot make the folder ({reason})") from error
    writer: Any = None

    def record(row: dict[str, Any]) -> None:
        nonlocal writer
        try:
            if writer is None:
                # What is there from step 0 on is hidden: it comes again.
                writer = make_writer(str(folder), purge_step=0, flush_secs=_FLUSH_S)
                for known in _rows(run / METRICS):
                    _write(writer, known)
            else:
                _write(writer, row)
        except OSError as error:
            raise DataError(
                f"{folder}: cannot write ({error.strerror or error}); free some space, then "
                "--resume"
            ) from error

    try:
        yield record
    finally:
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()


def _writer_class() -> Callable[..., Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "--tensorboard: the package tensorboard is not installed; "
            "pip install 'lictor[tensorboard]', or leave --tensorboard away"
        ) from error
    return SummaryWriter


def _rows(metrics: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]


def _write(writer: Any, row: dict[str, Any]) -> None:
    """Write what is a number in a row; a loss that was none leaves a gap."""
    for key, value in row.items():
        if key in _NOT_SCALARS or not isinstance(value, int | float):
            continue
        if math.isfinite(value):
            writer.add_scalar(f"{row['kind']}/{key}", value, row["step"])
