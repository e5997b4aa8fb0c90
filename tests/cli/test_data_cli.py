"""`lictor data pack`, and trainings on what it makes."""

import json

import pytest

from lictor.cli.main import main
from lictor.training.run import METRICS

TINY = """
[model]
name = "bmshj2018-factorized"
n = 8
m = 8
[data]
crop_size = 64
[train]
steps = 3
batch_size = 2
log_every = 1
"""


@pytest.fixture
def lictor(capsys):
    """Run a command in this process; return exit code, stdout and the last line of stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, args)])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out, (captured.err.splitlines() or [""])[-1]

    return run


def test_pack_says_what_it_made_and_what_it_left_out(lictor, picture_folder, tmp_path):
    (picture_folder / "text.png").write_text("text")
    command = ("data", "pack", picture_folder, "-o", tmp_path / "shards", "--raw")
    code, out, _ = lictor(*command)
    assert code == 0
    assert "12 pictures  1 left out  1 shard  " in out
    assert "there" not in out
    code, out, _ = lictor(*command)
    assert code == 0
    assert "1 shard  1 of them were there" in out


def test_what_cannot_be_packed_ends_in_one_line(lictor, picture_folder, tmp_path):
    pack = ("data", "pack")
    shards = tmp_path / "shards"
    assert lictor(*pack, "-o", shards)[0] == 2
    for arguments, words in [
        ((tmp_path / "none", "-o", shards), ["none: no such folder"]),
        ((picture_folder, "-o", shards, "--shard-mib", 0), ["--shard-mib 0", "at least 1"]),
        ((picture_folder, "-o", shards, "--max-side", -1), ["--max-side -1", "at least 0"]),
        ((picture_folder, "-o", shards, "--jobs", 0), ["--jobs 0", "at least 1"]),
        ((picture_folder, "-o", picture_folder / "photo2.png"), ["photo2.png: cannot make"]),
    ]:
        code, out, error = lictor(*pack, *arguments)
        assert code == 1
        assert not out
        assert error.startswith("lictor: error: ")
        assert all(word in error for word in words)
        assert not shards.exists()
    lictor(*pack, picture_folder, "-o", shards)
    code, _, error = lictor(*pack, picture_folder, "-o", shards, "--raw")
    assert code == 1
    assert "shards: holds a packing of other pictures or with other options" in error


def test_train_takes_folders_and_shards_with_weights(lictor, picture_folder, tmp_path):
    recipe, shards = tmp_path / "tiny.toml", tmp_path / "shards"
    recipe.write_text(TINY)
    lictor("data", "pack", picture_folder, "-o", shards)
    losses = {}
    for name, data in [
        ("folder", [picture_folder]),
        ("shards", [shards]),
        ("both", [f"{picture_folder}=3", f"{shards}=1"]),
    ]:
        run = tmp_path / name
        places = [word for place in data for word in ("--data", place)]
        assert lictor("train", *places, "--out", run, recipe)[0] == 0
        rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
        losses[name] = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses["folder"] == losses["shards"] != losses["both"]
    places = ("--data", f"{shards}=3", "--data", picture_folder)
    refused = lictor("train", recipe, *places, "--out", tmp_path / "x")
    assert refused[0] == 1
    assert "pictures: has no weight" in refused[2]
    tar = next(shards.glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-512])
    code, _, error = lictor("train", recipe, "--data", shards, "--out", tmp_path / "z")
    assert code == 1
    assert f"{tar.name}: the shard has" in error
    code, _, error = lictor("train", recipe, "--data", "nosuch://x", "--out", tmp_path / "z")
    assert code == 1
    assert "nosuch://x: no URL that fsspec knows" in error
    assert not (tmp_path / "z").exists()
