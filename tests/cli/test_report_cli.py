"""`lictor report`: what it writes, and how it fails."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from lictor.cli.main import main
from lictor.comparison.curve import Curve, curve_to_json


@pytest.fixture
def lictor(capsys, tmp_path, monkeypatch):
    """Run a command in a folder of its own; return exit code, stdout and stderr lines."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(["report", *map(str, args)])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out, captured.err.splitlines()

    return run


@pytest.fixture(autouse=True)
def results(tmp_path) -> Path:
    """Two results files of numbers only, in the folder `results`."""
    for name, gain in (("mine", 1.0), ("theirs", 0.0)):
        columns = {
            "bpp": np.array([0.2, 0.4, 0.8, 1.6]),
            "psnr": np.array([27, 30, 33, 36]) + gain,
            "ms-ssim": np.array([0.9, 0.94, 0.97, 0.985]),
        }
        curve = Curve(name, ("1", "2", "3", "4"), columns, dataset="x", aggregation="mean-psnr")
        path = tmp_path / "results" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(curve_to_json(curve)))
    return tmp_path / "results"


def fails_with_one_line(result: tuple[int, str, list[str]], *words: str) -> None:
    code, out, errors = result
    assert code == 1
    assert out == ""
    assert len(errors) == 1, errors
    assert errors[0].startswith("lictor: error: ")
    for word in words:
        assert word in errors[0]


@pytest.mark.slow
def test_a_page_and_charts_are_written(lictor, tmp_path):
    charts = [arg for name in ("a.pdf", "a.svg", "a.png") for arg in ("--chart", name)]
    code, out, errors = lictor("results", "bpg-444", "-o", "report.html", *charts)
    assert (code, errors) == (0, [])
    assert "report.html  3 curves" in out
    assert "a.pdf  PSNR dB, 3 of 3 curves" in out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Rate and distortion of 3 codecs" in page
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("a.pdf", "a.png", "a.svg", "report.html", "results"),
    ]


def test_title_and_anchor_are_as_asked(lictor, tmp_path):
    code, _, _ = lictor("results", "-o", "r.html", "--title", "Mine & yours", "--anchor", "theirs")
    assert code == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<title>Mine &amp; yours</title>" in page
    assert '<option value="1" selected>theirs</option>' in page


def test_a_chart_of_another_measure_needs_no_page(lictor, tmp_path):
    code, out, _ = lictor("results", "--chart", "c.svg", "--metric", "ms-ssim-db", "--log-rate")
    assert code == 0
    assert "MS-SSIM dB of the mean MS-SSIM, 2 of 2 curves" in out
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["c.svg"]
    fails_with_one_line(lictor("results", "--chart", "d.svg", "--metric", "lpips"), "no curve has")
    assert not (tmp_path / "d.svg").exists()


def test_a_file_in_a_folder_that_is_no_result_is_a_warning(lictor, results):
    (results / "x.json").write_text("{}")
    code, _, errors = lictor("results", "-o", "r.html")
    assert code == 0
    assert len(errors) == 1
    assert errors[0].startswith("lictor: warning: left out: results/x.json")


def test_nothing_to_do_is_wrong_usage(lictor):
    assert lictor("-o", "r.html")[0] == 2
    code, _, errors = lictor("results")
    assert code == 2
    assert "-o report.html" in errors[0]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["none.json", "-o", "r.html"], ["none.json", "no such file or folder"]),
        (["results/mine.json", "jpg-444", "-o", "r.html"], ["jpg-444", "bpg-444"]),
        (["results", "-o", "r.pdf"], ["r.pdf", ".html"]),
        (["results", "-o", "there/r.html"], ["no folder there"]),
        (["results", "--chart", "r.jpg"], ["r.jpg", ".pdf"]),
        (["results", "--chart", "r.pdf", "--chart", "r.pdf"], ["twice"]),
        (["results", "-o", "r.html", "--anchor", "x"], ["'x' is not one of", "mine, theirs"]),
        (["results", "-o", "r.html", "--pictures", "-1"], ["--pictures"]),
        (["results", "-o", "r.html", "--picture-mb", "nan"], ["--picture-mb"]),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(lictor, tmp_path, args, words):
    fails_with_one_line(lictor(*args), *words)
    assert [p.name for p in tmp_path.iterdir()] == ["results"]


def test_what_is_no_result_or_twice_is_named(lictor, results):
    (results / "x.json").write_text("{}")
    fails_with_one_line(lictor("results/x.json", "-o", "r.html"), "results/x.json", "'results'")
    copy = results / "copy" / "mine.json"
    copy.parent.mkdir()
    copy.write_bytes((results / "mine.json").read_bytes())
    code, out, _ = lictor("results/mine.json", copy, "-o", "r.html")
    assert code == 0
    assert "2 curves" in out


def test_existing_files_need_force(lictor, tmp_path):
    (tmp_path / "r.html").write_text("mine")
    (tmp_path / "c.pdf").write_text("mine")
    fails_with_one_line(lictor("results", "-o", "r.html"), "r.html", "--force")
    fails_with_one_line(lictor("results", "--chart", "c.pdf"), "c.pdf", "--force")
    assert (tmp_path / "r.html").read_text() == "mine"
    assert lictor("results", "-o", "r.html", "--chart", "c.pdf", "--force")[0] == 0
    assert len((tmp_path / "r.html").read_bytes()) > 10**6


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written_is_named(lictor, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    fails_with_one_line(lictor("results", "-o", "locked/r.html"), "locked/r.html", "cannot write")


def test_a_device_is_no_output(lictor, tmp_path):
    os.mkfifo(tmp_path / "pipe.html")
    fails_with_one_line(lictor("results", "-o", "pipe.html", "--force"), "not a regular file")
