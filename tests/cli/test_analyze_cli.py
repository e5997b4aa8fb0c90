"""`lictor analyze`: tables, results files and charts; and one line about what is wrong."""

import csv
import json
import math
import os
from pathlib import Path

import pytest
from PIL import Image

from conftest import photo, tiny_model
from lictor.cli.main import main
from lictor.codecs.learned import Codec
from lictor.comparison.curve import ImageResult
from lictor.evaluation.quantization import cost, family_cost
from lictor.ptq.scheme import Scheme
from lictor.training.recipe import config_from_dict
from lictor.training.run import run as train_run


@pytest.fixture
def codec_file(tmp_path) -> Path:
    path = tmp_path / "tiny.lcodec"
    notes = {"recipe": {"loss": {"lmbda": 0.02}}}
    Codec.freeze(tiny_model("checkerboard"), notes=notes).save(path)
    return path


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(photo(48, 64, seed)).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def lictor(capsys):
    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(["analyze", *map(str, args)])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out, captured.err

    return run


def row(bpp: float, mse: float, setting: str = "a") -> ImageResult:
    psnr = 10 * math.log10(255**2 / mse)
    nan = math.nan
    return ImageResult(
        setting,
        "x.png",
        "0" * 64,
        100,
        100,
        round(bpp * 1250),
        bpp,
        mse,
        mse,
        psnr,
        psnr,
        nan,
        0,
        0,
    )


def test_the_cost_is_the_rise_of_the_loss():
    result = cost("it", Scheme(8, 8), [row(0.5, 100.0)], [row(0.51, 104.0)], 0.005)
    assert result.rise == pytest.approx(100 * 0.03 / 1.0)
    assert result.rate_equivalent == pytest.approx(100 * 0.03 / 0.5)
    assert result.delta_bpp == pytest.approx(0.01)
    assert result.delta_bpp_percent == pytest.approx(2)
    assert result.delta_psnr == pytest.approx(10 * math.log10(100 / 104))
    unknown = cost("it", Scheme(8, 8), [row(0.5, 100.0)], [row(0.51, 104.0)], None)
    assert math.isnan(unknown.rise)
    assert math.isnan(unknown.rate_equivalent)


def test_to_first_order_the_rate_equivalent_is_the_bd_rate():
    """On curves of slope dR/dD = -lmbda, one shifted by 1 %, both measures agree."""
    rates = [0.25 * 2**i for i in range(5)]
    curve = [row(r, 100 * 2 ** (-2 * r), str(r)) for r in rates]
    shifted = [row(1.01 * r, 100 * 2 ** (-2 * r), str(r)) for r in rates]
    family = family_cost("it", Scheme(8, 8), curve, shifted)
    assert family.bd_rate == pytest.approx(1.0, abs=0.01)
    for original, moved in zip(curve, shifted, strict=True):
        slope = 1 / (2 * math.log(2) * original.mse)
        # The same file size buys another point of the same curve: only distortion differs.
        same_bits = row(original.bpp, 100 * 2 ** (-2 * original.bpp / 1.01))
        single = cost("it", Scheme(8, 8), [original], [same_bits], slope)
        assert single.rate_equivalent == pytest.approx(family.bd_rate, rel=0.05)
        single = cost("it", Scheme(8, 8), [original], [moved], slope)
        assert single.rate_equivalent == pytest.approx(family.bd_rate, rel=0.05)


@pytest.mark.slow
def test_ptq_writes_a_table_a_file_and_a_chart(lictor, codec_file, pictures, tmp_path):
    out, others = tmp_path / "out", tmp_path / "others"
    others.mkdir()
    Image.fromarray(photo(48, 64, seed=9)).save(others / "0.png")
    command = ("ptq", codec_file, "--data", pictures, "--calibration", others, "-o", out)
    options = ("--schemes", "W8A8,W4", "A16", "--crops", 2, "--scopes", "all", "g_a")
    code, said, err = lictor(*command, *options)
    assert code == 0
    assert "flatters" not in err
    assert "W8A8" in said
    content = json.loads((out / "ptq.json").read_text())
    assert [(c["scheme"], c["scope"]) for c in content["costs"]] == [
        (s, scope) for s in ("W8A8", "W4", "A16") for scope in ("all", "g_a")
    ]
    assert not content["families"]
    assert not content["settings"]["calibrated_on_the_measured_pictures"]
    assert len(content["images"]) == 2 * 7
    assert all(image["bytes"] > 0 for image in content["images"])
    assert (out / "ptq.png").stat().st_size > 5000
    code, _, err = lictor(*command, *options)
    assert code == 1
    assert "--force" in err


@pytest.mark.slow
def test_a_family_has_a_bd_rate_or_says_why_not(lictor, pictures, tmp_path):
    files = []
    for number in range(4):
        files.append(tmp_path / f"rate{number}.lcodec")
        notes = {"recipe": {"loss": {"lmbda": 0.01 * 2**number}}}
        Codec.freeze(tiny_model("bmshj2018-factorized", seed=number), notes=notes).save(files[-1])
    out = tmp_path / "out"
    code, said, err = lictor(
        "ptq", *files, "--data", pictures, "--schemes", "W8A8", "--crops", 2, "-o", out
    )
    assert code == 0
    assert "flatters" in err
    assert "BD-rate" in said
    (family,) = json.loads((out / "ptq.json").read_text())["families"]
    # Untrained models make no curve: there is no number, and a remark says so.
    assert family["bd_rate"] is None or math.isfinite(family["bd_rate"])
    assert family["bd_rate"] is not None or family["remarks"]


