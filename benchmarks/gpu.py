"""What training on a device gives: agreement with the CPU, speed, memory, and a short real run.

Parts, each written to its own JSON file in --out as soon as it is done:

agree      losses of 20 steps on the CPU and on the device, for every model and optimizer, in full
           float32 and with straight-through rounding (noise differs between devices)
files      files of a codec that was trained on the device decode to the same symbols on the CPU
techniques whole runs with SMA, STDET and the conflict probe, against the CPU's; a checkpoint of the
           device goes on on the CPU
steps      training steps a second in float32 and bfloat16, for Adam and SOAP, with peak memory
compiled   the same in bfloat16, the network compiled
input      crops a second that threads bring to the device
peer       CompressAI's training step on the same device, where it can be imported
train      a short real training with its curve

    python benchmarks/gpu.py [--device cuda] [--data PHOTOGRAPHS] [--minutes 8] [--out DIR]
    python benchmarks/gpu.py --device cpu --small        # the same on a CPU, to see that it works

Without --data the photographs are those that travel with scikit-image.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressai_stand_in import ensure_torchvision
from lictor.codecs.learned import Codec
from lictor.coding.container import Container
from lictor.data.crops import Crops
from lictor.data.folder import ImageFolder, open_image_folder
from lictor.data.prefetch import Prefetcher
from lictor.evaluation.provenance import cpu_name, versions
from lictor.layers.quantize.catalogue import mixed, straight_through
from lictor.models.base import AbstractCodecModel
from lictor.models.zoo import MODELS
from lictor.optim.factory import OPTIMIZERS
from lictor.runtime import Runtime, choose_device
from lictor.training.loop import train_step
from lictor.training.rate_distortion import Piece, RateDistortionTask
from lictor.training.recipe import config_from_dict
from lictor.training.run import Evaluation, load_run, run

LMBDA = 0.0067
EVERY = 10  # steps in a burst: the cycle of SOAP's refresh


def photographs(folder: Path) -> Path:
    """Write a few photographs of scikit-image as files."""
    from PIL import Image
    from skimage import data

    for name in ("astronaut", "coffee", "chelsea", "rocket", "cat", "immunohistochemistry"):
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
    return folder


def build(name: str, sizes: dict[str, int], device: torch.device) -> AbstractCodecModel:
    torch.manual_seed(0)
    model = MODELS[name](**sizes)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model.to(device)


def task_of(
    model: AbstractCodecModel, runtime: Runtime, *, size: int, batch: int, rounding: Any = mixed
) -> RateDistortionTask:
    folder = ImageFolder(("noise",), lambda _: np.zeros((size, size, 3), np.uint8))
    return RateDistortionTask(
        model, Crops(folder, size, batch), folder, LMBDA, rounding().at, runtime
    )


def pieces(folder: ImageFolder, *, size: int, batch: int, step: int = 0) -> list[Piece]:
    crops = Crops(folder, size, batch).batch(step)
    return [Piece(0, torch.from_numpy(crops))]


# ----------------------------------------------------------------------------------------- parts


def agree(args: argparse.Namespace, folder: ImageFolder) -> dict[str, Any]:
    """Train every model with every optimizer on both; tell the largest relative differences."""
    torch.backends.cudnn.allow_tf32 = False
    rows = []
    for name, optimizer in itertools.product(MODELS, OPTIMIZERS):
        losses = []
        for device in (torch.device("cpu"), args.place):
            model = build(name, dict(MODELS[name].tiny), device)
            task = task_of(model, Runtime(device), size=64, batch=2, rounding=straight_through)
            built = OPTIMIZERS[optimizer](model, 1e-3)
            losses.append(
                [
                    train_step(
                        task, pieces(folder, size=64, batch=2, step=s), step=s, optimizer=built
                    ).loss
                    for s in range(20)
                ]
            )
        off = [abs(b / a - 1) for a, b in zip(*losses, strict=True)]
        rows.append(
            {"model": name, "optimizer": optimizer, "first_step": off[0], "largest_of_20": max(off)}
        )
    torch.backends.cudnn.allow_tf32 = True
    return {"rows": rows, "worst": max(row["largest_of_20"] for row in rows)}


def files(args: argparse.Namespace, folder: ImageFolder) -> dict[str, Any]:
    """Train a little on the device, freeze; code with the transforms there, decode on the CPU."""
    rows = []
    for name in MODELS:
        model = build(name, dict(MODELS[name].tiny), args.place)
        # A large lambda, so that there is something in the files.
        task = dataclasses.replace(
            task_of(model, Runtime(args.place), size=64, batch=4), lmbda=10 * LMBDA
        )
        optimizer = OPTIMIZERS["soap"](model, 3e-3)
        for step in range(60):
            train_step(
                task, pieces(folder, size=64, batch=4, step=step), step=step, optimizer=optimizer
            )
        codec, there = Codec.freeze(model), Codec.freeze(model).to(args.place)
        for number in range(min(3, len(folder))):
            image = np.ascontiguousarray(folder.load(number)[:300, :400])
            data = there.encode(image)
            here, picture = codec.decode(data), there.decode(data)  # both check the symbols' CRC
            rows.append(
                {
                    "model": name,
                    "same_bytes_as_the_cpu": data == codec.encode(image),
                    "symbol_crc": f"{Container.from_bytes(data).symbol_crc:08x}",
                    "largest_grey_level_off": int(
                        np.abs(here.astype(int) - picture.astype(int)).max()
                    ),
                }
            )
    return {"rows": rows}


def techniques(args: argparse.Namespace, folder: ImageFolder) -> dict[str, Any]:
    """Run every technique on both, without noise; resume the device's run on the CPU."""
    del folder
    torch.backends.cudnn.allow_tf32 = False
    stdet = {"snapshot_every": 1, "warmup": 9, "window": 2, "samples": 200, "modes": 3}
    kinds = {
        "sma": {"sma": {"interval": 3, "feedback": True}},
        "stdet": {"stdet": stdet},
        "stdet averaged, chain rule": {
            "stdet": {**stdet, "dummy": "averaged", "reference": "chain"}
        },
        "conflict": {"train": {"conflict_every": 5, "conflict_lag": 2}},
    }
    rows = []
    for name, extra in kinds.items():
        for optimizer in ("adam", "soap"):
            losses = []
            for device in (torch.device("cpu"), args.place):
                tree = {
                    "model": {"name": "mbt2018-mean", **MODELS["mbt2018-mean"].tiny},
                    "surrogate": {"name": "straight-through"},
                    "optim": {"name": optimizer, "lr": 1e-3},
                    "data": {"crop_size": 64, "held_out": 1},
                    **extra,
                    "train": {
                        "steps": 20,
                        "batch_size": 2,
                        "eval_every": 10,
                        "checkpoint_every": 10,
                    }
                    | extra.get("train", {}),
                }
                with tempfile.TemporaryDirectory() as out:
                    runtime = Runtime(device)
                    config = config_from_dict(tree, source="gpu.py")
                    losses.append([r.loss for r in run(config, args.data, out, runtime=runtime)])
                    tree["train"]["steps"] = 25
                    config = config_from_dict(tree, source="gpu.py")
                    more = list(run(config, args.data, out, resume=True))
                    assert math.isfinite(more[-1].loss)
            off = [abs(b / a - 1) for a, b in zip(*losses, strict=True)]
            rows.append({"technique": name, "optimizer": optimizer, "largest": max(off)})
    torch.backends.cudnn.allow_tf32 = True
    return {"rows": rows}


