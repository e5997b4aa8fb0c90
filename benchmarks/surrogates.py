"""Which stand-in for rounding trains the best codec: equal budgets, files of Kodak.

Each arm trains one network at one trade-off from the same weights on the same crops; only the
surrogate differs. Then its codec compresses the test pictures to files, and the sizes of those
files and the decoded pictures are what counts: J = bpp + lmbda * 255^2 * MSE, averaged over the
pictures. All along, the loss with rounding and the mismatch (loss under the surrogate less loss
under rounding, same weights) are measured on held-out pictures.

    python benchmarks/surrogates.py PICTURES KODAK --out runs/s --results results/surrogates

An arm is a surrogate of the table, then changes to its settings, as in
`sua,temperature_end=0.25`; `,model.` changes the model's settings, as in
`mixed,model.scale_bound=0.05`. What is done is skipped, what was cut short goes on from its
checkpoint. In the results: one JSON file an arm, with its curve.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lictor.codecs.learned import Codec
from lictor.data.images import load_image
from lictor.files import write_file
from lictor.training.recipe import RunConfig, config_from_dict, config_to_dict
from lictor.training.run import METRICS, load_run, run

# network -> (widths, learning rate of SOAP)
NETWORKS: dict[str, tuple[dict[str, Any], float]] = {
    "checkerboard": ({"n": 24, "m": 32, "depth": 1}, 3e-3),
    "mbt2018-mean": ({"n": 24, "m": 32}, 3e-3),
    "bmshj2018-factorized": ({"n": 24, "m": 32}, 3e-3),
}
ARMS = ("noise", "mixed", "sua", "sua,temperature_end=0.5", "soft-round-noise", "sga")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def arm_config(
    network: str, arm: str, lmbda: float, seed: int, args: argparse.Namespace
) -> RunConfig:
    """Return the recipe of an arm."""
    name, *changes = arm.split(",")
    widths, lr = NETWORKS[network]
    tree: dict[str, Any] = {
        "model": {"name": network, **widths},
        "loss": {"lmbda": lmbda},
        "surrogate": {"name": name},
        "optim": {"name": "soap", "lr": args.lr or lr, "schedule": "flat-cosine", "flat": 0.5},
        "sma": {"interval": 10, "alpha": 0.05, "start": 0.05},
        "data": {"crop_size": args.crop, "held_out": 16, "workers": 1},
        "train": {
            "steps": args.steps,
            "batch_size": args.batch,
            "seed": seed,
            "eval_every": max(1, args.steps // 16),
            "eval_side": 256,
            "checkpoint_every": max(1, args.steps // 16),
            "log_every": 100,
            "mismatch": True,
        },
    }
    for change in changes:
        key, _, text = change.partition("=")
        section, _, key = key.rpartition(".")
        tree[section or "surrogate"][key] = _value(text)
    return config_from_dict(tree, source=arm)


def curve(folder: Path) -> list[dict[str, Any]]:
    """Return the evaluations of a run."""
    rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [row for row in rows if row["kind"] == "evaluation"]


def coded(codec: Codec, pictures: list[Path], lmbda: float) -> dict[str, Any]:
    """Compress pictures to bytes and back; return what they cost and how far they are off."""
    rows = []
    for path in pictures:
        image = load_image(path)
        data = codec.encode(image)
        decoded = codec.decode(data)
        error = (image.astype(np.float64) - decoded.astype(np.float64)) / 255
        mse = float(np.mean(error**2))
        bpp = 8 * len(data) / (image.shape[0] * image.shape[1])
        rows.append({"picture": path.stem, "bpp": bpp, "psnr": -10 * float(np.log10(mse)),
                     "loss": bpp + lmbda * 255**2 * mse})  # fmt: skip
    means = {key: float(np.mean([r[key] for r in rows])) for key in ("bpp", "psnr", "loss")}
    return {**means, "pictures": rows}


def train_arm(config: RunConfig, folder: Path, result: Path, args: argparse.Namespace) -> None:
    """Train an arm to its end and write what its codec does to the test pictures."""
    begin, cpu = time.monotonic(), time.process_time()
    resume = (folder / "checkpoint.pt").exists()
    for report in run(config, args.pictures, folder, resume=resume):
        if not hasattr(report, "grad_norm"):
            print(f"{result.stem} {report.step} {report.loss:.4f}", flush=True)
    model, _, step = load_run(folder)
    codec = Codec.freeze(model, notes={"recipe": config_to_dict(config)})
    record = {
        "config": config_to_dict(config),
        "steps": step,
        "curve": curve(folder),
        "kodak": coded(codec, sorted(args.kodak.glob("*.png")), config.loss.lmbda),
        "wall_s": time.monotonic() - begin,
        "cpu_s": time.process_time() - cpu,
        "torch": torch.__version__,
    }
    write_file(result, (json.dumps(record) + "\n").encode())
    for name in ("checkpoint.pt", "best.pt"):
        (folder / name).unlink(missing_ok=True)
    kodak = record["kodak"]
    print(
        f"{result.stem} done: {kodak['bpp']:.4f} bpp {kodak['psnr']:.3f} dB J {kodak['loss']:.4f}",
        flush=True,
    )


def main() -> int:
    """Train what is asked for and is not done yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("kodak", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--lmbdas", nargs="+", type=float, default=[0.0035, 0.025])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.0, help="in place of the network's own")
    args = parser.parse_args()
    torch.set_num_threads(1)
    order = itertools.product(args.seeds, args.lmbdas, args.arms, args.networks)
    for seed, lmbda, arm, network in order:
        name = f"{network}-{lmbda:g}-{arm}-{seed}"
        result = args.results / f"{name}.json"
        if not result.exists():
            config = arm_config(network, arm, lmbda, seed, args)
            train_arm(config, args.out / name, result, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
