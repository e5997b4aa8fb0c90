"""Signals to train on: all files of a kind, read once, as items of one list."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lictor.data.signals.formats import FORMATS, named, read_signal, suffix_of
from lictor.data.signals.items import in_colour
from lictor.data.signals.signal import Signal
from lictor.errors import DataError

Item = tuple[np.ndarray, np.ndarray | None]
Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SignalFolder:
    """Items "*grid c" with masks "*grid", in memory in the dtype of their files.

    Args:
        names: of the items; those of a file with several end in their number.
        items: the samples, and where there are some (None: everywhere).
        kind: of the signals.
        identity: tells collections apart.
        bad: reasons why files were left out.
        files: number of the file that each item is of; () if each is of its own.
    """

    names: tuple[str, ...]
    items: tuple[Item, ...] = field(repr=False)
    kind: str = "array"
    identity: str = ""
    bad: tuple[str, ...] = ()
    files: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def item(self, number: int) -> Item:
        """Return the samples of an item, and where there are some."""
        return self.items[number]

    def split(self, share: float) -> tuple["SignalFolder", "SignalFolder"]:
        """Split off a share of the items, at least one, chosen by their names.

        Whole files are split off where the share is that of a file or more: items of one file,
        such as hours of a month, are much alike. Raises `DataError` when there is only one item.
        """
        if len(self) < 2:
            raise DataError(
                "training needs at least 2 signals, one of them held out; give another file, or "
                "signal.item_shape where a file holds several"
            )
        files = self.files or tuple(range(len(self)))
        first: dict[int, str] = {}  # name of each file's first item
        for name, file in zip(self.names, files, strict=True):
            first.setdefault(file, name)
        by_file = len(first) > 1 and share * len(first) >= 1
        groups = files if by_file else tuple(range(len(self)))
        names = first if by_file else dict(enumerate(self.names))
        order = sorted(names, key=lambda group: _hash(names[group]))
        held_out = set(order[: min(max(1, round(share * len(order))), len(order) - 1)])
        return (
            self._subset([i for i, group in enumerate(groups) if group not in held_out]),
            self._subset([i for i, group in enumerate(groups) if group in held_out]),
        )

    def _subset(self, numbers: Sequence[int]) -> "SignalFolder":
        return SignalFolder(
            tuple(self.names[i] for i in numbers),
            tuple(self.items[i] for i in numbers),
            self.kind,
            self.identity,
            files=tuple(self.files[i] for i in numbers) if self.files else (),
        )


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def list_signals(place: Path | str, kind: str) -> list[Path]:
    """Return a file, or all files of a kind in a folder tree, sorted.

    Raises `DataError` when there is no such place, or nothing of the kind.
    """
    place = Path(place)
    if place.is_file() or (place.is_dir() and suffix_of(place) in FORMATS):
        return [place]
    if not place.is_dir():
        raise DataError(f"{place}: no such file or folder")
    suffixes = [suffix for suffix, line in FORMATS.items() if kind in line.kinds]
    paths = sorted(path for path in place.rglob("*") if suffix_of(path) in suffixes)
    if not paths:
        raise DataError(f"{place}: contains no signals of kind {kind} ({', '.join(suffixes)})")
    return paths


def open_signals(
    places: Sequence[Path | str],
    *,
    kind: str,
    axes: int,
    channels: int,
    item_shape: tuple[int, ...] = (),
    variable: str | None = None,
    most_bytes: int = 1 << 32,
    on_progress: Progress = lambda *_: None,
) -> SignalFolder:
    """Read all signals of a kind in files and folder trees.

    A file that cannot be read, or that is of other axes or channels, is named in the log and left
    out.

    Args:
        places: files and folders.
        kind: what their files hold.
        axes: of an item.
        channels: values of a sample; a single one may stand for three, as grey pictures do.
        item_shape: a file holds items of this shape one after the other, as in the memory of its
            array; () for the items that it has by itself.
        variable: which variable of files that hold several.
        most_bytes: of samples and masks together.
        on_progress: is told files read, and all.

    Raises `DataError` when nothing can be read, or there is more than `most_bytes`.
    """
    paths = [(Path(place), path) for place in places for path in list_signals(place, kind)]
    names, items, files, bad = list[str](), list[Item](), list[int](), list[str]()
    stamp, used = [], 0
    for number, (place, path) in enumerate(paths):
        on_progress(number, len(paths))
        try:
            signal = read_signal(
                path,
                kind=kind,
                axes=axes,
                channels=channels,
                variable=variable,
                item_shape=item_shape,
            )
            found = _items_of(signal, axes, channels)
        except DataError as error:
            bad.append(named(path, str(error)))
            continue
        used += sum(x.nbytes + (0 if m is None else m.nbytes) for x, m in found)
        if used > most_bytes:
            raise DataError(
                f"{path}: the signals need more than data.cache_mib = {most_bytes >> 20}; raise "
                "it, or give fewer files"
            )
        name = path.name if path == place else path.relative_to(place).as_posix()
        names += [name] if len(found) == 1 else [f"{name}#{i}" for i in range(len(found))]
        items += found
        files += [number] * len(found)
        stamp.append([name, *signal.samples.shape])
    on_progress(len(paths), len(paths))
    for reason in bad:
        _log.warning("skipped: %s", reason)
    if not items:
        raise DataError(f"{places[0]}: none of its {len(bad)} files can be read; first: {bad[0]}")
    if bad:
        _log.warning("skipped %d unreadable files", len(bad))
    identity = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:16]
    return SignalFolder(tuple(names), tuple(items), kind, identity, tuple(bad), tuple(files))


def _items_of(signal: Signal, axes: int, channels: int) -> list[Item]:
    samples, mask = signal.samples, signal.mask
    if samples.shape[-1] == 1 and channels == 3 and signal.kind == "image":
        samples = in_colour(samples)
    if samples.shape[-1] != channels:
        raise DataError(f"has {samples.shape[-1]} channels, signal.channels says {channels}")
    if samples.ndim - 2 != axes:
        raise DataError(f"has {samples.ndim - 2} axes, signal.patch has {axes}")
    return [(item, None if mask is None else mask[i]) for i, item in enumerate(samples)]
