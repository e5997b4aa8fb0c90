"""Archives of signals: many files into one, and back into a folder that nothing escapes."""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from lictor.codecs.signals.codec import SignalCodec
from lictor.codecs.signals.files import plain_suffix, read_for, restored_name
from lictor.coding.archive import Archive, Outline
from lictor.data.signals.formats import write_signal
from lictor.errors import CorruptError, DataError, LictorError
from lictor.files import write_file
from lictor.implicit.refine import Effort


@dataclass(frozen=True)
class Source:
    """A file and the name that it has in an archive, parts with `/` between."""

    path: str
    name: str


@dataclass(frozen=True)
class Archived:
    """Where a signal of an archive goes: a path below the folder, and its shape."""

    name: str
    path: Path
    outline: Outline


@dataclass(frozen=True)
class Packed:
    """What an archive holds: signals, samples of all channels, and its bytes."""

    signals: int
    samples: int
    num_bytes: int


def pack(
    codec: SignalCodec,
    sources: Sequence[Source],
    target: Path,
    *,
    quality: int,
    search: Effort | None,
    variable: str | None = None,
) -> Packed:
    """Compress files into one archive, whole or not at all.

    Raises `DataError` when two have one name, a name is impossible, or a file cannot be coded: all
    such files are named.
    """
    wrong = _wrong_names([_stored(source.name) for source in sources])
    if wrong:
        raise DataError(f"{target}: {wrong}; give other files, or name their folder")
    signals, bad = [], list[str]()
    for source in sources:
        try:
            signals.append(read_for(codec, source.path, variable))
        except LictorError as error:
            bad.append(str(error))
    if bad:
        raise DataError("; ".join(bad) + f"; {target} is not written")
    names = [_stored(source.name) for source in sources]
    data = codec.encode(signals, quality, search, names=names)
    write_file(target, data)
    return Packed(len(signals), sum(signal.samples.size for signal in signals), len(data))


def members(codec: SignalCodec, file: Archive, folder: Path) -> list[Archived]:
    """Return where the signals of an archive go.

    Raises `CorruptError` when a name would escape from the folder, or two are the same.
    """
    wrong = _wrong_names([entry.name for entry in file.entries])
    if wrong:
        raise CorruptError(wrong)
    taken = set[str]()
    found = list[Archived]()
    root = folder.resolve()
    for entry in file.entries:
        try:
            name = restored_name(codec, entry)
            if name in taken:  # a.jpg beside a.png
                name = entry.name + plain_suffix(codec, entry)
        except DataError as error:
            raise CorruptError(f"{entry.name!r}: {error}") from error
        taken.add(name)
        path = folder / name
        if not path.resolve().is_relative_to(root):  # by a link within the folder
            raise DataError(f"{path}: lies outside of {folder}; choose another folder")
        found.append(Archived(name, path, entry.outline))
    wrong = _wrong_names([member.name for member in found])
    if wrong:
        raise CorruptError(wrong)
    return found


def extract(codec: SignalCodec, data: bytes, found: Sequence[Archived], folder: Path) -> None:
    """Restore an archive's signals to where `members` says, all of them or none.

    Raises a `BitstreamError` for what cannot be decoded, `DataError` for what cannot be written.
    """
    signals = codec.decode(data)
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".lictor-") as hidden:
            for member, signal in zip(found, signals, strict=True):
                path = Path(hidden) / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                write_signal(path, signal)
            for member in found:
                member.path.parent.mkdir(parents=True, exist_ok=True)
                made = Path(hidden) / member.name
                if made.is_dir() and member.path.is_dir():  # of Zarr
                    member.path.replace(made.with_name(made.name + ".former"))
                made.replace(member.path)
    except OSError as error:
        raise DataError(f"{folder}: cannot write ({error.strerror or error})") from error
    finally:
        if is_new:
            with suppress(OSError):  # it is not empty when all went well
                folder.rmdir()


def _stored(name: str) -> str:
    """Return a name as an archive keeps it: bytes that are no UTF-8 are replaced."""
    return name.encode(errors="replace").decode()


def _wrong_names(names: Sequence[str]) -> str:
    """Return what is wrong with the names of an archive; "" if nothing is."""
    seen, folders = set[str](), set[str]()
    for name in names:
        parts = name.split("/")
        plain = all(part not in ("", ".", "..") for part in parts) and name.isprintable()
        if not plain or "\\" in name or PureWindowsPath(name).drive:
            return f"the name {name!r} in the archive is not one of a file in a folder"
        if name in seen:
            return f"two signals in the archive have the name {name!r}"
        seen.add(name)
        folders.update("/".join(parts[:i]) for i in range(1, len(parts)))
    both = sorted(seen & folders)
    return f"the name {both[0]!r} in the archive is a file's and a folder's" if both else ""
