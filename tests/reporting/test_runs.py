"""Runs read while they are written: each row once, whatever is in the file, whatever happens."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import combined
from lictor.errors import DataError
from lictor.reporting.runs import GONE, RunLog, Runs
from lictor.reporting.runs_chart import save_runs_chart, smoothed
from lictor.training.run import CONFIG, METRICS


def train_row(step: int, loss: float | None = 2.0, **more) -> dict:
    return {"kind": "train", "step": step, "loss": loss, "lr": 1e-3, "step_s": 0.5, **more}


def evaluation(step: int, loss: float | None = 3.0) -> dict:
    return {"kind": "evaluation", "step": step, "loss": loss, "bpp": 0.5, "psnr": 30.0}


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def make(folder: Path, *rows: dict, steps: int = 100, text: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tree = {"model": {"name": "mbt"}, "optim": {"name": "soap"}, "train": {"steps": steps}}
    (folder / CONFIG).write_text(json.dumps(tree))
    (folder / METRICS).write_text(lines(*rows) if text is None else text)
    return folder


def read(folder: Path) -> RunLog:
    log = RunLog(folder)
    log.update()
    return log


def test_a_run_tells_where_it_is(tmp_path):
    rows = [train_row(10, 4.0), evaluation(10, 5.0), evaluation(20, 6.0), train_row(30, 2.0)]
    rows[-1] |= {"wait_share": 0.25, "peak_mib": None}
    told = read(make(tmp_path / "a", *rows)).summary("a")
    assert (told.model, told.optimizer, told.step, told.steps) == ("mbt", "soap", 30, 100)
    assert (told.train_loss, told.eval_loss) == (2.0, 6.0)
    assert (told.best_eval_loss, told.best_step) == (5.0, 10)
    assert (told.bpp, told.psnr, told.lr, told.steps_per_s) == (0.5, 30.0, 1e-3, 2.0)
    assert (told.wait_share, told.peak_mib, told.done, told.problem) == (0.25, None, False, None)
    assert told.age_s is not None
    assert 0 <= told.age_s < 600
    os.utime(tmp_path / "a" / METRICS, (0, 0))
    log = read(tmp_path / "a")
    age_s = log.summary("a").age_s
    assert age_s is not None
    assert age_s > 1e8


@given(cuts=st.lists(st.integers(0, 400), max_size=12))
def test_a_file_that_grows_anyhow_is_read_like_the_whole_one(tmp_path_factory, cuts):
    folder = tmp_path_factory.mktemp("run")
    rows = [train_row(1, 4.0), evaluation(1), train_row(2, math.nan), evaluation(2, 2.0)]
    whole = (lines(*rows[:2]) + "no JSON é\n\n" + lines(*rows[2:])).encode()
    make(folder, text="")
    log = read(folder)
    for end in [*sorted(cuts), len(whole)]:  # the cuts may be within a line, or a letter
        with (folder / METRICS).open("ab") as file:
            file.write(whole[file.tell() : end])
        log.update()
    assert log.train[0] == (1, 4.0)
    assert math.isnan(log.train[1][1])
    assert log.evaluations == [(1, 3.0), (2, 2.0)]


def test_only_what_is_new_is_read(tmp_path):
    log = read(make(tmp_path / "a", *(train_row(step) for step in range(1, 50))))
    assert not log.update()
    path = tmp_path / "a" / METRICS
    # What was read, but for its end, is not looked at again: else this damage would be seen.
    with path.open("r+b") as file:
        file.write(b"?" * (path.stat().st_size - 500))
        file.seek(0, os.SEEK_END)
        file.write(lines(train_row(50)).encode())
    assert log.update()
    assert [step for step, _ in log.train] == list(range(1, 51))


@pytest.mark.parametrize("count", [4, 8, 30])
@pytest.mark.parametrize("atomic", [False, True], ids=["in-place", "renamed"])
def test_a_file_that_was_cut_back_is_read_anew(tmp_path, atomic, count):
    log = read(make(tmp_path / "a", *(train_row(step, 1.0) for step in range(1, 9))))
    rows = [train_row(step, 2.0) for step in range(1, count)]  # which may be longer by now
    if atomic:  # as a resumed run does it
        (tmp_path / "new").write_text(lines(*rows))
        (tmp_path / "new").replace(tmp_path / "a" / METRICS)
    else:
        (tmp_path / "a" / METRICS).write_text(lines(*rows))
    assert log.update()
    assert log.train == [(row["step"], 2.0) for row in rows]


def test_steps_taken_again_replace_those_before(tmp_path):
    rows = [train_row(step, 1.0) for step in (1, 2, 3, 4)] + [train_row(3, 9.0)]
    assert read(make(tmp_path / "a", *rows)).train == [(1, 1.0), (2, 1.0), (3, 9.0)]


def test_the_best_is_of_the_present_pictures_and_a_number(tmp_path):
    rows = [evaluation(1, 0.1), {"kind": "data", "step": 1, "identity": "x"}]
    rows += [evaluation(2, 3.0), evaluation(3, 2.0), evaluation(4, None), evaluation(5, math.nan)]
    assert read(make(tmp_path / "a", *rows)).best == (3, 2.0)


ODD_TEXTS = [
    "",
    "\n\n",
    "{",
    "null\n[]\n3\n",
    "\0\0\0\n",
    "[" * 100_000 + "\n",
    '{"kind": "train"}\n{"kind": "evaluation"}\n',
    '{"kind": ["train"], "step": {}}\n',
    '{"kind": "train", "step": null, "loss": null, "step_s": 0, "lr": "x", "peak_mib": []}\n',
    '{"kind": "train", "step": -1, "loss": NaN, "step_s": NaN}\n',
    '{"kind": "evaluation", "step": 1e400, "loss": Infinity}\n',
    f'{{"kind": "train", "step": 1{"0" * 400}, "loss": 1{"0" * 400}}}\n',
]
ODD_CONFIGS = ["", "[]", "{", '{"train": 3, "model": {"name": 1}}', None]


@pytest.mark.parametrize(("text", "config"), combined(ODD_TEXTS, ODD_CONFIGS))
def test_anything_may_be_in_the_files(tmp_path, text, config):
    make(tmp_path / "a", text=text)
    if config is None:
        (tmp_path / "a" / CONFIG).unlink()
    else:
        (tmp_path / "a" / CONFIG).write_text(config)
    log = read(tmp_path / "a")
    told = log.summary("a")
    assert (told.best_eval_loss, told.done, told.steps) == (None, False, None)
    save_runs_chart(tmp_path / "chart.svg", {"a": log})


def test_a_run_is_done_with_the_evaluation_after_its_last_step(tmp_path):
    log = read(make(tmp_path / "a", train_row(9), evaluation(5), train_row(10), steps=10))
    assert not log.done
    with (tmp_path / "a" / METRICS).open("a") as file:
        file.write(lines(evaluation(10)))
    log.update()
    assert log.done
    make(tmp_path / "a", evaluation(10), steps=20)  # made longer
    log.update()
    assert not log.done


def test_a_deleted_run_stays_known_and_may_come_back(tmp_path):
    make(tmp_path / "a", train_row(1, 4.0))
    runs = Runs([tmp_path])
    assert runs.update()
    shutil.rmtree(tmp_path / "a")
    assert runs.update()
    (told,) = runs.summaries()
    assert (told.train_loss, told.problem) == (4.0, GONE)
    assert runs.finished
    assert not runs.update()
    make(tmp_path / "a", train_row(1, 5.0), train_row(2, 6.0))
    assert runs.update()
    (told,) = runs.summaries()
    assert (told.train_loss, told.step, told.problem) == (6.0, 2, None)
    assert not runs.finished


def test_runs_are_found_once_and_named_by_what_tells_them_apart(tmp_path):
    for name in ("x/run", "y/run", "y/deep/er/other", "run10", "run2", ".hidden/run", "x/run/in"):
        make(tmp_path / name, train_row(1))
    (tmp_path / "y" / "empty").mkdir()
    runs = Runs([tmp_path, tmp_path / "x", tmp_path / "x" / "run"])
    runs.update()
    assert list(runs.named()) == ["run2", "run10", "x/run", "other", "y/run"]
    make(tmp_path / "z" / "run2")
    runs.update()
    assert {f"{tmp_path.name}/run2", "z/run2"} <= set(runs.named())
    with pytest.raises(DataError, match="none: no such folder"):
        Runs([tmp_path / "none"])


def test_names_can_be_shown_and_differ(tmp_path):
    for name in (b"a\xff", b"a\xfe", b"b\x1b[31m\n"):
        make(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)), train_row(1))
    runs = Runs([tmp_path])
    runs.update()
    names = list(runs.named())
    assert len(names) == 3
    assert all(name.isprintable() and name.encode() for name in names)


def test_smoothing_keeps_a_constant_and_forgets_by_steps():
    flat = smoothed([(step, 3.0) for step in (1, 2, 5, 50)], 4.0)
    assert [value for _, value in flat] == pytest.approx([3.0] * 4)
    (_, _), (_, value) = smoothed([(0, 1.0), (4, 0.0)], 4.0)
    assert value == pytest.approx(math.exp(-1))
    gap = smoothed([(0, 1.0), (1, math.nan), (4, 0.0)], 4.0)
    assert gap == [(0, 1.0), (4, pytest.approx(math.exp(-1)))]
    assert smoothed([(3, 2.0), (4, 1.0)], 0.0) == [(3, 2.0), (4, 1.0)]


@pytest.mark.slow
def test_charts_are_what_their_suffix_says_and_the_same_again(tmp_path):
    rows = [row for s in range(1, 40) for row in (train_row(s, 9 / s), evaluation(s, 10 / s))]
    logs = {
        f"_{n} $x" * (1 + 30 * (n == 3)): read(make(tmp_path / str(n), *rows)) for n in range(9)
    }
    logs |= {"empty": read(make(tmp_path / "empty", text=""))}
    logs |= {"bad": read(make(tmp_path / "bad", evaluation(1, -1.0), train_row(1, 0.0)))}
    for suffix, magic in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".SVG", b"<?xml")):
        save_runs_chart(tmp_path / f"a{suffix}", logs)
        save_runs_chart(tmp_path / f"b{suffix}", logs)
        data = (tmp_path / f"a{suffix}").read_bytes()
        assert data.startswith(magic)
        assert data == (tmp_path / f"b{suffix}").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.slow
def test_a_chart_shows_every_run(tmp_path):
    """Removing a run's curve or moving a point changes the picture."""
    rows = [row for s in (1, 2, 3) for row in (train_row(s, 4.0 - s), evaluation(s, 5.0 - s))]
    base = {name: read(make(tmp_path / name, *rows)) for name in "ab"}

    def drawn(logs: dict[str, RunLog]) -> bytes:
        save_runs_chart(tmp_path / "c.svg", logs)
        return (tmp_path / "c.svg").read_bytes()

    whole = drawn(base)
    assert drawn({"a": base["a"]}) != whole
    for kind in ("train", "evaluation"):
        moved = [row | {"loss": 2.5} if (row["kind"], row["step"]) == (kind, 2) else row
                 for row in rows]  # fmt: skip
        assert drawn(base | {"b": read(make(tmp_path / "moved", *moved))}) != whole