def steps_a_second(step: Callable[[], object], seconds: float) -> dict[str, float]:
    """Time bursts of a training step, after a few to warm up."""
    for _ in range(3):
        step()
    bursts: list[float] = []
    began = time.perf_counter()
    while len(bursts) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        for _ in range(EVERY):
            step()
        bursts.append((time.perf_counter() - start) / EVERY)
    return {"steps_per_s": 1 / min(bursts), "median_steps_per_s": 1 / statistics.median(bursts)}


def steps(args: argparse.Namespace, folder: ImageFolder) -> dict[str, Any]:
    """Time training steps, input left out."""
    return _steps(args, folder, (("float32", False), ("bfloat16", False)))


def compiled_steps(args: argparse.Namespace, folder: ImageFolder) -> dict[str, Any]:
    """Time training steps of compiled networks, input left out."""
    return _steps(args, folder, (("bfloat16", True),))


def _steps(
    args: argparse.Namespace, folder: ImageFolder, ways: Sequence[tuple[str, bool]]
) -> dict[str, Any]:
    rows = []
    for name, sizes in args.networks.items():
        for precision, compiled in ways:
            model = build(name, sizes, args.place)
            runtime = Runtime(args.place, precision=precision)
            task = task_of(model, runtime, size=args.size, batch=args.batch)
            if compiled:
                runtime.compile(model)
                task = dataclasses.replace(task, draws_ahead=True)
            batch = pieces(folder, size=args.size, batch=args.batch)
            batch = [dataclasses.replace(p, crops=runtime.stage(p.crops)) for p in batch]
            adam_s = math.nan
            for optimizer in ("adam", "soap"):
                built = OPTIMIZERS[optimizer](model, 1e-6)

                def step(task: Any = task, batch: Any = batch, built: Any = built) -> None:
                    train_step(task, batch, step=0, optimizer=built)

                start = time.perf_counter()
                first = train_step(task, batch, step=0, optimizer=built)
                first_s = time.perf_counter() - start
                if args.place.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                row = steps_a_second(step, args.burst_s)
                adam_s = 1 / row["steps_per_s"] if optimizer == "adam" else adam_s
                peak = runtime.peak_bytes()
                rows.append(
                    {
                        "model": name, "precision": precision, "compiled": compiled,
                        "optimizer": optimizer, **row, "first_step_s": first_s,
                        "first_loss": first.loss,
                        "time_over_adam": 1 / row["steps_per_s"] / adam_s,
                        "peak_mib": None if peak is None else peak / 2**20,
                    }
                )  # fmt: skip
                print(rows[-1], file=sys.stderr, flush=True)
    return {"size": args.size, "batch": args.batch, "networks": args.networks, "rows": rows}


