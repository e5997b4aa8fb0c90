"""How many steps and seconds an optimizer needs to reach the loss that Adam ends at.

Each arm trains the same network from the same weights on the same crops with the same clipping,
batch and schedule (flat for 60 % of the steps, then half a cosine down to 1 %); only the optimizer
and its learning rate differ. All along, the rate-distortion loss is measured with hard rounding on
the middle of held-out pictures. A SOAP arm's figure is the first evaluation that is no worse than
the last one of the best Adam arm of the same network and seed.

    python benchmarks/time_to_target.py PICTURES --out runs/time-to-target

An arm is `optimizer:lr`, then changes to other keys of a recipe's [optim], as in
`soap:1e-3,beta1=0.9,precondition_every=5`. What is done is skipped, what was cut short goes on from
its last checkpoint; with --summary nothing is trained. In the folder: one JSON file and one codec
file (for `lictor evaluate` and `lictor analyze`) for each arm, summary.json, and a plot of loss
against steps and one against seconds for each network.

Seconds are told in three ways, because the machine may be shared: wall and process CPU time of the
training steps, and calibrated: steps times the mean step time of the best burst, where bursts of
Adam, of SOAP and of all arms whose steps cost something else alternate, before every arm, and a
burst is as long as the cycle of SOAP's refresh.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lictor.codecs.learned import Codec
from lictor.config import write
from lictor.data.folder import ImageFolder, open_image_folder
from lictor.data.images import image_to_tensor
from lictor.files import write_file
from lictor.models.base import AbstractCodecModel
from lictor.models.zoo import MODELS
from lictor.optim.factory import OPTIMIZERS
from lictor.runtime import Runtime
from lictor.training.checkpoint import RunState, read_checkpoint, restore, save_checkpoint
from lictor.training.loop import train, train_step
from lictor.training.loss import rate_distortion
from lictor.training.rate_distortion import RateDistortionTask, codec_task
from lictor.training.recipe import OptimConfig, RunConfig, config_from_dict, config_to_dict

ARMS = ("adam:1e-3", "soap:1e-3", "soap:3e-3", "adam:3e-4", "adam:1e-4", "soap:1e-4")
NETWORKS = ("mbt2018-mean", "checkerboard")
# What of [optim], beside the name, changes the time of a step by more than its noise.
COSTLY = {"soap": ("precondition_every", "shapes", "max_factor")}


def arm_config(args: argparse.Namespace, network: str, arm: str, seed: int) -> RunConfig:
    name, _, settings = arm.partition(":")
    lr, *changes = settings.split(",")
    optim: dict[str, Any] = {"name": name, "lr": float(lr), "schedule": "flat-cosine"}
    if name == "soap":
        optim |= {"beta1": 0.95, "beta2": 0.95}  # of the authors' code; Adam keeps its own
    for key, _, value in (change.partition("=") for change in changes):
        optim[key] = json.loads(value) if value[:1].isdigit() else value
    sizes = {key: getattr(args, key) for key in MODELS[network].tiny}
    return config_from_dict(
        {
            "model": {"name": network, **sizes},
            "loss": {"lmbda": args.lmbda},
            "surrogate": {"name": "noise" if network.startswith("mbt") else "mixed"},
            "optim": optim,
            "data": {"crop_size": args.crop, "held_out": args.held_out},
            "train": {
                "steps": args.steps,
                "batch_size": args.batch,
                "seed": seed,
                "precision": args.precision,
            },
        },
        source=arm,
    )


def step_kind(optim: Mapping[str, Any]) -> str:
    """Name what a step costs: the optimizer, and what of its settings is not the default."""
    name = optim["name"]
    default = write(OptimConfig(name))
    changes = [
        f"{k}={optim[k]}" for k in COSTLY.get(name, ()) if optim.get(k, default[k]) != default[k]
    ]
    return ",".join([name, *changes])


def new_run(config: RunConfig) -> tuple[AbstractCodecModel, RunState]:
    torch.manual_seed(config.train.seed)
    model = MODELS[config.model.name].make(config.model.settings)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model, RunState(
        OPTIMIZERS[config.optim.name].make(config.optim.settings, model, config.optim.lr)
    )


def task_of(
    config: RunConfig, model: AbstractCodecModel, training: ImageFolder, held_out: ImageFolder
) -> RateDistortionTask:
    return codec_task(config, model, training, held_out, Runtime(precision=config.train.precision))


@torch.no_grad()
def evaluate(model: AbstractCodecModel, held_out: ImageFolder, side: int, lmbda: float) -> dict:
    """Return loss, bpp and PSNR (of the mean error), hard rounding, float32."""
    losses, bpps, errors = [], [], []
    for number in range(len(held_out)):
        image = held_out.load(number)
        height, width = (min(side, s) for s in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        x = image_to_tensor(image[top : top + height, left : left + width])
        loss = rate_distortion(x, model(x), lmbda)
        losses.append(float(loss.total))
        bpps.append(float(loss.bpp))
        errors.append(float(loss.distortion))
    mean = {"loss": losses, "bpp": bpps, "mse": errors}
    result = {key: sum(values) / len(values) for key, values in mean.items()}
    return result | {"psnr": -10 * math.log10(max(result["mse"], 1e-12))}


def bursts(config: RunConfig, folder: ImageFolder, length: int) -> Iterator[float]:
    """Yield the mean seconds of a training step over a burst, for ever."""
    model, state = new_run(config)
    task = task_of(config, model, folder, folder)
    batch = task.batch(0)

    def step() -> None:
        train_step(
            task,
            batch,
            step=0,
            optimizer=state.optimizer,
            max_grad_norm=config.optim.max_grad_norm,
        )

    for group in state.optimizer.param_groups:
        group["lr"] = 1e-6  # the time of a step does not depend on it, and nothing can diverge
    step()
    while True:
        step()
        start = time.perf_counter()
        for _ in range(length):
            step()
        yield (time.perf_counter() - start) / length


def calibrate(
    args: argparse.Namespace,
    network: str,
    folder: ImageFolder,
    path: Path,
    arms: Sequence[str] = (),
) -> dict[str, float]:
    """Alternate bursts of Adam, SOAP and what else the arms need; keep the best of all calls."""
    best: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    configs = [arm_config(args, network, arm, 0) for arm in ("adam:1e-3", "soap:1e-3", *arms)]
    kinds = {step_kind(write(config.optim)): config for config in configs}
    sides = {
        kind: bursts(config, folder, write(config.optim).get("precondition_every", 10))
        for kind, config in kinds.items()
    }
    for _, (name, side) in itertools.product(range(args.calibration_rounds), sides.items()):
        best[name] = min(next(side), best.get(name, math.inf))
    write_file(path, (json.dumps(best, indent=1) + "\n").encode())
    return best


def run_arm(
    config: RunConfig,
    training: ImageFolder,
    held_out: ImageFolder,
    path: Path,
    args: argparse.Namespace,
) -> None:
    """Train one arm to its end, going on from its checkpoint if there is one.

    The record is written before the checkpoint, so that it is never behind; what it has beyond is
    dropped. It is done when the codec is there.
    """
    model, state = new_run(config)
    checkpoint = path.with_suffix(".pt")
    record: dict[str, Any] = {"rows": [], "step_s": [], "wall_s": 0.0, "cpu_s": 0.0}
    if checkpoint.exists() and path.exists():
        restore(read_checkpoint(checkpoint), checkpoint, model, state)
        record = up_to(state.step, json.loads(path.read_text()))
    else:
        record |= description(config, args)
        record["rows"].append(
            {"step": 0, "wall_s": 0.0, "cpu_s": 0.0}
            | evaluate(model, held_out, args.eval_side, config.loss.lmbda)
        )
    cpu = time.process_time()
    for report in train(config, task_of(config, model, training, held_out), state):
        record["wall_s"] += report.step_s
        record["cpu_s"] += time.process_time() - cpu
        record["step_s"].append(round(report.step_s, 5))
        if state.step % args.eval_every == 0 or state.step == config.train.steps:
            row = evaluate(model, held_out, args.eval_side, config.loss.lmbda)
            times = {key: round(record[key], 3) for key in ("wall_s", "cpu_s")}
            record["rows"].append({"step": state.step, **times, "train_loss": report.loss} | row)
            record["skipped"] = state.skipped
            write_file(path, (json.dumps(record) + "\n").encode())
            save_checkpoint(checkpoint, config, model, state)
            print(f"{path.stem} step {state.step} loss {row['loss']:.4f}", flush=True)
        cpu = time.process_time()
    notes = {"steps": state.step, "recipe": config_to_dict(config)}
    Codec.freeze(model, notes=notes).save(path.with_suffix(".lcodec"))
    write_file(path, (json.dumps(record | {"done": True}) + "\n").encode())
    checkpoint.unlink()


def up_to(step: int, record: dict[str, Any]) -> dict[str, Any]:
    """Return what a record had when the checkpoint of a step was written."""
    rows = [row for row in record["rows"] if row["step"] <= step]
    times = {key: rows[-1][key] for key in ("wall_s", "cpu_s")}
    return record | times | {"rows": rows, "step_s": record["step_s"][:step]}


def description(config: RunConfig, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "config": config_to_dict(config),
        "threads": torch.get_num_threads(),
        "eval_side": args.eval_side,
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "numpy")},
    }


def crossing(arm: dict[str, Any], target: float) -> dict[str, Any] | None:
    """Return the first evaluation that is no worse than the target."""
    return next((row for row in arm["rows"] if row["step"] and row["loss"] <= target), None)


def compare(arms: dict[str, dict[str, Any]], step_s: dict[str, float]) -> dict[str, Any]:
    """Set the arms of one network and seed beside the best of Adam's."""
    final = {name: arm["rows"][-1] for name, arm in arms.items()}
    adams = [name for name in arms if name.startswith("adam:")]
    if not adams:
        return {"final": final}
    best = min(adams, key=lambda name: final[name]["loss"])
    target = final[best]["loss"]
    rows = {}
    for name, arm in arms.items():
        row: dict[str, Any] = {"final_loss": final[name]["loss"], "steps_to_target": None}
        found = crossing(arm, target)
        if found:
            # Not known where the arm is older than the kinds of the calibration.
            burst = step_s.get(step_kind(arm["config"]["optim"]))
            calibrated = None if burst is None else burst * found["step"]
            of_adam = step_s["adam"] * final[best]["step"]
            row |= {
                "steps_to_target": found["step"],
                "step_saving": 1 - found["step"] / final[best]["step"],
                "wall_ratio": found["wall_s"] / final[best]["wall_s"],
                "cpu_ratio": found["cpu_s"] / final[best]["cpu_s"],
                "calibrated_s": calibrated,
                "calibrated_ratio": None if calibrated is None else calibrated / of_adam,
            }
        rows[name] = row
    return {"best_adam": best, "target": target, "arms": rows}


