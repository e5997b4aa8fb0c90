"""What run folders tell of themselves: read while they train, each time only what is new."""

import json
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lictor.errors import DataError
from lictor.training.run import CONFIG, METRICS

GONE = "gone"
# Runs are looked for in a folder, in the folders in it, and so many levels down in all.
_DEPTH = 4
# So many bytes before what is new tell whether the file is still the one that was read.
_END = 256
Series = list[tuple[int, float]]


@dataclass(frozen=True)
class RunSummary:
    """Where a run is, and how good; None for what it has not told, NaN for what is no number.

    The losses of evaluations, `bpp` and `psnr` (dB) are those of the pictures kept out of training;
    `problem` says why the run cannot be read any more.
    """

    run: str
    folder: str
    model: str | None
    optimizer: str | None
    step: int | None
    steps: int | None
    train_loss: float | None
    eval_loss: float | None
    best_eval_loss: float | None
    best_step: int | None
    bpp: float | None
    psnr: float | None
    lr: float | None
    steps_per_s: float | None
    wait_share: float | None
    peak_mib: float | None
    age_s: float | None
    done: bool
    problem: str | None


class RunLog:
    """One run as far as it has been read: `train` and `evaluations` are (step, loss) in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problem: str | None = None
        self._config: dict[str, Any] = {}
        self._config_id: object = None
        self._file_id: object = None
        self._modified_s: float | None = None
        self._forget()

    def _forget(self) -> None:
        self.train: Series = []
        self.evaluations: Series = []
        self._offset, self._end = 0, b""
        self._step: int | None = None
        self._other_data = -1  # from this step on the run has had other pictures
        self._last: dict[str, dict[str, Any]] = {}

    def update(self) -> bool:
        """Read what is new, and a file that has shrunk or become another one from its beginning.

        Returns whether there was anything. What cannot be read becomes `problem`; what was known
        stays known.
        """
        before = (self.problem, self._config_id)
        self._read_config()
        try:
            data = self._read_metrics()
            self.problem = None
        except (FileNotFoundError, NotADirectoryError):
            data, self.problem, self._file_id = None, GONE, None
        except OSError as error:
            data, self.problem = None, error.strerror or "cannot be read"
        for row in _rows(data or b""):
            self._take(row)
        return data is not None or before != (self.problem, self._config_id)

    def _read_config(self) -> None:
        path = self.folder / CONFIG
        try:
            state = path.stat()
            known = (state.st_ino, state.st_size, state.st_mtime_ns)
            if known == self._config_id:
                return
            content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        except (OSError, ValueError, RecursionError):
            return  # what was known is as good as anything
        self._config_id = known
        self._config = content if isinstance(content, dict) else {}

    def _read_metrics(self) -> bytes | None:
        """Return the new lines; None if nothing has changed.

        A line that is still being written is left for the next time.
        """
        with (self.folder / METRICS).open("rb") as file:
            state = os.fstat(file.fileno())
            file.seek(self._offset - len(self._end))
            anew = (state.st_dev, state.st_ino) != self._file_id
            if anew or file.read(len(self._end)) != self._end:
                anew = True
                self._forget()
                self._file_id = (state.st_dev, state.st_ino)
                file.seek(0)
            self._modified_s = state.st_mtime
            data = file.read()
        whole, newline, rest = data.rpartition(b"\n")
        if _row(rest) is None:  # else complete but for its end, which is blank when it comes
            data = whole + newline
        self._offset += len(data)
        self._end = (self._end + data)[-_END:]
        return data if data or anew else None

    def _take(self, row: dict[str, Any]) -> None:
        kind, step = row.get("kind"), _step(row)
        if kind == "data" and step is not None:
            self._other_data = step
        series = {"train": self.train, "evaluation": self.evaluations}.get(str(kind))
        if series is None:
            return
        self._last[str(kind)] = row
        if step is None:
            return
        self._step = step
        while series and series[-1][0] >= step:  # taken up again further back
            series.pop()
        if (loss := _number(row, "loss")) is not None:
            series.append((step, loss))

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and loss of the best evaluation on the present pictures, if there is one."""
        rows = [(s, v) for s, v in self.evaluations if s > self._other_data and math.isfinite(v)]
        return min(rows, key=lambda row: row[1], default=None)

    @property
    def steps(self) -> int | None:
        """How many steps the run is to have."""
        return _step({"step": self._setting("train", "steps")})

    @property
    def done(self) -> bool:
        """Whether the run has taken its last step, and told of the evaluation after it."""
        last = _step(self._last.get("evaluation", {}))
        return self.steps is not None and last is not None and last >= self.steps

    def _setting(self, section: str, key: str) -> Any:
        inner = self._config.get(section)
        return inner.get(key) if isinstance(inner, dict) else None

    def _named(self, section: str) -> str | None:
        name = self._setting(section, "name")
        return printable_name(name) if isinstance(name, str) else None

    def summary(self, name: str) -> RunSummary:
        """Return where the run is, under a name."""
        train, evaluation = self._last.get("train", {}), self._last.get("evaluation", {})
        step_s = _number(train, "step_s")
        best = self.best
        return RunSummary(
            run=name,
            folder=str(self.folder),
            model=self._named("model"),
            optimizer=self._named("optim"),
            step=self._step,
            steps=self.steps,
            train_loss=_number(train, "loss"),
            eval_loss=_number(evaluation, "loss"),
            best_eval_loss=best and best[1],
            best_step=best and best[0],
            bpp=_number(evaluation, "bpp"),
            psnr=_number(evaluation, "psnr"),
            lr=_number(train, "lr"),
            steps_per_s=1 / step_s if step_s and step_s > 0 else None,
            wait_share=_number(train, "wait_share"),
            peak_mib=_number(train, "peak_mib") if train.get("peak_mib") is not None else None,
            age_s=None if self._modified_s is None else max(0.0, time.time() - self._modified_s),
            done=self.done,
            problem=self.problem,
        )


