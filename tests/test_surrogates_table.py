"""The tables of surrogates: what stands in one was trained with one budget."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def table(tmp_path):
    """The script, with a folder of results of its own."""
    path = ROOT / "benchmarks" / "surrogates_table.py"
    spec = importlib.util.spec_from_file_location("surrogates_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.RESULTS = tmp_path
    return module


def record(loss: float) -> dict:
    config = {
        "model": {"name": "net"}, "loss": {"lmbda": 0.01}, "surrogate": {"name": "any"},
        "optim": {"lr": 1e-3}, "sma": {}, "data": {}, "train": {"steps": 4, "seed": 0},
    }  # fmt: skip
    curve = [{"step": n, "loss": loss, "mismatch": 0.02 * loss} for n in range(1, 5)]
    kodak = {"bpp": 0.1, "psnr": 30.0, "loss": loss}
    return {"config": config, "steps": 4, "curve": curve, "kodak": kodak}


def put(folder: Path, arm: str, content: dict) -> None:
    (folder / f"net-0.01-{arm}.json").write_text(json.dumps(content))


def test_arms_are_ranked_and_compared_seed_by_seed(table, tmp_path):
    put(tmp_path, "noise-0", record(1.0))
    put(tmp_path, "sua-0", record(0.9))
    lines = [line for line in table.tables().splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == ["sua", "noise"]
    assert "-10.00 %" in lines[0]
    assert "+2.0 %" in lines[0]


@pytest.mark.parametrize(
    ("section", "key", "value", "compare"),
    [
        ("train", "seed", 7, True),
        ("surrogate", "name", "other", True),
        ("train", "steps", 8, False),
        ("optim", "lr", 1e-4, False),
    ],
)
def test_runs_of_other_budgets_do_not_stand_in_one_table(
    table, tmp_path, section, key, value, compare
):
    other = copy.deepcopy(record(0.9))
    other["config"][section][key] = value
    put(tmp_path, "noise-0", record(1.0))
    put(tmp_path, "sua-0", other)
    if compare:
        assert "`sua`" in table.tables()
    else:
        with pytest.raises(ValueError, match="another budget"):
            table.tables()
