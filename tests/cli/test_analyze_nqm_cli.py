"""`lictor analyze nqm`: tables, files and charts of a model that needs no data."""

import contextlib
import csv
import io
import json

import pytest
from PIL import Image

from lictor.cli.main import main

SMALL = (
    *("--particles", 400, "--dimensions", 5, "--gammas", 0.5, 1.0),
    *("--alphas", 0.5, "--intervals", 1, 5, "--sizes", 1, 4, 20),
)
TABLES = ("ratios", "transient", "spectrum", "curves", "equal-risk", "embedding", "modes")
CHARTS = ("alpha.png", "interval.png", "risk.png", "speed.png", "modes.png")


@pytest.fixture
def lictor(capsys):
    """Run the command in this process; return exit code, stdout and stderr lines."""

    def run(*args: object) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(["analyze", "nqm", *map(str, args)])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out, captured.err.splitlines()

    return run


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """One run for all tests that only look at it."""
    out, said = tmp_path_factory.mktemp("nqm"), io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as exit_:
        main(["analyze", "nqm", "-o", str(out), *map(str, SMALL)])
    assert exit_.value.code == 0
    return said.getvalue(), out


@pytest.mark.slow
def test_tables_have_closed_forms_and_simulations_side_by_side(result):
    said, out = result
    content = json.loads((out / "nqm.json").read_text())
    assert tuple(content["tables"]) == TABLES
    assert content["settings"]["seed"] == 0
    for name, table in content["tables"].items():
        with (out / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [list(row) for row in rows] == [list(row) for row in table["rows"]]
        for row in table["rows"]:
            for key in row:
                if not key.endswith(", simulated") or row[key] is None:
                    continue
                # 400 particles, a single moment of a curve: far from exact, but no other number.
                tolerance = 0.5 if name == "curves" else 0.25
                assert row[key] == pytest.approx(
                    row[key.removesuffix(", simulated")], rel=tolerance
                )
    (first, second) = content["tables"]["ratios"]["rows"]
    assert first["feedback"] == pytest.approx(0.487179, abs=5e-7)
    assert second["no feedback"] == pytest.approx(0.612622, abs=5e-7)
    assert "0.612622" in said
    assert "simulations are within" in said


@pytest.mark.slow
def test_a_step_that_diverges_leaves_a_gap(result):
    said, out = result
    *_, last = json.loads((out / "nqm.json").read_text())["tables"]["modes"]["rows"]
    assert last["size"] == 20
    assert last["chain"] is last["chain, simulated"] is None
    assert last["own"] > last["chain, divided"] > 0
    assert "diverges" in said


@pytest.mark.slow
def test_charts_are_pictures(result):
    _, out = result
    for name in CHARTS:
        with Image.open(out / name) as image:
            assert min(image.size) > 400
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["nqm.json", *(f"{name}.csv" for name in TABLES), *CHARTS]
    )


@pytest.mark.slow
def test_the_seed_decides_and_nothing_is_overwritten_unasked(result, lictor, tmp_path):
    _, first = result
    assert lictor("-o", tmp_path, *SMALL)[0] == 0
    before = (tmp_path / "nqm.json").read_bytes()
    assert before == (first / "nqm.json").read_bytes()
    code, said, errors = lictor("-o", tmp_path, *SMALL)
    assert (code, said) == (1, "")
    assert len(errors) == 1
    assert "--force" in errors[0]
    assert lictor("-o", tmp_path, *SMALL, "--force", "--seed", 1)[0] == 0
    assert (tmp_path / "nqm.json").read_bytes() != before


@pytest.mark.slow
def test_the_ends_of_what_is_allowed(lictor, tmp_path):
    code, _, errors = lictor(
        *("-o", tmp_path, "--gamma", 1.0, "--gammas", 1.9, "--alphas", 1.0, "--intervals", 1),
        *("--alpha", 1.0, "--interval", 1, "--dimensions", 1, "--sizes", 1, "--particles", 100),
    )
    assert (code, errors) == (0, [])


@pytest.mark.slow
def test_an_average_may_have_less_risk_at_every_step(lictor, tmp_path):
    code, said, _ = lictor("-o", tmp_path, *SMALL, "--gamma", 1.9)
    assert code == 0
    rows = json.loads((tmp_path / "nqm.json").read_text())["tables"]["equal-risk"]["rows"]
    assert {row["gamma"] is None for row in rows} == {True, False}
    assert "-" in said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--gamma", 2.0), "take a step below 2"),
        (("--gammas", 0.1, 2.5), "diverges"),
        (("--gamma", 0.0), "positive"),
        (("--alphas", 1.5), "alpha"),
        (("--alphas", 0.5, 0.5), "twice"),
        (("--intervals", 0), "interval"),
        (("--interval", 0), "interval"),
        (("--dimensions", 0), "at least 1"),
        (("--dimensions", 10_000_000), "fewer dimensions"),
        (("--sizes", 0), "at least 1"),
        (("--particles", 10), "particles"),
        (("--gammas", 1e-9), "too many to simulate"),
        (("--alphas", 1e-9), "too many to simulate"),
        (("--seed", -1), "negative"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(args, words, lictor, tmp_path):
    code, said, errors = lictor("-o", tmp_path / "out", *args)
    assert (code, said) == (1, "")
    assert len(errors) == 1
    assert errors[0].startswith("lictor: error: ")
    assert words in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_is_told(lictor, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, errors = lictor("-o", tmp_path / "file")
    assert code == 1
    assert "cannot make the folder" in errors[0]
