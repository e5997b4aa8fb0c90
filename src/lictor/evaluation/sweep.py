"""Many codecs at many settings on a folder of pictures, picture by picture, beside each other.

`evaluate` yields an outcome for every picture and setting; a row that was measured before and is
still valid is not measured again. `finish` averages the rows into curves and writes their files.
"""

import hashlib
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lictor.codecs.protocol import ImageCodec, WarmUp
from lictor.comparison.curve import Curve, ImageResult, curve_from_rows
from lictor.data.images import list_images, load_image
from lictor.errors import DataError, LictorError, TimeLimitError
from lictor.evaluation.contenders import Contender, Setting
from lictor.evaluation.journal import Journal, config_hash, known_rows, settle
from lictor.evaluation.perceptual import Lpips
from lictor.evaluation.pictures import original_path, picture_path
from lictor.evaluation.rd import evaluate_image, image_hash
from lictor.files import atomic_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A readable picture of the folder: its name in results, its file, the hash of its pixels."""

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class Task:
    """One picture at one setting, with `jobs` measured at a time.

    The decoded picture goes to `keep` if that is a folder.
    """

    contender: str
    setting: Setting
    picture: Picture
    jobs: int = 1
    lpips: bool = False
    keep: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a task: a row, or the reason why there is none."""

    task: Task
    row: ImageResult | None
    error: str = ""
    reused: bool = False


def read_pictures(
    folder: Path, *, limit: int | None = None, exclude: Path | None = None
) -> tuple[list[Picture], list[str]]:
    """Return the pictures of a folder tree and why the others cannot be read.

    What lies in the folder `exclude` is not looked at: results may be kept within the tree. Raises
    `DataError` when there is none.
    """
    paths = list_images(folder)
    if exclude is not None:
        outside = exclude.resolve()
        paths = [path for path in paths if outside not in path.resolve().parents]
    if not paths:
        raise DataError(f"{folder}: contains no pictures but those in {exclude}")
    pictures, errors = [], []
    for path in paths[:limit]:
        try:
            name = path.relative_to(folder).as_posix()
            name = name.encode(errors="surrogateescape").decode(errors="replace")
            pictures.append(Picture(name, path, image_hash(load_image(path))))
        except DataError as error:
            errors.append(str(error))
    if not pictures:
        raise DataError(f"{folder}: no picture can be read; first: {errors[0]}")
    return pictures, errors


def set_hash(pictures: Sequence[Picture]) -> str:
    """Return a hash of a set of pictures, by names and pixels."""
    lines = sorted(f"{picture.name} {picture.sha256}" for picture in pictures)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def evaluate(
    contenders: Sequence[Contender],
    pictures: Sequence[Picture],
    *,
    out: Path | None = None,
    jobs: int = 1,
    lpips: bool = False,
    keep: int = 0,
) -> Iterator[Outcome]:
    """Measure every picture at every setting, in `jobs` processes (1: in this one).

    With `out`, rows are kept in that folder as they come and an interrupted evaluation goes on
    where it was; the first `keep` pictures are kept decoded. Whatever goes wrong with one codec or
    picture is an outcome, not the end. Raises `DataError` when `out` cannot be written.
    """
    if lpips:
        Lpips()  # missing weights are told now, not once a picture
    _too_slow.clear()
    reused, todo = [], []
    for contender in contenders:
        known = {} if out is None else known_rows(out, contender)
        for setting in contender.settings:
            for number, picture in enumerate(pictures):
                kept = out if number < keep else None
                task = Task(contender.name, setting, picture, jobs, lpips, kept)
                row = known.get((setting.label, picture.name))
                if row is not None and _still_valid(row, task):
                    reused.append(Outcome(task, row, reused=True))
                else:
                    todo.append(task)
    yield from reused
    if out is None:
        yield from _run(todo, jobs)
        return
    with Journal(out) as journal:
        for outcome in _run(todo, jobs):
            if outcome.row is not None:
                journal.add(outcome.task.contender, outcome.task.setting, outcome.row)
            yield outcome


def finish(
    contenders: Sequence[Contender],
    outcomes: Sequence[Outcome],
    *,
    out: Path | None = None,
    dataset: str = "",
    provenance: Mapping[str, Any] | None = None,
    errors: Sequence[str] = (),
) -> list[Curve]:
    """Average outcomes into a curve for each codec, write their files, and return the curves.

    A setting at which a picture failed is left out of its curve and named in the curve's errors,
    after `errors`; a codec without any whole setting has no curve. Rows of an earlier evaluation
    that this one did not ask for stay beside the file, for another. Raises `DataError`, after it
    has written what it can, when a file cannot be written.
    """
    curves, unwritten = [], []
    for contender in contenders:
        mine = [o for o in outcomes if o.task.contender == contender.name]
        failed = {o.task.setting.label: o for o in reversed(mine) if o.row is None}
        rows = [o.row for o in mine if o.row is not None and o.task.setting.label not in failed]
        if not rows:
            continue
        settings = {s.label: dict(s.config) for s in contender.settings if s.label not in failed}
        curve = curve_from_rows(
            contender.name,
            rows,
            description=contender.description,
            dataset=dataset,
            codec={"settings": settings},
            # Rows that were taken as they were may have been measured otherwise than this time.
            provenance={**(provenance or {}), "jobs": _jobs(rows)},
            errors=(*errors, *(f"{label} left out: {o.error}" for label, o in failed.items())),
        )
        curves.append(curve)
        if out is not None:
            try:
                curves[-1] = settle(curve, contender, out)
            except (DataError, ValueError) as error:
                unwritten.append(str(error))
    if unwritten:
        raise DataError("; ".join(unwritten))
    return curves


