"""The benchmark of what an optimizer's step costs: its record keeps all that was timed."""

import importlib.util
import json
from argparse import Namespace
from pathlib import Path

import torch

_PATH = Path(__file__).parents[1] / "benchmarks" / "optimizer_step.py"
_SPEC = importlib.util.spec_from_file_location("optimizer_step", _PATH)
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)


def test_the_record_has_the_means_of_all_bursts():
    args = Namespace(
        network="bmshj2018-factorized", n=8, m=8, depth=0, batch=1, size=64,
        precision="float32", rounds=3, sides=["Adam, fused", "SOAP split"],
        threads=torch.get_num_threads(),
    )  # fmt: skip
    for row in json.loads(json.dumps(benchmark.measure(args)))["results"]:
        bursts = row["bursts_s"]
        assert [len(bursts[key]) for key in ("train_step", "optimizer_step")] == [3, 3]
        assert row["train_step_s"] == min(bursts["train_step"])
        assert row["optimizer_step_s"] == min(bursts["optimizer_step"])
