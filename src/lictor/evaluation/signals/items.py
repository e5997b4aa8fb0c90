"""The items that are measured: each a signal of its own, which knows what file it came from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lictor.data.signals.folder import list_signals
from lictor.data.signals.formats import read_signal
from lictor.data.signals.signal import Signal
from lictor.errors import DataError
from lictor.evaluation.rd import image_hash


@dataclass(frozen=True, eq=False)
class Item:
    """One item of a file.

    Args:
        name: in results: the file's, with the item's number where it has several.
        signal: of this item alone.
        sha256: of its shape, samples and mask.
        file: number of its file.
    """

    name: str
    signal: Signal
    sha256: str
    file: int


@dataclass(frozen=True, eq=False)
class SignalSet:
    """What is measured on: files as they are, and their items one by one.

    Args:
        files: signals, with all their items.
        items: of all files in order.
        errors: why files were left out.
    """

    files: tuple[Signal, ...]
    items: tuple[Item, ...]
    errors: tuple[str, ...] = ()


def read_signals(
    folder: Path | str,
    kind: str,
    *,
    axes: int | None = None,
    channels: int | None = None,
    variable: str | None = None,
    limit: int | None = None,
    exclude: Path | None = None,
) -> SignalSet:
    """Read the signals of a kind below a folder, at most `limit` items; see `read_signal`.

    Raises `DataError` when nothing can be read.
    """
    folder = Path(folder)
    files: list[Signal] = []
    items: list[Item] = []
    errors: list[str] = []
    for path in list_signals(folder, kind):
        if exclude is not None and exclude.resolve() in path.resolve().parents:
            continue
        if limit is not None and len(items) >= limit:
            break
        try:
            signal = read_signal(path, kind=kind, axes=axes, channels=channels, variable=variable)
            _check(path, signal, axes, channels)
        except DataError as error:
            errors.append(str(error))
            continue
        if limit is not None and len(items) + len(signal) > limit:
            signal = part_of(signal, range(limit - len(items)))
        name = path.name if path == folder else path.relative_to(folder).as_posix()
        items += items_of(signal, name, len(files))
        files.append(signal)
    if not items:
        raise DataError(
            f"{folder}: no signal can be read; first: {errors[0] if errors else 'none'}"
        )
    return SignalSet(tuple(files), tuple(items), tuple(errors))


def _check(path: Path, signal: Signal, axes: int | None, channels: int | None) -> None:
    if channels is not None and signal.channels != channels:
        raise DataError(f"{path}: has {signal.channels} channels, the codec is for {channels}")
    if axes is not None and len(signal.grid) != axes:
        raise DataError(f"{path}: items have {len(signal.grid)} axes, the codec's {axes}")


def items_of(signal: Signal, name: str, file: int) -> list[Item]:
    """Return the items of a signal."""
    if len(signal) == 1:
        return [Item(name, signal, signal_hash(signal), file)]
    parts = [part_of(signal, range(i, i + 1)) for i in range(len(signal))]
    return [Item(f"{name}#{i}", p, signal_hash(p), file) for i, p in enumerate(parts)]


def part_of(signal: Signal, chosen: range) -> Signal:
    """Return some items of a signal; the form says what it said of them, and nothing of others."""
    if len(chosen) == len(signal):
        return signal
    mask = None if signal.mask is None else signal.mask[chosen.start : chosen.stop]
    form = dict(signal.form)
    form.pop("array_shape", None)
    if signal.kind == "field" and "dims" in form:
        form = _part_of_fields(form, signal, chosen)
    elif "shape" in form:
        form.pop("shape")
    return replace(signal, samples=signal.samples[chosen.start : chosen.stop], mask=mask, form=form)


def _part_of_fields(form: dict[str, Any], signal: Signal, chosen: range) -> dict[str, Any]:
    """Cut the coordinates of the axes that make items; what is not one block becomes a list."""
    first = [name for name in form["dims"] if name not in (form["rows"], form["columns"])]
    sides = form["shape"][: len(first)]
    places = np.unravel_index(np.arange(chosen.start, chosen.stop), sides) if first else ()
    single = len(chosen) == 1
    coords = {}
    for name, coord in form.get("coords", {}).items():
        own = [dim for dim in coord["dims"] if dim in first]
        if not own:
            coords[name] = coord
        elif single or (own == coord["dims"] == [first[0]] and len(first) == 1):
            values = np.asarray(coord["values"], dtype=object)
            for axis, dim in enumerate(coord["dims"]):
                if dim in first:
                    values = np.take(values, places[first.index(dim)], axis=axis)
            coords[name] = {**coord, "values": values.tolist()}
    counts = [1] * (len(first) - 1) + [len(chosen)] if first else []
    return {**form, "shape": [*counts, *signal.grid], "coords": coords, "beside": {}}


def signal_hash(signal: Signal) -> str:
    """Return a SHA-256 of a signal of one item; of a picture without a mask, as `image_hash`."""
    if signal.kind == "image" and signal.mask is None and signal.samples.dtype == np.uint8:
        return image_hash(signal.samples[0])
    digest = hashlib.sha256(f"{signal.samples.shape} {signal.samples.dtype}".encode())
    digest.update(np.ascontiguousarray(signal.samples).tobytes())
    if signal.mask is not None:
        digest.update(np.packbits(signal.mask).tobytes())
    return digest.hexdigest()


def set_hash(items: Sequence[Item]) -> str:
    """Return a hash of a set of items, by names and samples."""
    lines = sorted(f"{item.name} {item.sha256}" for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
