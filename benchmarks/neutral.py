"""Is a change neutral? The same losses under a fixed seed, and the same bytes, as another checkout.

A change of structure must not change what lictor computes. This trains a tiny model of every kind
for a few steps on photographs that travel with scikit-image, and codes those with fixed codecs; it
does so in this checkout and in another one, each in a process of its own, and compares losses,
files and decoded pictures bit for bit. Where a change is meant to change something, this shows
exactly what, and nothing else.

    git worktree add ../before main
    python benchmarks/neutral.py --before ../before

The exit code is 1 when anything differs. One thread, so that sums are taken in one order.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STEPS = 6
_TINY = {"n": 8, "m": 8}
# Every model, surrogate and technique stands in one of these, and the optimizers Adam and SOAP.
RUNS: dict[str, dict[str, dict[str, Any]]] = {
    "factorized, noise": {
        "model": {"name": "bmshj2018-factorized", **_TINY},
        "surrogate": {"name": "noise"},
    },
    "hyperprior, straight-through": {
        "model": {"name": "bmshj2018-hyperprior", **_TINY},
        "surrogate": {"name": "straight-through"},
    },
    "mean-scale, mixed, SOAP, SMA": {
        "model": {"name": "mbt2018-mean", **_TINY},
        "optim": {"name": "soap", "lr": 3e-3},
        "sma": {"interval": 2},
    },
    "checkerboard, bfloat16": {
        "model": {"name": "checkerboard", **_TINY, "depth": 1},
        "train": {"precision": "bfloat16"},
    },
    "mean-scale, STDET": {
        "model": {"name": "mbt2018-mean", **_TINY},
        "stdet": {"snapshot_every": 1, "warmup": 9, "samples": 100, "modes": 3, "window": 1},
        "train": {"steps": 14},
    },
}


def photographs() -> dict[str, Any]:
    """Return the pictures by name: whole, cut to an odd size, and grey."""
    from skimage import data

    whole = data.astronaut()
    return {
        "astronaut": whole,
        "coffee": data.coffee()[:301, :203],
        "camera": data.camera()[:200, :100, None],
    }


def measure() -> dict[str, dict[str, Any]]:
    """Return what this checkout computes: losses of each run, hashes of files and pictures."""
    import torch
    from PIL import Image

    # From the package itself: modules move between checkouts, the public names do not.
    from lictor import Codec, load_recipe, load_run, run

    torch.set_num_threads(1)
    pictures = photographs()
    found: dict[str, dict[str, Any]] = {"default codec": _files(Codec.default(), pictures)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photographs"
        folder.mkdir()
        for name, image in pictures.items():
            Image.fromarray(image.squeeze()).save(folder / f"{name}.png")
        for number, (name, sections) in enumerate(RUNS.items()):
            train = {"steps": STEPS, "batch_size": 2, "eval_every": 3, **sections.get("train", {})}
            tree = {**sections, "train": train, "data": {"crop_size": 64}}
            out, recipe = Path(temporary) / str(number), Path(temporary) / f"{number}.toml"
            recipe.write_text(_toml(tree))
            losses = [r.loss for r in run(load_recipe(recipe), folder, out)]
            codec = Codec.freeze(load_run(out)[0])
            found[name] = {"losses": losses, **_files(codec, pictures)}
    return found


def _toml(tree: dict[str, dict[str, Any]]) -> str:
    lines = []
    for section, entries in tree.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(v)}" for key, v in entries.items())]
    return "\n".join(lines)


def _files(codec: Any, pictures: dict[str, Any]) -> dict[str, Any]:
    from lictor.coding.container import Container

    hashes: dict[str, Any] = {"fingerprint": codec.fingerprint.hex()}
    for name, image in pictures.items():
        data = codec.encode(image)
        # Which codec wrote it is told once, above: the rest of a file is compared without it.
        bare = dataclasses.replace(Container.from_bytes(data), fingerprint=bytes(8)).to_bytes()
        hashes[f"{name}.lic"] = hashlib.sha256(bare).hexdigest()
        hashes[f"{name} decoded"] = hashlib.sha256(codec.decode(data).tobytes()).hexdigest()
    return hashes


def _measure_in(checkout: Path) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout / "src"),
            "LICTOR_CACHE": cache,
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [sys.executable, __file__, "--measure"],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--before", type=Path, help="another checkout of lictor")
    parser.add_argument("--measure", action="store_true", help="print what this lictor computes")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(), indent=1))
        return 0
    if options.before is None or not (options.before / "src" / "lictor").is_dir():
        parser.error("--before must be a checkout of lictor, with src/lictor in it")
    before = _measure_in(options.before)
    after = _measure_in(Path(__file__).resolve().parent.parent)
    different = 0
    for name in before | after:
        old, new = before.get(name, {}), after.get(name, {})
        keys = [key for key in old | new if old.get(key) != new.get(key)]
        different += len(keys)
        print(f"{name}: {'the same' if not keys else 'other ' + ', '.join(keys)}")
        for key in keys:
            print(f"    {key}: {old.get(key)} -> {new.get(key)}")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
