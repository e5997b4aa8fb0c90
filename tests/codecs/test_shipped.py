"""Codecs by name: a file comes first, a name means what ships, and all else is said at once."""

from pathlib import Path

import numpy as np
import pytest

from lictor.cli.main import main
from lictor.codecs.shipped import DEFAULT, OF_SIGNALS, find_codec, remedy_for, shipped_codec
from lictor.codecs.signals.codec import SignalCodec
from lictor.codecs.store import read_codec
from lictor.errors import CheckpointError
from lictor.evaluation.signals.contenders import with_shipped

NAMES = [DEFAULT, *OF_SIGNALS]


@pytest.mark.parametrize("name", OF_SIGNALS)
def test_every_name_is_a_codec_of_its_kind_below_a_megabyte(name):
    path = shipped_codec(name)
    codec = SignalCodec.load(path)
    assert codec.domain.kind == OF_SIGNALS[name]
    assert path.stat().st_size < 1_000_000
    assert path.name == f"{name}.lcodec"


def test_every_shipped_file_has_a_name():
    files = {path.stem for path in shipped_codec(DEFAULT).parent.rglob("*.lcodec")}
    assert files == set(NAMES)


def test_the_default_is_the_codec_of_pictures():
    assert find_codec(None) == find_codec("default") == find_codec(Path("default"))
    assert find_codec(None) == shipped_codec(DEFAULT)
    assert read_codec(shipped_codec(DEFAULT)).config["model"]


def test_a_folder_hides_no_shipped_codec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("speech").mkdir()
    assert find_codec("speech") == shipped_codec("speech")
    assert with_shipped("speech:0") == f"{shipped_codec('speech')}:0"


def test_a_file_comes_before_a_shipped_codec_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_codec("speech") == find_codec(Path("speech")) == shipped_codec("speech")
    Path("speech").write_bytes(b"mine")
    assert find_codec("speech") == Path("speech")
    assert find_codec("mri") == shipped_codec("mri")


@pytest.mark.parametrize("place", ["speech.lcodec", "./a/speech", "a/mri", "..", ".lcodec", "x.y"])
def test_what_has_a_folder_or_a_suffix_is_a_place(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_codec(place) == Path(place)


@pytest.mark.parametrize(
    ("name", "near"), [("speach", "speech"), ("MRI", "mri"), ("climat", "climate")]
)
def test_an_unknown_name_is_told_the_nearest_and_all_that_there_are(name, near):
    with pytest.raises(CheckpointError, match=f"^{name}: .*did you mean '{near}'") as caught:
        find_codec(name)
    assert all(known in str(caught.value) for known in NAMES)
    assert "\n" not in str(caught.value)


def test_a_kind_has_its_names_and_one_without_says_so():
    for name, kind in OF_SIGNALS.items():
        assert f"--codec {name}" in remedy_for(kind)
    assert "none ships" in remedy_for("array")


def call(*args: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([*map(str, args)])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_a_name_does_what_its_file_does(tmp_path, capsys):
    soundfile = pytest.importorskip("soundfile")
    levels = np.random.default_rng(0).normal(0, 2000, 800).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", levels, 8000)
    for codec, out in (("speech", "x"), (shipped_codec("speech"), "y")):
        lsig, wav = tmp_path / f"{out}.lsig", tmp_path / f"{out}.wav"
        assert call("compress", tmp_path / "a.wav", "--codec", codec, "-o", lsig) == 0
        assert call("decompress", lsig, "--codec", codec, "-o", wav) == 0
    assert (tmp_path / "x.lsig").read_bytes() == (tmp_path / "y.lsig").read_bytes()
    assert (tmp_path / "x.wav").read_bytes() == (tmp_path / "y.wav").read_bytes()
    capsys.readouterr()
    told = []
    for codec in ("speech", shipped_codec("speech")):
        assert call("info", codec, "--json") == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    results = tmp_path / "results"
    assert call("evaluate", tmp_path, "--codecs", "speech:0", "-o", results, "--limit", 1) == 0
    assert (results / "speech.json").exists()


@pytest.mark.parametrize(
    ("words", "args"),
    [
        ("add --codec speech", ("compress", "a.wav")),
        ("but signals of kind audio; add --codec speech", ("compress", "sounds", "-o", "b")),
        ("contains no pictures (.png, .jpg, .jpeg, .webp, ", ("compress", "empty", "-o", "b")),
        ("add --codec mri", ("compress", "a.nii.gz")),
        ("add --codec climate", ("compress", "a.pp")),
        ("did you mean 'speech'", ("compress", "a.wav", "--codec", "speach")),
        ("did you mean 'mri'", ("decompress", "a.lsig", "--codec", "mir")),
        ("did you mean 'climate'", ("info", "climat")),
        ("thumbnails", ("evaluate", ".", "--codecs", "nothing:1")),
        ("is a codec of signals", ("quantize", "speech", "--data", ".", "-o", "b.lcodec")),
    ],
)
def test_one_line_says_what_to_do(words, args, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("sounds").mkdir()
    Path("empty").mkdir()
    for name in ("a.wav", "a.nii.gz", "a.pp", "a.lsig", "sounds/a.wav"):
        Path(name).write_bytes(b"RIFF nothing much")
    there = sorted(p.name for p in tmp_path.iterdir())
    assert call(*args) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert sorted(p.name for p in tmp_path.iterdir()) == there
