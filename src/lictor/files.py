"""Files read whole, written whole or not at all, and values as strict JSON can hold them."""

import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lictor.errors import ConfigError, DataError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

STANDARD = "-"  # as a place: standard input when it is read, standard output when it is written


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; sync it and rename it over `path` at the end.

    Whatever goes wrong on the way, an existing file stays as it was and nothing half-written is
    left. Raises `DataError` when the disk is full, the place cannot be written, or is no file.
    """
    path = path.resolve()  # a link stays a link, its target is replaced
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is not a regular file; choose another output")
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            temporary = Path(file.name)
            yield file
            file.flush()
            os.fsync(file.fileno())
        # Temporary files are private; what people make should have their usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"{path}: cannot write ({reason}); check the folder and the disk"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """Give the path of a file or folder to be made, and rename it over `path` at the end.

    For writers that want a path of the right suffix; otherwise as `atomic_file`.
    """
    path = path.resolve()
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            if temporary.is_dir():
                if path.exists():
                    path.replace(Path(folder) / "former")
            else:
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"{path}: cannot write ({reason}); check the folder and the disk"
        ) from error


def read_file(path: Path, what: str = "a file") -> bytes:
    """Return the bytes of a regular file; `what` is what is looked for there, for messages.

    Raises `DataError` if it is none or cannot be read.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path}: is a folder, not {what}")
        if path.exists() and not path.is_file():  # a pipe would block for ever
            raise DataError(f"{path}: is not a regular file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot read ({reason})") from error


def read_standard_input() -> bytes:
    """Return all of standard input; raises `DataError` if it is closed or a terminal."""
    stream = sys.stdin
    if stream is None or stream.closed:
        raise DataError(f"{STANDARD}: standard input is closed; name a file")
    if stream.isatty():  # somebody would wait for ever
        raise DataError(f"{STANDARD}: standard input is a terminal; name a file, or use a pipe")
    try:
        return stream.buffer.read()
    except OSError as error:
        raise DataError(f"{STANDARD}: cannot read standard input ({error.strerror})") from error


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all; raises `DataError` if it cannot."""
    with atomic_file(path) as file:
        file.write(data)


def json_ready(value: Any) -> Any:
    """Return a value for `json.dumps(..., allow_nan=False)`: None for NaN and infinite numbers.

    Within mappings, lists and tuples too, which become dicts and lists.
    """
    if isinstance(value, Mapping):
        return {key: json_ready(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make a run folder and keep every other run out of it, by a lock on the file `.lock` in it.

    The lock ends with the process, however it ends: a killed one leaves none behind. Raises
    `ConfigError` when another run holds it, in this process or another, `DataError` when the folder
    cannot be made. Where there are no such locks (Windows, some network disks) nothing is guarded.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise DataError(
            f"{folder}: cannot make or write the run folder ({error.strerror or error})"
        ) from error
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{folder}: another run is going on there; wait, or choose another folder"
            ) from error
        except OSError:  # the disk knows no locks
            pass
        yield
