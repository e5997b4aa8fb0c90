"""`lictor evaluate`: tables, results files, and every failure in a line of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from conftest import photo, tiny_model
from lictor.cli.main import main
from lictor.codecs.learned import Codec
from lictor.comparison.curve import load_curve
from lictor.evaluation.pictures import picture_path


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "Pictures"
    folder.mkdir()
    for seed in range(3):
        Image.fromarray(photo(40 + seed, 50, seed)).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def lictor(capsys):
    def run(*args: object) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(["evaluate", *map(str, args)])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out, captured.err.splitlines()

    return run


def errors(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("lictor: error: ")]


def test_one_file_a_curve_with_all_that_made_it(lictor, folder, tmp_path):
    out = tmp_path / "results"
    command = (folder, "--codecs", "jpeg:20,80", "mine=webp:40", "-o", out, "--jobs", 1)
    code, table, _ = lictor(*command)
    assert code == 0
    assert sorted(p.name for p in out.iterdir()) == ["jpeg.json", "mine.json"]
    curve = load_curve(out / "jpeg.json")
    assert curve.dataset == "pictures"
    assert curve.settings == ("q20", "q80")
    assert curve.counts_header is True
    assert {row.image for row in curve.rows} == {"0.png", "1.png", "2.png"}
    assert curve.provenance["jobs"] == 1
    assert curve.provenance["versions"]["pillow"]
    assert curve.codec["settings"]["q20"]["options"]["subsampling"] == "4:2:0"
    for setting, bpp in zip(curve.settings, curve.bpp, strict=True):
        assert setting in table
        assert f"{bpp:.4f}" in table
    code, again, lines = lictor(*command)
    assert (code, again) == (0, table)
    assert any("9 of 9 rows were measured before" in line for line in lines)


def test_a_codec_file_shows_its_pictures(lictor, folder, tmp_path):
    path = tmp_path / "tiny.lcodec"
    Codec.freeze(tiny_model("mbt2018-mean")).save(path)
    code, table, lines = lictor(folder, "--codecs", path, "--jobs", 1)
    assert code == 0, lines
    for number in range(3):
        assert f"{number}.png" in table
    assert "est. bpp" in table


@pytest.mark.slow
def test_kept_pictures_and_costs_need_a_place_and_get_it(lictor, folder, tmp_path):
    code, _, lines = lictor(folder, "--codecs", "jpeg:20", "--keep", 1)
    assert code == 1
    assert "-o FOLDER" in errors(lines)[0]
    out = tmp_path / "results"
    options = ("--keep", 1, "--speed", "--jobs", 1)
    assert lictor(folder, "--codecs", "jpeg:20", "-o", out, *options)[0] == 0
    assert picture_path(out, "jpeg", "q20", "0.png").exists()
    assert json.loads((out / "jpeg.json").read_text())["codec"]["speed"]["q20"]["encode_s"] > 0


def test_a_broken_picture_and_a_failing_command_cost_only_themselves(lictor, folder, tmp_path):
    (folder / "broken.png").write_bytes(b"no picture")
    description = tmp_path / "bad.toml"
    description.write_text(
        f'name = "bad"\nencode = "{sys.executable} -c 1/0 {{input}} {{output}}"\n'
        'decode = "x {input} {output}"\nqualities = [1, 2]\n'
    )
    out = tmp_path / "results"
    codecs = ("--codecs", "jpeg:20", description, "-o", out, "--jobs", 1)
    code, table, lines = lictor(folder, *codecs)
    assert code == 1
    assert "jpeg" in table
    assert load_curve(out / "jpeg.json").settings == ("q20",)
    assert not (out / "bad.json").exists()
    found = errors(lines)
    assert sum("broken.png" in line for line in found) == 1
    assert sum("ZeroDivisionError" in line for line in found) == 6
    assert "6 of 9 measurements failed" in found[-1]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--codecs", "jepg"), "is no codec"),
        (("--codecs", "jpeg", "jpeg"), "two codecs"),
        (("--codecs", "none.lcodec"), "none.lcodec"),
        (("--codecs", "none.toml"), "none.toml"),
        (("--codecs", "jpeg", "--jobs", "0"), "--jobs must be at least 1"),
        (("--codecs", "jpeg", "--limit", "0"), "--limit must be at least 1"),
    ],
)
def test_mistakes_end_in_one_line(lictor, folder, options, word):
    code, _, lines = lictor(folder, *options)
    assert code == 1
    assert len(lines) == 1
    assert word in errors(lines)[0]


def test_folders_without_pictures_end_in_one_line(lictor, tmp_path):
    for path in (tmp_path / "none", tmp_path):
        code, _, lines = lictor(path, "--codecs", "jpeg")
        assert code == 1
        assert len(lines) == 1
        assert str(path) in lines[0]


def test_an_output_that_is_a_file_is_named(lictor, folder, tmp_path):
    (tmp_path / "file").write_bytes(b"precious")
    code, _, lines = lictor(folder, "--codecs", "jpeg:20", "-o", tmp_path / "file", "--jobs", 1)
    assert code == 1
    assert "file" in errors(lines)[0]
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_lpips_without_its_weights_fails_before_anything_is_measured(
    lictor, folder, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "lpips", None)
    code, _, lines = lictor(folder, "--codecs", "jpeg:20", "--lpips", "-o", tmp_path / "out")
    assert code == 1
    assert "lictor[lpips]" in errors(lines)[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_processes_beside_each_other_write_what_one_does(folder, tmp_path):
    for jobs in (1, 2):
        command = [sys.executable, "-m", "lictor", "evaluate", str(folder), "--codecs", "jpeg:20"]
        command += ["-o", str(tmp_path / f"out{jobs}"), "--jobs", str(jobs)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (load_curve(tmp_path / f"out{jobs}" / "jpeg.json") for jobs in (1, 2))
    assert one.columns["psnr"] == two.columns["psnr"]
    assert [row.bytes for row in one.rows] == [row.bytes for row in two.rows]
