"""`lictor quantize`: a file that works everywhere, or one line about what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import photo, tiny_model
from lictor.cli.main import main
from lictor.codecs.learned import Codec
from lictor.data.images import load_image


@pytest.fixture
def codec_file(tmp_path) -> Path:
    path = tmp_path / "tiny.lcodec"
    notes = {"recipe": {"loss": {"lmbda": 0.02}}}
    Codec.freeze(tiny_model("checkerboard"), notes=notes).save(path)
    return path


@pytest.fixture
def lictor(capsys):
    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, args)])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out, captured.err

    return run


def fails(result: tuple[int, str, str], *words: object) -> None:
    code, _, err = result
    assert code == 1
    assert err.startswith("lictor: error: ")
    assert err.count("\n") == 1
    for word in words:
        assert str(word) in err


def test_from_a_codec_to_a_picture_and_back(lictor, codec_file, picture_folder, tmp_path):
    out, picture = tmp_path / "int8.lcodec", tmp_path / "photo.png"
    Image.fromarray(photo(60, 90)).save(picture)
    code, said, _ = lictor(
        "quantize", codec_file, "--data", picture_folder, "--crops", 4, "-o", out
    )
    assert code == 0
    assert "W8A8 all" in said
    code, said, _ = lictor("info", out, "--json")
    about = json.loads(said)
    assert about["quantization"] == "W8A8 all"
    assert about["notes"]["quantization"]["of"] == Codec.load(codec_file).fingerprint.hex()
    assert about["notes"]["recipe"]["loss"]["lmbda"] == 0.02
    assert lictor("compress", picture, "--codec", out)[0] == 0
    back = tmp_path / "back.png"
    assert lictor("decompress", picture.with_suffix(".lic"), "--codec", out, "-o", back)[0] == 0
    codec = Codec.load(out)
    expected = codec.encode_verbose(load_image(picture)).reconstruction
    np.testing.assert_array_equal(load_image(back), expected)
    fails(
        lictor("decompress", picture.with_suffix(".lic"), "--codec", codec_file, "--force"),
        codec.fingerprint.hex(),
    )


def test_weights_alone_need_no_pictures(lictor, codec_file, tmp_path):
    out = tmp_path / "w4.lcodec"
    code, _, _ = lictor("quantize", codec_file, "--weights", 4, "--activations", "None", "-o", out)
    assert code == 0
    assert Codec.load(out).model.quantization == "W4 all"


@pytest.mark.slow
def test_optimizing_gives_another_codec(lictor, codec_file, picture_folder, tmp_path):
    files = [tmp_path / "plain.lcodec", tmp_path / "better.lcodec"]
    common = ("quantize", codec_file, "--data", picture_folder, "--crops", 2, "--weights", 4)
    assert lictor(*common, "-o", files[0])[0] == 0
    code, _, err = lictor(*common, "--optimize", "--steps", 2, "-o", files[1])
    assert code == 0
    assert "loss on the crops" in err
    plain, better = map(Codec.load, files)
    assert plain.fingerprint != better.fingerprint
    assert better.notes["quantization"]["optimize_steps"] == 2


def test_what_is_wrong_is_told_in_one_line(lictor, codec_file, picture_folder, tmp_path):
    out = tmp_path / "out.lcodec"
    to, data = ("-o", out), ("--data", picture_folder)
    fails(lictor("quantize", codec_file, *to), "--data")
    fails(lictor("quantize", codec_file, *data, *to, "--weights", 1), "2 to 16")
    fails(lictor("quantize", codec_file, *data, *to, "--activations", 17), "2 to 16")
    (tmp_path / "empty").mkdir()
    fails(lictor("quantize", codec_file, "--data", tmp_path / "empty", *to), "no pictures")
    fails(lictor("quantize", codec_file, "--data", tmp_path / "nowhere", *to), "nowhere")
    fails(lictor("quantize", tmp_path / "no.lcodec", *data, *to), "no.lcodec")
    broken = tmp_path / "broken.lcodec"
    broken.write_bytes(codec_file.read_bytes()[:-100])
    fails(lictor("quantize", broken, *data, *to), "broken.lcodec", "damaged")
    fails(lictor("quantize", codec_file, *data, "-o", codec_file), "--force")
    fails(lictor("quantize", codec_file, *data, *to, "--balance", 2), "balance")
    fails(lictor("quantize", codec_file, *data, *to, "--percentile", 10), "percentile")
    fails(lictor("quantize", codec_file, *data, *to, "--crops", 0), "--crops")
    fails(lictor("quantize", codec_file, *data, *to, "--seed", -1), "--seed")
    fails(lictor("quantize", codec_file, *data, "-o", tmp_path / "new" / "a.lcodec"), "no folder")
    fails(lictor("quantize", codec_file, *data, "--force", "-o", tmp_path), "is a folder")
    assert not out.exists()
    assert lictor("quantize", codec_file, *data, *to, "--scope", "g_b")[0] == 2


def test_a_quantized_codec_is_not_quantized_again(lictor, codec_file, tmp_path):
    once, twice = tmp_path / "once.lcodec", tmp_path / "twice.lcodec"
    assert lictor("quantize", codec_file, "--activations", "None", "-o", once)[0] == 0
    fails(lictor("quantize", once, "--activations", "None", "-o", twice), "already")


@pytest.mark.slow
def test_optimizing_needs_a_trade_off(lictor, picture_folder, tmp_path):
    file, out = tmp_path / "no-notes.lcodec", tmp_path / "out.lcodec"
    Codec.freeze(tiny_model("checkerboard")).save(file)
    command = ("quantize", file, "--data", picture_folder, "--optimize", "-o", out)
    fails(lictor(*command), "--lmbda")
    fails(lictor(*command, "--lmbda", -1), "positive")
    assert lictor(*command, "--lmbda", 0.01, "--steps", 1, "--crops", 1)[0] == 0
