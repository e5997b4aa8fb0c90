"""What matters in codecs of signals: one thing changed at a time, measured on real files.

    python benchmarks/implicit_ablations.py DATA RUNS --out runs/ablations
    python benchmarks/implicit_ablations.py DATA RUNS --out runs/ablations --summary FILE.json

DATA has thumbs_train, thumbs_items/batch_3.npy, speech_train, speech_test, mri_train and
mri_crop; RUNS the run folders thumbs, speech and mri of `recipes/signals`.

- `paper` trains the paper's network, small, on thumbnails, by the paper's loss: order and rate of
  the inner loop, and a linear part beside the sines;
- `recipe` trains `recipes/signals/thumbnails.toml` for a few hundred steps: optimizers, averaging
  of weights, the rate in the loss;
- `coding` trains nothing: latents of trained networks under several quantizers and models.

An arm is a list of overrides of its group's recipe, and is trained as `lictor train` does. All
test items make one archive at each quality; every byte of it counts. What is done is skipped, and
what was cut short goes on from its checkpoint. --summary prints tables: bits of a patch and PSNR at
the finest quality, and the BD-rate against the group's first arm (of `coding`, the last: what
lictor does) over the PSNR that both reach.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lictor.codecs.signals.codec import SignalCodec
from lictor.codecs.signals.domain import Domain
from lictor.codecs.signals.freezing import Modelling, balanced_steps, freeze_latents
from lictor.codecs.signals.latents import LatentCoding
from lictor.codecs.signals.network import Network, grids_of, own_torch_state
from lictor.codecs.signals.pooled import freeze_pooled
from lictor.comparison.bd import bd_rate
from lictor.data.signals.folder import list_signals
from lictor.data.signals.formats import read_signal
from lictor.data.signals.signal import Signal
from lictor.evaluation.provenance import cpu_name, versions
from lictor.files import write_file
from lictor.training.implicit.signals import open_signals
from lictor.training.recipe import load_recipe
from lictor.training.run import CHECKPOINT, METRICS, Evaluation, load_signal_run, run

RECIPE = Path(__file__).parents[1] / "recipes" / "signals" / "thumbnails.toml"
BITS = (3, 8)  # of the paper's quantizer
SOUNDS = 20  # of the test files

_PAPER = (
    "model.name=coinpp", "model.latent=64", "model.width=64", "model.layers=5", "model.w0=30",
    "fit.steps=3", "fit.points=256", "rate.weight=0", "rate.lowest=-8", "rate.highest=8",
    "optim.lr=3e-4", "sma.interval=0", "data.mirrored=false", "train.batch_size=16",
    "train.steps=1200", "train.eval_every=400", "train.checkpoint_every=200",
)  # fmt: skip
_RECIPE = ("train.steps=600", "train.eval_every=200", "train.checkpoint_every=100")
_FIXED = ("model.rate=0.01", "model.learned_rates=false")
_SOAP = ("optim.name=soap",)


@dataclass(frozen=True)
class Group:
    """Arms that differ from the first in what they are named after."""

    base: tuple[str, ...]
    arms: Mapping[str, tuple[str, ...]]


TRAINED = {
    "paper": Group(
        (*_PAPER, *_FIXED),
        {
            "second order, rate 0.01": (),
            "first order, rate 0.01": ("fit.order=first",),
            "second order, rate 0.1": ("model.rate=0.1",),
            "first order, rate 0.1": ("model.rate=0.1", "fit.order=first"),
            "second order, learned rates from 0.01": ("model.learned_rates=true",),
            "second order, learned rates from 0.1": (
                "model.rate=0.1", "model.learned_rates=true",
            ),
            "linear start": ("model.name=linear-coinpp",),
            "linear start, no inner steps": ("model.name=linear-coinpp", "fit.steps=0"),
            "principal components": (
                "model.name=pca", "model.width=", "model.layers=", "model.w0=",
                "model.learned_rates=", "model.rate=0.5", "fit.steps=0", "rate.weight=1",
                "train.steps=1",
            ),
        },
    ),
    "recipe": Group(
        _RECIPE,
        {
            "adam 1e-3": (),
            "adam 3e-3": ("optim.lr=3e-3",),
            "soap 1e-3": _SOAP,
            "soap 3e-3": (*_SOAP, "optim.lr=3e-3"),
            "adam 1e-3, no averaging": ("sma.interval=0",),
            "adam 1e-3, no rate in the loss": ("rate.weight=0",),
            "principal components": (
                "model.name=pca", "model.latent=128", "model.rate=0.5", "train.steps=1",
                "sma.interval=0",
            ),
        },
    ),
}  # fmt: skip
CODED = ("thumbs", "speech", "mri", "paper")
# What freezing may use, and whether all entries of a latent have the same step.
MODELLED = {
    "one step": (Modelling(contexts=False, prediction=False), True),
    "steps": (Modelling(contexts=False, prediction=False), False),
    "steps, contexts": (Modelling(prediction=False), False),
    "steps, prediction": (Modelling(contexts=False), False),
    "steps, contexts, prediction": (Modelling(), False),
}

Record = dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """A run with the signals that its latents' tables are made from.

    Args:
        folder: of the run.
        data: training signals.
        best: the best evaluation, not the last step.
    """

    folder: Path
    data: Path
    best: bool = False

    @cached_property
    def _loaded(self) -> tuple[Any, Any, int]:
        return load_signal_run(self.folder, best=self.best)

    @property
    def config(self) -> Any:
        """The recipe."""
        return self._loaded[1]

    @cached_property
    def domain(self) -> Domain:
        """What it is for, as `lictor freeze` says it."""
        learner, config, _ = self._loaded
        signal = config.signal
        return Domain(
            signal.kind, signal.channels, signal.sides, whole=not signal.patch,
            coordinates=signal.points, low=float(learner.low), high=float(learner.high),
            clip=(0.0, 1.0) if signal.kind in ("image", "audio") else None, form={},
        )  # fmt: skip

    def training_signals(self) -> Iterator[Signal]:
        """Yield the training signals; neighbours of one shape make one signal."""
        folder = open_signals(self.config, [self.data])
        for _, group in itertools.groupby(folder.items, lambda item: item[0].shape):
            yield Signal(np.stack([values for values, _ in group]), None, self.domain.kind)

    @cached_property
    def latents(self) -> tuple[np.ndarray, list[tuple[int, ...]], np.ndarray]:
        """Latents of the training signals, their grids, and what an error of each entry costs."""
        network = Network(self._loaded[0].net.requires_grad_(False), self.domain)
        signals = list(self.training_signals())
        ranges = [self.domain.range_of(signal) for signal in signals]
        grids = grids_of(self.domain, [signal.samples.shape for signal in signals])
        with own_torch_state():
            found = [
                network.latents(*network.cut(signals, ranges, block), self.config.fit.steps)
                for block in network.blocks(grids)
            ]
        z = torch.cat(found).double().numpy()
        return z, grids, network.gains(z)

    def _codec(self, latents: LatentCoding) -> SignalCodec:
        net = self._loaded[0].net.requires_grad_(False)
        return SignalCodec(net, self.domain, latents, steps=self.config.fit.steps, lmbda=0.0)

    def pooled(self) -> SignalCodec:
        """Return the codec with the paper's quantizer and histograms."""
        return self._codec(freeze_pooled(self.latents[0], qualities=BITS))

    def stepped(self, modelling: Modelling, *, one_step: bool = False) -> SignalCodec:
        """Return the codec with our quantizer.

        Steps begin at the recipe's error where latents have the unit of the values, also where the
        loss knew of no rate: curves of a group have points at the same steps. The sines' latents
        have none.
        """
        z, grids, gains = self.latents
        rate, linear = self.config.rate, self._loaded[0].net.linear is not None
        scale = rate.step if linear else 0.5 * float((gains * z.var(0)).mean()) ** 0.5
        steps = balanced_steps(gains, scale)
        if one_step:  # of the same error in all
            steps = np.full_like(steps, scale / float(gains.mean()) ** 0.5)
        qualities = (rate.lowest, rate.highest)
        return self._codec(
            freeze_latents(z, grids, steps=steps, qualities=qualities, modelling=modelling)
        )


