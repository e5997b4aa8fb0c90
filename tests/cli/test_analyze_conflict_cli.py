"""`lictor analyze conflict`: from trained runs to files, and one line for each mistake."""

import json
from pathlib import Path

import pytest
from conflict_fixtures import row, write_run

from lictor.cli.main import main

TINY = """
[model]
name = "bmshj2018-factorized"
n = 8
m = 8
[data]
crop_size = 64
[optim]
lr = 1e-3
[train]
steps = 6
batch_size = 1
"""
FILES = ["conflict.csv", "conflict.json", "layers.png", "scores.png"]


@pytest.fixture
def lictor(capsys):
    """Run a command in this process; return exit code, stdout and stderr lines."""

    def run(*args: object) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, args)])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out, captured.err.splitlines()

    return run


def fails_with_one_line(result: tuple[int, str, list[str]], *words: str) -> None:
    code, out, errors = result
    assert (code, out) == (1, "")
    assert len(errors) == 1, errors
    assert errors[0].startswith("lictor: error: ")
    for word in words:
        assert word in errors[0]


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "adam", [row(10 * k) for k in range(1, 7)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_from_a_recipe_to_a_table(lictor, picture_folder, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    for name in ("adam", "soap"):
        code, _, _ = lictor(
            "train", tmp_path / "tiny.toml", "--data", picture_folder, "--out", tmp_path / name,
            "--set", f"optim.name={name}", "train.conflict_every=3", "train.conflict_lag=2",
        )  # fmt: skip
        assert code == 0
    code, out, errors = lictor(
        "analyze", "conflict", tmp_path / "adam", tmp_path / "soap",
        "--out", tmp_path / "results" / "conflict", "--phases", 2,
    )  # fmt: skip
    assert (code, errors) == (0, [])
    assert names(tmp_path / "results" / "conflict") == FILES
    tree = json.loads((tmp_path / "results" / "conflict" / "conflict.json").read_text())
    assert [r["name"] for r in tree["runs"]] == ["adam", "soap"]
    pre = [m for m in tree["means"] if m["score"] == "intra_pre"]
    assert [(m["first"], m["last"], m["num_probes"]) for m in pre] == 2 * [(0, 3, 1), (3, 6, 1)]
    lines = [line.split() for line in out.splitlines()]
    shown = next(line for line in lines if line and line[0] == "intra_pre")
    wanted = [m for m in tree["means"] if (m["run"], m["score"]) == ("adam", "intra_pre")]
    assert shown[1:4] == ["adam", *(f"{m['mean']:.3f}" for m in wanted)]
    assert any(line[:1] == ["soap"] for line in lines)


@pytest.mark.slow
def test_runs_that_differ_are_warned_about(lictor, run, tmp_path):
    other = write_run(tmp_path / "soap", [row(10)], optim={"beta1": 0.95}, loss={"lmbda": 1.0})
    code, out, errors = lictor("analyze", "conflict", run, other, "-o", tmp_path / "out")
    assert code == 0
    assert errors == [
        "lictor: warning: the runs differ in loss.lmbda: not the same problem",
        "lictor: warning: inter_upd is not comparable: the runs differ in optim.beta1",
    ]
    assert " - " in out  # the shorter run has no probe in later phases


@pytest.mark.slow
def test_results_are_only_overwritten_when_asked(lictor, run, tmp_path):
    assert lictor("analyze", "conflict", run, "-o", tmp_path / "out")[0] == 0
    before = (tmp_path / "out" / "scores.png").read_bytes()
    result = lictor("analyze", "conflict", run, "-o", tmp_path / "out", "--window", 1)
    fails_with_one_line(result, "scores.png: exists already", "--force")
    assert (tmp_path / "out" / "scores.png").read_bytes() == before
    again = lictor("analyze", "conflict", run, "-o", tmp_path / "out", "--window", 1, "--force")
    assert again[0] == 0
    assert (tmp_path / "out" / "scores.png").read_bytes() != before


def test_bad_runs_end_in_one_line_and_leave_nothing(lictor, run, tmp_path):
    def attempt(*runs: object) -> tuple[int, str, list[str]]:
        return lictor("analyze", "conflict", *runs, "-o", tmp_path / "out")

    (tmp_path / "plain").mkdir()
    damaged = write_run(tmp_path / "damaged", [row(10), row(20)])
    with (damaged / "conflict.jsonl").open("a") as log:
        log.write('{"step": 30, "intra')
    twin = write_run(tmp_path / "other" / "adam", [row(10)])
    fails_with_one_line(attempt(tmp_path / "absent"), "absent: no such run folder")
    fails_with_one_line(attempt(run, tmp_path / "plain"), "plain: has no conflict.jsonl", "--set")
    fails_with_one_line(attempt(damaged), "conflict.jsonl: line 3 is damaged", "resume")
    fails_with_one_line(attempt(run, twin), "two runs are called 'adam'", "rename")
    assert not (tmp_path / "out").exists()


def test_bad_options_end_in_one_line(lictor, run, tmp_path):
    for option in ("--phases", "--window"):
        result = lictor("analyze", "conflict", run, "-o", tmp_path / "out", option, 0)
        fails_with_one_line(result, "must be at least 1")
    (tmp_path / "file").write_bytes(b"")
    result = lictor("analyze", "conflict", run, "-o", tmp_path / "file")
    fails_with_one_line(result, "file: cannot make the folder")
    code, _, errors = lictor("analyze", "conflict", "-o", tmp_path / "out")
    assert code == 2
    assert len(errors) == 1
    assert lictor("analyze")[0] == 2
