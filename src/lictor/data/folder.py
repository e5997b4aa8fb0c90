"""A folder of pictures: every one decoded once into one memory-mapped file.

Where that does not fit the budget, pictures are decoded when they are needed.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lictor.data.images import list_images, load_image
from lictor.errors import DataError

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return where decoded pictures are kept: $LICTOR_CACHE, or lictor in the user's cache."""
    if os.environ.get("LICTOR_CACHE"):
        return Path(os.environ["LICTOR_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lictor"


@dataclass(frozen=True)
class ImageFolder:
    """Decoded pictures of a folder: RGB uint8 arrays by number, with their names.

    `bad` lists the pictures that could not be read, each with its reason. `identity` tells one
    collection of pictures from another, wherever it lies: a hash of names and sizes.
    """

    names: tuple[str, ...]
    load: Callable[[int], UInt8[np.ndarray, "h w 3"]]
    bad: tuple[str, ...] = ()
    identity: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def split(self, held_out: int) -> tuple["ImageFolder", "ImageFolder"]:
        """Split off `held_out` pictures (at most a tenth, at least one) chosen by their names."""
        if len(self) < 2:
            raise DataError("training needs at least 2 readable pictures, one of them held out")
        order = sorted(
            range(len(self)), key=lambda i: hashlib.sha256(self.names[i].encode()).digest()
        )
        count = max(1, min(held_out, len(self) // 10))
        return self._subset(sorted(order[count:])), self._subset(sorted(order[:count]))

    def _subset(self, numbers: Sequence[int]) -> "ImageFolder":
        return ImageFolder(
            tuple(self.names[i] for i in numbers),
            lambda i: self.load(numbers[i]),
            identity=self.identity,
        )


def open_image_folder(
    folder: Path, *, cache_bytes: int, on_progress: Callable[[int, int], None] = lambda *_: None
) -> ImageFolder:
    """Open a folder tree of PNG, JPEG and WebP pictures, decoding them once into a cache file.

    A picture that cannot be read is named in the log and left out. `on_progress(done, total)` is
    called while decoding. Pictures that need more than `cache_bytes` together are decoded once to
    see which can be read, and again whenever they are asked for. Raises `DataError` when nothing
    can be read.
    """
    paths = list_images(folder)
    stamp = [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    key = hashlib.sha256(json.dumps([str(folder.resolve()), stamp]).encode()).hexdigest()[:16]
    with_pixels = _decoded_bytes(paths) <= cache_bytes
    if not with_pixels:
        _log.info("%s: decoded pictures exceed the cache budget; decoding on demand", folder)
    target = cache_folder() / f"{'images' if with_pixels else 'names'}-{key}"
    if not _is_whole(target, with_pixels=with_pixels):
        shutil.rmtree(target, ignore_errors=True)
        _write_cache(target, folder, paths, on_progress, with_pixels=with_pixels)
    return _open_cache(target, folder, with_pixels=with_pixels)


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


def _as_rgb(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _write_cache(
    target: Path,
    folder: Path,
    paths: Sequence[Path],
    on_progress: Callable[[int, int], None],
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
                for number, path in enumerate(paths):
                    on_progress(number, len(paths))
                    try:
                        image = _as_rgb(load_image(path))
                    except DataError as error:
                        bad.append(str(error))
                        continue
                    if with_pixels:
                        pixels.write(image.tobytes())
                    entries.append([str(path.relative_to(folder)), *image.shape[:2], offset])
                    offset += image.nbytes
            on_progress(len(paths), len(paths))
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
        raise DataError(f"{folder}: none of its {len(bad)} pictures can be read; first: {bad[0]}")


def _report_bad(bad: Sequence[str]) -> None:
    for reason in bad:
        _log.warning("skipped: %s", reason)
    if bad:
        _log.warning("skipped %d unreadable pictures", len(bad))


def _open_cache(target: Path, folder: Path, *, with_pixels: bool) -> ImageFolder:
    index = json.loads((target / "index.json").read_text(encoding="utf-8"))
    _report_bad(index["bad"])
    names = tuple(entry[0] for entry in index["images"])
    about = [[Path(name).as_posix(), height, width] for name, height, width, _ in index["images"]]
    identity = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    if not with_pixels:

        @functools.lru_cache(maxsize=32)
        def decode(number: int) -> UInt8[np.ndarray, "h w 3"]:
            return _as_rgb(load_image(folder / names[number]))

        return ImageFolder(names, decode, tuple(index["bad"]), identity)

    pixels = np.memmap(target / "pixels.bin", dtype=np.uint8, mode="r")

    def load(number: int) -> UInt8[np.ndarray, "h w 3"]:
        _, height, width, offset = index["images"][number]
        return pixels[offset : offset + height * width * 3].reshape(height, width, 3)

    return ImageFolder(names, load, tuple(index["bad"]), identity)
