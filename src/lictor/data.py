"""Photographs in, training crops out.

A folder of pictures becomes an `ImageFolder`: every picture decoded once into one memory-mapped
file where that fits the budget, else decoded when needed. A crop is a pure function of (seed, step,
position in the batch), so that a resumed run sees the same data without any saved state.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from lictor.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Where Pillow itself refuses; from half of it on it warns of a "bomb", which a photograph is not.
MAX_IMAGE_PIXELS = 178_956_970

_log = logging.getLogger(__name__)


def load_image(path: Path | str) -> UInt8[np.ndarray, "h w c"]:
    """Read a picture as 8-bit grey (`c = 1`) or RGB (`c = 3`), upright.

    The orientation tag is applied, palettes and CMYK become RGB, an opaque alpha channel is
    dropped. Raises `DataError` for anything that is not an 8-bit picture, and for transparency.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder, not a picture")
    try:
        if path.exists() and not path.is_file():  # a pipe would block for ever
            raise DataError(f"{path}: is not a regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                if _is_deep(opened):
                    raise DataError(
                        f"{path}: more than 8 bits a sample; convert it to 8 bits first"
                    )
                image = ImageOps.exif_transpose(opened)
                image.load()
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: more than {MAX_IMAGE_PIXELS} pixels; split it first") from error
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        reason = "empty file" if path.exists() and path.stat().st_size == 0 else str(error)
        raise DataError(f"{path}: not a readable picture ({reason})") from error
    return _to_array(image, path)


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Tell whether Pillow is about to cut samples down to 8 bits, which only its decoder knows."""
    for tile in image.tile:
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if args and isinstance(args[0], str) and ";16" in args[0]:
            return True
        # Portable pixmaps: (raw mode, greatest value).
        if tile.codec_name in ("ppm", "ppm_plain") and len(args) > 1 and args[1] != 255:
            return image.mode != "1"
    return False


def _to_array(image: Image.Image, path: Path) -> UInt8[np.ndarray, "h w c"]:
    if image.mode.startswith("I") or image.mode == "F":
        raise DataError(f"{path}: {image.mode} samples; convert it to 8 bits a channel first")
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            raise DataError(f"{path}: has transparency; flatten it onto a background first")
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))[:, :, None]
    return np.asarray(image.convert("RGB"))


def image_to_tensor(image: UInt8[np.ndarray, "h w c"]) -> Float[Tensor, "1 3 h w"]:
    """Turn an 8-bit grey or RGB image into a float32 RGB tensor in [0, 1]."""
    channels = np.array(np.broadcast_to(image, (*image.shape[:2], 3)))  # torch wants its own
    return torch.from_numpy(channels).permute(2, 0, 1)[None].float().div_(255)


def tensor_to_image(
    x: Float[Tensor, "1 3 h w"], *, channels: int = 3
) -> UInt8[np.ndarray, "h w c"]:
    """Round a tensor in [0, 1] to 8 bits; with `channels=1` the mean of R, G and B."""
    pixels = x[0].mul(255)
    if channels == 1:
        pixels = pixels.mean(0, keepdim=True)
    pixels = pixels.round().clamp_(0, 255)
    return pixels.permute(1, 2, 0).to(torch.uint8).contiguous().numpy()


def list_images(folder: Path | str) -> list[Path]:
    """Return all pictures of a folder tree, sorted; raises `DataError` if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of pictures")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not paths:
        raise DataError(f"{folder}: contains no pictures ({', '.join(IMAGE_SUFFIXES)})")
    return paths


def cache_folder() -> Path:
    """Return where decoded pictures are kept: $LICTOR_CACHE, or lictor in the user's cache."""
    if os.environ.get("LICTOR_CACHE"):
        return Path(os.environ["LICTOR_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lictor"


@dataclass(frozen=True)
class ImageFolder:
    """Decoded pictures of a folder: RGB uint8 arrays by number, with their names.

    `bad` lists the pictures that could not be read, each with its reason.
    """

    names: tuple[str, ...]
    load: Callable[[int], UInt8[np.ndarray, "h w 3"]]
    bad: tuple[str, ...] = ()

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
        return ImageFolder(tuple(self.names[i] for i in numbers), lambda i: self.load(numbers[i]))


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
    if not with_pixels:

        @functools.lru_cache(maxsize=32)
        def decode(number: int) -> UInt8[np.ndarray, "h w 3"]:
            return _as_rgb(load_image(folder / names[number]))

        return ImageFolder(names, decode, tuple(index["bad"]))

    pixels = np.memmap(target / "pixels.bin", dtype=np.uint8, mode="r")

    def load(number: int) -> UInt8[np.ndarray, "h w 3"]:
        _, height, width, offset = index["images"][number]
        return pixels[offset : offset + height * width * 3].reshape(height, width, 3)

    return ImageFolder(names, load, tuple(index["bad"]))


def random_crop(
    image: UInt8[np.ndarray, "h w 3"], size: int, min_scale: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    """Cut a random square, scaled down by a random factor from `min_scale` to 1, maybe mirrored.

    A picture smaller than the square is scaled up to it.
    """
    scale = rng.uniform(min_scale, 1.0)
    edge = min(round(size / scale), *image.shape[:2])
    top = int(rng.integers(image.shape[0] - edge + 1))
    left = int(rng.integers(image.shape[1] - edge + 1))
    patch = np.ascontiguousarray(image[top : top + edge, left : left + edge])
    if edge != size:
        patch = np.asarray(Image.fromarray(patch).resize((size, size), Image.Resampling.BICUBIC))
    return patch[:, ::-1] if rng.random() < 0.5 else patch


def make_batch(
    folder: ImageFolder, *, step: int, seed: int, batch_size: int, size: int, min_scale: float
) -> UInt8[np.ndarray, "b size size 3"]:
    """Return the crops of one step: a pure function of its arguments."""
    batch = np.empty((batch_size, size, size, 3), np.uint8)
    for position in range(batch_size):
        rng = np.random.default_rng([seed, step, position])
        image = folder.load(int(rng.integers(len(folder))))
        batch[position] = random_crop(image, size, min_scale, rng)
    return batch


def batch_to_tensor(batch: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Turn crops into a float32 tensor in [0, 1], channels last in memory."""
    return torch.from_numpy(batch).permute(0, 3, 1, 2).float().div_(255)


@dataclass
class Prefetcher:
    """Makes the batches of coming steps in a background thread.

    Iterating yields tensors from `first_step` on, for ever. `waited_s` adds up how long the
    consumer stood waiting.
    """

    make: Callable[[int], UInt8[np.ndarray, "b h w 3"]]
    first_step: int = 0
    depth: int = 4
    waited_s: float = field(default=0.0, init=False)

    def __iter__(self) -> Iterator[Float[Tensor, "b 3 h w"]]:
        with ThreadPoolExecutor(1, thread_name_prefix="crops") as pool:
            step = self.first_step
            pending: deque[Future[NDArray[np.uint8]]] = deque()
            try:
                while True:
                    while len(pending) < self.depth:
                        pending.append(pool.submit(self.make, step))
                        step += 1
                    start = time.perf_counter()
                    batch = pending.popleft().result()
                    self.waited_s += time.perf_counter() - start
                    yield batch_to_tensor(batch)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