def test_a_copy_of_a_measured_picture_among_those_for_calibration_is_noticed(
    lictor, codec_file, pictures, tmp_path
):
    others, out = tmp_path / "others", tmp_path / "out"
    others.mkdir()
    Image.fromarray(photo(48, 64, seed=9)).save(others / "0.png")
    (others / "another-name.png").write_bytes((pictures / "1.png").read_bytes())
    command = ("ptq", codec_file, "--data", pictures, "--calibration", others, "--schemes", "W8A8")
    code, _, err = lictor(*command, "--crops", 1, "-o", out)
    assert code == 0
    assert "1 of the measured pictures" in err
    settings = json.loads((out / "ptq.json").read_text())["settings"]
    assert settings["calibrated_on_the_measured_pictures"]


def test_a_part_that_a_model_has_not_is_left_out(lictor, pictures, tmp_path):
    file, out = tmp_path / "plain.lcodec", tmp_path / "out"
    Codec.freeze(tiny_model("bmshj2018-factorized")).save(file)
    command = ("ptq", file, "--data", pictures, "--crops", 1, "--limit", 1, "-o", out)
    assert lictor(*command, "--scopes", "g_a", "entropy")[0] == 0
    content = json.loads((out / "ptq.json").read_text())
    assert [c["scope"] for c in content["costs"]] == ["g_a"]
    code, _, err = lictor(*command, "--scopes", "entropy", "--force")
    assert code == 1
    assert "none of the parts" in err


@pytest.mark.slow
def test_names_of_any_bytes_are_no_obstacle(lictor, codec_file, pictures, tmp_path):
    named = codec_file.rename(tmp_path / "a, b [c].lcodec")
    try:
        (pictures / os.fsdecode(b"\xfe.png")).write_bytes((pictures / "0.png").read_bytes())
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    for question, *options in (("ptq", "--schemes", "W8", "--crops", 1), ("outliers",)):
        out = tmp_path / question
        assert lictor(question, named, "--data", pictures, *options, "-o", out)[0] == 0
        assert (out / f"{question}.json").stat().st_size > 0


@pytest.mark.slow
def test_ptq_can_optimize_each_copy(lictor, codec_file, pictures, tmp_path):
    code, _, err = lictor(
        *("ptq", codec_file, "--data", pictures, "--calibration", pictures, "-o", tmp_path / "out"),
        *("--schemes", "W4A8", "--crops", 1, "--optimize", 1, "--limit", 1),
    )
    assert code == 0
    assert "loss on the crops" in err


@pytest.mark.slow
def test_outliers_of_files_and_runs_side_by_side(lictor, codec_file, pictures, tmp_path):
    config = config_from_dict(
        {
            "model": {"name": "bmshj2018-factorized", "n": 8, "m": 8},
            "data": {"crop_size": 64},
            "train": {"steps": 1, "batch_size": 1},
        },
        source="test",
    )
    list(train_run(config, pictures, tmp_path / "run"))
    out = tmp_path / "out"
    code, said, _ = lictor("outliers", codec_file, tmp_path / "run", "--data", pictures, "-o", out)
    assert code == 0
    for word in ("tiny", "run", "y - mu", "g_s, worst", "escape symbols"):
        assert word in said
    codecs = json.loads((out / "outliers.json").read_text())["codecs"]
    assert [c["codec"] for c in codecs] == ["tiny", "run"]
    with (out / "outliers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(c["tensors"]) for c in codecs)
    assert {r["codec"] for r in rows} == {"tiny", "run"}
    assert (out / "outliers.png").stat().st_size > 5000
    code, said, _ = lictor(
        "outliers", codec_file, "--data", pictures, "-o", out, "--layers", "--limit", 1, "--force"
    )
    assert code == 0
    assert "g_a.linear" in said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("ptq", "{codec}", "--data", "{empty}"), "no pictures"),
        (("ptq", "{codec}", "--data", "{data}", "--schemes", "W99"), "2 to 16"),
        (("ptq", "{codec}", "--data", "{data}", "--schemes", "int8"), "no scheme"),
        (("ptq", "{codec}", "--data", "{data}", "--scopes", "g_b"), "unknown scope"),
        (("ptq", "{codec}", "{codec}", "--data", "{data}"), "rename"),
        (("ptq", "{quantized}", "--data", "{data}"), "already"),
        (("ptq", "{codec}", "--data", "{data}", "--crops", "0"), "at least 1"),
        (("ptq", "{codec}", "--data", "{data}", "--seed", "-1"), "--seed"),
        (("ptq", "{codec}", "--data", "{data}", "--lmbda", "0"), "positive"),
        (("ptq", "nowhere.lcodec", "--data", "{data}"), "nowhere.lcodec"),
        (("outliers", "{codec}", "--data", "{empty}"), "no pictures"),
        (("outliers", "{empty}", "--data", "{data}"), "no such checkpoint"),
        (("outliers", "{codec}", "--data", "{data}", "--limit", "0"), "at least 1"),
        (("outliers", "{codec}", "{codec}", "--data", "{data}"), "rename"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(args, words, lictor, codec_file, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    quantized = tmp_path / "quantized.lcodec"
    if "{quantized}" in args:
        with pytest.raises(SystemExit):
            main(["quantize", str(codec_file), "--activations", "None", "-o", str(quantized)])
    names = {
        "codec": codec_file, "data": pictures, "empty": tmp_path / "empty", "quantized": quantized
    }  # fmt: skip
    code, _, err = lictor(*(arg.format(**names) for arg in args), "-o", tmp_path / "out")
    assert code == 1
    errors = [line for line in err.splitlines() if "warning" not in line]
    assert len(errors) == 1
    assert errors[0].startswith("lictor: error: ")
    assert words in errors[0]


def test_without_codecs_it_is_wrong_usage(lictor, pictures, tmp_path):
    for question in ("ptq", "outliers"):
        assert lictor(question, "--data", pictures, "-o", tmp_path / "out")[0] == 2
