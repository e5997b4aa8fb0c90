"""The command line: what it writes, and how it fails.

Every mistake of a user ends in one line on stderr that names the file and a remedy, exit code 1,
and no output left behind.
"""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import photo, tiny_model
from lictor import __version__
from lictor.cli import demo_data
from lictor.cli.main import main
from lictor.codecs.learned import Codec
from lictor.data.images import load_image
from lictor.training.run import METRICS

TINY = """
[model]
name = "bmshj2018-factorized"
n = 8
m = 8
[data]
crop_size = 64
[train]
steps = 6
batch_size = 2
log_every = 2
eval_every = 3
checkpoint_every = 2
"""


@pytest.fixture(scope="module")
def codec_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("codec") / "tiny.lcodec"
    Codec.freeze(tiny_model("checkerboard")).save(path)
    return path


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(photo(50, 70)).save(path)
    return path


@pytest.fixture
def lictor(capsys, codec_file):
    """Run a command in this process; return exit code, stdout and stderr lines."""

    def run(*args: object, codec: bool = False) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        extra = ["--codec", str(codec_file)] if codec else []
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, args), *extra])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out, captured.err.splitlines()

    return run


def fails_with_one_line(result: tuple[int, str, list[str]], *words: object) -> None:
    code, _, errors = result
    assert code == 1
    assert len(errors) == 1, errors
    assert errors[0].startswith("lictor: error: ")
    for word in words:
        assert str(word) in errors[0]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_picture_goes_to_a_file_beside_it_and_back(lictor, picture, codec_file):
    code, out, _ = lictor("compress", picture, codec=True)
    assert code == 0
    assert "photo.lic" in out
    data = picture.with_suffix(".lic").read_bytes()
    restored = picture.parent / "restored.png"
    assert lictor("decompress", picture.with_suffix(".lic"), "-o", restored, codec=True)[0] == 0
    np.testing.assert_array_equal(load_image(restored), Codec.load(codec_file).decode(data))


