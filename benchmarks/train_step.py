"""Seconds of one training step of `mbt2018-mean` beside CompressAI's, alternating in one run.

Both sides train the same network (N=128, M=192 unless told otherwise) on the same number of random
crops and threads, from a fresh start: forward, rate-distortion loss, backward, clipping, Adam. Both
use additive noise. CompressAI runs as its examples/train.py does: NCHW, plus the auxiliary loss
with an Adam of its own. lictor runs as its recipes do: channels last, fused Adam, once in float32
and once under bfloat16 autocast.

Bursts of steps alternate (lictor, CompressAI, lictor bfloat16, ...), so that a drifting machine
slows all sides alike; the ratio is best over best.

    python benchmarks/train_step.py [--peer-python PYTHON] [--rounds 6] [--json FILE]

CompressAI wants another NumPy than lictor, so it lives in a virtual environment of its own, and
this file runs itself there. To set one up:

    pip install torch==2.13.0 "numpy<2" scipy einops tqdm pandas requests pillow
    pip install pytorch-msssim torch-geometric
    pip install --no-deps compressai==1.2.8

torchvision is not needed: CompressAI only lists its transforms, so an empty stand-in will do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressai_stand_in import ensure_torchvision

LMBDA, LR, AUX_LR, MAX_GRAD_NORM = 0.0067, 1e-4, 1e-3, 1.0
Step = Callable[[], object]


def lictor_step(args: argparse.Namespace, precision: str) -> Step:
    from lictor.data.crops import Crops
    from lictor.data.folder import ImageFolder
    from lictor.layers.quantize.catalogue import noise
    from lictor.models.hyperprior import MeanScaleHyperpriorModel
    from lictor.optim.factory import OPTIMIZERS
    from lictor.runtime import Runtime
    from lictor.training.loop import train_step
    from lictor.training.rate_distortion import Piece, RateDistortionTask

    torch.manual_seed(0)
    model = MeanScaleHyperpriorModel(args.n, args.m)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = OPTIMIZERS["adam"](model, LR)
    shape = (args.size, args.size, 3)
    folder = ImageFolder(("noise",), lambda _: np.zeros(shape, np.uint8))
    task = RateDistortionTask(
        model,
        Crops(folder, args.size, args.batch),
        folder,
        lmbda=LMBDA,
        surrogate=noise().at,
        runtime=Runtime(precision=precision),
    )
    crops = np.random.default_rng(0).integers(0, 256, (args.batch, *shape), np.uint8)
    batch = [Piece(0, torch.from_numpy(crops))]
    return lambda: train_step(task, batch, step=0, optimizer=optimizer, max_grad_norm=MAX_GRAD_NORM)


def compressai_step(args: argparse.Namespace) -> Step:
    ensure_torchvision()
    from compressai.losses import RateDistortionLoss  # pyright: ignore
    from compressai.models import MeanScaleHyperprior  # pyright: ignore
    from compressai.optimizers import net_aux_optimizer  # pyright: ignore

    torch.manual_seed(0)
    model = MeanScaleHyperprior(args.n, args.m).train()
    criterion = RateDistortionLoss(lmbda=LMBDA)
    conf = {"net": {"type": "Adam", "lr": LR}, "aux": {"type": "Adam", "lr": AUX_LR}}
    optimizers = net_aux_optimizer(model, conf)
    x = torch.rand(args.batch, 3, args.size, args.size)

    def step() -> float:
        optimizers["net"].zero_grad()
        optimizers["aux"].zero_grad()
        loss = criterion(model(x), x)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizers["net"].step()
        aux_loss = model.aux_loss()
        aux_loss.backward()
        optimizers["aux"].step()
        return float(loss.detach())

    return step


def burst(step: Step, steps: int) -> list[float]:
    """Time `steps` steps, after one that brings caches and frequency back."""
    step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds


class Peer:
    """CompressAI's side, in its own interpreter: one line in, one burst out."""

    def __init__(self, args: argparse.Namespace):
        own = ["--peer-side", *(f"--{k}={getattr(args, k)}" for k in ("n", "m", "batch", "size"))]
        self.command = [args.peer_python, __file__, *own, f"--threads={args.threads}"]
        # Its environment must not find this interpreter's packages.
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean
        )
        self.versions: dict[str, str] = self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the peer's interpreter failed; see its message above")
        return json.loads(line)

    def burst(self, steps: int) -> list[float]:
        """Have the peer time a burst."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Let the peer end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def peer_side(args: argparse.Namespace) -> None:
    step = compressai_step(args)
    print(json.dumps({k: version(k) for k in ("torch", "compressai", "numpy")}), flush=True)
    for line in sys.stdin:
        print(json.dumps(burst(step, int(line))), flush=True)


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Alternate bursts of all sides and return the report."""
    steps = {
        "lictor float32": lictor_step(args, "float32"),
        "lictor bfloat16": lictor_step(args, "bfloat16"),
    }
    sides: dict[str, Callable[[int], list[float]]] = {
        name: lambda count, step=step: burst(step, count) for name, step in steps.items()
    }
    peer = Peer(args) if args.peer_python else None
    versions = {"lictor": {name: version(name) for name in ("torch", "lictor", "numpy")}}
    if peer:
        versions["compressai"] = peer.versions
        # Between the two others, so that both have it as a neighbour.
        sides = {
            "lictor float32": sides["lictor float32"],
            "compressai float32": peer.burst,
            "lictor bfloat16": sides["lictor bfloat16"],
        }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, run in sides.items():
            seconds[name] += (took := run(args.steps))
            print(name, *(f"{s:.3f}" for s in took), file=sys.stderr, flush=True)
    if peer:
        peer.close()
    reference = min(seconds["compressai float32"]) if peer else None
    results = [
        {
            "side": name,
            "best_s": round(min(took), 4),
            "median_s": round(statistics.median(took), 4),
            "ratio_to_compressai": reference and round(min(took) / reference, 3),
        }
        for name, took in seconds.items()
    ]
    return {
        "command": " ".join(["python", *sys.argv]),
        "peer_command": " ".join(peer.command) if peer else None,
        "config": {k: getattr(args, k) for k in ("n", "m", "batch", "size", "threads")},
        "machine": {
            "cpu": cpu_name(),
            "cpus": os.cpu_count(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": versions,
        "results": results,
        "seconds": {name: [round(s, 4) for s in took] for name, took in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a training step beside CompressAI's.")
    parser.add_argument("--peer-python", help="the interpreter that has compressai")
    parser.add_argument("--peer-side", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, default=128, help="hidden channels; default 128")
    parser.add_argument("--m", type=int, default=192, help="latent channels; default 192")
    parser.add_argument("--batch", type=int, default=8, help="crops in a batch; default 8")
    parser.add_argument("--size", type=int, default=256, help="side of a crop; default 256")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side; default 2")
    parser.add_argument("--rounds", type=int, default=6, help="bursts of each side; default 6")
    parser.add_argument("--steps", type=int, default=2, help="timed steps in a burst; default 2")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peer_side:
        peer_side(args)
        return
    report = measure(args)
    print("side                  best s   median s   ratio of best")
    for row in report["results"]:
        ratio = row["ratio_to_compressai"]
        print(f"{row['side']:20} {row['best_s']:8.3f} {row['median_s']:10.3f}   {ratio or '-'}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