def input_rate(args: argparse.Namespace, folder: ImageFolder) -> dict[str, Any]:
    """Bring crops to the device as a run does, and do nothing with them."""
    runtime = Runtime(args.place)
    model = build("bmshj2018-factorized", {"n": 1, "m": 1}, args.place)
    task = dataclasses.replace(
        task_of(model, runtime, size=args.size, batch=args.batch),
        crops=Crops(folder, args.size, args.batch),
    )
    rows = []
    for workers in (1, 4, 8):
        batches = iter(Prefetcher(task.batch, workers=workers))
        for _ in range(3):
            next(batches)
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < args.burst_s:
            for piece in next(batches):
                count += len(runtime.put(piece.crops))
        rate = count / (time.perf_counter() - start)
        rows.append({"workers": workers, "crops_per_s": rate})
    return {"size": args.size, "min_scale": task.crops.min_scale, "rows": rows}


def peer(args: argparse.Namespace, folder: ImageFolder) -> dict[str, Any]:
    """Time CompressAI's step of the same network, as its example trains it."""
    del folder
    ensure_torchvision()
    from compressai.losses import RateDistortionLoss  # pyright: ignore
    from compressai.models import MeanScaleHyperprior  # pyright: ignore
    from compressai.optimizers import net_aux_optimizer  # pyright: ignore

    torch.manual_seed(0)
    sizes = args.networks["mbt2018-mean"]
    model = MeanScaleHyperprior(sizes["n"], sizes["m"]).train().to(args.place)
    criterion = RateDistortionLoss(lmbda=LMBDA)
    conf = {"net": {"type": "Adam", "lr": 1e-6}, "aux": {"type": "Adam", "lr": 1e-3}}
    optimizers = net_aux_optimizer(model, conf)
    x = torch.rand(args.batch, 3, args.size, args.size, device=args.place)
    rows = []
    for precision in ("float32", "bfloat16"):

        def step(bfloat16: bool = precision == "bfloat16") -> float:
            optimizers["net"].zero_grad()
            optimizers["aux"].zero_grad()
            with torch.autocast(args.place.type, torch.bfloat16, enabled=bfloat16):
                out = model(x)
                loss = criterion(out, x)["loss"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizers["net"].step()
            model.aux_loss().backward()
            optimizers["aux"].step()
            return float(loss.detach())

        try:
            rows.append({"precision": precision, **steps_a_second(step, args.burst_s)})
        except RuntimeError as error:  # autocast is not what its likelihoods were written for
            rows.append({"precision": precision, "error": str(error).splitlines()[0]})
    return {"package": versions() | {"compressai": "1.2.8"}, "rows": rows}


def train(args: argparse.Namespace, folder: ImageFolder) -> dict[str, Any]:
    """Train for what is left of the time and tell the held-out curve."""
    del folder
    left = args.ends - time.monotonic() - 20
    steps_planned = args.train_steps or max(200, int(left * args.train_rate))
    tree = {
        "model": {"name": "checkerboard", **args.networks["checkerboard"]},
        "loss": {"lmbda": LMBDA},
        "optim": {"name": "soap", "lr": 2e-3},
        "sma": {"interval": 10},
        "data": {"crop_size": args.size, "workers": args.workers},
        "train": {
            "steps": steps_planned, "batch_size": args.train_batch, "precision": "bfloat16",
            "compile": args.compile, "eval_every": max(1, steps_planned // 10),
            "log_every": max(1, steps_planned // 100), "checkpoint_every": steps_planned,
        },
    }  # fmt: skip
    out = args.out / "run"
    curve, started, last = [], time.monotonic(), None
    config = config_from_dict(tree, source="gpu.py")
    for report in run(config, args.data, out, runtime=Runtime(args.place)):
        if isinstance(report, Evaluation):
            seconds = time.monotonic() - started
            curve.append({"step": report.step, "s": seconds, "loss": report.loss, **report.metrics})
            print(curve[-1], file=sys.stderr, flush=True)
        else:
            last = report
    codec = Codec.freeze(load_run(out)[0], weight_dtype=torch.float16)
    codec.save(args.out / "trained.lcodec")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    return {
        "config": tree, "curve": curve, "last_loss": last and last.loss,
        "wait_share": trained[-1]["wait_share"], "step_s": trained[-1]["step_s"],
        "peak_mib": trained[-1]["peak_mib"], "codec": codec.fingerprint.hex(),
    }  # fmt: skip


PARTS: dict[str, Callable[[argparse.Namespace, ImageFolder], dict[str, Any]]] = {
    "agree": agree,
    "files": files,
    "techniques": techniques,
    "steps": steps,
    "compiled": compiled_steps,
    "input": input_rate,
    "peer": peer,
    "train": train,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure training on a device.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data", type=Path, help="folder of photographs")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--minutes", type=float, default=8.0, help="of the whole; default 8")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--small", action="store_true", help="tiny networks and crops")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--burst-s", type=float, default=3.0)
    parser.add_argument("--train-batch", type=int, default=16)
    parser.add_argument("--train-steps", type=int, default=0, help="what the time allows, if 0")
    parser.add_argument("--train-rate", type=float, default=30.0, help="steps a second to plan for")
    parser.add_argument("--workers", type=int, default=8, help="threads that cut crops")
    parser.add_argument("--compile", action="store_true", help="compile in the part train")
    args = parser.parse_args()
    args.place = choose_device(args.device)
    args.networks = {
        "mbt2018-mean": {"n": 128, "m": 192},
        "checkerboard": {"n": 128, "m": 128, "depth": 3},
    }
    if args.small:
        args.networks = {name: dict(MODELS[name].tiny) for name in args.networks}
        args.size, args.batch, args.train_batch, args.burst_s = 128, 2, 2, 1.0
        args.train_steps = args.train_steps or 40
    args.ends = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    device = Runtime(args.place).describe()
    machine = {"device": device, "cpu": cpu_name(), "cpus": os.cpu_count(), "versions": versions()}
    with tempfile.TemporaryDirectory() as temporary:
        args.data = args.data or photographs(Path(temporary))
        folder = open_image_folder(args.data, cache_bytes=2**33)
        for name in args.parts:
            started = time.monotonic()
            try:
                result = PARTS[name](args, folder)
            except ImportError as error:
                result = {"left_out": str(error)}
            report = {
                "command": " ".join(["python", *sys.argv]), "date": time.strftime("%Y-%m-%d"),
                **machine, "seconds": round(time.monotonic() - started, 1), **result,
            }  # fmt: skip
            (args.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
            print(name, f"{report['seconds']} s", flush=True)
            shown = {k: v for k, v in result.items() if k not in ("config", "networks")}
            print(json.dumps(shown, indent=1), flush=True)


if __name__ == "__main__":
    main()