class Runs:
    """The runs in some places, each of which is a run folder or a folder that holds some."""

    def __init__(self, places: Sequence[Path]) -> None:
        """Take the places; raises `DataError` if one is no folder."""
        for place in places:
            try:
                found = place.is_dir()
            except (OSError, ValueError) as error:
                raise DataError(f"{place}: not a usable path ({error})") from error
            if not found:
                raise DataError(f"{place}: no such folder; name a run folder, or one that has some")
        self._places = places
        self._logs: dict[Path, RunLog] = {}

    def update(self) -> bool:
        """Find runs that are new, and read what is new of all; returns whether there was any."""
        for place in self._places:
            for folder in _run_folders(place, _DEPTH):
                self._logs.setdefault(folder.resolve(), RunLog(folder))
        changed = [log.update() for log in self._logs.values()]
        return any(changed)

    @property
    def finished(self) -> bool:
        """Whether there is a run, and nothing more is to be expected of any."""
        return bool(self._logs) and all(
            log.done or log.problem == GONE for log in self._logs.values()
        )

    def named(self) -> dict[str, RunLog]:
        """Return the runs by the shortest ends of their paths that differ."""
        return dict(zip(_names(list(self._logs)), self._logs.values(), strict=True))

    def summaries(self) -> list[RunSummary]:
        """Return where each run is."""
        return [log.summary(name) for name, log in self.named().items()]


def printable_name(text: str) -> str:
    """Return a name as text that a terminal and a chart can show, on one line."""
    text = text.encode(errors="surrogateescape").decode(errors="replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def _names(folders: Sequence[Path]) -> list[str]:
    lengths = [1] * len(folders)
    while True:
        names = [
            "/".join(folder.parts[-length:])
            for folder, length in zip(folders, lengths, strict=True)
        ]
        shown = [printable_name(name) for name in names]
        longer = [
            length + 1 if shown.count(name) > 1 and length < len(folder.parts) else length
            for name, length, folder in zip(shown, lengths, folders, strict=True)
        ]
        if longer == lengths:
            break
        lengths = longer
    # Names that differ in what cannot be shown get a number.
    return [
        name if shown.count(name) == 1 else f"{name} ({position})"
        for position, name in enumerate(shown, 1)
    ]


def _run_folders(place: Path, depth: int) -> Iterator[Path]:
    try:
        if (place / METRICS).is_file():
            yield place
            return
        inner = [
            entry.path
            for entry in os.scandir(place)
            if entry.is_dir() and not entry.name.startswith(".")
        ]
    except OSError:
        return  # not for us, or deleted meanwhile
    if depth:
        for path in sorted(inner, key=_natural):
            yield from _run_folders(Path(path), depth - 1)


def _natural(text: str) -> list[tuple[str, int]]:
    """Return a key by which run2 comes before run10."""
    parts = re.findall(r"([^0-9]*)([0-9]{0,18})", text)
    return [(letters, int(digits or -1)) for letters, digits in parts]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _rows(data: bytes) -> Iterator[dict[str, Any]]:
    return (row for line in data.split(b"\n") if (row := _row(line)) is not None)


def _number(row: dict[str, Any], key: str) -> float | None:
    """Return a number of a row; NaN if it is null or infinite, None if it is not there."""
    if key not in row:
        return None
    value = row[key]
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        number = math.nan
    return number if math.isfinite(number) else math.nan


def _step(row: dict[str, Any]) -> int | None:
    step = _number(row, "step")
    return None if step is None or not 0 <= step < 2**53 else int(step)
