"""Many codecs at many settings on a folder of pictures, picture by picture, beside each other.

`evaluate` yields an outcome for every picture and setting; a row that was measured before and is
still valid is not measured again. `finish` averages the rows into curves and writes their files.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lictor.codecs.protocol import ImageCodec, WarmUp
from lictor.comparison.curve import Curve, ImageResult, curve_from_rows
from lictor.data.images import IMAGE_SUFFIXES, list_images
from lictor.data.places import is_url, joined, list_files, load_picture
from lictor.errors import DataError, LictorError, TimeLimitError
from lictor.evaluation.contenders import SENT, Contender, Setting
from lictor.evaluation.journal import Journal, config_hash, known_rows, settle
from lictor.evaluation.perceptual import Lpips
from lictor.evaluation.pictures import original_path, picture_path
from lictor.evaluation.rd import evaluate_image, image_hash
from lictor.files import atomic_file
from lictor.workers.engine import Engine, InProcess, Lost
from lictor.workers.processes import Processes

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A readable picture of the folder: its name in results, its file, the hash of its pixels.

    The file is a path, or a URL as text.
    """

    name: str
    path: Path | str
    sha256: str


@dataclass(frozen=True)
class Task:
    """One picture at one setting, with `jobs` measured at a time.

    The decoded picture goes to `keep` if that is a folder.
    """

    contender: str
    setting: Setting[Any]
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
    folder: Path | str, *, limit: int | None = None, exclude: Path | None = None
) -> tuple[list[Picture], list[str]]:
    """Return the pictures of a folder tree, or below a URL, and why the others cannot be read.

    What lies in the folder `exclude` is not looked at: results may be kept within the tree. Raises
    `DataError` when there is none.
    """
    pictures, errors = [], []
    for name, path in _found(folder, exclude)[:limit]:
        try:
            pictures.append(Picture(name, path, image_hash(load_picture(path))))
        except DataError as error:
            errors.append(str(error))
    if not pictures:
        raise DataError(f"{folder}: no picture can be read; first: {errors[0]}")
    return pictures, errors


def _found(folder: Path | str, exclude: Path | None) -> list[tuple[str, Path | str]]:
    """Return names and places of all files that look like pictures."""
    if is_url(str(folder)):
        names = list_files(str(folder), IMAGE_SUFFIXES)
        if not names:
            raise DataError(f"{folder}: contains no pictures ({', '.join(IMAGE_SUFFIXES)})")
        return [(name, joined(str(folder), name)) for name in names]
    paths = list_images(folder)
    if exclude is not None:
        outside = exclude.resolve()
        paths = [path for path in paths if outside not in path.resolve().parents]
    if not paths:
        raise DataError(f"{folder}: contains no pictures but those in {exclude}")
    names = [path.relative_to(folder).as_posix() for path in paths]
    shown = [n.encode(errors="surrogateescape").decode(errors="replace") for n in names]
    return list(zip(shown, paths, strict=True))


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
    engine: Engine | None = None,
) -> Iterator[Outcome]:
    """Measure every picture at every setting, in `jobs` processes (1: in this one).

    An `engine` does it in their place, `jobs` at a time. With `out`, rows are kept in that folder
    as they come and an interrupted evaluation goes on where it was; the first `keep` pictures are
    kept decoded. Whatever goes wrong with one codec or picture is an outcome, not the end. Raises
    `DataError` when `out` cannot be written.
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
    engine = engine or _local(jobs)
    if out is None:
        yield from _run(todo, engine)
        return
    with Journal(out) as journal:
        for outcome in _run(todo, engine):
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
    amend: Callable[[Curve], Curve] = lambda curve: curve,
) -> list[Curve]:
    """Average outcomes into a curve for each codec, write their files, and return the curves.

    A setting at which a picture failed is left out of its curve and named in the curve's errors,
    after `errors`; a codec without any whole setting has no curve. Rows of an earlier evaluation
    that this one did not ask for stay beside the file, for another. Raises `DataError`, after it
    has written what it can, when a file cannot be written. `amend` may add to a curve before that.
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
        curve = amend(curve)
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


def _local(jobs: int) -> Engine:
    if jobs <= 1:
        return InProcess()
    return Processes(jobs, threads=max(1, (os.cpu_count() or 1) // jobs))


def _run(tasks: Sequence[Task], engine: Engine) -> Iterator[Outcome]:
    files = {t.setting.file: Path(t.setting.file) for t in tasks if t.setting.file is not None}
    sent = {} if isinstance(engine, InProcess | Processes) else files
    make = partial(_start, {name: path.read_bytes() for name, path in sent.items()})
    for task, outcome in engine.map(make, tasks):
        yield Outcome(task, None, outcome.reason) if isinstance(outcome, Lost) else outcome


def _start(files: Mapping[str, bytes]) -> Callable[[Task], Outcome]:
    """Return the work of a worker, which may have no codec files but those that are sent to it."""
    SENT.clear()
    SENT.update(files)
    return _measure


_current: tuple[tuple[str, str, str], ImageCodec] | None = None
# Settings at which a program took too long: its other pictures are not waited for as well.
_too_slow: dict[tuple[str, str, str], str] = {}


def _codec_of(task: Task) -> ImageCodec:
    """Make the codec, or take the one of the last task; it is warm before its time is taken."""
    global _current
    key = (task.contender, task.setting.label, config_hash(task.setting))
    if _current is None or _current[0] != key:
        _current = None  # free the old one first
        codec: ImageCodec = task.setting.make()
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
        image = load_picture(picture.path)
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