def test_decoding_in_another_process_gives_the_same_picture(lictor, picture, codec_file, tmp_path):
    lictor("compress", picture, codec=True)
    command = [sys.executable, "-m", "lictor", "decompress", str(tmp_path / "photo.lic")]
    command += ["-o", str(tmp_path / "there.png"), "--codec", str(codec_file)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    expected = Codec.load(codec_file).encode_verbose(load_image(picture)).reconstruction
    np.testing.assert_array_equal(load_image(tmp_path / "there.png"), expected)


@pytest.mark.parametrize("suffix", [".png", ".ppm", ".bmp", ".tif", ".webp"])
def test_every_output_format_is_lossless(lictor, picture, codec_file, suffix, tmp_path):
    lictor("compress", picture, codec=True)
    target = tmp_path / f"out{suffix}"
    assert lictor("decompress", tmp_path / "photo.lic", "-o", target, codec=True)[0] == 0
    expected = Codec.load(codec_file).decode((tmp_path / "photo.lic").read_bytes())
    np.testing.assert_array_equal(load_image(target), expected)


def test_grey_stays_grey(lictor, tmp_path):
    Image.fromarray(photo(30, 30)[:, :, 0]).save(tmp_path / "grey.png")
    lictor("compress", tmp_path / "grey.png", codec=True)
    lictor("decompress", tmp_path / "grey.lic", "-o", tmp_path / "back.png", codec=True)
    with Image.open(tmp_path / "back.png") as image:
        assert image.mode == "L"


def test_many_inputs_go_on_after_a_bad_one(lictor, picture, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not a picture")
    other = tmp_path / "other.png"
    Image.fromarray(photo(20, 20)).save(other)
    code, out, errors = lictor("compress", bad, picture, other, "-o", tmp_path / "o", codec=True)
    assert code == 1
    assert names(tmp_path / "o") == ["other.lic", "photo.lic"]
    assert "2 of 3 files done, 1 failed" in out
    assert len([line for line in errors if "bad.png" in line]) == 1


def test_nothing_is_overwritten_without_force(lictor, picture):
    target = picture.with_suffix(".lic")
    target.write_bytes(b"precious")
    fails_with_one_line(lictor("compress", picture, codec=True), target, "--force")
    assert target.read_bytes() == b"precious"
    assert lictor("compress", picture, "--force", codec=True)[0] == 0
    assert target.read_bytes() != b"precious"


def test_two_inputs_never_share_an_output(lictor, picture, tmp_path):
    Image.fromarray(photo(20, 20)).save(tmp_path / "photo.jpg")
    code, _, errors = lictor("compress", picture, tmp_path / "photo.jpg", "--force", codec=True)
    assert code == 1
    assert any("another input" in line for line in errors)


@pytest.mark.parametrize(
    ("name", "content"),
    [("text.png", b"hello"), ("empty.png", b""), ("cut.png", None), ("missing.png", ...)],
)
def test_what_is_no_picture_is_named(lictor, picture, tmp_path, name, content):
    bad = tmp_path / name
    if content is None:
        bad.write_bytes(picture.read_bytes()[:300])
    elif content is not ...:
        bad.write_bytes(content)
    before = names(tmp_path)
    fails_with_one_line(lictor("compress", bad, codec=True), name)
    assert names(tmp_path) == before


def test_a_folder_is_no_picture_and_no_bitstream(lictor, tmp_path):
    (tmp_path / "folder").mkdir()
    fails_with_one_line(lictor("compress", tmp_path / "folder", codec=True), "folder")
    fails_with_one_line(lictor("decompress", tmp_path / "folder", codec=True), "folder")
    fails_with_one_line(lictor("info", tmp_path / "folder"), "folder")


def test_damaged_files_leave_no_picture(lictor, picture, tmp_path):
    lictor("compress", picture, codec=True)
    data = (tmp_path / "photo.lic").read_bytes()
    picture.unlink()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for content in (b"", data[:-1], data[:20], bytes(flipped), b"garbage", data + b"x"):
        (tmp_path / "photo.lic").write_bytes(content)
        for command in (("decompress",), ("info",)):
            codec = command[0] == "decompress"
            result = lictor(*command, tmp_path / "photo.lic", codec=codec)
            fails_with_one_line(result, "photo.lic")
    assert names(tmp_path) == ["photo.lic"]


def test_a_file_of_another_codec_says_which(lictor, picture, tmp_path):
    Codec.freeze(tiny_model("checkerboard", seed=1)).save(tmp_path / "other.lcodec")
    lictor("compress", picture, "--codec", tmp_path / "other.lcodec")
    picture.unlink()
    result = lictor("decompress", tmp_path / "photo.lic", codec=True)
    fails_with_one_line(result, "photo.lic", "made by the codec", ".lcodec")
    assert names(tmp_path) == ["other.lcodec", "photo.lic"]


def test_a_codec_that_is_none_is_named(lictor, picture, tmp_path):
    fails_with_one_line(lictor("compress", picture, "--codec", picture), "photo.png")
    fails_with_one_line(lictor("compress", picture, "--codec", tmp_path / "no.lcodec"), "no.lcodec")
    assert names(tmp_path) == ["photo.png"]


def test_a_full_disk_leaves_nothing(lictor, picture, tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    fails_with_one_line(lictor("compress", picture, codec=True), "photo.lic", "No space left")
    assert names(tmp_path) == ["photo.png"]


def test_an_output_that_cannot_be_written_is_named(lictor, picture, tmp_path):
    target = tmp_path / "no" / "such" / "photo.lic"
    fails_with_one_line(lictor("compress", picture, "-o", target, codec=True), target)
    (tmp_path / "file").write_bytes(b"")
    result = lictor("compress", picture, picture, "-o", tmp_path / "file", codec=True)
    fails_with_one_line(result, "file")
    lictor("compress", picture, codec=True)
    result = lictor("decompress", tmp_path / "photo.lic", "-o", tmp_path / "p.gif", codec=True)
    fails_with_one_line(result, "p.gif", ".png")


def test_info_tells_what_a_file_is(lictor, picture, codec_file):
    lictor("compress", picture, codec=True)
    code, out, _ = lictor("info", picture.with_suffix(".lic"), "--json")
    described = json.loads(out)
    assert code == 0
    assert (described["width"], described["height"], described["channels"]) == (70, 50, 3)
    assert described["bytes"] == picture.with_suffix(".lic").stat().st_size
    codec = json.loads(lictor("info", codec_file, "--json")[1])
    assert codec["fingerprint"] == described["fingerprint"]
    assert codec["model"] == "checkerboard"
    assert described["fingerprint"] in lictor("info", picture.with_suffix(".lic"))[1]


def test_train_freeze_compress(lictor, tmp_path, picture_folder, picture):
    recipe, run = tmp_path / "tiny.toml", tmp_path / "run"
    recipe.write_text(TINY)
    assert lictor("train", recipe, "--data", picture_folder, "--out", run)[0] == 0
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [3, 6]
    codec = tmp_path / "mine.lcodec"
    assert lictor("freeze", run, "-o", codec, "--half")[0] == 0
    fails_with_one_line(lictor("freeze", run, "-o", codec), "mine.lcodec", "--force")
    best = min((line for line in lines if line["kind"] == "evaluation"), key=lambda r: r["loss"])
    code, said, _ = lictor("freeze", run, "-o", tmp_path / "best.lcodec", "--best")
    assert code == 0
    assert f"step {best['step']} " in said
    (run / "best.pt").unlink()
    other = tmp_path / "other.lcodec"
    fails_with_one_line(lictor("freeze", run, "-o", other, "--best"), "best.pt", "latest")
    assert not other.exists()
    assert lictor("compress", picture, "--codec", codec)[0] == 0
    fails_with_one_line(lictor("train", recipe, "--data", picture_folder, "--out", run), "--resume")


def test_wrong_recipes_and_folders_are_named_before_anything_is_written(lictor, tmp_path):
    recipe, empty = tmp_path / "tiny.toml", tmp_path / "empty"
    empty.mkdir()
    recipe.write_text(TINY.replace("steps", "stepps"))
    command = ("train", recipe, "--data", empty, "--out", tmp_path / "run")
    fails_with_one_line(lictor(*command), "tiny.toml", "stepps", "steps")
    recipe.write_text(TINY)
    fails_with_one_line(lictor(*command), "empty", "no pictures")
    fails_with_one_line(lictor(*command, "--resume"), "checkpoint")
    fails_with_one_line(lictor(*command, "--set", "model.name=nonesuch"), "nonesuch")
    fails_with_one_line(lictor(*command, "--set", "optim.name=nonesuch"), "nonesuch")
    fails_with_one_line(lictor(*command, "--set", "optim.schedule=nonesuch"), "nonesuch")
    fails_with_one_line(lictor(*command, "--set", "surrogate.name=nonesuch"), "nonesuch")
    fails_with_one_line(lictor("freeze", tmp_path / "no", "-o", tmp_path / "a.lcodec"), "no")
    assert names(tmp_path) == ["empty", "tiny.toml"]


def test_an_option_of_several_values_may_be_given_again(lictor, picture_folder, tmp_path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY)
    command = ("train", recipe, "--data", f"{picture_folder}=1", "--data", f"{picture_folder}=2")
    folder = tmp_path / "run"
    changes = ("--set", "train.steps=2", "train.seed=3", "--out", folder, "--set=model.n=4")
    assert lictor(*command, *changes)[0] == 0
    config = json.loads((folder / "config.json").read_text())
    assert (config["train"]["steps"], config["train"]["seed"], config["model"]["n"]) == (2, 3, 4)


def test_paths_that_are_none_do_not_stop_the_others(lictor, picture, tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "none").mkdir()
    inputs = ("x" * 300 + ".png", tmp_path / "loop.png", tmp_path / "none", picture)
    code, out, errors = lictor("compress", *inputs, "-o", tmp_path / "o", codec=True)
    assert code == 1
    assert "1 of 4 files done, 3 failed" in out
    assert len(errors) == 3
    assert names(tmp_path / "o") == ["photo.lic"]


def test_a_run_that_died_before_its_first_checkpoint_can_be_started_again(
    lictor, tmp_path, picture_folder
):
    recipe, run = tmp_path / "tiny.toml", tmp_path / "run"
    recipe.write_text(TINY)
    lictor("train", recipe, "--data", picture_folder, "--out", run)
    (run / "checkpoint.pt").unlink()
    command = ("train", recipe, "--data", picture_folder, "--out", run)
    fails_with_one_line(lictor(*command, "--resume"), "without --resume")
    assert lictor(*command)[0] == 0
    steps = [json.loads(line)["step"] for line in (run / METRICS).read_text().splitlines()]
    assert steps == sorted(steps)


@pytest.mark.parametrize(
    "change", ["data.crop_size=64000", "train.batch_size=100000000", "model.n=0", "model.n=-3"]
)
def test_sizes_that_cannot_be_are_refused(lictor, tmp_path, picture_folder, change):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY)
    command = ("train", recipe, "--data", picture_folder, "--out", tmp_path / "run")
    key, _, value = change.rpartition(".")[2].partition("=")
    fails_with_one_line(lictor(*command, "--set", change), key, value)
    assert not (tmp_path / "run").exists()


def test_wrong_usage_is_exit_code_2(lictor):
    assert lictor("compress")[0] == 2
    assert lictor("decompress")[0] == 2
    assert lictor("compress", "--no-such-flag")[0] == 2
    assert lictor("no-such-command")[0] == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_ctrl_c_leaves_a_run_that_resumes(tmp_path, picture_folder):
    recipe, run = tmp_path / "tiny.toml", tmp_path / "run"
    recipe.write_text(TINY.replace("steps = 6", "steps = 1000000"))
    command = [sys.executable, "-m", "lictor", "train", str(recipe)]
    command += ["--data", str(picture_folder), "--out", str(run)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (run / "checkpoint.pt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors
    step = torch.load(run / "checkpoint.pt", weights_only=True)["step"]
    last = json.loads((run / METRICS).read_text().splitlines()[-1])
    assert last["step"] == step
    command += ["--resume", "--set", f"train.steps={step + 2}"]
    subprocess.run(command, check=True, stderr=subprocess.PIPE)
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == step + 2


@pytest.mark.parametrize("code", ["import lictor", "from lictor.cli import main"])
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    script = (
        f"{code}\nimport sys\nassert not {{'torch', 'numba', 'rich.progress'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_a_table_never_cuts_a_number_nor_leaves_out_what_it_is_of(width):
    from rich.console import Console

    from lictor.cli.progress import table

    numbers = {f"c{i}": f"{1234.5678 * 10**i:.2f}" for i in range(4)}
    console = Console(width=width, record=True, file=io.StringIO())
    name = "a-very-long-name-of-a-picture-" * 3
    console.print(table([{"image": name, **numbers, "a header of words": "1"}]), crop=False)
    text = console.export_text()
    first = "".join(line[2:].split("  ")[0] for line in text.splitlines())
    assert name in first
    assert "header" in text
    assert all(number in text for number in numbers.values())


def test_a_skipped_step_is_told_with_the_parameters_that_it_is_due_to(capsys, monkeypatch):
    from rich.console import Console

    from lictor.cli import progress
    from lictor.training.loop import StepReport

    monkeypatch.setattr(progress, "stderr", Console(stderr=True, markup=False, width=100))
    bad = StepReport(7, 1.0, {"bpp": 1.0}, float("nan"), skipped=True, not_finite=("g_a.0.weight",))
    assert progress.show_training([bad], total=10, log_every=1) is bad
    line = "step       8  skipped: the gradient is not finite in g_a.0.weight"
    assert capsys.readouterr().err.splitlines() == [line]


def test_metrics_of_any_task_are_told_with_their_names_and_units(capsys, monkeypatch):
    from rich.console import Console

    from lictor.cli import progress
    from lictor.training.loop import StepReport
    from lictor.training.run import Evaluation

    monkeypatch.setattr(progress, "stderr", Console(stderr=True, markup=False, width=100))
    step = StepReport(9, 0.5, {"bpp": 0.25, "mse": 0.001, "angle": 2.0}, 1.0, step_s=0.5)
    held_out = Evaluation(10, 0.75, {"bpp": 0.5, "psnr": 31.234, "rays": 3.0})
    progress.show_training([step, held_out], total=10, log_every=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step      10  loss 0.500  0.250 bpp  30.00 dB  angle 2.000  2.0 step/s"
    assert lines[1] == "step      10  held out: loss 0.7500  0.5000 bpp  31.23 dB  rays 3.0000"


def test_all_exported_names_exist():
    import lictor

    for name in lictor.__all__:
        assert getattr(lictor, name) is not None
    assert set(lictor.__all__) <= set(dir(lictor))
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = lictor.nonesuch


@pytest.mark.slow
def test_the_demo_keeps_its_promises(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo_data, "PHOTOGRAPHS", demo_data.PHOTOGRAPHS[:2])  # all take longer
    out = tmp_path / "demo"
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "--out", str(out), "--train-s", "0"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert "WebP" in printed
    assert "comparison.png" in printed
    with Image.open(out / "comparison.png") as image:
        assert image.width > 1000
    assert len(list(out.glob("*.lic"))) == 2
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "--out", str(out), "--train-s", "0"])
    assert exit_.value.code == 1


def test_the_version_says_what_a_report_of_a_fault_needs(lictor):
    code, out, errors = lictor("--version")
    assert (code, errors) == (0, [])
    for part in (f"lictor {__version__}", f"torch {torch.__version__}", "devices  cpu"):
        assert part in out


@pytest.mark.parametrize("device", ["cuda:77", "gpu"])
@pytest.mark.parametrize(
    "command",
    [
        ("compress", "PICTURE", "-o", "OUT"),
        ("decompress", "PICTURE", "-o", "OUT"),
        ("evaluate", "FOLDER", "-o", "OUT"),
        ("quantize", "default", "--data", "FOLDER", "-o", "OUT"),
        ("analyze", "outliers", "default", "--data", "FOLDER", "-o", "OUT"),
        ("analyze", "ptq", "default", "--data", "FOLDER", "-o", "OUT"),
        ("train", "RECIPE", "--data", "FOLDER", "--out", "OUT"),
    ],
)
def test_a_device_that_is_not_there_is_named_with_those_that_are(
    lictor, command, device, picture_folder, tmp_path
):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY)
    out = tmp_path / ("out.png" if "decompress" in command else "out.lcodec")
    places = {
        "PICTURE": next(picture_folder.iterdir()),
        "FOLDER": picture_folder,
        "RECIPE": recipe,
        "OUT": out,
    }
    words = [places.get(word, word) for word in command]
    fails_with_one_line(lictor(*words, "--device", device), f"no device {device!r} here", "cpu")
    assert not out.exists()


def test_the_device_of_this_machine_gives_the_same_file(lictor, picture_folder, tmp_path):
    picture = next(picture_folder.glob("*.png"))
    for name, options in (("plain", ()), ("device", ("--device", "cpu"))):
        result = lictor("compress", picture, "-o", tmp_path / f"{name}.lic", *options, codec=True)
        assert result[0] == 0
    assert (tmp_path / "plain.lic").read_bytes() == (tmp_path / "device.lic").read_bytes()
