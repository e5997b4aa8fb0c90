"""Is a change as fast? Encoding, decoding and training steps of two checkouts, alternating.

Each checkout works in a process of its own, and one at a time: a burst here, a burst there, so that
a drifting machine slows both alike. CompressAI's `MeanScaleHyperprior` joins in where it can be
imported, with random weights like ours. The ratio is best over best. One thread.

    git worktree add ../before main
    python benchmarks/before_after.py --before ../before [--rounds 5] [--only step]
        [--compressai SITE-PACKAGES]

The picture is 768x512, made of one that travels with scikit-image.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from compressai_stand_in import ensure_torchvision

JOBS = {
    "encode default": 4,
    "decode default": 4,
    "encode mbt2018-mean": 3,
    "decode mbt2018-mean": 3,
    "step adam": 6,
    "step soap": 10,
}
_RECIPE = """
[model]
name = "mbt2018-mean"
n = {n}
m = {m}
[optim]
name = "{optimizer}"
[data]
crop_size = 128
[train]
steps = 100000
batch_size = 4
eval_every = 100000
checkpoint_every = 100000
"""


def picture() -> Any:
    import numpy as np
    from skimage import data

    image = data.astronaut()
    return np.ascontiguousarray(np.hstack([image, image[:, :255:-1]]))


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def lictor_jobs(args: argparse.Namespace, folder: Path) -> dict[str, Callable[[], float]]:
    """Return what measures each job once, by names that every checkout has."""
    import torch
    from PIL import Image

    from lictor import MODELS, Codec, load_recipe, run

    image = picture()
    (folder / "pictures").mkdir()
    for number in range(2):
        Image.fromarray(image[number:]).save(folder / "pictures" / f"{number}.png")
    torch.manual_seed(0)
    codecs = {
        "default": Codec.default(),
        "mbt2018-mean": Codec.freeze(MODELS["mbt2018-mean"](n=args.n, m=args.m)),
    }
    jobs: dict[str, Callable[[], float]] = {}
    for name, codec in codecs.items():
        data = codec.encode(image)
        jobs[f"encode {name}"] = lambda codec=codec: timed(lambda: codec.encode(image))
        jobs[f"decode {name}"] = lambda codec=codec, data=data: timed(lambda: codec.decode(data))
    for optimizer in ("adam", "soap"):
        recipe = folder / f"{optimizer}.toml"
        recipe.write_text(_RECIPE.format(n=args.n, m=args.m, optimizer=optimizer))
        steps = run(load_recipe(recipe), folder / "pictures", folder / optimizer)
        jobs[f"step {optimizer}"] = lambda steps=steps: next(steps).step_s
    return jobs


def compressai_jobs(args: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Return CompressAI's side."""
    import torch

    ensure_torchvision()
    from compressai.models import MeanScaleHyperprior  # pyright: ignore

    torch.manual_seed(0)
    model = MeanScaleHyperprior(args.n, args.m).eval()
    model.update()
    x = torch.from_numpy(picture()).permute(2, 0, 1)[None] / 255

    @torch.no_grad()
    def encode() -> Any:
        return model.compress(x)

    @torch.no_grad()
    def decode(packed: Any) -> Any:
        return model.decompress(packed["strings"], packed["shape"])

    packed = encode()
    return {
        "encode mbt2018-mean": lambda: timed(encode),
        "decode mbt2018-mean": lambda: timed(lambda: decode(packed)),
    }


def serve(args: argparse.Namespace) -> None:
    """Measure what is asked for, a line in, a line out."""
    import warnings

    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        if args.serve == "compressai":
            warnings.simplefilter("ignore")
            jobs = compressai_jobs(args)
        else:
            jobs = lictor_jobs(args, Path(temporary))
        print(json.dumps(sorted(jobs)), flush=True)
        for line in sys.stdin:
            name, count = json.loads(line)
            print(json.dumps([jobs[name]() for _ in range(count)]), flush=True)


class Side:
    """A process that measures on demand."""

    def __init__(self, kind: str, path: Path, args: argparse.Namespace):
        command = [sys.executable, __file__, "--serve", kind, f"--n={args.n}", f"--m={args.m}"]
        self._cache = tempfile.TemporaryDirectory()
        environment = {
            **os.environ,
            "PYTHONPATH": str(path),
            "OMP_NUM_THREADS": "1",
            "LICTOR_CACHE": self._cache.name,
        }
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.jobs = self._read()
        self.seconds: dict[str, list[float]] = {}

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a side has failed; see its message above")
        return json.loads(line)

    def measure(self, job: str, count: int) -> None:
        """Measure a job so many times; coding after a call that brings caches back."""
        skipped = 0 if job.startswith("step") else 1  # of training every step counts
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([job, count + skipped]) + "\n")
        self._process.stdin.flush()
        self.seconds.setdefault(job, []).extend(self._read()[skipped:])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._cache.cleanup()


def sides(args: argparse.Namespace) -> Iterator[tuple[str, Side]]:
    yield "before", Side("lictor", args.before / "src", args)
    yield "after", Side("lictor", Path(__file__).resolve().parents[1] / "src", args)
    if args.compressai is not None:
        yield "compressai", Side("compressai", args.compressai, args)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--before", type=Path, help="another checkout of lictor")
    parser.add_argument("--compressai", type=Path, help="folder that compressai is installed in")
    parser.add_argument("--only", default="", help="jobs with this in their name")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n", type=int, default=128)
    parser.add_argument("--m", type=int, default=192)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--serve", choices=("lictor", "compressai"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args)
        return 0
    if args.before is None or not (args.before / "src" / "lictor").is_dir():
        parser.error("--before must be a checkout of lictor, with src/lictor in it")
    jobs = {job: count for job, count in JOBS.items() if args.only in job}
    running = dict(sides(args))
    try:
        for _ in range(args.rounds):
            for job, count in jobs.items():
                for side in running.values():
                    if job in side.jobs:
                        side.measure(job, count)
    finally:
        for side in running.values():
            side.close()
    result: dict[str, dict[str, float]] = {}
    for job in jobs:
        # SOAP refreshes its bases every tenth step: the mean of ten, not the best step.
        every = JOBS[job] if job == "step soap" else 1
        best = {
            name: min(
                sum(values[i : i + every]) / every for i in range(0, len(values) - every + 1, every)
            )
            for name, side in running.items()
            if (values := side.seconds.get(job))
        }
        result[job] = best | {"after / before": best["after"] / best["before"]}
        print(job.ljust(22) + "  ".join(f"{k} {v:.4f}" for k, v in result[job].items()))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
