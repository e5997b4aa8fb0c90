"""Which surrogate trained the best codec: the tables of docs/how-to-choose.md, from results.

    python benchmarks/surrogates_table.py            rewrite the tables
    python benchmarks/surrogates_table.py --check    exit 1 if they are not what the results say

The results are those of benchmarks/surrogates.py: `NETWORK-LMBDA-ARM-SEED.json`.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from lictor.training.recipe import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "how-to-choose.md", ROOT / "results" / "surrogates"
BEGIN, END = "<!-- surrogates:begin -->", "<!-- surrogates:end -->"
BASELINE = "noise"

Records = dict[tuple[str, float, str], dict[int, dict[str, Any]]]


def records() -> Records:
    """Return all results: (network, lmbda, arm) -> seed -> record."""
    found: Records = defaultdict(dict)
    for path in sorted(RESULTS.glob("*-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        config = record["config"]
        network, lmbda = config["model"]["name"], config["loss"]["lmbda"]
        arm, _, seed = path.stem.removeprefix(f"{network}-{lmbda:g}-").rpartition("-")
        found[network, lmbda, arm][int(seed)] = record
    return found


def change(runs: dict[int, dict[str, Any]], base: dict[int, dict[str, Any]]) -> list[float]:
    """Return the change of J in percent against the baseline, seed by seed."""
    return [
        100 * (run["kodak"]["loss"] / base[seed]["kodak"]["loss"] - 1)
        for seed, run in runs.items()
        if seed in base
    ]


def held_out(runs: dict[int, dict[str, Any]], share: float) -> float:
    """Return the loss of the held-out pictures at a share of the steps, mean over seeds."""
    return statistics.mean(
        next(e["loss"] for e in run["curve"] if e["step"] >= share * run["steps"])
        for run in runs.values()
    )


def budget(run: dict[str, Any]) -> dict[str, Any]:
    """Return what arms of a table must have in common: all but surrogate, priors and seed."""
    config = run["config"]
    # What older records lack was then what the default is now.
    train = dataclasses.asdict(TrainConfig()) | config["train"]
    del train["seed"]
    return {"train": train, **{key: config[key] for key in ("loss", "optim", "sma", "data")}}


def check_budgets(arms: dict[str, dict[int, dict[str, Any]]]) -> None:
    """Raise `ValueError` when runs that stand in one table were trained otherwise."""
    runs = {(arm, seed): run for arm, runs in arms.items() for seed, run in runs.items()}
    first = next(iter(runs))
    for key, run in runs.items():
        if budget(run) != budget(runs[first]):
            raise ValueError(f"{key} has another budget than {first}: they do not compare")


def row(arm: str, runs: dict[int, dict[str, Any]], base: dict[int, dict[str, Any]]) -> str:
    """Return a line of a table."""
    kodak = [run["kodak"] for run in runs.values()]
    changes = change(runs, base)
    told = f"{statistics.mean(changes):+.2f} %" if changes and arm != BASELINE else ""
    if len(changes) > 1 and arm != BASELINE:
        told += f" ({min(changes):+.2f} to {max(changes):+.2f})"
    bpp, psnr, loss = (statistics.mean(k[key] for k in kodak) for key in ("bpp", "psnr", "loss"))
    mismatch = statistics.mean(
        100 * run["curve"][-1]["mismatch"] / run["curve"][-1]["loss"] for run in runs.values()
    )
    way = " ".join(f"{held_out(runs, share):.3f}" for share in (0.5, 0.75, 1.0))
    return (
        f"| `{arm.replace(',', '`, `')}` | {bpp:.4f} | {psnr:.2f} | {loss:.4f} | {told} | "
        f"{mismatch:+.1f} % | {way} | {len(runs)} |"
    )


def tables() -> str:
    """Return a table for each network and trade-off, best arms first."""
    found = records()
    parts = []
    for network, lmbda in dict.fromkeys((n, v) for n, v, _ in sorted(found)):
        arms = {a: runs for (n, v, a), runs in found.items() if (n, v) == (network, lmbda)}
        check_budgets(arms)
        base = arms.get(BASELINE, {})
        ranked = sorted(
            arms, key=lambda a: statistics.mean(r["kodak"]["loss"] for r in arms[a].values())
        )
        steps = next(iter(next(iter(arms.values())).values()))["steps"]
        parts += [
            f"`{network}`, lambda {lmbda:g}, {steps} steps:",
            "",
            "| surrogate | bpp | dB | J | against noise | mismatch | held out | seeds |",
            "|---|---|---|---|---|---|---|---|",
            *(row(arm, arms[arm], base) for arm in ranked),
            "",
        ]
    return "\n".join(parts)


def main() -> int:
    """Rewrite the tables, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    wanted = f"{head}{BEGIN}\n\n{tables()}\n{END}{tail}"
    if args.check:
        if wanted != page:
            print(f"{PAGE}: stale; run python benchmarks/{Path(__file__).name}", file=sys.stderr)
        return int(wanted != page)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
