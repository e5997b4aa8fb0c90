"""Batches of files: given again they go on, and take nothing for a result that may be none."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import photo, tiny_model
from lictor.cli.main import main
from lictor.codecs.learned import Codec
from lictor.data.images import load_image

COUNT = 4


@pytest.fixture(scope="module")
def codec_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("codec") / "tiny.lcodec"
    Codec.freeze(tiny_model("checkerboard")).save(path)
    return path


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    """Small pictures, one grey, one upright by its orientation tag alone."""
    paths = [tmp_path / f"{number}.png" for number in range(COUNT - 1)]
    for number, path in enumerate(paths):
        Image.fromarray(photo(40, 50 + number, seed=number)).save(path)
    Image.open(paths[1]).convert("L").save(paths[1])
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(40, 60)).save(turned, exif=exif)
    assert load_image(turned).shape[:2] == (60, 40)
    return [*paths, turned]


@pytest.fixture
def lictor(capsys, codec_file):
    """Run a command in this process; return exit code, stdout lines and stderr lines."""

    def run(*args: object) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, args), "--codec", str(codec_file)])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out.splitlines(), captured.err.splitlines()

    return run


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.mark.parametrize("verb", ["compress", "decompress"])
def test_a_batch_given_again_makes_only_what_is_missing(
    verb, lictor, pictures, tmp_path, monkeypatch
):
    out, inputs = tmp_path / "out", pictures
    if verb == "decompress":
        assert lictor("compress", *pictures)[0] == 0
        inputs = [path.with_suffix(".lic") for path in pictures]
    command = (verb, *inputs, "-o", out)
    code, said, _ = lictor(*command)
    assert (code, said[-1]) == (0, f"{COUNT} of {COUNT} files done")
    whole = contents(out)
    missing = sorted(whole)[1]
    (out / missing).unlink()

    code, said, errors = lictor(*command)
    assert (code, errors) == (0, [])
    assert said[-1] == f"1 of {COUNT} files done, {COUNT - 1} finished before, skipped"
    assert len(said) == 3
    assert re.fullmatch(r"in all \d+ -> \d+ bytes, ratio [\d.]+", said[-2])
    again = contents(out)
    assert {name: data for name, (data, _) in again.items()} == {
        name: data for name, (data, _) in whole.items()
    }
    assert [name for name in whole if again[name] != whole[name]] == [missing]

    code, said, _ = lictor(*command, "--force")
    assert (code, said[-1]) == (0, f"{COUNT} of {COUNT} files done")
    assert len(said) == COUNT + 2

    def fail(*_: object) -> None:
        raise AssertionError("a finished file needs no coding")

    monkeypatch.setattr(Codec, "encode", fail)
    monkeypatch.setattr(Codec, "decode", fail)
    code, said, _ = lictor(*command)
    assert (code, said) == (0, [f"0 of {COUNT} files done, {COUNT} finished before, skipped"])


@pytest.mark.parametrize("case", ["text", "flipped", "cut", "other codec", "other size", "older"])
def test_what_is_no_result_of_this_batch_stays_and_is_an_error(case, lictor, pictures, tmp_path):
    assert lictor("compress", *pictures)[0] == 0
    target, picture = pictures[0].with_suffix(".lic"), pictures[0]
    data = bytearray(target.read_bytes())
    if case == "text":
        data[:] = b"precious"
    elif case == "flipped":
        data[-1] ^= 1
    elif case == "cut":
        del data[-1:]
    elif case == "other codec":
        data[:] = Codec.freeze(tiny_model("checkerboard", seed=1)).encode(load_image(picture))
    elif case == "other size":
        data[:] = pictures[2].with_suffix(".lic").read_bytes()
    target.write_bytes(data)
    if case == "older":
        before = picture.stat().st_mtime - 10
        os.utime(target, (before, before))
    code, said, errors = lictor("compress", *pictures)
    assert code == 1
    assert said == [f"0 of {COUNT} files done, {COUNT - 1} finished before, skipped, 1 failed"]
    assert errors == [f"lictor: error: {target}: exists already; add --force to overwrite it"]
    assert target.read_bytes() == data


def test_one_file_asked_for_is_made_or_an_error(lictor, pictures):
    assert lictor("compress", pictures[0])[0] == 0
    code, said, errors = lictor("compress", pictures[0])
    assert (code, said) == (1, [])
    assert len(errors) == 1
    assert "--force" in errors[0]


def test_originals_are_not_taken_for_decoded_pictures(lictor, pictures):
    originals = pictures[:3]
    before = {path: path.read_bytes() for path in originals}
    time.sleep(0.01)  # a clock may stand still for some milliseconds
    assert lictor("compress", *originals)[0] == 0
    code, said, errors = lictor("decompress", *(path.with_suffix(".lic") for path in originals))
    assert (code, said) == (1, ["0 of 3 files done, 3 failed"])
    assert all("exists already" in line for line in errors)
    assert {path: path.read_bytes() for path in originals} == before


def test_two_inputs_of_one_output_are_told_apart_from_a_finished_one(lictor, pictures, tmp_path):
    shutil.copy2(pictures[0], tmp_path / "0.webp")
    command = ("compress", pictures[0], tmp_path / "0.webp")
    for done in ("1 of 2 files done, 1 failed", "0 of 2 files done, 1 finished before, skipped, 1"):
        code, said, errors = lictor(*command)
        assert code == 1
        assert said[-1].startswith(done)
        assert len(errors) == 1
        assert "another input" in errors[0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_killed_batch_goes_on_where_it_was(tmp_path, codec_file):
    inputs = [tmp_path / f"{number:02}.png" for number in range(30)]
    for number, path in enumerate(inputs):
        Image.fromarray(photo(300, 400, seed=number)).save(path)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lictor", "compress", *map(str, inputs), "-o", str(out)]
    command += ["--codec", str(codec_file)]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.lic"))) < 3:
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    finished = contents(out)
    finished = {name: what for name, what in finished.items() if name.endswith(".lic")}
    assert 3 <= len(finished) < len(inputs)

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rest = len(inputs) - len(finished)
    summary = f"{rest} of {len(inputs)} files done, {len(finished)} finished before, skipped"
    assert done.stdout.splitlines()[-1] == summary
    after = contents(out)
    assert all(after[name] == what for name, what in finished.items())
    codec = Codec.load(codec_file)
    for path in inputs:
        data = (out / f"{path.stem}.lic").read_bytes()
        assert data == codec.encode(load_image(path))
        assert codec.decode(data).shape == np.shape(load_image(path))