def points_of(codec: SignalCodec, signals: list[Signal], every: int) -> list[Record]:
    """Return rate and mean PSNR of archives of all signals, over qualities."""
    names = [str(number) for number in range(len(signals))]
    grids = grids_of(codec.domain, [signal.samples.shape for signal in signals])
    patches = sum(int(np.prod(grid)) for grid in grids)
    full = {"audio": 2.0, "image": 255.0}.get(codec.domain.kind, codec.domain.high)
    found = []
    first, last = codec.latents.qualities
    for q in range(first, last + 1, every):
        data = codec.encode(signals, q, names=names)
        restored = codec.decode(data)
        psnr = [
            10 * np.log10(full**2 / np.mean((_real(a) - _real(b)) ** 2))
            for signal, back in zip(signals, restored, strict=True)
            for a, b in zip(signal.samples, back.samples, strict=True)
        ]
        found.append({"q": q, "bits": 8 * len(data) / patches, "psnr": float(np.mean(psnr))})
    return found


def _real(samples: np.ndarray) -> np.ndarray:
    """Return samples as floats; those of sounds from -1 to 1."""
    if samples.dtype.kind == "i":
        return samples / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float64)


def rising(points: list[Record]) -> list[Record]:
    """Return points from low rates to high, without those that gain nothing."""
    kept: list[Record] = []
    for point in sorted(points, key=lambda p: p["bits"]):
        if not kept or point["psnr"] > kept[-1]["psnr"]:
            kept.append(point)
    return kept


