"""`lictor analyze surrogates`: tables and charts that need no data, each as soon as it is done."""

import csv
import json

import pytest
from PIL import Image

from lictor.analysis.surrogates import tables as module
from lictor.cli.main import main

SMALL = (
    *("--paths", "noise", "straight-through", "sua", "--samples", 100, "--steps", 2),
    *("--replicas", 1),
)
TABLES = {
    *("curves", "moments", "risk", "rate-risk", "rates", "scales", "bounds", "means"),
    *("pairs", "annealing"),
}
CHARTS = {
    *("curves.png", "mismatch.png", "risk.png", "risk-narrow.png", "gap.png", "bound.png"),
    "toy.png",
}


@pytest.fixture
def lictor(capsys, monkeypatch):
    """Run the command in this process; return exit code, stdout and stderr lines."""
    monkeypatch.setattr(module, "TEMPERATURES", (1.0, 0.2))
    monkeypatch.setattr(module, "ENDS", (1.0, 0.0))

    def run(*args: object) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(["analyze", "surrogates", *map(str, args)])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        # On a busy machine there is a line of progress now and then.
        errors = [e for e in captured.err.splitlines() if not e.startswith("measuring: ")]
        return exit_.value.code, captured.out, errors

    return run


@pytest.mark.slow
def test_everything_is_tabulated_and_drawn(lictor, tmp_path):
    code, said, errors = lictor("-o", tmp_path / "out", *SMALL)
    assert (code, errors) == (0, [])
    out = tmp_path / "out"
    content = json.loads((out / "surrogates.json").read_text())
    assert set(content["tables"]) == TABLES
    assert content["settings"]["paths"] == ["noise", "straight-through", "sua"]
    for name, table in content["tables"].items():
        with (out / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [list(row) for row in rows] == [list(row) for row in table["rows"]]
    versions = {(row["path"], row["temperature"]) for row in content["tables"]["risk"]["rows"]}
    assert versions == {("noise", None), ("straight-through", None), ("sua", 1.0), ("sua", 0.2)}
    for name in CHARTS:
        with Image.open(out / name) as image:
            assert min(image.size) > 400
    assert {path.name for path in out.iterdir()} == (
        {"surrogates.json"} | CHARTS | {f"{name}.csv" for name in TABLES}
    )
    assert "0.5798" in said  # the rate of a Student's t under a bound of 0.25
    code, said, errors = lictor("-o", out, *SMALL)
    assert (code, said, len(errors)) == (1, "", 1)
    assert "--force" in errors[0]


@pytest.mark.slow
def test_an_interrupt_leaves_what_is_finished(lictor, tmp_path, monkeypatch):
    def interrupted(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_rate_risks", interrupted)
    code, _, errors = lictor("-o", tmp_path, *SMALL)
    assert code == 130
    assert "interrupted" in errors[-1]
    assert {path.name for path in tmp_path.iterdir()} >= {
        *("curves.csv", "curves.png", "moments.csv", "mismatch.png", "risk.csv")
    }
    assert not (tmp_path / "surrogates.json").exists()


@pytest.mark.slow
def test_the_progress_counts_what_comes():
    few = module.Settings(("noise",), samples=100, steps=1, replicas=1)
    assert sum(1 for _ in module.all_tables(few)) == module.num_tables(few)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--paths", "noice"), "did you mean 'noise'"),
        (("--paths", "noise", "noise"), "none of them twice"),
        (("--samples", 10), "at least 100 samples"),
        (("--steps", 0), "at least 1"),
        (("--replicas", 0), "at least 1"),
        (("--seed", -1), "at least 0"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(args, words, lictor, tmp_path):
    code, said, errors = lictor("-o", tmp_path / "out", *args)
    assert (code, said, len(errors)) == (1, "", 1)
    assert errors[0].startswith("lictor: error: ")
    assert words in errors[0]
    assert not (tmp_path / "out").exists()
