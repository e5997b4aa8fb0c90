"""Collections packed into tar files, read by an index: any picture at once, on disk or by URL.

    manifest.json      what is where; written last, so that a collection is whole or has none
    shard-000000.tar   pictures 00000000.jpg, ...: each file as it was, or its pixels as .ppm

The tar files are what WebDataset reads. This reader uses only the manifest: training asks for
pictures in an order of its own, and goes on anywhere, which a stream of tar members cannot.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from lictor.data.decoded import Decoded
from lictor.data.folder import (
    KEPT,
    LEAST_KEPT_BYTES,
    ImageFolder,
    Load,
    Progress,
    as_rgb,
    decode_once,
    identity_of,
    mapped,
)
from lictor.data.images import decode_image
from lictor.data.places import file_system, is_url, joined
from lictor.errors import DataError, StorageError

_log = logging.getLogger(__name__)
MANIFEST, JOURNAL = "manifest.json", "packing.jsonl"
FORMAT = "lictor-shards-1"
# The columns of numbers of a manifest: which shard, where in it, and of what size and content.
COLUMNS = ("shard", "offset", "bytes", "height", "width", "crc32")
_AGAIN = "copy it again, or pack the pictures again"


@dataclass(frozen=True)
class Manifest:
    """What a collection of shards holds.

    `raw` says that pixels are stored; `shards` are names and sizes of the files; `names` those of
    the pictures, `columns` their numbers (see `COLUMNS`); `skipped` the reasons why some were left
    out; `plan` tells one packing from another.
    """

    raw: bool
    shards: tuple[tuple[str, int], ...]
    names: tuple[str, ...]
    columns: dict[str, Int64[np.ndarray, " n"]]
    skipped: tuple[str, ...]
    plan: str

    def to_json(self) -> bytes:
        """Return the file that `read_manifest` reads."""
        tree = {
            "format": FORMAT,
            "raw": self.raw,
            "plan": self.plan,
            "shards": self.shards,
            "skipped": self.skipped,
            "names": self.names,
            **{name: self.columns[name].tolist() for name in COLUMNS},
        }
        return (json.dumps(tree) + "\n").encode()


@runtime_checkable
class Store(Protocol):
    """Where shards lie; messages name a file of it as `name` does."""

    def name(self, file: str) -> str:
        """Return the path or URL of a file."""
        ...

    def read(self, file: str, first: int = 0, count: int | None = None) -> bytes:
        """Return bytes of a file, or fewer where it ends; raises `StorageError` if it cannot."""
        ...


@dataclass(frozen=True)
class Local:
    """Shards in a folder."""

    folder: Path

    def name(self, file: str) -> str:
        """Return the path of a file."""
        return str(self.folder / file)

    def read(self, file: str, first: int = 0, count: int | None = None) -> bytes:
        """Return bytes of a file."""
        try:
            with (self.folder / file).open("rb") as opened:
                opened.seek(first)
                return opened.read(-1 if count is None else count)
        except OSError as error:
            raise StorageError(f"{self.name(file)}: cannot read ({error.strerror})") from error


@dataclass(frozen=True)
class Remote:
    """Shards behind a URL that fsspec knows; raises `ConfigError` without the package for it."""

    url: str

    @functools.cached_property
    def _place(self) -> tuple[Any, str]:
        return file_system(self.url)

    def check(self) -> None:
        """Raise `ConfigError` when a package for the URL is not there."""
        self._place  # noqa: B018 - found once, and kept

    def name(self, file: str) -> str:
        """Return the URL of a file."""
        return joined(self.url, file)

    def read(self, file: str, first: int = 0, count: int | None = None) -> bytes:
        """Return bytes of a file."""
        system, root = self._place
        end = None if count is None else first + count
        try:
            return system.cat_file(f"{root}/{file}", start=first, end=end)
        except Exception as error:  # every kind of storage has its own
            raise StorageError(
                f"{self.name(file)}: cannot read ({type(error).__name__}: {error})"
            ) from error


def read_manifest(store: Store) -> Manifest:
    """Read what a collection holds; raises `DataError` when it is not there or cannot be."""
    return _parsed(store.read(MANIFEST), store.name(MANIFEST))


def _parsed(content: bytes, where: str) -> Manifest:
    try:
        tree = json.loads(content)
        found = tree["format"]
        if found == FORMAT:
            manifest = Manifest(
                raw=bool(tree["raw"]),
                shards=tuple((str(file), int(size)) for file, size in tree["shards"]),
                names=tuple(map(str, tree["names"])),
                columns={name: np.array(tree[name], np.int64) for name in COLUMNS},
                skipped=tuple(map(str, tree["skipped"])),
                plan=str(tree["plan"]),
            )
            if _is_sound(manifest):
                return manifest
            raise ValueError("its numbers do not fit each other")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"{where}: no manifest of shards ({error}); {_AGAIN}") from error
    raise DataError(
        f"{where}: its format is {found!r}, and this release reads {FORMAT!r}; pack the pictures "
        "again, or take the release that made it"
    )


def _is_sound(manifest: Manifest) -> bool:
    columns, count = manifest.columns, len(manifest.names)
    if any(column.shape != (count,) or (column < 0).any() for column in columns.values()):
        return False
    if not count or columns["shard"].max() >= len(manifest.shards):
        return False
    sizes = np.array([size for _, size in manifest.shards], np.int64)
    inside = columns["offset"] + columns["bytes"] <= sizes[columns["shard"]]
    pixels = columns["height"] * columns["width"] * 3
    whole = pixels <= columns["bytes"] if manifest.raw else pixels >= 0
    return bool((inside & whole & (pixels > 0)).all())


def check_files(store: Local, manifest: Manifest) -> None:
    """Raise `DataError` when a shard is missing or not as long as it was made."""
    for file, size in manifest.shards:
        path = store.folder / file
        if not path.is_file():
            raise DataError(f"{path}: the shard is missing; {_AGAIN}")
        found = path.stat().st_size
        if found != size:
            raise DataError(f"{path}: the shard has {found} bytes in place of {size}; {_AGAIN}")


def open_shards(
    place: str | os.PathLike[str],
    *,
    cache_bytes: int,
    kept: int = KEPT,
    on_progress: Progress = lambda *_: None,
) -> ImageFolder:
    """Open pictures that `pack` has packed, in a folder or behind a URL that fsspec knows.

    Raw shards of a folder are mapped into memory. Other pictures are decoded once into a cache
    file if that fits into `cache_bytes`, else when they are asked for, as by `open_image_folder`.
    Raises `DataError` when a shard is missing or cut short, or the manifest is not of this format,
    `ConfigError` when a URL needs a package that is not there.
    """
    place = os.fspath(place)
    store: Store
    if is_url(place):
        store = Remote(place)
        store.check()
    else:
        store = Local(Path(place))
    content = store.read(MANIFEST)
    manifest = _parsed(content, store.name(MANIFEST))
    if isinstance(store, Local):
        check_files(store, manifest)
    if manifest.skipped:
        _log.warning("%s: packed without %d unreadable pictures", place, len(manifest.skipped))
    columns = manifest.columns
    if manifest.raw and isinstance(store, Local):
        identity = _identity(manifest)
        return ImageFolder(manifest.names, _mapped_pixels(store, manifest), (), identity)
    load = functools.partial(_load, store, manifest)
    needed = int((columns["height"] * columns["width"] * 3).sum())
    if needed <= cache_bytes:
        key = hashlib.sha256(place.encode() + b"\0" + content).hexdigest()[:16]
        index, target = decode_once(key, place, manifest.names, load, on_progress, with_pixels=True)
        if _is_mended(manifest, index, load):
            shutil.rmtree(target, ignore_errors=True)
            index, target = decode_once(
                key, place, manifest.names, load, on_progress, with_pixels=True
            )
        about = [(name, height, width) for name, height, width, _ in index["images"]]
        names = tuple(name for name, *_ in about)
        return ImageFolder(
            names,
            mapped(target, index),
            tuple(index["bad"]),
            identity_of(about),
            cached_bytes=needed,
        )
    most_bytes = max(cache_bytes, LEAST_KEPT_BYTES)
    decode = Decoded(load, most=kept, most_bytes=most_bytes, what=place)
    return ImageFolder(manifest.names, decode, (), _identity(manifest), on_demand=True)


def _is_mended(manifest: Manifest, index: dict[str, Any], load: Load) -> bool:
    """Tell whether a picture that the cache left out, as it was damaged, can be read by now."""
    there = {name for name, *_ in index["images"]}
    for number, name in enumerate(manifest.names):
        if name not in there:
            try:
                load(number)
            except DataError:
                continue
            return True
    return False


def _identity(manifest: Manifest) -> str:
    sides = (manifest.columns[side].tolist() for side in ("height", "width"))
    return identity_of(zip(manifest.names, *sides, strict=True))


def _load(store: Store, manifest: Manifest, number: int) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture, whatever it is stored as; raises `DataError` when it is damaged."""
    shard, offset, size, height, width, crc = (int(manifest.columns[c][number]) for c in COLUMNS)
    file = manifest.shards[shard][0]
    data = store.read(file, offset, size)
    where = f"{store.name(file)}: {manifest.names[number]}"
    if len(data) != size:
        raise StorageError(f"{where}: the shard is cut short; {_AGAIN}")
    if zlib.crc32(data) != crc:
        raise DataError(f"{where}: its bytes are damaged; {_AGAIN}")
    if manifest.raw:
        pixels = np.frombuffer(data, np.uint8)[size - height * width * 3 :]
        return pixels.reshape(height, width, 3)
    return as_rgb(decode_image(data, where))


def _mapped_pixels(store: Local, manifest: Manifest) -> Load:
    """Return what gives raw pictures as views of their files: a crop reads its rows alone."""

    @functools.lru_cache(maxsize=256)  # each holds a file open
    def shard(number: int) -> np.ndarray:
        path = store.folder / manifest.shards[number][0]
        try:
            return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        except OSError as error:
            raise DataError(f"{path}: cannot read ({error.strerror})") from error

    def load(number: int) -> UInt8[np.ndarray, "h w 3"]:
        file, offset, size, height, width, _ = (int(manifest.columns[c][number]) for c in COLUMNS)
        end = offset + size
        return shard(file)[end - height * width * 3 : end].reshape(height, width, 3)

    return load
