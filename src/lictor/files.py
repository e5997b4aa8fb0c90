"""Writing files whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lictor.errors import DataError


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


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all; raises `DataError` if it cannot."""
    with atomic_file(path) as file:
        file.write(data)
