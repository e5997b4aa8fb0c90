"""Files to a codec and back: where each goes, who does the work, and what is said of it."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lictor.cli.messages import complain, note, say
from lictor.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lictor.codecs.batch import Item, Result
    from lictor.workers.engine import Engine

EngineName = Literal["local", "ray"]
Make = Callable[[], Callable[["Item"], "Result"]]


@dataclass(frozen=True)
class Workers:
    """Who does the work."""

    engine: EngineName
    address: str | None
    jobs: int | None
    device: str


@dataclass(frozen=True)
class Batch:
    """What a command is to make; `many` if results of an earlier run may be among it.

    `mirrors` says that trees are among the inputs, whose folders are made anew, `bad` which of them
    have nothing to make, `piped` that standard output is for the result.
    """

    items: "tuple[Item, ...]"
    bad: tuple[str, ...]
    many: bool
    mirrors: bool
    piped: bool = False


def written(place: str, *, absolute: bool) -> str:
    """Return a path as messages write it; a URL, and `-` for the standard streams, as it is."""
    from lictor.data.places import STANDARD, is_url

    if is_url(place) or place == STANDARD:
        return place
    relative = str(Path(place))
    absolute = absolute or relative == STANDARD  # the file ./-
    return os.path.abspath(place) if absolute else relative  # noqa: PTH100 - no link is followed


def check_places(inputs: Sequence[str], out: str | None) -> None:
    """Raise `ConfigError` when a URL needs a package that is not there, or is none."""
    from lictor.data.places import file_system, is_url

    for place in (*inputs, *([] if out is None else [out])):
        if is_url(place):
            file_system(place)


def check_standard(inputs: Sequence[str], out: str | None, workers: Workers) -> None:
    """Raise `ConfigError` when `-` is among places, and cannot be served by standard streams."""
    from lictor.data.places import STANDARD

    if STANDARD not in (*inputs, out):
        return
    if len(inputs) > 1:
        raise ConfigError(f"{STANDARD}: standard input and output are for one input; name one")
    if workers.engine != "local" or workers.jobs not in (None, 1):
        raise ConfigError(
            f"{STANDARD}: standard input and output are of this process; leave out --engine and "
            "--jobs"
        )


def _instead(place: str, kind: str) -> str:
    """Return what to do with a tree that has signals where pictures were looked for."""
    from lictor.codecs.shipped import remedy_for
    from lictor.data.places import list_files
    from lictor.data.signals.formats import FORMATS, suffix_of

    others = [suffix for suffix, held in FORMATS.items() if held.kinds[0] != "image"]
    names = list_files(place, others) if kind == "pictures" else []
    if not names:
        return ""
    held = FORMATS[suffix_of(Path(names[0]))].kinds[0]
    return f", but signals of kind {held}; {remedy_for(held)}"


def choose_targets(
    inputs: Sequence[str],
    out: str | None,
    beside: Callable[[str], str],
    sources: Sequence[str],
    kind: str,
) -> Batch:
    """Decide where the result of each input goes: `beside` it, in folder `out`, or in file `out`.

    An input that is a folder, or a URL without one of the suffixes of `sources`, stands for the
    files of its tree with one of them; their results lie in `out` as they lie in the tree. Raises
    `DataError` when several inputs need a folder and `out` cannot be one, or nothing is there.
    Standard input (`-`) goes to standard output if `out` is not given.
    """
    from lictor.codecs.batch import Item
    from lictor.data.places import STANDARD, is_url, joined, list_files

    trees = {place for place in inputs if _is_tree(place, sources)}
    many = bool(trees) or len(inputs) > 1
    if out == STANDARD or (out is None and STANDARD in inputs):
        if trees:
            raise DataError(f"{inputs[0]}: is a folder, and standard output is for one file")
        return Batch((Item(inputs[0], STANDARD),), (), False, False, piped=True)
    items, bad = list[Item](), list[str]()
    for place in inputs:
        if place not in trees:
            continue
        names = list_files(place, sources)
        if not names:
            bad.append(f"{place}: contains no {kind} ({', '.join(sources)}){_instead(place, kind)}")
        for name in names:
            source = joined(place, name)
            goes = beside(source)
            if out is not None:
                folder, slash, _ = name.rpartition("/")
                goes = joined(out, folder + slash + _name_of(goes))
            items.append(Item(source, goes))
    if bad and len(bad) == len(inputs):
        raise DataError(bad[0])
    singles = [place for place in inputs if place not in trees]
    in_folder = out is not None and (many or _is_folder(out))
    if in_folder and STANDARD in singles:
        raise DataError(f"{out}: is a folder, and what comes from standard input has no name")
    if out is not None and in_folder and not is_url(out):
        try:
            Path(out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{out}: several inputs need a folder as output, and this cannot be made one "
                f"({error.strerror})"
            ) from error
    for place in singles:
        if out is None:
            items.append(Item(place, beside(place)))
        elif in_folder:
            items.append(Item(place, joined(out, _name_of(beside(place)))))
        else:
            items.append(Item(place, out))
    return Batch(tuple(items), tuple(bad), many, bool(trees))


def _name_of(place: str) -> str:
    from lictor.data.places import is_url

    return place.rpartition("/")[2] if is_url(place) else Path(place).name


def _is_tree(place: str, sources: Sequence[str]) -> bool:
    """Tell whether an input is a folder, or a URL that does not end as a file to be read.

    Data in the format Zarr are a folder, and no tree.
    """
    from lictor.data.places import STANDARD, is_url, suffix_of

    if is_url(place):
        return suffix_of(place) not in sources
    if place == STANDARD:
        return False
    try:
        zarr = suffix_of(place) == ".zarr" and ".zarr" in sources
        return Path(place).is_dir() and not zarr
    except (OSError, ValueError):  # no usable path: said when its turn comes
        return False


def _is_folder(out: str) -> bool:
    """Tell whether a result goes into `out`: behind a URL, a name without an end is a folder's."""
    from lictor.data.places import is_url, suffix_of

    return out.endswith("/") or not suffix_of(out) if is_url(out) else Path(out).is_dir()


