"""`lictor compress --effort`: files as the library makes them, whole after Ctrl-C, or one line."""

import signal
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

import lictor as lictor_package
from conftest import photo
from lictor.cli.main import main
from lictor.codecs import refinement
from lictor.codecs.learned import Codec
from lictor.codecs.refinement import effort
from lictor.data.images import load_image

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def codec_file() -> Path:
    """A trained codec: with another one there may be nothing to find."""
    return Path(lictor_package.__file__).parent / "assets" / "default.lcodec"


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for seed, path in enumerate(paths):
        part = skimage.data.astronaut()[60 + 10 * seed :, 190:]
        Image.fromarray(part[:60, :50]).save(path)
    return paths


@pytest.fixture
def lictor(capsys, codec_file):
    def run(*args: object) -> tuple[int, list[str], list[str]]:
        with pytest.raises(SystemExit) as info:
            main(["compress", *map(str, args), "--codec", str(codec_file)])
        said = capsys.readouterr()
        assert isinstance(info.value.code, int)
        return info.value.code, said.out.splitlines(), said.err.splitlines()

    return run


@pytest.mark.slow
def test_the_file_is_what_the_library_makes(lictor, pictures, codec_file):
    codec, image = Codec.load(codec_file), load_image(pictures[0])
    for level, more in ((0, ()), (2, ()), (2, ("--lmbda", 0.1))):
        code, said, errors = lictor(pictures[0], "--effort", level, "--force", *more)
        assert (code, len(said), errors) == (0, 1, [])
        how = effort(level, lmbda=0.1 if more else None)
        data = pictures[0].with_suffix(".lic").read_bytes()
        assert data == codec.encode(image, refinement=how)
        assert f"{len(data)} bytes" in said[0]


@pytest.mark.parametrize("jobs", [(), pytest.param(("-j", 2), marks=pytest.mark.slow)])
def test_a_folder_is_refined_by_any_number_of_processes(
    jobs, lictor, pictures, codec_file, tmp_path
):
    code, said, errors = lictor(tmp_path, "-o", tmp_path / "out", "--effort", 1, *jobs)
    assert (code, said[-1]) == (0, "3 of 3 files done")
    assert all(line.startswith("compressing: ") for line in errors)  # news, on a slow machine
    codec = Codec.load(codec_file)
    for path in pictures:
        expected = codec.encode(load_image(path), refinement=effort(1))
        assert (tmp_path / "out" / path.with_suffix(".lic").name).read_bytes() == expected


@pytest.mark.parametrize("count", [1, 3])
def test_ctrl_c_leaves_whole_files_with_the_best_so_far(
    count, lictor, pictures, codec_file, monkeypatch
):
    descend = refinement._Search.descend

    def interrupted(self, latents, watch):
        def pressing(done: int, total: int) -> bool:
            if done == 3:
                signal.raise_signal(signal.SIGINT)
            return watch(done, total)

        return descend(self, latents, pressing)

    monkeypatch.setattr(refinement._Search, "descend", interrupted)
    before = signal.getsignal(signal.SIGINT)
    code, said, errors = lictor(*pictures[:count], "--effort", 9)
    assert code == 130
    assert errors[-1].startswith("lictor: error: interrupted; what is written is whole")
    assert signal.getsignal(signal.SIGINT) == before
    assert said[0].startswith(f"{pictures[0]} -> ")
    assert [path.with_suffix(".lic").exists() for path in pictures] == [True, False, False]
    if count > 1:
        assert said[-1] == "1 of 3 files done"
    monkeypatch.undo()

    codec, image = Codec.load(codec_file), load_image(pictures[0])
    data = pictures[0].with_suffix(".lic").read_bytes()
    assert codec.decode(data).shape == image.shape
    expected = codec.encode(image, refinement=effort(9), watch=lambda done, total: done == 3)
    assert data == expected != codec.encode(image)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--effort", 10), "effort = 10 must be from 0 to 9"),
        (("--effort", -1), "effort = -1 must be from 0 to 9"),
        (("--lmbda", 0.01), "add --effort"),
        (("--effort", 2, "--lmbda", 0), "lmbda = 0.0 must be positive"),
        (("--effort", 2, "--lmbda", "nan"), "lmbda = nan must be positive and finite"),
        (("--effort", 2, "--lmbda", "inf"), "lmbda = inf must be positive and finite"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_made(args, words, lictor, pictures):
    code, said, errors = lictor(pictures[0], *args)
    assert (code, said, len(errors)) == (1, [], 1)
    assert words in errors[0]
    assert not pictures[0].with_suffix(".lic").exists()


@pytest.mark.parametrize("jobs", [(), pytest.param(("-j", 2), marks=pytest.mark.slow)])
def test_a_quantized_codec_is_refused_once_for_all_pictures(jobs, capsys, pictures):
    command = ["compress", *map(str, pictures), "--effort", "1"]
    with pytest.raises(SystemExit) as info:
        main([*command, *map(str, jobs), "--codec", str(GOLDEN / "quantized.lcodec")])
    errors = capsys.readouterr().err.splitlines()
    assert (info.value.code, len(errors)) == (1, 1)
    assert "the codec is quantized (W6A8 all): no gradient passes" in errors[0]


@pytest.mark.parametrize("more", [(), ("--effort", 1)])
def test_a_compressed_file_is_no_picture(more, lictor, pictures, tmp_path):
    assert lictor(pictures[0])[0] == 0
    code, said, errors = lictor(pictures[0].with_suffix(".lic"), "-o", tmp_path / "x.lic", *more)
    assert (code, said, len(errors)) == (1, [], 1)
    assert "compressed already, and lictor decompress restores" in errors[0]
    assert not (tmp_path / "x.lic").exists()
    whole = pictures[0].with_suffix(".lic").read_bytes()
    code, said, errors = lictor(pictures[0].with_suffix(".lic"), *more)  # no place for the result
    assert (code, said, len(errors)) == (1, [], 1)
    assert ".lic files are compressed already" in errors[0]
    assert pictures[0].with_suffix(".lic").read_bytes() == whole


def test_a_picture_with_the_name_of_a_compressed_file_is_a_picture(lictor, tmp_path):
    Image.fromarray(photo(20, 20)).save(tmp_path / "odd.lic", format="PNG")
    code, said, _ = lictor(tmp_path / "odd.lic", "-o", tmp_path / "x.lic")
    assert (code, len(said)) == (0, 1)
    assert np.frombuffer((tmp_path / "x.lic").read_bytes(), np.uint8).size > 0
