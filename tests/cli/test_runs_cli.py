"""`lictor runs`: the table and the chart, once and while runs go on."""

import json
import math
import re
import shutil

import pytest

from lictor.cli import runs as module
from lictor.cli.main import main
from lictor.reporting.runs import GONE
from lictor.training.run import CONFIG, METRICS


def make(folder, *, step=50, steps=100, loss=1.5, name="soap"):
    folder.mkdir(parents=True, exist_ok=True)
    tree = {"model": {"name": "mbt"}, "optim": {"name": name}, "train": {"steps": steps}}
    (folder / CONFIG).write_text(json.dumps(tree))
    train = {"kind": "train", "step": step, "loss": 1.25, "lr": 0.002, "step_s": 0.25}
    train |= {"wait_share": 0.125, "peak_mib": 345.6}
    held_out = {"kind": "evaluation", "step": step, "loss": loss, "bpp": 0.375, "psnr": 31.5}
    (folder / METRICS).write_text(json.dumps(train) + "\n" + json.dumps(held_out) + "\n")
    return folder


@pytest.fixture
def lictor(capsys):
    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(["runs", *map(str, args)])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out, captured.err

    return run


@pytest.fixture
def waits(monkeypatch):
    """What happens, instead of time passing, at each wait of `--follow`; then Ctrl-C."""
    events, waited = [], []

    def wait(seconds):
        waited.append(seconds)
        if not events:
            raise KeyboardInterrupt
        events.pop(0)()

    monkeypatch.setattr(module, "_wait", wait)
    return events, waited


def test_the_table_has_every_run_and_number(lictor, tmp_path):
    make(tmp_path / "one")
    make(tmp_path / "two", loss=math.nan, name="adam")
    code, out, err = lictor(tmp_path)
    assert (code, err) == (0, "")
    row = next(line for line in out.splitlines() if line.split()[:1] == ["one"])
    wanted = "one mbt soap 50/100 1.2500 1.5000 1.5000 0.3750 31.50 0.002 4 12.5% 346"
    assert row.split()[:13] == wanted.split()
    assert re.fullmatch(r"\d+ s", " ".join(row.split()[13:]))
    other = next(line for line in out.splitlines() if line.split()[:1] == ["two"])
    assert other.split()[4:7] == ["1.2500", "nan", "-"]


def test_json_is_strict_and_a_chart_goes_with_it(lictor, tmp_path):
    make(tmp_path / "one", loss=math.nan)
    chart = tmp_path / "chart.png"
    code, out, err = lictor(tmp_path / "one", "--json", "-o", chart)
    assert (code, err) == (0, "")

    def refuse(name):
        raise AssertionError(name)

    (told,) = json.loads(out, parse_constant=refuse)
    assert (told["run"], told["step"], told["eval_loss"], told["done"]) == ("one", 50, None, False)
    assert chart.read_bytes().startswith(b"\x89PNG")
    before = chart.read_bytes()
    code, out, err = lictor(tmp_path / "one", "-o", chart)
    assert (code, out) == (1, "")
    assert "--force" in err
    assert chart.read_bytes() == before
    assert lictor(tmp_path / "one", "-o", chart, "--force")[0] == 0


def test_following_ends_when_all_are_done(lictor, tmp_path, waits):
    events, waited = waits
    make(tmp_path / "one")
    events += [
        lambda: make(tmp_path / "two", step=100),
        lambda: make(tmp_path / "one", step=100),
        lambda: pytest.fail("all are done"),
    ]
    code, out, err = lictor(tmp_path, "--follow", "--every", "7", "--json")
    assert (code, err, waited) == (0, "", [7.0, 7.0])
    looks = [[run["step"] for run in json.loads(line)] for line in out.splitlines()]
    assert looks == [[50], [50, 100], [100, 100]]


def test_ctrl_c_ends_following_and_the_chart_is_the_latest(lictor, tmp_path, waits):
    make(tmp_path / "one")
    chart, seen = tmp_path / "chart.svg", []
    events, _ = waits
    events += [
        lambda: seen.append(chart.read_bytes()),
        lambda: make(tmp_path / "one", step=75, loss=0.5),
        lambda: seen.append(chart.read_bytes()),
    ]
    code, out, err = lictor(tmp_path, "--follow", "-o", chart)
    assert (code, err) == (0, "")
    assert out.count("held-out") == 4
    assert seen[0] != seen[1] == chart.read_bytes()


def test_a_chart_is_written_again_only_for_something_new(lictor, tmp_path, waits):
    make(tmp_path / "one")
    chart, seen = tmp_path / "chart.svg", []
    events, _ = waits
    events += [lambda: seen.append(chart.stat().st_ino)] * 2
    assert lictor(tmp_path, "--follow", "-o", chart)[0] == 0
    assert seen[0] == seen[1] == chart.stat().st_ino


def test_following_waits_for_a_first_run_and_survives_its_end(lictor, tmp_path, waits):
    events, _ = waits
    events += [
        lambda: make(tmp_path / "one"),
        lambda: shutil.rmtree(tmp_path / "one"),
        lambda: pytest.fail("there is nothing to wait for"),
    ]
    code, out, err = lictor(tmp_path, "--follow")
    assert (code, err) == (0, "")
    assert "no run yet" in out
    last = out.rstrip().splitlines()[-1].split()
    assert (last[0], last[-1]) == ("one", GONE)


def test_a_narrow_terminal_leaves_out_columns_and_cuts_no_number(tmp_path):
    from rich.console import Console

    from lictor.reporting.runs import Runs

    make(tmp_path / "run-with-a-name")
    found = Runs([tmp_path])
    found.update()
    counts = []
    for width in (60, 80, 100, 200):
        console = Console(width=width, force_terminal=True, color_system=None)
        with console.capture() as capture:
            console.print(module._table(found.summaries(), console), crop=False)
        lines = capture.get().splitlines()
        assert max(map(len, lines)) <= width
        row = next(line for line in lines if "run-with-a-name" in line)
        assert {"50/100", "1.5000"} <= set(row.split())
        assert re.search(r" \d+ s *$", row)
        counts.append(len(row.split()))
    assert counts == sorted(set(counts))
    assert counts[-1] == 15


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ([], 2, "at least one folder"),
        (["none"], 1, "no such folder"),
        (["file"], 1, "no such folder"),
        (["empty"], 1, "no run of `lictor train`"),
        (["one", "-o", "chart.jpg"], 1, "must end in one of .pdf, .png, .svg"),
        (["one", "-o", "none/chart.png"], 1, "no folder"),
        (["one", "--every", "0"], 1, "--every"),
        (["one", "--every", "nan"], 1, "--every"),
    ],
)
def test_mistakes_are_told_in_one_line(lictor, tmp_path, monkeypatch, args, code, said):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "one")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    got, out, err = lictor(*args)
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert said in err
    assert sorted(tmp_path.rglob("*")) == before
