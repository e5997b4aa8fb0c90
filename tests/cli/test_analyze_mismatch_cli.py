"""`lictor analyze mismatch`: from trained runs to files, and one line for each mistake."""

import csv
import json
from pathlib import Path

import pytest

from lictor.analysis.mismatch import load_mismatch_run
from lictor.cli.main import main


def write_run(folder: Path, totals: list[float], *, loss: float = 1.0) -> Path:
    """Write a run folder whose evaluations have these mismatches, all of them of the rate of y."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"loss": {"lmbda": 0.01}}))
    rows = [{"kind": "train", "step": 5, "loss": 3.0}]
    rows += [
        {"kind": "evaluation", "step": 10 * (n + 1), "loss": loss, "bpp": 0.5, "psnr": 30.0,
         "mismatch": total, "mismatch_mse": 0.0, "mismatch_bpp_y": total}
        for n, total in enumerate(totals)
    ]  # fmt: skip
    lines = [json.dumps(row) for row in rows]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"kind": "evalua']))
    return folder


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


def test_a_chart_a_table_and_a_warning_where_training_flatters(lictor, tmp_path):
    fair = write_run(tmp_path / "fair", [0.1, 0.02])
    leaky = write_run(tmp_path / "leaky", [0.1, -0.3])
    code, out, errors = lictor("analyze", "mismatch", fair, leaky, "-o", tmp_path / "out")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["fair", "leaky"]
    warnings = [line for line in errors if "warning" in line]
    assert len(warnings) == 1
    assert "leaky" in warnings[0]
    with (tmp_path / "out" / "mismatch.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], float(row["mismatch"])) for row in rows] == [
        ("fair", 0.1), ("fair", 0.02), ("leaky", 0.1), ("leaky", -0.3),
    ]  # fmt: skip
    assert (tmp_path / "out" / "mismatch.png").read_bytes().startswith(b"\x89PNG")
    code, _, errors = lictor("analyze", "mismatch", fair, "-o", tmp_path / "out")
    assert code == 1
    assert "--force" in errors[0]


def test_the_parts_add_up_in_units_of_the_loss(tmp_path):
    folder = write_run(tmp_path / "run", [0.25])
    lines = (
        (folder / "metrics.jsonl")
        .read_text()
        .replace('"mismatch_mse": 0.0', '"mismatch_mse": 1e-4')
    )
    (folder / "metrics.jsonl").write_text(lines)
    run = load_mismatch_run(folder)
    assert run.distortion == pytest.approx((0.01 * 255**2 * 1e-4,))
    assert run.rate_bpp == {"y": (0.25,)}


@pytest.mark.slow
def test_where_a_run_went_on_with_other_pictures_is_known_and_drawn(lictor, tmp_path):
    same, other = (write_run(tmp_path / name, [0.1, 0.2, 0.3]) for name in ("same", "other"))
    path = other / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines.insert(2, json.dumps({"kind": "data", "step": 10, "identity": "x"}))
    path.write_text("\n".join(lines))
    runs = [load_mismatch_run(folder) for folder in (same, other)]
    assert [run.other_data for run in runs] == [(), (10,)]
    assert runs[0].total == runs[1].total
    charts = []
    for folder, out in ((same, tmp_path / "a"), (other, tmp_path / "b")):
        folder = folder.rename(tmp_path / "run")  # the same name in both
        assert lictor("analyze", "mismatch", folder, "-o", out)[0] == 0
        folder.rename(tmp_path / f"done-{out.name}")
        charts.append((out / "mismatch.png").read_bytes())
    assert charts[0] != charts[1]


def test_what_is_no_such_run_is_refused_in_one_line(lictor, tmp_path):
    (tmp_path / "empty").mkdir()
    plain = write_run(tmp_path / "plain", [])
    torn = write_run(tmp_path / "torn", [0.1])
    (torn / "config.json").write_text("{")
    for folder, words in (
        (tmp_path / "nowhere", "not a run folder: there is no metrics.jsonl"),
        (tmp_path / "empty", "not a run folder: there is no metrics.jsonl"),
        (torn, "not a readable run folder"),
        (plain, "train.mismatch=true"),
    ):
        code, out, errors = lictor("analyze", "mismatch", folder, "-o", tmp_path / "out")
        assert (code, out, len(errors)) == (1, "", 1)
        assert words in errors[0]
    assert not (tmp_path / "out").exists()
    assert lictor("analyze", "mismatch", "-o", tmp_path / "out")[0] == 2
