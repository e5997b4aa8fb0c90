"""Real pictures and usual habits on the command line: what is kept, told, piped, verified."""

import io
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from conftest import photo, tiny_model
from lictor.cli.main import main
from lictor.codecs.learned import Codec
from lictor.codecs.pictures import decode_picture, encode_picture
from lictor.data import places
from lictor.data.pictures import Picture, open_picture, read_picture

RGB = photo(40, 50)
ALPHA = photo(40, 50, seed=1)[:, :, 0].copy()
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def codec_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("codec") / "tiny.lcodec"
    Codec.freeze(tiny_model("checkerboard")).save(path)
    return path


@pytest.fixture
def codec(codec_file) -> Codec:
    return Codec.load(codec_file)


@pytest.fixture
def lictor(capsysbinary, codec_file, monkeypatch):
    """Run a command in this process; return exit code, standard output, lines of stderr."""

    def run(*args: object, stdin: bytes = b"") -> tuple[int, bytes, list[str]]:
        capsysbinary.readouterr()
        stream = io.TextIOWrapper(io.BytesIO(stdin))
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, args), "--codec", str(codec_file)])
        captured = capsysbinary.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out, captured.err.decode().splitlines()

    return run


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    return exif.tobytes()


def full(path: Path) -> Path:
    """Write a picture with all that a PNG can hold, to be turned."""
    image = Image.fromarray(RGB)
    image.putalpha(Image.fromarray(ALPHA))
    image.save(path, icc_profile=ICC, exif=exif_of(6), dpi=(300, 300))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_a_picture_goes_to_a_file_and_back_with_all_that_it_had(lictor, codec, tmp_path, suffix):
    source, back = full(tmp_path / "a.png"), tmp_path / f"back{suffix}"
    code, out, errors = lictor("compress", source)
    assert (code, errors) == (0, [])
    assert b"50x40" in out
    assert lictor("decompress", tmp_path / "a.lic", "-o", back)[0] == 0
    picture, expected = open_picture(back), open_picture(source)
    if suffix == ".tif":  # Pillow turns these when it opens them
        turned = Picture(codec.encode_verbose(RGB).reconstruction, ALPHA, exif=expected.exif)
        np.testing.assert_array_equal(picture.pixels, turned.stripped().pixels)
        np.testing.assert_array_equal(picture.alpha, turned.stripped().alpha)
    else:
        np.testing.assert_array_equal(picture.pixels, codec.encode_verbose(RGB).reconstruction)
        np.testing.assert_array_equal(picture.alpha, ALPHA)
        assert picture.exif == expected.exif
    assert picture.icc == ICC


def test_strip_leaves_nothing_beside_upright_pixels(lictor, codec, tmp_path):
    source = full(tmp_path / "a.png")
    assert lictor("compress", source, "--strip")[0] == 0
    file = decode_picture(codec, (tmp_path / "a.lic").read_bytes())
    upright = open_picture(source).stripped()
    np.testing.assert_array_equal(file.pixels, codec.encode_verbose(upright.pixels).reconstruction)
    np.testing.assert_array_equal(file.alpha, upright.alpha)
    assert (file.icc, file.exif, file.xmp, file.text, file.dpi) == (None, None, None, (), None)


