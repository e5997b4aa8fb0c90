"""Files through one conversion, one by one: where each goes, what is done already, what failed.

A batch that was stopped, or killed, goes on when the same command is given again: outputs that it
finished are not made a second time.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from lictor.cli.messages import complain, say
from lictor.errors import DataError, LictorError


def choose_targets(inputs: Sequence[Path], out: Path | None, suffix: str) -> dict[Path, Path]:
    """Decide where the result of each input goes: beside it, in folder `out`, or in file `out`.

    Raises `DataError` when several inputs need a folder and `out` cannot be one.
    """
    if out is None:
        return {path: path.parent / (path.stem + suffix) for path in inputs}
    if out.is_dir() or len(inputs) > 1:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{out}: several inputs need a folder as output, and this cannot be made one "
                f"({error.strerror})"
            ) from error
        return {path: out / (path.stem + suffix) for path in inputs}
    return {inputs[0]: out}


def convert_all(
    targets: dict[Path, Path],
    convert: Callable[[Path, Path], str],
    is_result: Callable[[Path, Path], bool],
    *,
    force: bool,
    verb: str,
) -> int:
    """Convert file by file, going on after a bad one; return the exit code.

    `convert(source, target)` makes the target and returns what to say of it. A target that exists
    is made again with `force`. Without it, one of several inputs is skipped when its target is no
    older than the input and `is_result(source, target)`; any other that exists is an error, as is
    the target of a single input: someone who names one file expects it to be made.
    """
    from lictor.cli.progress import over

    failed = skipped = 0
    written = set[Path]()
    for source, target in over(list(targets.items()), verb):
        try:
            exists = _check_paths(source, target, written) and not force
            if exists and not (len(targets) > 1 and _is_finished(source, target, is_result)):
                raise DataError(f"{target}: exists already; add --force to overwrite it")
            if exists:
                skipped += 1
            else:
                say(convert(source, target))
            written.add(target)
        except LictorError as error:
            failed += 1
            named = str(source) in str(error) or str(target) in str(error)
            complain(error if named else f"{source}: {error}")
    if len(targets) > 1:
        say(_summary(len(targets), skipped=skipped, failed=failed))
    return 1 if failed else 0


def _summary(count: int, *, skipped: int, failed: int) -> str:
    parts = [f"{count - skipped - failed} of {count} files done"]
    parts += [f"{skipped} finished before, skipped"] if skipped else []
    parts += [f"{failed} failed"] if failed else []
    return ", ".join(parts)


def _check_paths(source: Path, target: Path, written: set[Path]) -> bool:
    """Return whether the target exists; raises `DataError` when the two cannot be what they are."""
    try:
        source.stat()
        exists, same = target.exists(), target.resolve() == source.resolve()
    except FileNotFoundError as error:
        raise DataError(f"{source}: no such file") from error
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, a loop of links
        raise DataError(f"{source}: not a usable path ({error})") from error
    if same:
        raise DataError(f"{source}: input and output are the same file")
    if target in written:
        raise DataError(f"{source}: would overwrite {target}, made from another input")
    return exists


def _is_finished(source: Path, target: Path, is_result: Callable[[Path, Path], bool]) -> bool:
    """Tell whether a target is an earlier run's.

    Its age tells a result from what it cannot be: made before its input was changed, or the very
    picture that the input was once made from.
    """
    try:
        return target.stat().st_mtime_ns >= source.stat().st_mtime_ns and is_result(source, target)
    except (OSError, LictorError):
        return False
