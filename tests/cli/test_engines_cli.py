"""Batches beyond one process: trees and URLs, the same files from every engine, errors by item."""

import socket
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from conftest import photo, tiny_model
from lictor.cli.main import main
from lictor.codecs.learned import Codec
from lictor.comparison.curve import load_curve

BAD = "bad.png"


@pytest.fixture(scope="module")
def codec_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("codec") / "tiny.lcodec"
    Codec.freeze(tiny_model("checkerboard")).save(path)
    return path


@pytest.fixture
def tree(tmp_path) -> Path:
    """Five pictures in a tree, and one that is none."""
    folder = tmp_path / "tree"
    (folder / "inner" / "deep").mkdir(parents=True)
    for number, place in enumerate((".", ".", "inner", "inner", "inner/deep")):
        picture = Image.fromarray(photo(40, 50 + number, seed=number))
        picture.save(folder / place / f"{number}.{'png' if number % 2 else 'webp'}")
    (folder / "inner" / BAD).write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    return folder


@pytest.fixture
def lictor(capsys, monkeypatch):
    def run(*args: object) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, args)])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out.splitlines(), captured.err.splitlines()

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def complaints(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("lictor: error: ")]


def expected(tree: Path, codec_file: Path) -> dict[str, bytes]:
    from lictor.data.images import load_image

    codec = Codec.load(codec_file)
    paths = [p for p in tree.rglob("*") if p.suffix in (".png", ".webp") and p.name != BAD]
    return {
        p.relative_to(tree).with_suffix(".lic").as_posix(): codec.encode(load_image(p))
        for p in paths
    }


# Ray warns of itself.
OF_RAY = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ENGINES = [
    pytest.param((), id="here"),
    pytest.param(("-j", 2), id="processes", marks=pytest.mark.slow),
    pytest.param(("-j", 2, "--engine", "ray"), id="ray", marks=OF_RAY),
]


@pytest.mark.parametrize("url", [False, True], ids=["folder", "url"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_tree_is_mirrored_to_the_bit_and_goes_on(engine, url, lictor, tree, tmp_path, codec_file):
    if "ray" in engine:
        pytest.importorskip("ray")
    out, back = tmp_path / "out", tmp_path / "back"
    say = (lambda path: f"file://{path}") if url else str
    command = ("compress", say(tree), "-o", say(out), "--codec", codec_file, *engine)
    code, said, errors = lictor(*command)
    assert (code, said[-1]) == (1, "5 of 6 files done, 1 failed")
    assert [BAD in line for line in complaints(errors)] == [True]
    whole = files(out)
    assert whole == expected(tree, codec_file)

    (out / "inner/2.lic").unlink()
    code, said, errors = lictor(*command)
    assert (code, said[-1]) == (1, "1 of 6 files done, 4 finished before, skipped, 1 failed")
    assert files(out) == whole

    command = ("decompress", say(out), "-o", say(back), "--codec", codec_file, *engine)
    code, said, errors = lictor(*command)
    assert (code, said[-1], complaints(errors)) == (0, "5 of 5 files done", [])
    assert set(files(back)) == {name.replace(".lic", ".png") for name in whole}
    assert lictor(*command)[1] == ["0 of 5 files done, 5 finished before, skipped"]


def test_a_failed_upload_leaves_nothing(lictor, tree, tmp_path, codec_file, monkeypatch):
    import fsspec

    system = type(fsspec.filesystem("file"))
    monkeypatch.setattr(system, "mv", lambda *_, **__: (_ for _ in ()).throw(OSError("no space")))
    out = tmp_path / "out"
    code, said, errors = lictor("compress", tree, "-o", f"file://{out}", "--codec", codec_file)
    assert (code, said) == (1, ["0 of 6 files done, 6 failed"])
    assert len(complaints(errors)) == 6
    assert files(out) == {}


def test_a_finished_file_behind_a_url_is_of_this_codec_and_size(lictor, tree, tmp_path, codec_file):
    out = f"file://{tmp_path / 'out'}"
    command = ("compress", f"file://{tree}", "-o", out, "--codec", codec_file)
    lictor(*command)
    (tmp_path / "out" / "1.lic").write_bytes(b"precious")
    _, said, errors = lictor(*command)
    assert said == ["0 of 6 files done, 4 finished before, skipped, 2 failed"]
    assert sum("--force" in line for line in complaints(errors)) == 1
    assert (tmp_path / "out" / "1.lic").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("-o", "nonesuch://bucket/out"), "nonesuch"),
        (("--jobs", 0), "--jobs must be at least 1"),
        (("--address", "127.0.0.1:6379"), "--engine ray"),
    ],
)
@pytest.mark.parametrize("command", ["compress", "evaluate"])
def test_mistakes_end_in_one_line_and_make_nothing(command, options, word, lictor, tree):
    before = files(tree)
    code, said, errors = lictor(command, tree, *options)
    assert (code, said, len(errors)) == (1, [], 1)
    assert word in complaints(errors)[0]
    assert files(tree) == before


def test_a_url_without_its_package_is_one_line(lictor, tree, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for command in ("compress", "evaluate"):
        code, said, errors = lictor(command, "s3://bucket/in", "-o", tmp_path / "out")
        assert (code, said, len(errors)) == (1, [], 1)
        assert "s3fs" in errors[0]
    assert not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(lictor, tree, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for command in ("compress", "evaluate"):
        code, said, errors = lictor(command, tree, "-o", tmp_path / "out", "--engine", "ray")
        assert (code, said, len(errors)) == (1, [], 1)
        assert 'pip install "lictor[ray]"' in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("listens", [False, True])
def test_an_address_that_does_not_answer_is_one_line_in_time(
    listens, lictor, tree, tmp_path, monkeypatch
):
    pytest.importorskip("ray")
    monkeypatch.setattr("lictor.workers.ray_data.LIMIT_S", 5.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        begun = time.monotonic()
        options = ("-o", tmp_path / "out", "--engine", "ray", "--address", address)
        code, said, errors = lictor("compress", tree, *options)
    assert time.monotonic() - begun < 30
    assert (code, said, len(errors)) == (1, [], 1)
    assert address in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("url", [False, True], ids=["folder", "url"])
def test_an_evaluation_with_ray_has_the_rows_of_one_here(url, lictor, tree, tmp_path, codec_file):
    pytest.importorskip("ray")
    (tree / "inner" / BAD).unlink()
    here, there = tmp_path / "here", tmp_path / "there"
    codecs = ("--codecs", "jpeg:20,80", codec_file)
    assert lictor("evaluate", tree, *codecs, "-o", here, "-j", 1)[0] == 0
    say = (lambda path: f"file://{path}") if url else str
    command = ("evaluate", say(tree), *codecs, "-o", say(there), "-j", 2, "--engine", "ray")
    assert lictor(*command)[0] == 0
    for name in ("jpeg", "tiny"):
        one, two = (load_curve(folder / f"{name}.json") for folder in (here, there))
        for column in ("bpp", "psnr"):
            assert one.columns[column].tolist() == two.columns[column].tolist()
        rows = [{(r.setting, r.image, r.bytes, r.mse) for r in curve.rows} for curve in (one, two)]
        assert rows[0] == rows[1]
        assert two.provenance["jobs"] == 2
    assert sorted(p.name for p in there.iterdir()) == ["jpeg.json", "tiny.json"]
    _, _, lines = lictor(*command)
    assert any("15 of 15 rows were measured before" in line for line in lines)
