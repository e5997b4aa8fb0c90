"""How fast crops are made: per second of one core, from a cache, from shards, from JPEG folders.

The pictures are made here: photographs of scikit-image, enlarged to 2 megapixels, with grain, as
JPEG of quality 90; some dozen of them under many names, so that no side can keep all of them
decoded. What is measured is a batch on the host, as a training step asks for it, without a network.

The former way stands beside it in the same run: a picture is drawn with replacement, decoded whole
if it is not in the cache, and gives one crop, which Pillow rescales and numpy mirrors. Bursts of
all sides alternate; each side goes on from step to step, so that no burst repeats another.
`crops_per_core_s` is of the processor's time (the best burst), which other programs on the machine
disturb least.

    python benchmarks/input.py [--rounds 5] [--json results/input/FILE.json]
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image

from lictor.data.crops import Crops
from lictor.data.folder import ImageFolder
from lictor.data.images import load_image
from lictor.data.pack import Packing, pack
from lictor.data.prefetch import Prefetcher
from lictor.data.sources import open_pictures
from lictor.evaluation.provenance import cpu_name, versions

WIDTH, HEIGHT = 1632, 1224
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
FORMER_KEPT = 32
Make = Callable[[int], object]


def write_pictures(folder: Path, distinct: int, names: int) -> None:
    """Write JPEG files of 2 megapixels, the same ones again under further names."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    sources = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    for number in range(names):
        path = folder / f"{number:05d}.jpg"
        if number >= distinct:
            os.link(folder / f"{number % distinct:05d}.jpg", path)
            continue
        source = sources[number % len(sources)]
        share = rng.uniform(0.7, 1.0)
        width = min(source.width, int(source.height * WIDTH / HEIGHT)) * share
        height = width * HEIGHT / WIDTH
        left, top = rng.uniform(0, source.width - width), rng.uniform(0, source.height - height)
        box = (left, top, left + width, top + height)
        enlarged = source.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box)
        grain = rng.normal(0, 3, (HEIGHT, WIDTH, 3))
        grainy = np.clip(np.asarray(enlarged) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(grainy).save(path, quality=90)


def former_crop(image: np.ndarray, size: int, min_scale: float, rng: np.random.Generator):
    scale = rng.uniform(min_scale, 1.0)
    edge = min(round(size / scale), *image.shape[:2])
    top = int(rng.integers(image.shape[0] - edge + 1))
    left = int(rng.integers(image.shape[1] - edge + 1))
    patch = np.ascontiguousarray(image[top : top + edge, left : left + edge])
    if edge != size:
        patch = np.asarray(Image.fromarray(patch).resize((size, size), Image.Resampling.BICUBIC))
    return patch[:, ::-1] if rng.random() < 0.5 else patch


def former(load: Callable[[int], np.ndarray], count: int, size: int, batch: int, scale: float):
    """Return what makes the batch of a step as lictor did before its pictures had an order."""

    def make(step: int) -> np.ndarray:
        crops = np.empty((batch, size, size, 3), np.uint8)
        for position in range(batch):
            rng = np.random.default_rng([0, step, position])
            crops[position] = former_crop(load(int(rng.integers(count))), size, scale, rng)
        return crops

    return make


class Sources:
    """The same pictures in every form."""

    def __init__(self, root: Path, args: argparse.Namespace):
        pictures, few = root / "many", root / "few"
        write_pictures(pictures, args.distinct, args.pictures)
        few.mkdir()
        for path in sorted(pictures.iterdir())[: args.distinct]:
            os.link(path, few / path.name)
        paths = sorted(pictures.iterdir())
        self.jpeg_bytes = sum(path.stat().st_size for path in paths) / len(paths)
        kept = args.batch * 12
        budget = WIDTH * HEIGHT * 3 * args.pictures // 2

        def on_demand(where: Path) -> ImageFolder:
            """Open pictures for one side: what is kept decoded is its own."""
            opened = open_pictures(where, cache_bytes=budget, kept=kept)
            assert opened.on_demand
            return opened

        self.cache = open_pictures(few, cache_bytes=2**40)
        self.folders = {crops: on_demand(pictures) for crops in (1, 4, 8)}
        pack([few], root / "raw", Packing(raw=True))
        pack([pictures], root / "jpeg")
        self.raw = open_pictures(root / "raw", cache_bytes=0)
        self.shards = on_demand(root / "jpeg")
        assert not self.raw.on_demand
        self.decode = functools.lru_cache(FORMER_KEPT)(lambda number: load_image(paths[number]))


def sides(sources: Sources, args: argparse.Namespace) -> dict[str, dict[str, Make]]:
    """Return what makes batches, by how they are scaled and by side; the former one comes first."""

    def crops(folder: ImageFolder, scale: float, k: int = 1) -> Make:
        return Crops(folder, args.size, args.batch, scale, crops_per_decode=k).batch

    found: dict[str, dict[str, Make]] = {}
    for scale in (0.5, 1.0):
        before = (args.size, args.batch, scale)
        found[f"cached, min_scale {scale}"] = {
            "former, cache": former(sources.cache.load, len(sources.cache), *before),
            "cache": crops(sources.cache, scale),
            "raw shards": crops(sources.raw, scale),
        }
        found[f"decoded on demand, min_scale {scale}"] = {
            "former, JPEG folder": former(sources.decode, len(sources.shards), *before),
            **{
                f"JPEG folder, crops a picture: {k}": crops(folder, scale, k)
                for k, folder in sources.folders.items()
            },
            "JPEG shards, crops a picture: 8": crops(sources.shards, scale, 8),
        }
    return found


def bursts(group: dict[str, Make], args: argparse.Namespace) -> list[dict[str, object]]:
    """Alternate bursts of the sides of a group; return a row of figures for each."""
    steps = {side: itertools.count() for side in group}
    cpu: dict[str, list[float]] = {side: [] for side in group}
    wall: dict[str, list[float]] = {side: [] for side in group}
    for side, make in group.items():
        for _ in range(args.warm_up):
            make(next(steps[side]))
    for _ in range(args.rounds):
        for side, make in group.items():
            started = time.process_time(), time.perf_counter()
            for _ in range(args.steps):
                make(next(steps[side]))
            each = args.steps * args.batch
            cpu[side].append(each / (time.process_time() - started[0]))
            wall[side].append(each / (time.perf_counter() - started[1]))
            print(side, round(cpu[side][-1]), round(wall[side][-1]), file=sys.stderr, flush=True)
    reference = max(next(iter(cpu.values())))
    return [
        {
            "side": side,
            "crops_per_core_s": round(max(cpu[side]), 1),
            "ratio_to_former": round(max(cpu[side]) / reference, 2),
            "median_per_core_s": round(statistics.median(cpu[side]), 1),
            "crops_per_s": round(max(wall[side]), 1),
            "bursts_per_core_s": [round(value, 1) for value in cpu[side]],
        }
        for side in group
    ]


def threads(group: dict[str, Make], args: argparse.Namespace) -> list[dict[str, object]]:
    """Return what several threads of a prefetcher make in a second of the clock."""
    rows: list[dict[str, object]] = []
    for (side, make), workers in itertools.product(group.items(), args.workers):
        # Further on, where nothing is decoded yet; one after the other, each with its own pictures.
        batches = iter(Prefetcher(make, 10_000 * workers, 1, workers))
        speeds = []
        for _ in range(args.warm_up + 2 * workers):
            next(batches)
        for _ in range(args.rounds):
            started = time.perf_counter()
            for _ in range(2 * args.steps):
                next(batches)
            speeds.append(2 * args.steps * args.batch / (time.perf_counter() - started))
        rows.append({"side": side, "workers": workers, "crops_per_s": round(max(speeds), 1)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast crops are made.")
    parser.add_argument("--size", type=int, default=256, help="side of a crop; default 256")
    parser.add_argument("--batch", type=int, default=8, help="crops in a step; default 8")
    parser.add_argument("--distinct", type=int, default=48, help="pictures made; default 48")
    parser.add_argument("--pictures", type=int, default=400, help="their names; default 400")
    parser.add_argument("--rounds", type=int, default=5, help="bursts of each side; default 5")
    parser.add_argument("--steps", type=int, default=16, help="steps in a burst; default 16")
    parser.add_argument("--warm-up", type=int, default=16, help="steps before them; default 16")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="default 1 2")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="lictor-input-") as root:
        os.environ["LICTOR_CACHE"] = str(Path(root) / "cache")
        sources = Sources(Path(root), args)
        groups = sides(sources, args)
        results = {name: bursts(group, args) for name, group in groups.items()}
        cached, demanded = (
            groups["cached, min_scale 0.5"],
            groups["decoded on demand, min_scale 0.5"],
        )
        together = {
            "cache": cached["cache"],
            "raw shards": cached["raw shards"],
            "JPEG folder, crops a picture: 8": demanded["JPEG folder, crops a picture: 8"],
        }
        threaded = threads(together, args)
        report = {
            "command": " ".join(["python", *sys.argv]),
            "config": {k: v for k, v in vars(args).items() if k != "json"},
            "picture": {"width": WIDTH, "height": HEIGHT, "jpeg_bytes": round(sources.jpeg_bytes)},
            "machine": {
                "cpu": cpu_name(),
                "cpus": os.cpu_count(),
                "capability": torch.backends.cpu.get_cpu_capability(),
                "system": platform.platform(),
            },
            "versions": versions(),
            "results": results,
            "threads": threaded,
        }
    for name, rows in results.items():
        print(f"{name:36} crops / core s  median   ratio   crops / s")
        for row in rows:
            print(
                f"  {row['side']:34} {row['crops_per_core_s']:14.0f}"
                f" {row['median_per_core_s']:7.0f} {row['ratio_to_former']:7.2f}"
                f" {row['crops_per_s']:11.0f}"
            )
    print("min_scale 0.5, in threads            workers   crops / s")
    for row in threaded:
        print(f"  {row['side']:34} {row['workers']:7} {row['crops_per_s']:11.0f}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