def is_done(path: Path) -> bool:
    return path.exists() and bool(json.loads(path.read_text()).get("done"))


def done_by_seed(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the records of what is done, by seed and by the name of their files."""
    by_seed: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*-seed*.json")):
        if is_done(path):
            name, _, seed = path.stem.rpartition("-seed")
            by_seed.setdefault(seed, {})[name] = json.loads(path.read_text())
    return by_seed


def summarize(out: Path) -> dict[str, Any]:
    """Compare what is done so far and write summary.json and the plots."""
    summary: dict[str, Any] = {}
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        calibration = folder / "calibration.json"
        if not calibration.exists():
            continue
        step_s = json.loads(calibration.read_text())
        by_seed = {
            seed: {name.replace("_", ":", 1): arm for name, arm in arms.items()}
            for seed, arms in done_by_seed(folder).items()
        }
        seeds = {seed: compare(arms, step_s) for seed, arms in by_seed.items()}
        ratio = step_s["soap"] / step_s["adam"]
        summary[folder.name] = {"step_s": step_s, "step_ratio": ratio, "seeds": seeds}
        for axis in ("steps", "seconds"):
            plot(by_seed, step_s, axis, f"{folder.name}: loss against {axis}", folder)
    write_file(out / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    return summary


def plot(
    by_seed: dict[str, dict[str, Any]],
    step_s: dict[str, float],
    axis: str,
    title: str,
    folder: Path,
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    names = sorted({name for arms in by_seed.values() for name in arms})
    lowest, start = math.inf, 0.0
    for number, (seed, arms) in enumerate(by_seed.items()):
        for name, arm in arms.items():
            rows = arm["rows"][1:]
            kind = step_kind(arm["config"]["optim"])
            scale = step_s.get(kind) if axis == "seconds" else 1.0
            if scale is None:
                continue
            axes.plot(
                [row["step"] * scale for row in rows],
                [row["loss"] for row in rows],
                color=f"C{names.index(name)}",
                linestyle=("-", "--", ":")[number % 3],
                label=f"{name}, seed {seed}",
            )
            lowest = min(lowest, *(row["loss"] for row in rows))
            start = max(start, rows[len(rows) // 20]["loss"])
    if math.isfinite(lowest):  # there is something to draw
        axes.set_ylim(0.97 * lowest, min(start, 4 * lowest))
        axes.legend(fontsize="small")
    axes.set_xlabel("calibrated seconds" if axis == "seconds" else "steps")
    axes.set_ylabel("held-out R-D loss")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.savefig(folder / f"loss-{axis}.png", dpi=120)


def print_summary(summary: dict[str, Any]) -> None:
    for network, results in summary.items():
        print(f"{network}: a step of SOAP takes {results['step_ratio']:.3f} of Adam's")
        for seed, result in results["seeds"].items():
            if "target" not in result:
                continue
            print(f"  seed {seed}: target {result['target']:.4f} ({result['best_adam']})")
            for name, row in result["arms"].items():
                text = f"    {name:24} final {row['final_loss']:.4f}"
                if row["steps_to_target"]:
                    text += f"   target at {row['steps_to_target']} steps"
                    text += f" ({row['step_saving']:.0%} fewer, "
                    ratio = row["calibrated_ratio"]
                    text += "time not known)" if ratio is None else f"{1 - ratio:.0%} less time)"
                print(text)


def add_options(
    parser: argparse.ArgumentParser, *, eval_every: int, calibration_rounds: int
) -> None:
    """Add the options that benchmarks of training share."""
    add: Callable[..., Any] = parser.add_argument
    add("pictures", type=Path, nargs="?", help="a folder of photographs")
    add("--out", type=Path, required=True, help="folder of the results")
    add("--networks", nargs="+", default=NETWORKS)
    add("--seeds", nargs="+", type=int, default=(0, 1))
    add("--n", type=int, default=48, help="hidden channels; 128 in the literature")
    add("--m", type=int, default=64, help="latent channels; 192 in the literature")
    add("--depth", type=int, default=1, help="of checkerboard")
    add("--steps", type=int, default=2000)
    add("--batch", type=int, default=8)
    add("--crop", type=int, default=128)
    add("--lmbda", type=float, default=0.0067)
    add("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    add("--held-out", type=int, default=16)
    add("--eval-side", type=int, default=256, help="pixels of each held-out picture's middle")
    add("--eval-every", type=int, default=eval_every)
    add("--calibration-rounds", type=int, default=calibration_rounds)
    add("--threads", type=int, default=1)
    add("--summary", action="store_true", help="compare what is done, train nothing")


def open_pictures(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> tuple[ImageFolder, ImageFolder]:
    """Return the pictures to train on and those held out."""
    if args.pictures is None:
        parser.error("a folder of pictures is needed to train")
    return open_image_folder(args.pictures, cache_bytes=2**32).split(args.held_out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", default=ARMS)
    add_options(parser, eval_every=50, calibration_rounds=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.summary:
        training, held_out = open_pictures(parser, args)
        for seed, arm, network in itertools.product(args.seeds, args.arms, args.networks):
            config = arm_config(args, network, arm, seed)
            folder = args.out / network
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{arm.replace(':', '_')}-seed{seed}.json"
            if is_done(path):
                continue
            calibrate(args, network, training, folder / "calibration.json", args.arms)
            run_arm(config, training, held_out, path, args)
            summarize(args.out)
    print_summary(summarize(args.out))


if __name__ == "__main__":
    sys.exit(main())