def _jobs(rows: Sequence[ImageResult]) -> int:
    """Return how many were measured at a time, at most; 0 if that is not known of each."""
    return 0 if any(row.jobs == 0 for row in rows) else max(row.jobs for row in rows)


def _still_valid(row: ImageResult, task: Task) -> bool:
    """Tell whether a row is of this picture and has all that is asked for."""
    if row.sha256 != task.picture.sha256 or (task.lpips and np.isnan(row.lpips)):
        return False
    if task.keep is None:
        return True
    name = task.picture.name
    kept = picture_path(task.keep, task.contender, task.setting.label, name)
    return kept.exists() and original_path(task.keep, name).exists()


def _run(tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    if jobs <= 1:
        yield from map(_measure, tasks)
        return
    while tasks:
        suspects, tasks = yield from _run_pool(tasks, jobs, 2 * jobs)
        while suspects:  # one of them killed a process: one at a time, it only hurts itself
            culprits, suspects = yield from _run_pool(suspects, 1, 1)
            for task in culprits:
                yield Outcome(task, None, "its process died; was there enough memory?")


def _run_pool(
    tasks: Sequence[Task], jobs: int, most_pending: int
) -> Generator[Outcome, None, tuple[list[Task], list[Task]]]:
    """Yield outcomes as they come, until a process dies.

    Returns the tasks that were in other processes' hands then, and those that nobody had begun.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (threads,))
    waiting, running = deque(tasks), dict[Future[Outcome], Task]()
    lost: list[Task] = []
    done_with_it = False
    try:
        while (waiting or running) and not lost:
            # A bounded queue: a million tasks need no memory before their turn.
            while waiting and len(running) < most_pending and not lost:
                task = waiting.popleft()
                try:
                    running[pool.submit(_measure, task)] = task
                except BrokenProcessPool:
                    lost.append(task)
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task = running.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    lost.append(task)
        done_with_it = True
        return [*lost, *running.values()], list(waiting)
    finally:
        if not done_with_it:  # interrupted: nobody waits for what the workers are at
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.terminate()
        pool.shutdown(wait=not lost, cancel_futures=True)


def _start_worker(threads: int) -> None:
    """Leave Ctrl-C to the parent; end, and with it the running command, when the parent does."""

    def end(*_: object) -> None:
        raise SystemExit(1)

    def follow_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=follow_parent, daemon=True).start()
    torch.set_num_threads(threads)


_current: tuple[tuple[str, str, str], ImageCodec] | None = None
# Settings at which a program took too long: its other pictures are not waited for as well.
_too_slow: dict[tuple[str, str, str], str] = {}


def _codec_of(task: Task) -> ImageCodec:
    """Make the codec, or take the one of the last task; it is warm before its time is taken."""
    global _current
    key = (task.contender, task.setting.label, config_hash(task.setting))
    if _current is None or _current[0] != key:
        _current = None  # free the old one first
        codec = task.setting.make()
        if isinstance(codec, WarmUp):
            codec.warm_up()
        _current = (key, codec)
    return _current[1]


@lru_cache(maxsize=1)
def _lpips() -> Lpips:
    return Lpips()


def _measure(task: Task) -> Outcome:
    """Carry out one task; whatever a codec raises, own or foreign, becomes the outcome's error."""
    picture, label = task.picture, task.setting.label
    key = (task.contender, label, config_hash(task.setting))
    if key in _too_slow:
        return Outcome(task, None, f"{picture.name}: not tried, as {_too_slow[key]}")
    try:
        codec = _codec_of(task)
        image = load_image(picture.path)
        row, decoded = evaluate_image(
            codec,
            image,
            picture.name,
            setting=label,
            lpips=_lpips() if task.lpips else None,
        )
        if task.keep is not None:
            _save_png(image, original_path(task.keep, picture.name))
            _save_png(decoded, picture_path(task.keep, task.contender, label, picture.name))
        return Outcome(task, replace(row, jobs=task.jobs))
    except LictorError as error:
        if isinstance(error, TimeLimitError):
            _too_slow[key] = f"another picture ran into the time limit ({error})"
        return Outcome(task, None, f"{picture.name}: {error}")
    except MemoryError:
        return Outcome(task, None, f"{picture.name}: not enough memory; use fewer jobs")
    except Exception as error:  # a codec is other people's code: the others go on
        _log.debug("%s failed", task, exc_info=True)
        return Outcome(task, None, f"{picture.name}: {type(error).__name__}: {error}")


def _save_png(image: np.ndarray, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path.parent}: cannot make the folder ({error.strerror})") from error
    with atomic_file(path) as file:
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "PNG")
