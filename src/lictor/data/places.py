"""Where files lie: in folders, or behind URLs that fsspec knows; read, listed, written whole.

The place `-` is standard input when it is read, standard output when it is written.
"""

import io
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import UInt8

from lictor.data.images import decode_image, load_image
from lictor.errors import ConfigError, DataError
from lictor.files import STANDARD, atomic_file, read_file, read_standard_input


def is_url(place: str) -> bool:
    """Tell whether something lies behind a URL rather than in a folder."""
    return place.find("://") > 0


def _trimmed(url: str) -> str:
    """Return a URL without slashes at its end; those of a root stay."""
    kind, separator, path = url.rpartition("://")
    return kind + separator + path.rstrip("/")


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system behind a URL and the path in it.

    Raises `ConfigError` without the package for it, or when fsspec knows no such URL, `DataError`
    when the storage cannot be reached.
    """
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(_trimmed(url))
    except ImportError as error:
        raise ConfigError(
            f"{url}: a package is not installed that such a URL needs ({error}); "
            "pip install 'lictor[remote]', and what fsspec asks for"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{url}: no URL that fsspec knows ({error})") from error
    except Exception as error:  # some connect at once, or want more than a URL
        raise DataError(f"{url}: cannot be reached ({type(error).__name__}: {error})") from error


def joined(place: str, name: str) -> str:
    """Return the path or URL of what has a name, parts with `/` between, in a folder."""
    return f"{_trimmed(place)}/{name}" if is_url(place) else str(Path(place, name))


def suffix_of(place: str) -> str:
    """Return the end of a file's name, with its dot, in lower case."""
    return Path(place.rpartition("/")[2] if is_url(place) else place).suffix.lower()


def with_suffix(place: str, suffix: str) -> str:
    """Return a path or URL with another end of its name."""
    if not is_url(place):
        path = Path(place)
        return str(path.parent / (path.stem + suffix))
    folder, slash, name = place.rpartition("/")
    return f"{folder}{slash}{Path(name).stem}{suffix}"


def list_files(place: str, suffixes: Sequence[str]) -> list[str]:
    """Return the names of files of a tree, relative to it and sorted; raises `DataError`.

    A URL that is not there has none.
    """
    if not is_url(place):
        names = [p.relative_to(place).as_posix() for p in Path(place).rglob("*") if p.is_file()]
    else:
        system, root = file_system(place)
        try:
            # A listing may be remembered from before this run wrote something.
            system.invalidate_cache()
            found = system.find(root)
        except Exception as error:  # every kind of storage has its own
            raise DataError(f"{place}: cannot list ({type(error).__name__}: {error})") from error
        names = [path[len(root) :].lstrip("/") for path in found if path.startswith(root)]
    return sorted(name for name in names if _ends(name.rpartition("/")[2].lower(), suffixes))


def _ends(name: str, suffixes: Sequence[str]) -> bool:
    """Tell whether a name ends in one of the suffixes, which may have two dots, with a stem."""
    return any(name.endswith(suffix) and len(name) > len(suffix) for suffix in suffixes)


def read_bytes(url: str) -> bytes:
    """Return what is behind a URL; raises `DataError` if it cannot be read."""
    system, path = file_system(url)
    try:
        return system.cat_file(path)
    except FileNotFoundError as error:
        raise DataError(f"{url}: no such file") from error
    except Exception as error:  # as in `list_files`
        raise DataError(f"{url}: cannot read ({type(error).__name__}: {error})") from error


def read_place(place: str, what: str) -> bytes:
    """Return the bytes of a file, of what a URL leads to, or of standard input.

    `what` is what is looked for there, for messages. Raises `DataError` if it cannot be read.
    """
    if is_url(place):
        return read_bytes(place)
    if place == STANDARD:
        return read_standard_input()
    return read_file(Path(place), what)


def exists(place: str) -> bool:
    """Tell whether something is there; raises `DataError` when that cannot be told."""
    if place == STANDARD:
        return False
    if not is_url(place):
        return Path(place).exists()
    system, path = file_system(place)
    try:
        system.info(path)
    except FileNotFoundError:
        return False
    except Exception as error:  # as in `list_files`
        raise DataError(f"{place}: cannot look there ({type(error).__name__}: {error})") from error
    return True


def modified_s(place: str) -> float | None:
    """Return when a file was written, in seconds; None where the storage does not say."""
    if not is_url(place):
        return os.stat(place).st_mtime_ns / 1e9  # noqa: PTH116
    system, path = file_system(place)
    try:
        return system.modified(path).timestamp()
    except Exception:  # many kinds cannot tell
        return None


def remove(url: str) -> None:
    """Take away the file behind a URL, if it is there; raises `DataError` if it cannot be."""
    system, path = file_system(url)
    try:
        system.rm_file(path)
    except FileNotFoundError:
        pass
    except Exception as error:  # as in `list_files`
        raise DataError(f"{url}: cannot remove ({type(error).__name__}: {error})") from error


def load_picture(place: Path | str) -> UInt8[np.ndarray, "h w c"]:
    """Read the picture at a path or URL; raises `DataError` as `load_image` does."""
    url = str(place)
    return decode_image(read_bytes(url), url) if is_url(url) else load_image(place)


@contextmanager
def whole_file(place: str) -> Iterator[IO[bytes]]:
    """Open what becomes the file at a path or URL in whole or not at all; `atomic_file` for URLs.

    What is behind a URL is written under a name of its own and moved; standard output gets all at
    the end. Raises `DataError` when it cannot be written, but for standard output the `OSError`.
    """
    if place == STANDARD:
        memory = io.BytesIO()
        yield memory
        check_standard_output()
        sys.stdout.buffer.write(memory.getbuffer())
        sys.stdout.buffer.flush()
        return
    if not is_url(place):
        with atomic_file(Path(place)) as file:
            yield file
        return
    memory = io.BytesIO()
    yield memory
    system, path = file_system(place)
    temporary = f"{path}.{uuid.uuid4().hex}.part"
    try:
        with suppress(FileExistsError):
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.pipe_file(temporary, memory.getvalue())
        system.mv(temporary, path)
    except Exception as error:  # as in `list_files`
        raise DataError(f"{place}: cannot write ({type(error).__name__}: {error})") from error
    finally:
        with suppress(Exception):
            if system.exists(temporary):
                system.rm_file(temporary)


def check_standard_output() -> None:
    """Raise `DataError` when bytes would go to somebody's terminal."""
    if sys.stdout.isatty():
        raise DataError(
            f"{STANDARD}: standard output is a terminal; name a file with -o, or use a pipe"
        )
