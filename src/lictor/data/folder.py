"""A folder of pictures: every one decoded once into one memory-mapped file.

Where that does not fit the budget, pictures are decoded when they are needed.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lictor.data.decoded import Decoded
from lictor.data.images import list_images, load_image
from lictor.errors import DataError, StorageError

_log = logging.getLogger(__name__)
Load = Callable[[int], UInt8[np.ndarray, "h w 3"]]
Progress = Callable[[int, int], None]
# How many decoded pictures are kept in memory, and how large they may be whatever the budget is.
KEPT = 32
LEAST_KEPT_BYTES = 2**30


def cache_folder() -> Path:
    """Return where decoded pictures are kept: $LICTOR_CACHE, or lictor in the user's cache."""
    if os.environ.get("LICTOR_CACHE"):
        return Path(os.environ["LICTOR_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lictor"


@dataclass(frozen=True)
class ImageFolder:
    """Decoded pictures of a folder: RGB uint8 arrays by number, with their names.

    `bad` lists the pictures that could not be read, each with its reason. `identity` tells one
    collection of pictures from another, wherever it lies: a hash of names and sizes. `on_demand`
    says that pictures are decoded whenever they are wanted, `cached_bytes` how large their file of
    decoded pictures is. Pictures of several sources come source
    by source; `groups` says how many there are of each, and its share of the draws; without, all
    are of one. Several threads may load pictures.
    """

    names: tuple[str, ...]
    load: Load
    bad: tuple[str, ...] = ()
    identity: str = ""
    on_demand: bool = False
    cached_bytes: int = 0
    groups: tuple[tuple[int, float], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def split(self, held_out: int) -> tuple["ImageFolder", "ImageFolder"]:
        """Split off `held_out` pictures (at most a tenth, at least one) chosen by their names."""
        if len(self) < 2:
            raise DataError("training needs at least 2 readable pictures, one of them held out")
        # A name may have bytes that are no UTF-8.
        names = [name.encode(errors="surrogateescape") for name in self.names]
        order = sorted(range(len(self)), key=lambda i: hashlib.sha256(names[i]).digest())
        count = max(1, min(held_out, len(self) // 10))
        return self._subset(sorted(order[count:])), self._subset(sorted(order[:count]))

    def _subset(self, numbers: Sequence[int]) -> "ImageFolder":
        groups, first = [], 0
        for count, share in self.groups:
            left = sum(first <= number < first + count for number in numbers)
            groups += [(left, share)] if left else []
            first += count
        return ImageFolder(
            tuple(self.names[i] for i in numbers),
            lambda i: self.load(numbers[i]),
            identity=self.identity,
            on_demand=self.on_demand,
            groups=tuple(groups),
        )


def identity_of(about: Iterable[tuple[str, int, int]]) -> str:
    """Return what tells collections of pictures apart: a hash of names, heights and widths."""
    rows = [[Path(name).as_posix(), height, width] for name, height, width in about]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def open_image_folder(
    folder: Path,
    *,
    cache_bytes: int,
    kept: int = KEPT,
    on_progress: Progress = lambda *_: None,
) -> ImageFolder:
    """Open a folder tree of PNG, JPEG and WebP pictures, decoding them once into a cache file.

    A picture that cannot be read is named in the log and left out. `on_progress(done, total)` is
    called while decoding. Pictures that need more than `cache_bytes` together are decoded once to
    see which can be read, and again when they are asked for; the last `kept` stay in memory, if
    `cache_bytes` (or 1 GiB) allow. Raises `DataError` when nothing can be read.
    """
    paths = list_images(folder)
    stamp = [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    key = hashlib.sha256(json.dumps([str(folder.resolve()), stamp]).encode()).hexdigest()[:16]
    names = [str(path.relative_to(folder)) for path in paths]
    needed = _decoded_bytes(paths)
    with_pixels = needed <= cache_bytes
    if not with_pixels:
        _log.info("%s: decoded pictures exceed the cache budget; decoding on demand", folder)
    index, target = decode_once(
        key,
        str(folder),
        names,
        lambda number: load_image(paths[number]),
        on_progress,
        with_pixels=with_pixels,
    )
    readable, bad = tuple(name for name, *_ in index["images"]), tuple(index["bad"])
    identity = identity_of((name, height, width) for name, height, width, _ in index["images"])
    if with_pixels:
        return ImageFolder(readable, mapped(target, index), bad, identity, cached_bytes=needed)
    decode = Decoded(
        lambda number: as_rgb(load_image(folder / readable[number])),
        most=kept,
        most_bytes=max(cache_bytes, LEAST_KEPT_BYTES),
        what=str(folder),
    )
    return ImageFolder(readable, decode, bad, identity, on_demand=True)


def decode_once(
    key: str,
    what: str,
    names: Sequence[str],
    load: Callable[[int], UInt8[np.ndarray, "h w c"]],
    on_progress: Progress,
    *,
    with_pixels: bool,
) -> tuple[dict[str, Any], Path]:
    """Return the index and the place of a cache of decoded pictures, made first where needed.

    `key` names the cache, `what` the pictures in messages. The index has `images`, each with its
    name, height, width and offset, and `bad`, reasons. Raises `DataError` when no picture can be
    read, or the cache cannot be written, and a `StorageError` of `load`.
    """
    target = cache_folder() / f"{'images' if with_pixels else 'names'}-{key}"
    if not _is_whole(target, with_pixels=with_pixels):
        shutil.rmtree(target, ignore_errors=True)
        _write_cache(target, what, names, load, on_progress, with_pixels=with_pixels)
    index = json.loads((target / "index.json").read_text(encoding="utf-8"))
    _report_bad(index["bad"])
    return index, target


def mapped(target: Path, index: dict[str, Any]) -> Load:
    """Return what gives the pictures of a cache, as views of its file."""
    pixels = np.memmap(target / "pixels.bin", dtype=np.uint8, mode="r").view(np.ndarray)

    def load(number: int) -> UInt8[np.ndarray, "h w 3"]:
        _, height, width, offset = index["images"][number]
        return pixels[offset : offset + height * width * 3].reshape(height, width, 3)

    return load


def _is_whole(target: Path, *, with_pixels: bool) -> bool:
    """Tell whether a cache is there and has the size that its index says."""
    try:
        index = json.loads((target / "index.json").read_text(encoding="utf-8"))
        expected = sum(height * width * 3 for _, height, width, _ in index["images"])
        return not with_pixels or (target / "pixels.bin").stat().st_size == expected
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _decoded_bytes(paths: Sequence[Path]) -> int:
    total = 0
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(path) as image:
                    total += image.width * image.height * 3
        except Exception:  # reported when it is decoded
            continue
    return total


def as_rgb(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return a grey picture as three equal channels, another one as it is."""
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _write_cache(
    target: Path,
    what: str,
    names: Sequence[str],
    load: Callable[[int], UInt8[np.ndarray, "h w c"]],
    on_progress: Progress,
    *,
    with_pixels: bool,
) -> None:
    """Decode into a temporary folder and rename it, so that a cache is whole or absent."""
    entries, bad, offset = [], [], 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="decoding-") as temporary:
            building = Path(temporary) / "cache"
            building.mkdir()
            with (building / "pixels.bin").open("wb") as pixels:
                for number, name in enumerate(names):
                    on_progress(number, len(names))
                    try:
                        image = as_rgb(load(number))
                    except StorageError:
                        raise
                    except DataError as error:
                        bad.append(str(error))
                        continue
                    if with_pixels:
                        pixels.write(image.tobytes())
                    entries.append([name, *image.shape[:2], offset])
                    offset += image.nbytes
            on_progress(len(names), len(names))
            index = json.dumps({"images": entries, "bad": bad})
            (building / "index.json").write_text(index, encoding="utf-8")
            if entries and not target.exists():
                building.rename(target)
    except OSError as error:
        raise DataError(
            f"{target}: cannot write the cache of decoded pictures ({error}); "
            "free some space, set LICTOR_CACHE to another folder, or lower data.cache_mib"
        ) from error
    if not entries:
        raise DataError(f"{what}: none of its {len(bad)} pictures can be read; first: {bad[0]}")


def _report_bad(bad: Sequence[str]) -> None:
    for reason in bad:
        _log.warning("skipped: %s", reason)
    if bad:
        _log.warning("skipped %d unreadable pictures", len(bad))
