"""Several processes of a run do together what one does alone."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lictor.training.recipe import config_from_dict
from lictor.training.run import run

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "fixtures" / "in_processes.py"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
STEPS = 24
STDET = {"snapshot_every": 1, "warmup": 9, "window": 2, "samples": 100, "modes": 3}
KINDS = {
    "adam": {"optim": {"name": "adam", "lr": 1e-3}},
    "soap": {"optim": {"name": "soap", "lr": 1e-3}},
    "muon": {"optim": {"name": "muon", "lr": 1e-3}},
    "sma": {"optim": {"name": "adam", "lr": 1e-3}, "sma": {"interval": 3, "feedback": True}},
    "stdet": {"optim": {"name": "soap", "lr": 1e-3}, "stdet": STDET},
}


def recipe(kind: str, **train) -> dict:
    settings = {"steps": STEPS, "batch_size": 4, "eval_every": 12, "log_every": 4} | train
    return {
        "model": {"name": "mbt2018-mean", "n": 8, "m": 8},
        "data": {"crop_size": 64, "held_out": 2, "cache_mib": 64},
        "train": settings,
        **KINDS[kind],
    }


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "checkpoint.pt", weights_only=True)["model"]


def told(out: Path, rank: int):
    return json.loads((out.parent / f"{out.name}-{rank}.json").read_text())


def go(out: Path, data: Path, tree: dict) -> list:
    return list(run(config_from_dict(tree, source="test"), data, out))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number in range(24):
        rough = generator.integers(0, 256, (6, 8, 3), np.uint8)
        smooth = Image.fromarray(rough).resize((128, 96), Image.Resampling.BICUBIC)
        smooth.save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory, pictures) -> Path:
    """What two processes made of each kind of run, and of some that go wrong."""
    place = tmp_path_factory.mktemp("both")
    other = tmp_path_factory.mktemp("other")
    for path in sorted(pictures.iterdir())[:12]:
        (other / path.name).write_bytes(path.read_bytes())
    jobs = [
        {"recipe": recipe(kind), "data": str(pictures), "out": str(place / kind)} for kind in KINDS
    ]
    jobs += [
        {
            "recipe": recipe("adam"),
            "data": str(pictures),
            "out": str(place / "poison"),
            "poison": 5,
        },
        {"recipe": recipe("adam", batch_size=3), "data": str(pictures), "out": str(place / "odd")},
        {
            "recipe": recipe("adam"),
            "data": [str(pictures), str(other)],
            "out": str(place / "differing"),
        },
    ]
    (place / "jobs.json").write_text(json.dumps(jobs))
    command = [*TORCHRUN, str(SCRIPT), str(place / "jobs.json")]
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    return place


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_do_what_one_does_in_two_pieces(kind, both, pictures, tmp_path):
    go(tmp_path, pictures, recipe(kind, accumulate=2))
    pieces, processes = weights(tmp_path), weights(both / kind)
    assert all(torch.equal(pieces[name], processes[name]) for name in pieces)


@pytest.mark.parametrize("kind", ["adam", "sma"])
def test_two_processes_do_what_one_does_but_for_rounding(kind, both, pictures, tmp_path):
    go(tmp_path, pictures, recipe(kind))
    one, two = weights(tmp_path), weights(both / kind)
    for name, value in one.items():
        assert (two[name] - value).norm() <= 1e-3 * value.norm() + 1e-6, name


@pytest.mark.parametrize("kind", KINDS)
def test_all_processes_report_the_same_and_the_first_losses_are_those_of_one(
    kind, both, pictures, tmp_path
):
    first, second = (told(both / kind, rank) for rank in (0, 1))
    assert first == second
    assert len(first) == STEPS
    config = config_from_dict(recipe(kind), source="test")
    alone = itertools.islice(run(config, pictures, tmp_path), 2)
    for (loss, norm, _), report in zip(first, alone, strict=False):
        assert loss == pytest.approx(report.loss, rel=1e-5)
        assert norm == pytest.approx(report.grad_norm, rel=1e-4)


def test_one_process_writes_and_the_evaluation_is_that_of_one(both, pictures, tmp_path):
    go(tmp_path, pictures, recipe("adam", accumulate=2))

    def evaluations(out: Path) -> list[dict]:
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if row["kind"] == "train"] == [4, 8, 12, 16, 20, 24]
        return [row for row in rows if row["kind"] == "evaluation"]

    assert evaluations(both / "adam") == evaluations(tmp_path)


def test_a_gradient_that_is_not_finite_in_one_process_skips_the_step_in_all(both):
    reports = [told(both / "poison", rank) for rank in (0, 1)]
    skipped = [[skip for *_, skip in each] for each in reports]
    assert skipped[0] == skipped[1]
    assert [number for number, skip in enumerate(skipped[0]) if skip] == [5]
    assert not any(math.isfinite(each[5][1]) for each in reports)


@pytest.mark.parametrize(
    ("name", "words"),
    [("odd", "train.batch_size = 3 is not a multiple of the 2 processes"),
     ("differing", "process 1 sees other pictures there than process 0")],
)  # fmt: skip
def test_what_cannot_work_together_is_refused_by_all(name, words, both):
    for rank in (0, 1):
        assert words in told(both / name, rank)
    assert not (both / name / "metrics.jsonl").exists()


SLOW_READERS = """
import sys, time
from datetime import timedelta
import torch.distributed as dist
from lictor.data.folder import ImageFolder
from lictor.runtime import processes
from lictor.training import pictures, run
from lictor.training.recipe import config_from_dict

def slowly(*_, **__):
    time.sleep(4)
    return ImageFolder(("a", "b"), lambda number: None, identity="same")

pictures.open_pictures = slowly
config = config_from_dict({"model": {"name": "mbt2018-mean"}}, source="test")
with processes("cpu") as runtime:
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1))
    assert len(run._open_data(config, ["a"], lambda *_: None, runtime)) == 2
    print("read by", runtime.rank, flush=True)
"""


def test_processes_wait_for_pictures_that_another_one_reads_for_longer_than_for_a_step(tmp_path):
    script = tmp_path / "slow_readers.py"
    script.write_text(SLOW_READERS)
    command = [*TORCHRUN, str(script)]
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    assert b"read by 0" in done.stdout
    assert b"read by 1" in done.stdout


def test_a_run_of_which_a_process_is_killed_ends_and_goes_on_with_another_number(
    pictures, tmp_path
):
    out, steps = tmp_path / "run", 400
    tree = recipe("adam", steps=steps, checkpoint_every=5, eval_every=1000)
    toml = tmp_path / "recipe.toml"
    toml.write_text(
        "".join(
            f"[{section}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items())
            for section, keys in tree.items()
        )
    )
    train = ["-m", "lictor", "train", str(toml), "--data", str(pictures), "--out", str(out)]
    started = subprocess.Popen([*TORCHRUN, *train], env=environment(), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.pt").exists():
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    victims = [pid for pid in children if b"train" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(victims[-1]), signal.SIGKILL)
    _, stderr = started.communicate(timeout=120)
    assert started.returncode != 0
    assert b"another process of this run has ended" in stderr
    resumed = [sys.executable, *train, "--resume", "--set", "train.accumulate=2"]
    done = subprocess.run(resumed, env=environment(), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    whole = tmp_path / "whole"
    go(whole, pictures, recipe("adam", steps=steps, accumulate=2, eval_every=1000))
    assert all(torch.equal(a, weights(out)[name]) for name, a in weights(whole).items())
