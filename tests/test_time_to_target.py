"""The benchmark of steps and seconds to Adam's loss: what it resumes, and what it says of time."""

import importlib.util
import json
import math
from argparse import Namespace
from pathlib import Path

import pytest

from conftest import photo
from lictor.codecs.learned import Codec
from lictor.config import write
from lictor.data.folder import ImageFolder

_PATH = Path(__file__).parents[1] / "benchmarks" / "time_to_target.py"
_SPEC = importlib.util.spec_from_file_location("time_to_target", _PATH)
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)

NETWORK = "bmshj2018-factorized"
SETTINGS = Namespace(
    n=8, m=8, depth=1, steps=6, batch=1, crop=64, lmbda=0.01, precision="float32", held_out=1,
    eval_side=64, eval_every=2, calibration_rounds=1,
)  # fmt: skip


class KilledError(Exception):
    pass


def killed(*args, **options):
    raise KilledError


@pytest.fixture
def held_out() -> ImageFolder:
    return ImageFolder(("a",), lambda _: photo(70, 80, 9))


@pytest.fixture
def train_arm(folder, held_out, tmp_path):
    """Train an arm to its end; return its record."""

    def train(name: str = "arm", arm: str = "soap:1e-3") -> dict:
        path = tmp_path / f"{name}.json"
        config = benchmark.arm_config(SETTINGS, NETWORK, arm, 0)
        benchmark.run_arm(config, folder, held_out, path, SETTINGS)
        return json.loads(path.read_text())

    return train


def curve(record: dict) -> list[tuple]:
    return [(row["step"], row["loss"]) for row in record["rows"]]


@pytest.mark.parametrize(("function", "call"), [
    ("save_checkpoint", 2), ("write_file", 2),
    *(pytest.param(*death, marks=pytest.mark.slow) for death in [
        ("save_checkpoint", 1), ("save_checkpoint", 3),
        ("write_file", 1), ("write_file", 3), ("write_file", 4),
        ("Codec.freeze", 1),
    ]),
])  # fmt: skip
def test_an_arm_that_is_killed_anywhere_ends_as_if_it_was_not(
    train_arm, tmp_path, monkeypatch, function, call
):
    whole = train_arm("whole")
    owner, _, name = function.rpartition(".")
    owner = benchmark.Codec if owner else benchmark
    real, calls = getattr(owner, name), iter(range(1, 100))

    def until(*args, **options):
        return (killed if next(calls) == call else real)(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, until)
        with pytest.raises(KilledError):
            train_arm()
    path = tmp_path / "arm.json"
    assert not (path.exists() and json.loads(path.read_text()).get("done"))
    record = train_arm()
    assert record["done"] is True
    assert curve(record) == curve(whole)
    assert [step for step, _ in curve(record)] == [0, 2, 4, 6]
    assert len(record["step_s"]) == 6
    assert record["wall_s"] == pytest.approx(sum(record["step_s"]), abs=0.01)
    assert not path.with_suffix(".pt").exists()
    codecs = [Codec.load(path.with_name(f"{n}.lcodec")) for n in ("arm", "whole")]
    assert codecs[0].fingerprint == codecs[1].fingerprint


def test_a_record_goes_back_to_its_checkpoint():
    rows = [{"step": s, "wall_s": 1.0 * s, "cpu_s": 2.0 * s, "loss": 9.0} for s in (0, 2, 4)]
    record = {"rows": rows, "step_s": [1.0] * 4, "wall_s": 4.0, "cpu_s": 8.0, "threads": 1}
    assert benchmark.up_to(4, record) == record
    assert benchmark.up_to(2, record) == {
        "rows": rows[:2], "step_s": [1.0] * 2, "wall_s": 2.0, "cpu_s": 4.0, "threads": 1
    }  # fmt: skip


ARMS = (
    "adam:1e-3", "adamw:1e-3", "soap:1e-3", "soap:3e-3,beta1=0.9", "soap:1e-3,precondition_every=5",
    "soap:3e-3,precondition_every=5", "soap:1e-3,shapes=matrix,max_factor=64",
)  # fmt: skip
KINDS = ("adam", "adamw", "soap", "soap,precondition_every=5", "soap,shapes=matrix,max_factor=64")


