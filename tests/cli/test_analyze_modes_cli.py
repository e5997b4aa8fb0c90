"""`lictor analyze modes`: what a run says of itself, read back, drawn, and refused when damaged."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import photo
from lictor.analysis.modes import load_mode_story, tracked_over_time
from lictor.cli.main import main
from lictor.errors import DataError
from lictor.training.recipe import config_from_dict
from lictor.training.run import MODES
from lictor.training.run import run as train_run

STEPS, WARMUP, WINDOW = 24, 9, 3
OUTPUTS = {"run.png", "layers.png", "trajectories.png", "modes.json", "modes.csv"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of 24 snapshots: modes after 10, events after 13, 16, 19 and 22."""
    folder = tmp_path_factory.mktemp("modes")
    (folder / "photos").mkdir()
    for seed in range(4):
        Image.fromarray(photo(96, 96, seed)).save(folder / "photos" / f"{seed}.png")
    tree = {
        "model": {"name": "checkerboard", "n": 8, "m": 8, "depth": 1},
        "optim": {"lr": 1e-3},
        "stdet": {
            "snapshot_every": 1,
            "warmup": WARMUP,
            "window": WINDOW,
            "share": 0.1,
            "cap": 0.3,
            "modes": 3,
            "samples": 100,
        },
        "sma": {"interval": 1, "alpha": 0.5},
        "data": {"crop_size": 64, "held_out": 1},
        "train": {"steps": STEPS, "batch_size": 1, "log_every": 5},
    }
    run = folder / "run"
    for _ in train_run(config_from_dict(tree, source="test"), folder / "photos", run):
        pass
    return run


@pytest.fixture
def lictor(capsys):
    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(["analyze", "modes", *map(str, args)])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out, captured.err

    return run


@pytest.mark.slow
def test_the_files_and_the_table_tell_the_run(lictor, trained, tmp_path):
    code, out, err = lictor(trained, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == OUTPUTS
    for name in ("run.png", "layers.png", "trajectories.png"):
        with Image.open(tmp_path / "out" / name) as image:
            assert np.asarray(image.convert("L")).std() > 5
    summary = json.loads((tmp_path / "out" / "modes.json").read_text())
    assert summary["steps"] == STEPS
    assert summary["trainable"] + summary["embedded"] == summary["total"]
    rows = list(csv.DictReader((tmp_path / "out" / "modes.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    embedded = [int(row["embedded"]) for row in rows]
    assert embedded == sorted(embedded)
    events = [k + 2 for k, (a, b) in enumerate(pairwise(embedded)) if b > a]
    assert events == [13, 16, 19]
    assert embedded[-1] == summary["embedded"]
    assert summary["mean_share"] == pytest.approx(
        sum(float(row["share"]) for row in rows) / STEPS, abs=1e-6
    )
    for reference in summary["modes"]["references"]:
        assert reference in out


@pytest.mark.slow
def test_embedded_weights_are_on_their_lines_in_the_story(trained):
    """The averages that are written down follow the line that stands beside them."""
    story = load_mode_story(trained)
    assert story.modes is not None
    seen = 0
    for row in story.snapshots:
        for k, inside in enumerate(row.tracked_embedded):
            if inside:
                reference = row.tracked[story.modes.tracked_modes[k]]
                line = row.slope[k] * reference + row.offset[k]
                assert row.tracked[k] == pytest.approx(line, abs=1e-6)
                seen += 1
    assert seen
    steps, values = tracked_over_time(story)
    assert steps.tolist() == list(range(1, STEPS + 1))
    assert values.shape == (len(story.modes.tracked), STEPS)
    assert np.abs(values[:, WARMUP] - values[:, WARMUP + 1]).max() < 0.01  # one piece fits the next


@pytest.mark.slow
def test_a_run_that_is_going_on_can_be_looked_at(lictor, trained, tmp_path):
    lines = (trained / MODES).read_text().splitlines(keepends=True)
    early = tmp_path / "early"
    early.mkdir()
    (early / MODES).write_text("".join(lines[:3]))
    assert lictor(early, "-o", tmp_path / "a")[0] == 0
    (early / MODES).write_text("".join(lines[:14]) + lines[14][:50])
    assert lictor(early, "-o", tmp_path / "b")[0] == 0
    story = load_mode_story(early)
    assert story.modes is not None
    assert len(story.snapshots) == 13


@pytest.mark.slow
def test_what_is_no_run_is_one_line_and_writes_nothing(lictor, trained, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    out = tmp_path / "out"
    good = (trained / MODES).read_text().splitlines(keepends=True)
    cases = {
        "no such run folder": tmp_path / "none",
        "stdet.snapshot_every": bad,
    }
    for expected, folder in cases.items():
        code, stdout, err = lictor(folder, "-o", out)
        assert (code, stdout, err.count("\n")) == (1, "", 1)
        assert expected in err
    for text in ("", "[]\n}", '{"kind": "snapshot"}\n', good[0].replace('"total"', '"t"')):
        (bad / MODES).write_text(text)
        code, _, err = lictor(bad, "-o", out)
        assert code == 1
        assert MODES in err
    for key in ("tracked", "tracked_embedded", "slope", "shares", "correlation"):
        changed = json.loads(good[-1])
        changed[key] = changed[key][:-1]
        (bad / MODES).write_text("".join(good[:-1]) + json.dumps(changed) + "\n")
        code, _, err = lictor(bad, "-o", out)
        assert code == 1
        assert f"line {len(good)}" in err
    found = next(k for k, line in enumerate(good) if '"kind": "modes"' in line)
    changed = json.loads(good[found])
    for key in ("tracked", "tracked_modes", "trajectories"):
        changed[key] = changed[key][:2]  # fewer than there are references
    (bad / MODES).write_text("".join(good[:found]) + json.dumps(changed) + "\n")
    code, _, err = lictor(bad, "-o", out)
    assert code == 1
    assert f"line {found + 1}" in err
    assert not out.exists()
    assert lictor(trained, "-o", out)[0] == 0
    code, _, err = lictor(trained, "-o", out)
    assert code == 1
    assert "--force" in err
    assert lictor(trained, "-o", out, "--force")[0] == 0
    (bad / MODES).write_text(good[0])
    early = load_mode_story(bad)
    with pytest.raises(DataError, match="no modes"):
        tracked_over_time(early)
