"""Where commands put what they make: checked before the work, not after it."""

from collections.abc import Sequence
from pathlib import Path

from lictor.errors import DataError


def output_files(folder: Path, names: Sequence[str], *, force: bool) -> dict[str, Path]:
    """Make the folder and return the path in it for each name.

    Raises `DataError` when it cannot be made, or a file is there already and not to be overwritten.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{folder}: cannot make the folder ({reason})") from error
    targets = {name: folder / name for name in names}
    for path in targets.values():
        _check_overwrite(path, force=force)
    return targets


def check_output_file(path: Path, *, force: bool) -> None:
    """Raise `DataError` when a file cannot be made here, or is there and not to be overwritten."""
    try:
        if path.is_dir():
            raise DataError(f"{path}: is a folder; name a file")
        if not path.parent.is_dir():
            raise DataError(f"{path}: there is no folder {path.parent}")
        _check_overwrite(path, force=force)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a usable path ({error})") from error


def _check_overwrite(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise DataError(f"{path}: exists already; add --force to overwrite it")