def against(anchor: Record, test: Record) -> float | None:
    """Return the BD-rate of a record, in percent; None where no PSNR is common to both."""
    one, other = rising(anchor["points"]), rising(test["points"])
    columns = [[p[key] for p in points] for points in (one, other) for key in ("bits", "psnr")]
    if max(columns[1][0], columns[3][0]) >= min(columns[1][-1], columns[3][-1]):
        return None
    return bd_rate(*columns)


def thumbnails(data: Path) -> list[Signal]:
    return [Signal(np.load(data / "thumbs_items" / "batch_3.npy"), None, "image")]


def sounds(data: Path) -> list[Signal]:
    paths = list_signals(data / "speech_test", "audio")
    chosen = paths[:: max(1, len(paths) // SOUNDS)][:SOUNDS]
    return [read_signal(path, kind="audio", axes=1, channels=1) for path in chosen]


def scans(data: Path) -> list[Signal]:
    paths = list_signals(data / "mri_crop", "volume")
    return [read_signal(path, kind="volume", axes=3, channels=1) for path in paths]


def chosen_overrides(group: str, arm: str, seed: int) -> tuple[str, ...]:
    """Return what an arm changes of the recipe, the group's own changes among it."""
    chosen = (*TRAINED[group].base, *TRAINED[group].arms[arm], f"train.seed={seed}")
    # The last one of a key counts; what is taken out is not in the recipe's file either.
    last = {text.partition("=")[0]: text for text in chosen}
    return tuple(text for text in last.values() if not text.endswith("="))


def train_arm(group: str, arm: str, seed: int, args: argparse.Namespace) -> Record:
    """Train an arm to its end and return what its codec does to the test items."""
    config = load_recipe(RECIPE, chosen_overrides(group, arm, seed))
    folder = args.out / slug(group, arm, seed)
    data, spent, begin = args.data / "thumbs_train", [0.0], time.process_time()
    for report in run(config, data, folder, resume=(folder / CHECKPOINT).exists()):
        if not isinstance(report, Evaluation):
            spent.append(time.process_time() - begin)
        begin = time.process_time()
    rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    return {
        "overrides": TRAINED[group].arms[arm], "seed": seed,
        # The first step also starts everything; of a resumed run only the last part is known.
        "cpu_s_per_step": float(np.mean(spent[2:])) if len(spent) > 2 else None,
        "held_out": evaluations[-1],
        "points": measured(folder, args.data),
    }  # fmt: skip


def measured(folder: Path, data: Path) -> list[Record]:
    """Return what the codec of a run on thumbnails does to the test items.

    Its tables are made from the first file of training items, for less time.
    """
    trained = Trained(folder, list_signals(data / "thumbs_train", "image")[0])
    every = 2 if trained.config.fit.steps else 1
    return points_of(trained.stepped(Modelling()), thumbnails(data), every)


def code_arms(base: str, args: argparse.Namespace) -> Iterator[tuple[str, Record]]:
    """Yield what several quantizers and models do to the latents of a trained network."""
    items = {"speech": sounds, "mri": scans}.get(base, thumbnails)(args.data)
    places = {
        "thumbs": (args.runs / "thumbs", "thumbs_train", False),
        "speech": (args.runs / "speech", "speech_train", False),
        "mri": (args.runs / "mri", "mri_train", True),
        "paper": (args.out / slug("paper", next(iter(TRAINED["paper"].arms)), 0), "thumbs_train",
                  False),
    }  # fmt: skip
    folder, data, best = places[base]
    trained = Trained(folder, args.data / data, best)
    yield "paper's bits", {"points": points_of(trained.pooled(), items, every=1)}
    for name, (modelling, one_step) in MODELLED.items():
        codec = trained.stepped(modelling, one_step=one_step)
        yield name, {"points": points_of(codec, items, every=2)}


def slug(*parts: object) -> str:
    """Return the name of an arm's files."""
    return "-".join(map(str, parts)).replace(", ", "+").replace(" ", "_").replace("'", "")


def write_record(out: Path, group: str, arm: str, record: Record) -> None:
    whole = {"group": group, "arm": arm, **record, "cpu": cpu_name(), "versions": versions()}
    place = out / f"{slug(group, arm, record.get('seed', 0))}.json"
    write_file(place, (json.dumps(whole) + "\n").encode())
    finest = rising(record["points"])[-1]
    print(f"{place.stem}: {finest['bits']:.1f} bits {finest['psnr']:.3f} dB", flush=True)


def summary(out: Path) -> Record:
    """Print all tables that have an anchor; return what is worth keeping."""
    records = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    found = {(r["group"], r["arm"], r.get("seed", 0)): r for r in records}
    coded = {f"coding {base}": ("paper's bits", *MODELLED) for base in CODED}
    groups = {name: tuple(group.arms) for name, group in TRAINED.items()} | coded
    kept: list[Record] = []
    for group, arms in groups.items():
        for seed in sorted({s for g, _, s in found if g == group}):
            print(f"\n{group}, seed {seed}\n| arm | bits a patch | PSNR | BD-rate | s a step |")
            for arm in arms:
                record = found.get((group, arm, seed))
                anchor = found.get((group, arms[-1 if group.startswith("coding") else 0], seed))
                if record is None or anchor is None:
                    continue
                finest, change = rising(record["points"])[-1], against(anchor, record)
                step = record.get("cpu_s_per_step")
                told = ("-" if change is None else f"{change:+.1f} %",
                        "-" if step is None else f"{step:.3f}")  # fmt: skip
                print(f"| {arm} | {finest['bits']:.1f} | {finest['psnr']:.2f} dB | {told[0]} "
                      f"| {told[1]} |")  # fmt: skip
                curve = [[p["q"], round(p["bits"], 3), round(p["psnr"], 4)]
                         for p in record["points"]]  # fmt: skip
                kept.append({
                    "group": group, "arm": arm, "seed": seed, "bits": round(finest["bits"], 3),
                    "psnr": round(finest["psnr"], 4), "bd_rate": change and round(change, 3),
                    "cpu_s_per_step": step and round(step, 4), "points": curve,
                })  # fmt: skip
    same = records[0] if records else {}
    bases = {name: group.base for name, group in TRAINED.items()}
    overrides = {name: group.arms for name, group in TRAINED.items()}
    return {"cpu": same.get("cpu"), "versions": same.get("versions"), "bases": bases,
            "overrides": overrides, "arms": kept}  # fmt: skip


def dumped(record: Record) -> str:
    """Return JSON with a line for each arm."""
    arms = ",\n".join("  " + json.dumps(arm) for arm in record.pop("arms"))
    head = json.dumps(record, indent=1).removesuffix("\n}")
    return f'{head},\n "arms": [\n{arms}\n ]\n}}\n'


def main() -> int:
    """Do what is asked for and is not done yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--groups", nargs="+", default=[*TRAINED, "coding"])
    parser.add_argument("--arms", nargs="+", help="only these of the trained arms")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--bases", nargs="+", default=list(CODED), choices=list(CODED))
    parser.add_argument("--summary", type=Path, metavar="FILE", help="train nothing, print tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.summary:
        write_file(args.summary, dumped(summary(args.out)).encode())
        return 0
    for seed, group in itertools.product(args.seeds, [g for g in args.groups if g in TRAINED]):
        for arm in TRAINED[group].arms:
            done = (args.out / f"{slug(group, arm, seed)}.json").exists()
            if not done and (not args.arms or arm in args.arms):
                write_record(args.out, group, arm, train_arm(group, arm, seed, args))
    for base in args.bases if "coding" in args.groups else ():
        last = args.out / f"{slug(f'coding {base}', list(MODELLED)[-1], 0)}.json"
        if not last.exists():
            for arm, record in code_arms(base, args):
                write_record(args.out, f"coding {base}", arm, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