def test_arms_are_timed_once_for_each_cost_of_a_step(folder, tmp_path, monkeypatch):
    lengths = {}

    def bursts(config, images, length):
        kind = benchmark.step_kind(write(config.optim))
        assert kind not in lengths
        lengths[kind] = length
        while True:
            yield 1.0 + length

    monkeypatch.setattr(benchmark, "bursts", bursts)
    path = tmp_path / "calibration.json"
    path.write_text('{"adam": 0.5, "soap": 99.0}')  # of an earlier call
    best = benchmark.calibrate(SETTINGS, NETWORK, folder, path, ARMS)
    assert tuple(lengths) == ("adam", "soap", *(k for k in KINDS if k not in ("adam", "soap")))
    assert lengths["soap,precondition_every=5"] == 5
    assert best == json.loads(path.read_text())
    assert best["adam"] == 0.5
    assert best["soap"] == best["adamw"] == 11
    assert best["soap,precondition_every=5"] == 6
    lengths.clear()
    benchmark.calibrate(SETTINGS, NETWORK, folder, path)
    assert set(lengths) == {"adam", "soap"}


def test_bursts_are_of_real_steps(folder):
    config = benchmark.arm_config(SETTINGS, NETWORK, "soap:1e-3", 0)
    assert 0 < next(benchmark.bursts(config, folder, 2)) < 60


def finished(arm: str, losses: list[float]) -> dict:
    config = benchmark.arm_config(SETTINGS, NETWORK, arm, 0)
    rows = [
        {"step": 10 * i, "loss": loss, "wall_s": float(i), "cpu_s": float(i)}
        for i, loss in enumerate(losses)
    ]
    return {"done": True, "rows": rows, **benchmark.description(config, SETTINGS)}


def test_a_summary_tells_each_arms_own_seconds(tmp_path, capsys):
    folder = tmp_path / NETWORK
    folder.mkdir()
    old = {"adam": 1.0, "soap": 1.5, "soap,precondition_every=5": 2.0}
    (folder / "calibration.json").write_text(json.dumps(old))
    slow, fast = [9.0, 5.0, 4.0, 3.0, 2.0], [9.0, 4.0, 2.0, 1.0, 0.5]
    for arm in ARMS:
        losses = slow if arm == "adam:1e-3" else fast
        name = f"{arm.replace(':', '_')}-seed0.json"
        (folder / name).write_text(json.dumps(finished(arm, losses)))
    summary = benchmark.summarize(tmp_path)
    arms = summary[NETWORK]["seeds"]["0"]["arms"]
    assert set(arms) == set(ARMS)
    assert arms["adam:1e-3"]["calibrated_ratio"] == 1
    assert arms["soap:3e-3,beta1=0.9"]["calibrated_ratio"] == pytest.approx(0.75)
    assert arms["soap:1e-3,precondition_every=5"]["calibrated_s"] == 40
    assert arms["adamw:1e-3"]["steps_to_target"] == 20
    assert arms["adamw:1e-3"]["calibrated_s"] is arms["adamw:1e-3"]["calibrated_ratio"] is None
    assert (folder / "loss-seconds.png").exists()
    benchmark.print_summary(summary)
    said = capsys.readouterr().out
    assert "50% fewer, 25% less time" in said
    assert "50% fewer, time not known" in said
    assert math.isfinite(summary[NETWORK]["step_ratio"])


def test_a_summary_of_nothing_that_is_done_or_timed_is_no_failure(tmp_path):
    folder = tmp_path / NETWORK
    folder.mkdir()
    (folder / "calibration.json").write_text('{"adam": 1.0, "soap": 1.5}')
    assert benchmark.summarize(tmp_path)[NETWORK]["seeds"] == {}
    (folder / "muon_1e-3-seed0.json").write_text(json.dumps(finished("muon:1e-3", [9.0, 1.0])))
    benchmark.print_summary(benchmark.summarize(tmp_path))


def test_the_results_that_are_kept_can_be_read(folder, tmp_path):
    """Files of the first release of this benchmark know no kinds but the defaults."""
    old = finished("soap:1e-3", [9.0, 1.0])
    assert benchmark.step_kind(old["config"]["optim"]) == "soap"
    compared = benchmark.compare(
        {"adam:1e-3": finished("adam:1e-3", [9.0, 2.0]), "soap:1e-3": old},
        {"adam": 1.0, "soap": 1.5},
    )
    assert compared["arms"]["soap:1e-3"]["calibrated_ratio"] == 1.5