@contextmanager
def engine_of(name: EngineName, address: str | None, jobs: int | None) -> "Iterator[Engine | None]":
    """Give the engine of that name, None for this process.

    Raises `ConfigError` when Ray is not installed or does not answer, and for what does not fit.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, not {jobs}")
    if name == "ray":
        from lictor.workers.ray_data import ray_engine

        with ray_engine(address, jobs) as engine:
            yield engine
        return
    if address is not None:
        raise ConfigError("--address is where a Ray is: add --engine ray")
    if jobs is None or jobs == 1:
        yield None
        return
    from lictor.workers.processes import Processes

    yield Processes(jobs)


def run_batch(
    batch: Batch,
    engine: "Engine",
    make: Make,
    *,
    verb: str,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Code every item, going on after a bad one, and sum up; return the exit code.

    Of inputs with the same output, the first that succeeds has it, and the others fail. No item is
    begun after `should_stop` says so.
    """
    from lictor.cli.progress import follow

    for reason in batch.bad:
        complain(reason)
    count = len(batch.items) + len(batch.bad)
    done, skipped, failed = 0, 0, len(batch.bad)
    before, after = 0, 0
    results = _results(batch.items, engine, make)
    for result in results if count < 2 else follow(results, count, verb):
        if result.status == "failed":
            failed += 1
            complain(result.text)
        elif result.status == "skipped":
            skipped += 1
        else:
            done += 1
            before, after = before + result.source_bytes, after + result.target_bytes
            say(result.text, aside=batch.piped)
        for notice in result.notices:
            note(notice)
        if should_stop():
            break
    if batch.many and before and after:
        say(f"in all {before} -> {after} bytes, ratio {before / after:.3f}")
    if batch.many:
        parts = [f"{done} of {count} files done"]
        parts += [f"{skipped} finished before, skipped"] if skipped else []
        parts += [f"{failed} failed"] if failed else []
        say(", ".join(parts))
    if should_stop():
        complain("interrupted; what is written is whole, the last file with the best so far")
        return 130
    return 1 if failed else 0


def _results(items: "Sequence[Item]", engine: "Engine", make: Make) -> "Iterator[Result]":
    from lictor.codecs.batch import Result
    from lictor.workers.engine import Lost

    taken = set[str]()
    while items:
        # Those of one output come one after the other: when the first fails, it is the next's.
        now, later = [], []
        targets = set[str]()
        for item in items:
            if item.target in taken:
                text = f"{item.source}: would overwrite {item.target}, made from another input"
                yield Result("failed", text)
            elif item.target in targets:
                later.append(item)
            else:
                targets.add(item.target)
                now.append(item)
        for item, result in engine.map(make, now):
            if isinstance(result, Lost):
                result = Result("failed", f"{item.source}: {result.reason}")
            if result.status != "failed":
                taken.add(item.target)
            yield result
        items = later
