"""What SOAP costs: seconds of a training step and of the optimizer alone, beside Adam's.

All sides train the same network (`mbt2018-mean`, N=128, M=192, 8 crops of 256x256 unless told
otherwise) as lictor's recipes do: channels last, forward, loss, backward, clipping, step. They are
fused Adam, lictor's SOAP with each shape policy, and pytorch_optimizer's SOAP where it is installed
(without merging of dimensions, which is then the same algorithm as `split`).

Bursts alternate. A burst is as long as the cycle of SOAP's refresh, so that its mean has the share
of the refresh that a long training has; the figure is the best burst, and the ratio best over best.
A training burst alternates with one of the optimizer alone, on gradients that stay. The file has
the means of all bursts (`bursts_s`), which say how far to trust the best.

    python benchmarks/optimizer_step.py [--precision bfloat16] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lictor.data.crops import Crops
from lictor.data.folder import ImageFolder
from lictor.evaluation.provenance import cpu_name, versions
from lictor.layers.quantize.catalogue import noise
from lictor.models.base import AbstractCodecModel
from lictor.models.zoo import build_model
from lictor.optim import SOAP
from lictor.optim.factory import OPTIMIZERS
from lictor.runtime import Runtime
from lictor.training.loop import train_step
from lictor.training.rate_distortion import Piece, RateDistortionTask

EVERY, LR = 10, 1e-5
Build = Callable[[AbstractCodecModel], torch.optim.Optimizer]


def soap(shapes: str, *, stagger: bool = False) -> Build:
    return lambda model: SOAP(
        model.parameters(), LR, shapes=shapes, precondition_every=EVERY, stagger=stagger
    )


def peer(model: AbstractCodecModel) -> torch.optim.Optimizer:
    from pytorch_optimizer import SOAP as PeerSOAP  # pyright: ignore

    return PeerSOAP(
        model.parameters(),
        lr=LR,
        betas=(0.95, 0.95),
        weight_decay=0.0,
        precondition_frequency=EVERY,
        max_precondition_dim=2048,
        merge_dims=False,
        normalize_gradient=False,
    )


SIDES: dict[str, Build] = {
    "Adam, fused": lambda model: OPTIMIZERS["adam"](model, LR),
    "SOAP split": soap("split"),
    "SOAP split, staggered": soap("split", stagger=True),
    "SOAP spatial": soap("spatial"),
    "SOAP matrix": soap("matrix"),
}
if find_spec("pytorch_optimizer"):
    SIDES["pytorch_optimizer SOAP"] = peer


class Side:
    """One optimizer with its own copy of the network."""

    def __init__(self, args: argparse.Namespace, build: Build):
        torch.manual_seed(0)
        sizes = {"n": args.n, "m": args.m} | ({"depth": args.depth} if args.depth else {})
        self.model = build_model(args.network, sizes)
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizer = build(self.model)
        folder = ImageFolder(("noise",), lambda _: np.zeros((args.size, args.size, 3), np.uint8))
        self.task = RateDistortionTask(
            self.model,
            Crops(folder, args.size, args.batch),
            folder,
            lmbda=0.0067,
            surrogate=noise().at,
            runtime=Runtime(precision=args.precision),
        )
        crops = np.random.default_rng(0).integers(
            0, 256, (args.batch, args.size, args.size, 3), np.uint8
        )
        self.batch = [Piece(0, torch.from_numpy(crops))]
        self.whole_s: list[list[float]] = []
        self.alone_s: list[list[float]] = []

    def train(self) -> None:
        """Take a whole training step."""
        train_step(self.task, self.batch, step=0, optimizer=self.optimizer)

    def burst(self) -> None:
        """Time a cycle of training steps, then one of the optimizer's."""
        self.whole_s.append(timed(self.train))
        self.alone_s.append(timed(self.optimizer.step))


def timed(step: Callable[[], object]) -> list[float]:
    """Time `EVERY` steps, after one that brings caches and frequency back."""
    step()
    seconds = []
    for _ in range(EVERY):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds


def best_mean(bursts: list[list[float]]) -> float:
    return min(statistics.mean(burst) for burst in bursts)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Alternate the sides' bursts and return the report."""
    sides = {
        name: Side(args, SIDES[name]) for name in SIDES if not args.sides or name in args.sides
    }
    for side in sides.values():
        side.train()  # the first gradient only sets the bases
    for number in range(args.rounds):
        for name, side in sides.items():
            side.burst()
            whole, alone = (statistics.mean(s[-1]) for s in (side.whole_s, side.alone_s))
            print(f"{number} {name}: {whole:.3f} {alone:.4f}", file=sys.stderr, flush=True)
    base = best_mean(next(iter(sides.values())).whole_s)
    results = [
        {
            "side": name,
            "train_step_s": round(best_mean(side.whole_s), 4),
            "ratio_to_adam": round(best_mean(side.whole_s) / base, 3),
            "optimizer_step_s": round(best_mean(side.alone_s), 4),
            "slowest_step_of_best_burst_s": round(min(max(b) for b in side.whole_s), 4),
            "bursts_s": {
                "train_step": [round(statistics.mean(b), 4) for b in side.whole_s],
                "optimizer_step": [round(statistics.mean(b), 4) for b in side.alone_s],
            },
        }
        for name, side in sides.items()
    ]
    peers = {name: version(name) for name in ("pytorch_optimizer",) if find_spec(name)}
    return {
        "command": " ".join(["python", *sys.argv]),
        "config": {key: value for key, value in vars(args).items() if key not in ("json", "sides")},
        "machine": {
            "cpu": cpu_name(),
            "cpus": os.cpu_count(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": versions() | peers,
        "results": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time optimizers in a training step.")
    parser.add_argument("--network", default="mbt2018-mean", help="default mbt2018-mean")
    parser.add_argument("--n", type=int, default=128, help="hidden channels; default 128")
    parser.add_argument("--m", type=int, default=192, help="latent channels; default 192")
    parser.add_argument("--depth", type=int, default=0, help="of checkerboard")
    parser.add_argument("--batch", type=int, default=8, help="crops in a batch; default 8")
    parser.add_argument("--size", type=int, default=256, help="side of a crop; default 256")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    parser.add_argument("--rounds", type=int, default=4, help="bursts of each side; default 4")
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="default all; Adam comes first")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = measure(args)
    print("side                      train step s   ratio   optimizer alone s   slowest step s")
    for row in report["results"]:
        print(
            f"{row['side']:24} {row['train_step_s']:13.3f} {row['ratio_to_adam']:7.3f}"
            f" {row['optimizer_step_s']:19.4f} {row['slowest_step_of_best_burst_s']:16.3f}"
        )
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