def test_what_is_lost_is_told_in_one_line_with_the_name(lictor, tmp_path):
    frames = [Image.fromarray(photo(20, 30, seed=i)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    code, _, errors = lictor("compress", tmp_path / "a.gif")
    assert code == 0
    assert errors == [
        f"lictor: note: {tmp_path}/a.gif: holds 3 frames or pages; only the first is kept"
    ]
    full(tmp_path / "b.png")
    lictor("compress", tmp_path / "b.png", "-o", tmp_path / "b.lic")
    code, _, errors = lictor("decompress", tmp_path / "b.lic", "-o", tmp_path / "b.jp2")
    assert code == 0
    assert len(errors) == 4  # profile, EXIF, resolution, turned
    assert all(line.startswith(f"lictor: note: {tmp_path}/b.jp2: ") for line in errors)


def test_transparency_is_not_lost_in_a_jpeg(lictor, tmp_path):
    full(tmp_path / "a.png")
    lictor("compress", tmp_path / "a.png")
    before = names(tmp_path)
    code, _, errors = lictor("decompress", tmp_path / "a.lic", "-o", tmp_path / "a.jpg")
    assert code == 1
    assert len(errors) == 1
    assert "transparency" in errors[0]
    assert ".png" in errors[0]
    assert names(tmp_path) == before


def test_a_jpeg_is_a_little_lossy_and_keeps_the_rest(lictor, codec, tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.jpg", icc_profile=ICC, exif=exif_of(8), quality=95)
    source = open_picture(tmp_path / "a.jpg")
    lictor("compress", tmp_path / "a.jpg")
    assert lictor("decompress", tmp_path / "a.lic", "-o", tmp_path / "b.jpg")[0] == 0
    back = open_picture(tmp_path / "b.jpg")
    assert (back.icc, back.exif) == (ICC, source.exif)
    expected = codec.decode((tmp_path / "a.lic").read_bytes()).astype(int)
    assert np.abs(back.pixels - expected).mean() < 4


def test_info_lists_the_sections(lictor, tmp_path, capsysbinary):
    full(tmp_path / "a.png")
    lictor("compress", tmp_path / "a.png")
    capsysbinary.readouterr()
    with pytest.raises(SystemExit):
        main(["info", str(tmp_path / "a.lic")])
    out = capsysbinary.readouterr().out.decode()
    for name in ("tiles", "alpha (2)", "ICC profile (128)", "EXIF (129)", "text (131)"):
        assert re.search(rf"^  section {re.escape(name)}: [1-9]\d* bytes$", out, re.M), out
    sizes = sum(int(size) for size in re.findall(r": (\d+) bytes$", out, re.M))
    assert sizes < (tmp_path / "a.lic").stat().st_size


def test_standard_input_to_standard_output_and_back(lictor, codec, tmp_path):
    data = full(tmp_path / "a.png").read_bytes()
    code, out, errors = lictor("compress", "-", stdin=data)
    assert code == 0
    assert out == encode_picture(codec, read_picture(data, "x"))
    assert len(errors) == 1  # what is said otherwise on standard output
    assert errors[0].startswith("- -> -  50x40")
    for options, form in (((), "PNG"), (("-f", "webp"), "WEBP"), (("--format", "TIFF"), "TIFF")):
        code, picture, errors = lictor("decompress", "-", *options, stdin=out)
        assert (code, len(errors)) == (0, 2 if form == "WEBP" else 1)  # it holds no resolution
        with Image.open(io.BytesIO(picture)) as opened:
            assert opened.format == form
            assert opened.mode == "RGBA"
    assert names(tmp_path) == ["a.png"]


def test_a_file_to_standard_output_and_standard_input_to_a_file(lictor, codec, tmp_path):
    source = full(tmp_path / "a.png")
    _, out, _ = lictor("compress", source, "-o", "-")
    code, said, _ = lictor("compress", "-", "-o", tmp_path / "b.lic", stdin=source.read_bytes())
    assert code == 0
    assert b"b.lic" in said
    assert (tmp_path / "b.lic").read_bytes() == out
    _, png, _ = lictor("decompress", tmp_path / "b.lic", "-o", "-")
    assert read_picture(png, "x").icc == ICC
    assert names(tmp_path) == ["a.png", "b.lic"]


@pytest.mark.slow
def test_a_pipe_of_processes_is_binary_safe(codec_file, codec, tmp_path):
    data = full(tmp_path / "a.png").read_bytes()
    command = [sys.executable, "-m", "lictor", "compress", "-", "--codec", str(codec_file)]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    assert done.stdout == encode_picture(codec, read_picture(data, "x"))


@pytest.mark.parametrize(
    ("verb", "stdin"),
    [
        ("compress", b""),
        ("compress", b"hello"),
        ("decompress", b""),
        ("decompress", b"hello"),
        ("decompress", b"\x8eLIC\x02"),
    ],
)
def test_what_is_no_picture_on_standard_input_is_one_line_and_no_byte(lictor, verb, stdin):
    code, out, errors = lictor(verb, "-", stdin=stdin)
    assert (code, out) == (1, b"")
    assert len(errors) == 1
    assert errors[0].startswith("lictor: error: -: ")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("-", "a.png"), "one input"),
        (("-", "-j", "2"), "--jobs"),
        (("a.png", "b.png", "-o", "-"), "one input"),
        ((".", "-o", "-"), "folder"),
        (("-", "-o", "."), "no name"),
        (("-", "--preserve"), "--preserve"),
    ],
)
def test_standard_streams_that_cannot_be_are_refused(lictor, args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    full(tmp_path / "a.png")
    full(tmp_path / "b.png")
    code, out, errors = lictor("compress", *args, stdin=b"")
    assert (code, out) == (1, b"")
    assert len(errors) == 1
    assert words in errors[0]
    assert names(tmp_path) == ["a.png", "b.png"]


def test_terminals_are_neither_read_nor_written(monkeypatch):
    terminal = types.SimpleNamespace(isatty=lambda: True, closed=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(places.DataError, match="terminal"):
        places.read_place("-", "a picture")
    with pytest.raises(places.DataError, match="terminal"):
        places.check_standard_output()


def test_a_file_named_dash_is_dot_slash_dash(lictor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    full(tmp_path / "a.png").rename("-")
    code, _, errors = lictor("compress", "./-", "-o", "out.lic")
    assert (code, errors) == (0, [])
    assert names(tmp_path) == ["-", "out.lic"]


def test_an_unknown_format_is_named(lictor, tmp_path):
    (tmp_path / "a.lic").write_bytes(b"")
    code, _, errors = lictor("decompress", tmp_path / "a.lic", "-f", "docx")
    assert code == 1
    assert "docx" in errors[0]
    assert "png" in errors[0]


def test_a_tree_of_all_kinds_goes_there_and_back(lictor, tmp_path):
    tree = tmp_path / "tree"
    (tree / "in" / "ner").mkdir(parents=True)
    full(tree / "a.png")
    full(tree / "in" / "b.tiff")
    Image.fromarray(RGB).save(tree / "in" / "ner" / "c.bmp")
    Image.fromarray(RGB).save(tree / "in" / "ner" / "d.gif")
    (tree / "in" / "e.jpg").write_bytes(b"broken")
    (tree / "words.txt").write_text("no picture")
    code, out, errors = lictor("compress", tree, "-o", tmp_path / "lic")
    assert code == 1
    assert len(errors) == 1
    assert "e.jpg" in errors[0]
    lines = out.decode().splitlines()
    assert lines[-1] == "4 of 5 files done, 1 failed"
    total = re.fullmatch(r"in all (\d+) -> (\d+) bytes, ratio ([\d.]+)", lines[-2])
    assert total is not None
    made = sorted((tmp_path / "lic").rglob("*"))
    assert int(total[2]) == sum(path.stat().st_size for path in made if path.is_file())
    assert float(total[3]) == pytest.approx(int(total[1]) / int(total[2]), abs=1e-3)
    found = [p.relative_to(tmp_path / "lic").as_posix() for p in made if p.is_file()]
    assert found == ["a.lic", "in/b.lic", "in/ner/c.lic", "in/ner/d.lic"]
    code, out, _ = lictor("decompress", tmp_path / "lic", "-o", tmp_path / "back", "-f", "webp")
    assert code == 0
    back = [p.relative_to(tmp_path / "back").as_posix() for p in (tmp_path / "back").rglob("*.*")]
    assert sorted(back) == ["a.webp", "in/b.webp", "in/ner/c.webp", "in/ner/d.webp"]
    for command in (("compress", tree, "-o", tmp_path / "lic"), ("decompress", tmp_path / "lic",
                    "-o", tmp_path / "back", "-f", "webp")):  # fmt: skip
        _, out, _ = lictor(*command)
        assert b"4 finished before, skipped" in out.splitlines()[-1]


def test_turned_pictures_count_as_finished_in_every_format(lictor, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    Image.fromarray(RGB).save(tree / "a.jpg", exif=exif_of(6))
    lictor("compress", tree, "-o", tmp_path / "lic")
    for form in ("png", "bmp", "tif"):
        command = ("decompress", tmp_path / "lic", "-o", tmp_path / form, "-f", form)
        assert b"1 of 1 files done" in lictor(*command)[1]
        assert b"1 finished before, skipped" in lictor(*command)[1]


def test_files_with_metadata_are_not_finished_where_they_are_to_be_stripped(lictor, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    full(tree / "a.png")
    command = ("compress", tree, "-o", tmp_path / "lic", "--strip")
    lictor(*command[:-1])
    code, _, errors = lictor(*command)
    assert code == 1
    assert "--force" in errors[0]
    assert lictor(*command, "--force")[0] == 0
    assert b"1 finished before" in lictor(*command)[1]


def test_verify_finds_a_decoder_that_gives_something_else(lictor, tmp_path, monkeypatch):
    full(tmp_path / "a.png")
    assert lictor("compress", tmp_path / "a.png", "--verify")[0] == 0
    (tmp_path / "a.lic").unlink()
    decode = Codec.decode

    def wrong(self: Codec, data: bytes, **options: object) -> np.ndarray:
        return decode(self, data, **options) ^ 1

    monkeypatch.setattr(Codec, "decode", wrong)
    code, _, errors = lictor("compress", tmp_path / "a.png", "--verify")
    assert code == 1
    assert len(errors) == 1
    assert "nothing is written" in errors[0]
    assert names(tmp_path) == ["a.png"]


def test_preserve_keeps_the_times_of_files_both_ways(lictor, tmp_path):
    source = full(tmp_path / "a.png")
    os.utime(source, ns=(10**18, 10**18 + 5))
    lictor("compress", source, "--preserve")
    lictor("decompress", tmp_path / "a.lic", "-o", tmp_path / "b.png", "--preserve")
    for name in ("a.lic", "b.png"):
        assert (tmp_path / name).stat().st_mtime_ns == 10**18 + 5


@pytest.mark.parametrize("option", ["--strip", "--verify", "--preserve"])
def test_options_of_pictures_are_refused_with_a_codec_of_signals(option, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["compress", str(tmp_path / "a.wav"), option, "--codec", "speech"])
    assert exit_.value.code == 1
    assert option in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_killed_tree_of_several_processes_goes_on_where_it_was(codec_file, codec, tmp_path):
    tree, out = tmp_path / "tree", tmp_path / "out"
    for number in range(24):
        folder = tree / str(number % 3)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(300, 400, seed=number)).save(folder / f"{number:02}.png")
    command = [sys.executable, "-m", "lictor", "compress", str(tree), "-o", str(out), "-j", "2"]
    command += ["--codec", str(codec_file)]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 170
    while len(list(out.rglob("*.lic"))) < 3:
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    for path in out.rglob("*.lic"):  # whole, each of them, at any time
        codec.decode(path.read_bytes())
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counted = re.fullmatch(
        r"(\d+) of 24 files done, (\d+) finished before, skipped", done.stdout.splitlines()[-1]
    )
    assert counted is not None, done.stdout
    assert int(counted[1]) + int(counted[2]) == 24
    assert int(counted[2]) >= 3
    for path in tree.rglob("*.png"):
        target = (out / path.relative_to(tree)).with_suffix(".lic")
        assert target.read_bytes() == codec.encode(open_picture(path).pixels)
