"""TensorBoard sees what metrics.jsonl says, each step once, also of a run that was resumed."""

import json
import sys

import pytest

from lictor.cli.main import main
from lictor.errors import ConfigError, DataError
from lictor.reporting.tensorboard_log import tensorboard_log
from lictor.training.run import METRICS

RECIPE = """
[model]
name = "mbt2018-mean"
n = 8
m = 8
[data]
crop_size = 64
[train]
steps = 6
batch_size = 1
log_every = 2
eval_every = 3
checkpoint_every = 4
"""


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    seen.Reload()
    tags = seen.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in seen.Scalars(tag)] for tag in tags}


def told(run) -> dict[str, list[tuple[int, float]]]:
    result = {}
    for row in map(json.loads, (run / METRICS).read_text().splitlines()):
        for key, value in row.items():
            if key not in ("kind", "step") and isinstance(value, int | float) and value == value:
                point = (row["step"], pytest.approx(value, rel=1e-6))
                result.setdefault(f"{row['kind']}/{key}", []).append(point)
    return result


@pytest.fixture
def train(tmp_path, picture_folder, capsys):
    (tmp_path / "recipe.toml").write_text(RECIPE)

    def run(*args: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit_:
            main(
                ["train", str(tmp_path / "recipe.toml"), "--data", str(picture_folder), "--device",
                 "cpu", "--out", str(tmp_path / "run"), *map(str, args)]
            )  # fmt: skip
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, capsys.readouterr().err

    return run


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_and_its_resumption_are_the_rows_of_the_metrics(train, tmp_path):
    pytest.importorskip("tensorboard")
    board, run = tmp_path / "board", tmp_path / "run"
    assert train("--tensorboard", board)[0] == 0
    seen = scalars(board)
    assert seen == told(run)
    assert [step for step, _ in seen["train/loss"]] == [2, 4, 6]
    assert [step for step, _ in seen["evaluation/psnr"]] == [3, 6]
    assert train("--resume", "--tensorboard", board, "--set", "train.steps=9")[0] == 0
    seen = scalars(board)
    assert seen == told(run)
    steps = [step for step, _ in seen["train/loss"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == 9


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rows_that_a_resumed_run_takes_back_are_hidden(tmp_path):
    pytest.importorskip("tensorboard")
    run, board = tmp_path / "run", tmp_path / "board"
    run.mkdir()

    def write(rows, kept):
        with tensorboard_log(board, run) as record:
            text = "".join(json.dumps(row) + "\n" for row in kept)
            (run / METRICS).write_text(text)
            for row in rows:
                with (run / METRICS).open("a") as file:
                    file.write(json.dumps(row) + "\n")
                record(row)

    first = [{"kind": "train", "step": s, "loss": float(s), "skipped": 0} for s in range(1, 8)]
    write(first, [])
    assert scalars(board) == told(run)
    # Killed after step 7, resumed from step 3, with another cadence, and a step without a loss.
    again = [{"kind": "data", "step": 3, "identity": "x"}]
    again += [{"kind": "train", "step": s, "loss": None if s == 9 else -1.0} for s in (6, 9, 12)]
    again += [{"kind": "evaluation", "step": 12, "loss": float("nan"), "bpp": 1.0}]
    write(again, first[:3])
    assert scalars(board) == told(run)
    assert [step for step, _ in scalars(board)["train/loss"]] == [1, 2, 3, 6, 12]


def test_without_the_package_nothing_begins(train, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    code, err = train("--tensorboard", tmp_path / "board")
    assert (code, err.count("\n")) == (1, 1)
    assert "pip install 'lictor[tensorboard]'" in err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "board").exists()
    with pytest.raises(ConfigError, match="not installed"), tensorboard_log(tmp_path, tmp_path):
        pass
    with tensorboard_log(None, tmp_path) as record:
        record({"kind": "train", "step": 1})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_folder_that_cannot_be_is_told_before_anything_begins(train, tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "file").touch()
    code, err = train("--tensorboard", tmp_path / "file")
    assert (code, err.count("\n")) == (1, 1)
    assert "cannot make the folder" in err
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError), tensorboard_log(tmp_path / "file" / "in", tmp_path):
        pass
