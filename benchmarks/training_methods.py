"""What STDET and SMA do for Adam and for SOAP: held-out loss against steps and seconds.

Every arm trains the same network from the same weights on the same crops, with the same clipping,
batch and schedule (flat for 60 % of the steps, then half a cosine). Averages without feedback leave
training alone, so one run with SMA gives two curves: that of the trained weights and that of the
averaged ones. Curves: `adam` and `adam+sma`, `adam+stdet`, `adam+stdet+sma`, `soap` and `soap+sma`,
`soap+stdet+sma`. With --ablations also what STDET selects by, with and without dummies.

    python benchmarks/training_methods.py PICTURES --out runs/methods

What is done is skipped, what was cut short goes on from its last checkpoint; with --summary nothing
is trained. In the folder: for each network a JSON file and two codec files (trained and averaged
weights) for each run, the story of the modes, summary.json, and plots.

Seconds are calibrated, because the machine may be shared: steps times the step time of the
optimizer in alternating bursts, times what the hooks add, which is measured in the run itself.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lictor.codecs.learned import Codec
from lictor.data.folder import ImageFolder
from lictor.files import write_file
from lictor.training.checkpoint import read_checkpoint, restore, save_checkpoint
from lictor.training.hooks import TrainHook, evaluation_weights
from lictor.training.loop import train
from lictor.training.recipe import RunConfig, config_from_dict, config_to_dict
from lictor.training.techniques import build_techniques
from time_to_target import (
    add_options,
    arm_config,
    calibrate,
    description,
    done_by_seed,
    evaluate,
    is_done,
    new_run,
    open_pictures,
    task_of,
)

# run -> (optimizer arm of time_to_target, STDET, SMA)
RUNS: dict[str, tuple[str, bool, bool]] = {
    "adam+sma": ("adam:1e-3", False, True),
    "soap+sma": ("soap:3e-3", False, True),
    "adam+stdet+sma": ("adam:1e-3", True, True),
    "soap+stdet+sma": ("soap:3e-3", True, True),
    "adam+stdet": ("adam:1e-3", True, False),
}
SELECTIONS = ("both", "drift", "sensitivity", "random")
ABLATIONS = [
    f"adam+stdet+sma,selection={selection},dummy={dummy}"
    for selection, dummy in itertools.product(SELECTIONS, ("line", "none"))
]


class Timed:
    """A hook that counts the seconds of another."""

    def __init__(self, hook: TrainHook):
        self.hook, self.seconds = hook, 0.0

    def _timed(self, call: Callable[[int], None], step: int) -> None:
        start = time.process_time()
        call(step)
        self.seconds += time.process_time() - start

    def before_step(self, step: int) -> None:
        """Run the other's."""
        self._timed(self.hook.before_step, step)

    def after_step(self, step: int) -> None:
        """Run the other's."""
        self._timed(self.hook.after_step, step)

    def state_dict(self) -> dict[str, Any]:
        """Return the other's, and the seconds."""
        return {"hook": self.hook.state_dict(), "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both."""
        self.hook.load_state_dict(state["hook"])
        self.seconds = state["seconds"]


def run_config(args: argparse.Namespace, network: str, run: str, seed: int) -> RunConfig:
    name, *changes = run.split(",")
    arm, stdet, sma = RUNS[name]
    tree = config_to_dict(arm_config(args, network, arm, seed))
    tree["optim"]["lr"] = args.lr or tree["optim"]["lr"]
    if stdet:
        tree["stdet"] |= {
            "snapshot_every": args.snapshot_every or max(1, args.steps // 70),
            "share": args.share,
            "cap": args.cap,
        }
    if sma:
        tree["sma"] |= {"interval": args.interval, "alpha": args.alpha, "start": args.start}
    for change in changes:
        where, _, text = change.partition("=")
        section, _, key = where.rpartition(".")
        value = json.loads(text) if text[:1].isdigit() or text in ("true", "false") else text
        tree[section or "stdet"][key] = value
    return config_from_dict(tree, source=run)


def train_run(
    config: RunConfig,
    training: ImageFolder,
    held_out: ImageFolder,
    path: Path,
    args: argparse.Namespace,
) -> None:
    """Train to the end, going on from a checkpoint if there is one; leave record and codecs."""
    model, state = new_run(config)
    rows: list[dict[str, Any]] = []
    techniques = build_techniques(
        config, model, state.optimizer, items=len(training), record=rows.append
    )
    hooks = {name: Timed(hook) for name, hook in techniques.items()}
    checkpoint = path.with_suffix(".pt")
    record: dict[str, Any] = {"rows": [], "modes": [], "cpu_s": 0.0}
    if checkpoint.exists() and path.exists():
        restore(read_checkpoint(checkpoint), checkpoint, model, state, hooks)
        record = json.loads(path.read_text())
        for key in ("rows", "modes"):  # the record is written before the checkpoint
            record[key] = [row for row in record[key] if row["step"] <= state.step]
    else:
        record |= description(config, args)
    cpu = time.process_time()
    for report in train(config, task_of(config, model, training, held_out), state, hooks=hooks):
        record["cpu_s"] += time.process_time() - cpu
        last = state.step == config.train.steps
        if last or state.step % args.eval_every == 0:
            lmbda = config.loss.lmbda
            row: dict[str, Any] = {"step": state.step, "train_loss": report.loss}
            row["trained"] = evaluate(model, held_out, args.eval_side, lmbda)
            if config.sma.interval:
                with evaluation_weights(techniques):
                    row["averaged"] = evaluate(model, held_out, args.eval_side, lmbda)
            record["rows"].append(row)
        if last or state.step % args.checkpoint_every == 0:
            record["modes"] += rows
            rows.clear()
            record["hooks_s"] = sum(timed.seconds for timed in hooks.values())
            record["hooks_share"] = overhead(record)
            write_file(path, (json.dumps(record) + "\n").encode())
            save_checkpoint(checkpoint, config, model, state, hooks)
            latest = record["rows"][-1] if record["rows"] else {}
            text = {k: round(v["loss"], 4) for k, v in latest.items() if isinstance(v, dict)}
            print(f"{path.parent.name}/{path.stem} step {state.step} {text}", flush=True)
        cpu = time.process_time()
    notes = {"steps": state.step, "recipe": config_to_dict(config)}
    Codec.freeze(model, notes=notes).save(path.with_suffix(".lcodec"))
    with evaluation_weights(techniques):
        if config.sma.interval:
            Codec.freeze(model, notes=notes).save(path.with_suffix(".averaged.lcodec"))
    write_file(path, (json.dumps(record | {"done": True}) + "\n").encode())
    checkpoint.unlink(missing_ok=True)


def curves_of(run: str, record: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the curves that a run gives, by method: rows of `step` and `loss`."""
    name, comma, changes = run.partition(",")
    weights = ("trained", "averaged") if "averaged" in record["rows"][-1] else ("trained",)
    result = {}
    for which in weights:
        method = name if which == "averaged" else name.removesuffix("+sma")
        if which == "trained" and name.endswith("stdet+sma"):
            method = f"{name} (trained weights)"
        rows = [{"step": row["step"], **row[which]} for row in record["rows"]]
        result[f"{method}{comma}{changes}"] = rows
    return result


def spread(rows: list[dict[str, Any]], first: float, last: float, steps: int) -> float:
    """Return the standard deviation of the loss over a part of training."""
    losses = [row["loss"] for row in rows if first * steps < row["step"] <= last * steps]
    return statistics.stdev(losses) if len(losses) > 1 else float("nan")


def compare(records: dict[str, dict[str, Any]], step_s: dict[str, float]) -> dict[str, Any]:
    """Set all methods of one network and seed beside plain Adam."""
    curves = {
        method: (rows, run)
        for run, record in records.items()
        for method, rows in curves_of(run, record).items()
    }
    if "adam" not in curves:
        return {}
    plain = curves["adam"][0]
    target, steps = plain[-1]["loss"], plain[-1]["step"]
    result = {}
    for method, (rows, run) in curves.items():
        found = next((row for row in rows if row["loss"] <= target), None)
        # Hooks cost nothing on the curve of weights that they leave alone.
        extra = 0.0 if method in ("adam", "soap") else overhead(records[run])
        seconds = step_s[run.partition("+")[0]] * (1 + extra)
        result[method] = {
            "final_loss": rows[-1]["loss"],
            "best_loss": min(row["loss"] for row in rows),
            "steps_to_target": found and found["step"],
            "steps_ratio": found and found["step"] / steps,
            "seconds_ratio": found and found["step"] * seconds / (steps * step_s["adam"]),
            "hooks_share": extra,
            "std_last_tenth": spread(rows, 0.9, 1.0, rows[-1]["step"]),
            "std_end_of_flat": spread(rows, 0.5, 0.6, rows[-1]["step"]),
            "embedded": embedded_share(records[run]),
        }
    return {"target": target, "methods": result}


def overhead(record: dict[str, Any]) -> float:
    """Return the hooks' time as a share of that of training without them."""
    return record["hooks_s"] / max(1e-9, record["cpu_s"] - record["hooks_s"])


def embedded_share(record: dict[str, Any]) -> float:
    rows = [row for row in record["modes"] if "embedded" in row]
    return rows[-1]["embedded"] / rows[-1]["total"] if rows else 0.0


def summarize(out: Path) -> dict[str, Any]:
    """Compare what is done so far and write summary.json and the plots."""
    summary: dict[str, Any] = {}
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        calibration = folder / "calibration.json"
        if not calibration.exists():
            continue
        step_s = json.loads(calibration.read_text())
        seeds = done_by_seed(folder)
        summary[folder.name] = {
            "step_s": step_s,
            "seeds": {seed: compare(records, step_s) for seed, records in seeds.items()},
        }
        plot(seeds, folder, "steps", step_s)
        plot(seeds, folder, "seconds", step_s)
    write_file(out / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    return summary


def plot(
    seeds: dict[str, dict[str, Any]], folder: Path, axis: str, step_s: dict[str, float]
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    colors: dict[str, str] = {}
    lowest, highest = float("inf"), 0.0
    for number, records in enumerate(seeds.values()):
        for run, record in records.items():
            for method, rows in curves_of(run, record).items():
                if "," in method or "(" in method:
                    continue
                colors.setdefault(method, f"C{len(colors)}")
                scale = step_s[run.partition("+")[0]] if axis == "seconds" else 1.0
                if axis == "seconds" and method not in ("adam", "soap"):
                    scale *= 1 + overhead(record)
                axes.plot(
                    [row["step"] * scale for row in rows],
                    [row["loss"] for row in rows],
                    color=colors[method],
                    linestyle=("-", "--", ":")[number % 3],
                    label=method if number == 0 else None,
                )
                lowest = min(lowest, rows[-1]["loss"])
                highest = max(highest, rows[len(rows) // 5]["loss"])
    axes.set_ylim(0.97 * lowest, min(highest, 3 * lowest))
    axes.set_xlabel("calibrated seconds" if axis == "seconds" else "steps")
    axes.set_ylabel("held-out R-D loss")
    axes.set_title(f"{folder.name} (second seed dashed)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(folder / f"methods-{axis}.png", dpi=120)


def print_summary(summary: dict[str, Any]) -> None:
    for network, results in summary.items():
        for seed, result in results["seeds"].items():
            if not result:
                continue
            print(f"{network}, seed {seed}: plain Adam ends at {result['target']:.4f}")
            for method, row in sorted(result["methods"].items()):
                text = f"  {method:44} final {row['final_loss']:.4f}"
                if row["steps_ratio"]:
                    text += f"  target at {row['steps_ratio']:.2f} of the steps"
                    text += f", {row['seconds_ratio']:.2f} of the time"
                text += f"  std {row['std_last_tenth']:.4f} (flat {row['std_end_of_flat']:.4f})"
                text += f"  hooks {row['hooks_share']:.1%}  embedded {row['embedded']:.0%}"
                print(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Callable[..., Any] = parser.add_argument
    add(
        "--runs",
        nargs="+",
        default=tuple(RUNS),
        help="a run of RUNS, then changes: share=0.1,sma.alpha=0.2",
    )
    add("--ablations", action="store_true", help="run those in place of --runs")
    add("--lr", type=float, default=0.0, help="in place of each optimizer's own")
    add("--interval", type=int, default=5, help="steps between samples of the average")
    add("--alpha", type=float, default=0.1, help="weight of a sample")
    add("--start", type=float, default=0.01, help="share of the steps that are not averaged")
    add("--snapshot-every", type=int, default=0, help="default: 70 snapshots in the run")
    add("--share", type=float, default=0.05, help="share of the weights that an event embeds")
    add("--cap", type=float, default=0.5, help="of the share that is embedded in the end")
    add("--checkpoint-every", type=int, default=200)
    add_options(parser, eval_every=25, calibration_rounds=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.summary:
        training, held_out = open_pictures(parser, args)
        runs = ABLATIONS if args.ablations else args.runs
        for seed, run, network in itertools.product(args.seeds, runs, args.networks):
            config = run_config(args, network, run, seed)
            folder = args.out / network
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{run}-seed{seed}.json"
            if is_done(path):
                continue
            calibrate(args, network, training, folder / "calibration.json")
            train_run(config, training, held_out, path, args)
            summarize(args.out)
    print_summary(summarize(args.out))


if __name__ == "__main__":
    sys.exit(main())
