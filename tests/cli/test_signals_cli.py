"""Codecs of signals at the command line: from a recipe to files and back, and what is refused."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import photo, tiny_model
from lictor.cli.main import main
from lictor.codecs.learned import Codec
from lictor.codecs.signals.batch import EFFORT_STEPS
from lictor.codecs.signals.codec import SignalCodec
from lictor.coding.archive import Archive, Entry, Outline
from lictor.data.signals.formats import read_signal

soundfile = pytest.importorskip("soundfile")
xarray = pytest.importorskip("xarray")
nibabel = pytest.importorskip("nibabel")

RECIPE = """
[model]
name = "{model}"
{settings}
[signal]
kind = "{kind}"
patch = {patch}
channels = {channels}
{more}
[fit]
steps = 1
[rate]
lowest = 0
highest = 8
[train]
steps = 2
batch_size = 4
"""
NETWORK = "latent = 8\nwidth = 8\nlayers = 3"


def wave(length: int, seed: int, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(length)[:, None]
    x = sum(np.sin(t * f + p) for f, p in rng.uniform(0.05, 0.4, (4, 2, channels))) / 5
    return (x * 32767).astype(np.int16)


def write_fields(path: Path, seed: int, names: tuple[str, ...] = ("t2m",)) -> Path:
    """Fields of 2 times and 3 levels on 6 x 10 points, with a hole; units and attributes."""
    rng = np.random.default_rng(seed)
    coords = {
        "time": np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]"),
        "level": ("level", [1000.0, 850.0, 500.0], {"units": "hPa"}),
        "latitude": ("latitude", np.linspace(75, -75, 6), {"units": "degrees_north"}),
        "longitude": ("longitude", np.arange(10) * 36.0, {"units": "degrees_east"}),
    }
    base = 270 + 20 * np.cos(np.linspace(-1.3, 1.3, 6))[:, None]
    found = {}
    for name in names:
        x = (base + rng.normal(size=(2, 3, 1, 1)) * 4 + rng.normal(size=(6, 10))).astype("float32")
        x[..., 2, 3] = np.nan
        found[name] = (tuple(coords), x, {"units": "K", "long_name": f"the {name}"})
    xarray.Dataset(found, coords, {"title": "a test"}).to_netcdf(path)
    return path


def call(*args: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([*map(str, args)])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def trained(place: Path, kind: str, patch: str, *, channels: int = 1, model: str = "pca",
            more: str = "") -> Path:  # fmt: skip
    """Train on the folder `place`/data and freeze; return the codec file."""
    recipe = place / "recipe.toml"
    settings = "latent = 8" if model == "pca" else NETWORK
    recipe.write_text(
        RECIPE.format(
            model=model, settings=settings, kind=kind, patch=patch, channels=channels, more=more
        )
    )
    data, out, codec = place / "data", place / "run", place / f"{kind}.lcodec"
    assert call("train", recipe, "--data", data, "--out", out) == 0
    assert call("freeze", out, "--data", data, "-o", codec) == 0
    return codec


@pytest.fixture(scope="module", autouse=True)
def _own_cache_of_the_module(tmp_path_factory):
    """As in conftest, for fixtures that live longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LICTOR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    """A folder with data/*.wav, run and audio.lcodec."""
    place = tmp_path_factory.mktemp("sounds")
    (place / "data/inner").mkdir(parents=True)
    for number in range(4):
        folder = place / "data/inner" if number == 3 else place / "data"
        soundfile.write(folder / f"{number}.wav", wave(600 + 70 * number, number), 8000)
    trained(place, "audio", "[50]", model="linear-coinpp")
    return place


@pytest.fixture(scope="module")
def fields(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("fields")
    (place / "data").mkdir()
    for number in range(3):
        write_fields(place / f"data/{number}.nc", number)
    trained(place, "field", "[6, 10]")
    return place


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("volumes")
    (place / "data").mkdir()
    z, y, x = np.mgrid[0:9, 0:8, 0:10] / 6
    for number in range(3):
        values = (200 * (1 + np.sin(z + number) * np.cos(y) * np.cos(x + number))).astype(np.int16)
        affine = np.diag([2.0, 2.0, 3.0, 1.0])
        affine[:3, 3] = 1, 2, number
        nibabel.save(nibabel.Nifti1Image(values, affine), place / f"data/{number}.nii.gz")
    trained(place, "volume", "[4, 4, 4]")
    return place


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("pictures")
    (place / "data").mkdir()
    for number in range(3):
        Image.fromarray(photo(30, 40, number)).save(place / f"data/{number}.png")
    trained(place, "image", "[8, 8]", channels=3)
    return place


@pytest.fixture(scope="module")
def arrays(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("arrays")
    (place / "data").mkdir()
    for number in range(3):
        values = wave(400, number, 2).cumsum(0).astype(np.float32)
        np.save(place / f"data/{number}.npy", values)
    trained(place, "array", "[20]", channels=2)
    return place


@pytest.fixture(scope="module")
def picture_codec(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("codec") / "tiny.lcodec"
    Codec.freeze(tiny_model("checkerboard")).save(path)
    return path


@pytest.fixture
def lictor(capsys):
    """Run a command in this process; return exit code, stdout lines and stderr lines."""

    def run(*args: object) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        code = call(*args)
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return run


@pytest.fixture
def refused(lictor, tmp_path):
    """Run a command that must fail with one line, holding some words, and leave nothing behind."""

    def run(*args: object, words: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        code, _, err = lictor(*args)
        assert (code, len(err)) == (1, 1), err
        assert err[0].startswith("lictor: error: ")
        assert words in err[0]
        assert sorted(tmp_path.rglob("*")) == before

    return run


def psnr(a: np.ndarray, b: np.ndarray, peak: float) -> float:
    difference = a.astype(np.float64) - b
    return float(10 * np.log10(peak**2 / np.nanmean(difference**2)))


# ---------------------------------------------------------------------------- there and back


def test_a_sound_comes_back_with_its_rate_length_and_type(sounds, tmp_path, lictor):
    codec, source = sounds / "audio.lcodec", sounds / "data/1.wav"
    small = tmp_path / "a.lsig"
    code, out, _ = lictor("compress", source, "--codec", codec, "-o", small)
    assert code == 0
    size = small.stat().st_size
    seconds = 670 / 8000
    assert out == [
        f"{source} -> {small}  {seconds:.2f} s  {size} bytes  {8 * size / seconds / 1000:.2f} kbps"
    ]
    assert lictor("decompress", small, "--codec", codec)[0] == 0
    before, after = read_signal(source), read_signal(tmp_path / "a.wav")
    assert (after.samples.dtype, after.samples.shape) == (np.int16, before.samples.shape)
    assert after.form == before.form == {"sample_rate": 8000, "subtype": "PCM_16"}
    assert psnr(before.samples, after.samples, 65535) > 20
    assert lictor("decompress", small, "--codec", codec, "-o", tmp_path / "a.flac")[0] == 0
    assert np.array_equal(read_signal(tmp_path / "a.flac").samples, after.samples)


def test_fields_come_back_with_names_coordinates_units_and_holes(fields, tmp_path, lictor):
    codec, source = fields / "field.lcodec", fields / "data/1.nc"
    assert lictor("compress", source, "--codec", codec, "-o", tmp_path / "f.lsig")[0] == 0
    assert lictor("decompress", tmp_path / "f.lsig", "--codec", codec)[0] == 0
    with xarray.open_dataset(source) as before, xarray.open_dataset(tmp_path / "f.nc") as after:
        assert after.attrs["title"] == "a test"
        assert after.t2m.attrs["units"] == "K"
        assert after.t2m.dims == before.t2m.dims
        for name in before.coords:
            assert np.array_equal(before[name], after[name])
            assert before[name].attrs.items() <= after[name].attrs.items()
        assert np.array_equal(np.isnan(before.t2m), np.isnan(after.t2m))
        assert after.t2m.dtype == np.float32
        assert psnr(before.t2m.values, after.t2m.values, 40) > 20


def test_zarr_is_a_file_and_one_of_several_variables_is_chosen(fields, tmp_path, lictor, refused):
    codec, two = fields / "field.lcodec", write_fields(tmp_path / "two.nc", 5, ("t2m", "u10"))
    refused("compress", two, "--codec", codec, words="(t2m, u10): choose one with --variable")
    chosen = ("--variable", "u10", "-o", tmp_path / "u.lsig")
    assert lictor("compress", two, "--codec", codec, *chosen)[0] == 0
    back = tmp_path / "v.zarr"
    assert lictor("decompress", tmp_path / "u.lsig", "--codec", codec, "-o", back)[0] == 0
    assert list(xarray.open_zarr(back, chunks=None, consolidated=False).data_vars) == ["u10"]
    assert lictor("compress", back, "--codec", codec)[0] == 0
    names = Archive.from_bytes((tmp_path / "v.lsig").read_bytes()).entries[0].form
    assert (names or {})["name"] == "u10"


def test_volumes_keep_their_affine_also_those_smaller_than_a_patch(volumes, tmp_path, lictor):
    codec, source = volumes / "volume.lcodec", volumes / "data/2.nii.gz"
    assert lictor("compress", source, "--codec", codec, "-o", tmp_path / "v.lsig")[0] == 0
    assert lictor("decompress", tmp_path / "v.lsig", "--codec", codec)[0] == 0
    before, after = nibabel.load(source), nibabel.load(tmp_path / "v.nii.gz")
    assert np.array_equal(before.affine, after.affine)
    assert before.get_data_dtype() == after.get_data_dtype()
    small = tmp_path / "small.nii"
    nibabel.save(nibabel.Nifti1Image(np.full((3, 2, 5), 200, np.int16), np.eye(4)), small)
    assert lictor("compress", small, "--codec", codec)[0] == 0
    back = tmp_path / "small.nii.gz"
    assert lictor("decompress", tmp_path / "small.lsig", "--codec", codec)[0] == 0
    assert nibabel.load(back).shape == (3, 2, 5)


def test_compressed_files_lie_beside_their_sources_without_both_ends(volumes, tmp_path, lictor):
    source = tmp_path / "brain.nii.gz"
    source.write_bytes((volumes / "data/0.nii.gz").read_bytes())
    assert lictor("compress", tmp_path, "--codec", volumes / "volume.lcodec")[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["brain.lsig", "brain.nii.gz"]


def test_pictures_and_arrays_come_back(pictures, arrays, tmp_path, lictor):
    for place, kind, end in ((pictures, "image", ".png"), (arrays, "array", ".npy")):
        codec, source = place / f"{kind}.lcodec", place / f"data/0{end}"
        small = tmp_path / f"{kind}.lsig"
        assert lictor("compress", source, "--codec", codec, "-o", small)[0] == 0
        assert lictor("decompress", small, "--codec", codec)[0] == 0
        before, after = read_signal(source), read_signal(small.with_suffix(end))
        assert after.samples.shape == before.samples.shape
        assert after.samples.dtype == before.samples.dtype
        peak = float(np.ptp(before.samples))
        assert psnr(before.samples, after.samples, peak) > 20


def test_arrays_of_a_kind_come_back_as_arrays(pictures, tmp_path, lictor):
    stack = np.stack([photo(16, 16, seed) for seed in range(3)])
    np.save(tmp_path / "stack.npy", stack)
    codec = pictures / "image.lcodec"
    assert lictor("compress", tmp_path / "stack.npy", "--codec", codec)[0] == 0
    (tmp_path / "stack.npy").unlink()
    assert lictor("decompress", tmp_path / "stack.lsig", "--codec", codec)[0] == 0
    assert np.load(tmp_path / "stack.npy").shape == stack.shape


def test_quality_and_effort_move_size_and_error(sounds, tmp_path, lictor):
    codec, source = sounds / "audio.lcodec", sounds / "data/0.wav"
    sizes, errors = {}, {}
    for options in (("--quality", 0), (), ("--quality", 4), ("--quality", 8), ("--effort", 1)):
        small = tmp_path / f"{len(sizes)}.lsig"
        assert lictor("compress", source, "--codec", codec, "-o", small, *options)[0] == 0
        assert lictor("decompress", small, "--codec", codec)[0] == 0
        sizes[options] = small.stat().st_size
        decoded = read_signal(small.with_suffix(".wav")).samples
        errors[options] = -psnr(read_signal(source).samples, decoded, 65535)
    assert sizes["--quality", 0] < sizes[()] < sizes["--quality", 8]
    assert errors["--quality", 0] > errors[()] > errors["--quality", 8]
    assert (tmp_path / "1.lsig").read_bytes() == (tmp_path / "2.lsig").read_bytes()  # the middle
    assert (tmp_path / "4.lsig").read_bytes() != (tmp_path / "1.lsig").read_bytes()


# ------------------------------------------------------------------------------------ batches


def test_a_batch_mirrors_its_tree_and_goes_on(sounds, tmp_path, lictor):
    codec, data, out = sounds / "audio.lcodec", sounds / "data", tmp_path / "out"
    names = ["0.lsig", "1.lsig", "2.lsig", "inner/3.lsig"]
    compress = ("compress", data, "--codec", codec, "-o", out)
    code, told, _ = lictor(*compress)
    assert (code, told[-1]) == (0, "4 of 4 files done")
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.lsig")) == names
    before = {name: (out / name).stat().st_mtime_ns for name in names}
    (out / "1.lsig").unlink()
    (out / "2.lsig").write_bytes((out / "0.lsig").read_bytes())  # of another length
    code, told, err = lictor(*compress)
    assert (code, told[-1]) == (
        1, "1 of 4 files done, 2 finished before, skipped, 1 failed",
    )  # fmt: skip
    assert len(err) == 1
    assert "2.lsig: exists already" in err[0]
    assert (out / "0.lsig").stat().st_mtime_ns == before["0.lsig"]
    code, told, _ = lictor(*compress, "--quality", 7)
    assert (code, told[-1]) == (1, "0 of 4 files done, 4 failed")  # none of this quality
    code, told, _ = lictor(*compress, "--quality", 7, "--force")
    assert (code, told[-1]) == (0, "4 of 4 files done")
    back = ("decompress", out, "--codec", codec, "-o", tmp_path / "back")
    assert lictor(*back)[1][-1] == "4 of 4 files done"
    assert lictor(*back)[1][-1] == "0 of 4 files done, 4 finished before, skipped"
    assert (tmp_path / "back/inner/3.wav").is_file()


@pytest.mark.slow
def test_several_processes_make_the_same_files(sounds, tmp_path, lictor):
    codec, data = sounds / "audio.lcodec", sounds / "data"
    for out, jobs in (("one", 1), ("two", 2)):
        options = ("-o", tmp_path / out, "--jobs", jobs)
        assert lictor("compress", data, "--codec", codec, *options)[0] == 0
    for path in (tmp_path / "one").rglob("*.lsig"):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes()


def test_an_archive_holds_a_tree_and_gives_it_back(sounds, tmp_path, lictor):
    codec, data, small = sounds / "audio.lcodec", sounds / "data", tmp_path / "all.lsig"
    code, told, _ = lictor("compress", data, "--codec", codec, "--archive", small)
    size = small.stat().st_size
    samples = sum(600 + 70 * number for number in range(4))
    rate = f"{8 * size / samples:.4f} bits per sample"
    assert (code, told) == (0, [f"4 signals -> {small}  {size} bytes  {rate}"])
    alone = tmp_path / "alone"
    assert lictor("compress", data, "--codec", codec, "-o", alone)[0] == 0
    assert size < sum(path.stat().st_size for path in alone.rglob("*.lsig"))
    folder = tmp_path / "all"
    for out in ((), ("-o", tmp_path / "named")):
        assert lictor("decompress", small, "--codec", codec, *out)[0] == 0
        place = Path(out[1]) if out else folder
        names = sorted(p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file())
        assert names == ["0.wav", "1.wav", "2.wav", "inner/3.wav"]
    single = tmp_path / "3.wav"
    assert lictor("decompress", alone / "inner/3.lsig", "--codec", codec, "-o", single)[0] == 0
    assert np.array_equal(read_signal(single).samples, read_signal(folder / "inner/3.wav").samples)


def test_an_archive_is_made_whole_or_not_at_all(sounds, tmp_path, refused, lictor):
    codec, good = sounds / "audio.lcodec", sounds / "data/0.wav"
    small, bad = tmp_path / "all.lsig", tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF nothing")
    archive = ("--codec", codec, "--archive", small)
    refused("compress", good, bad, *archive, words="bad.wav")
    other = tmp_path / "0.wav"
    other.write_bytes(good.read_bytes())
    refused("compress", good, other, *archive, words="have the name '0.wav'")
    refused("compress", good, *archive, "-o", tmp_path / "x", words="leave out --out")
    refused("compress", good, *archive, "--jobs", 2, words="in one process")
    assert lictor("compress", good, *archive)[0] == 0
    refused("compress", good, *archive, words="add --force")
    assert lictor("decompress", small, "--codec", codec)[0] == 0
    refused("decompress", small, "--codec", codec, words="0.wav: exists already; add --force")
    assert lictor("decompress", small, "--codec", codec, "--force")[0] == 0


@pytest.mark.parametrize(
    "names",
    [
        ["../out.wav"], ["/out.wav"], ["a/../../out.wav"], [""], ["."], ["a//b.wav"], ["a\\b.wav"],
        ["C:x.wav"], ["a\0b.wav"], ["x.wav", "x.wav"], ["x.wav", "x.wav/y.wav"],
    ],
)  # fmt: skip
def test_names_of_an_archive_stay_within_its_folder(names, sounds, tmp_path, refused):
    codec = SignalCodec.load(sounds / "audio.lcodec")
    signals = [read_signal(sounds / "data/0.wav") for _ in names]
    small = tmp_path / "evil.lsig"
    small.write_bytes(codec.encode(signals, 4, names=names))
    refused(
        "decompress", small, "--codec", sounds / "audio.lcodec", "-o", tmp_path / "out",
        words="in the archive",
    )  # fmt: skip


def test_links_in_the_folder_lead_nowhere(sounds, tmp_path, refused):
    codec = SignalCodec.load(sounds / "audio.lcodec")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path / "elsewhere")
    small = tmp_path / "a.lsig"
    signal = read_signal(sounds / "data/0.wav")
    small.write_bytes(codec.encode([signal], 4, names=["link/x.wav"]))
    refused(
        "decompress", small, "--codec", sounds / "audio.lcodec", "-o", tmp_path / "out",
        words="outside",
    )  # fmt: skip


def test_names_with_ends_that_cannot_be_written_get_others(pictures, tmp_path, lictor):
    for name in ("a.jpg", "a.png"):
        Image.fromarray(photo(16, 24, 1)).save(tmp_path / name)
    codec, small = pictures / "image.lcodec", tmp_path / "all.lsig"
    sources = (tmp_path / "a.jpg", tmp_path / "a.png")
    assert lictor("compress", *sources, "--codec", codec, "--archive", small)[0] == 0
    assert lictor("decompress", small, "--codec", codec)[0] == 0
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["a.png", "a.png.png"]


# --------------------------------------------------------------------------------------- info


def test_info_tells_of_files_and_codecs_without_decoding(sounds, tmp_path, lictor, monkeypatch):
    codec, small = sounds / "audio.lcodec", tmp_path / "all.lsig"
    sources = [sounds / "data/0.wav", sounds / "data/1.wav"]
    assert lictor("compress", *sources, "--codec", codec, "--archive", small)[0] == 0
    monkeypatch.setattr(SignalCodec, "decode_named", None)
    code, out, _ = lictor("info", small, "--json")
    told = json.loads("\n".join(out))
    size = small.stat().st_size
    assert code == 0
    assert (told["kind"], told["archive"], told["count"]) == ("signals", True, 2)
    assert (told["quality"], told["bytes"], told["samples"]) == (4, size, 600 + 670)
    assert told["bits_per_sample"] == 8 * size / 1270
    assert [s["name"] for s in told["signals"]] == ["0.wav", "1.wav"]
    assert [s["grid"] for s in told["signals"]] == [[600], [670]]
    plain = lictor("info", small)[1]
    assert sum("int16" in line for line in plain) == 2
    told = json.loads("\n".join(lictor("info", codec, "--json")[1]))
    assert told["kind"] == "codec of signals"
    assert told["fingerprint"] == SignalCodec.load(codec).fingerprint.hex()
    assert told["domain"]["kind"] == "audio"
    assert any("fingerprint" in line for line in lictor("info", codec)[1])


# ------------------------------------------------------------------------------- what is refused


def test_each_codec_takes_its_own_kind(sounds, pictures, picture_codec, tmp_path, refused):
    audio, image = sounds / "audio.lcodec", pictures / "image.lcodec"
    picture, sound = tmp_path / "p.png", tmp_path / "s.wav"
    picture.write_bytes((pictures / "data/0.png").read_bytes())
    sound.write_bytes((sounds / "data/0.wav").read_bytes())
    refused("compress", picture, "--codec", audio, words="kind image, not audio")
    refused("compress", sound, "--codec", image, words="kind audio, not image")
    refused("compress", sound, "--codec", picture_codec, words="kind audio")
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, wave(300, 0, 2), 8000)
    refused("compress", stereo, "--codec", audio, words="2 channels; this codec is for 1")
    text = tmp_path / "x.txt"
    text.write_text("words")
    refused("compress", text, "--codec", audio, words="no signals are known by '.txt'")


def test_values_that_cannot_be_coded_are_refused(sounds, arrays, tmp_path, refused, lictor):
    audio, array = sounds / "audio.lcodec", arrays / "array.lcodec"
    samples = wave(300, 0).astype(np.float32) / 32768
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        wrong = samples.copy()
        wrong[7] = value
        soundfile.write(tmp_path / f"{name}.wav", wrong, 8000, subtype="FLOAT")
    small, back = tmp_path / "nan.lsig", tmp_path / "nan-back.wav"
    assert lictor("compress", tmp_path / "nan.wav", "--codec", audio)[0] == 0
    assert lictor("decompress", small, "--codec", audio, "-o", back)[0] == 0
    missing = np.isnan(soundfile.read(back)[0])
    assert np.array_equal(np.flatnonzero(missing), [7])
    refused("compress", tmp_path / "inf.wav", "--codec", audio, words="infinite")
    soundfile.write(tmp_path / "empty.wav", samples[:0], 8000)
    refused("compress", tmp_path / "empty.wav", "--codec", audio, words="no samples")
    (tmp_path / "none.wav").touch()
    refused("compress", tmp_path / "none.wav", "--codec", audio, words="empty file")
    refused("compress", tmp_path / "not.wav", "--codec", audio, words="no such file")
    values = np.load(arrays / "data/0.npy")
    np.save(tmp_path / "inf.npy", np.where(np.arange(400)[:, None] == 3, np.inf, values))
    refused("compress", tmp_path / "inf.npy", "--codec", array, words="infinite")
    values[3:9] = np.nan  # missing: these come back as they are
    np.save(tmp_path / "gaps.npy", values)
    assert lictor("compress", tmp_path / "gaps.npy", "--codec", array)[0] == 0
    back = tmp_path / "back.npy"
    assert lictor("decompress", tmp_path / "gaps.lsig", "--codec", array, "-o", back)[0] == 0
    assert np.array_equal(np.isnan(np.load(back)), np.isnan(values))


def test_damaged_and_foreign_files_are_refused(
    sounds, pictures, picture_codec, tmp_path, refused, lictor
):
    audio, image = sounds / "audio.lcodec", pictures / "image.lcodec"
    good = tmp_path / "good.lsig"
    lictor("compress", sounds / "data/0.wav", "--codec", audio, "-o", good)
    data = good.read_bytes()
    bad = tmp_path / "bad.lsig"
    middle = len(data) // 2
    for content in (data[:-1], data[:5], b"", b"garbage", data[:middle] + b"\0" + data[middle:]):
        bad.write_bytes(content)
        refused("decompress", bad, "--codec", audio, words=str(bad))
        refused("info", bad, words=str(bad))
    refused("decompress", good, "--codec", image, words="made by the codec")
    refused("decompress", good, "--codec", picture_codec, words="is a .lsig file")
    picture = tmp_path / "picture.lic"
    lictor("compress", pictures / "data/0.png", "--codec", picture_codec, "-o", picture)
    refused("decompress", picture, "--codec", audio, words="is a .lic file")
    refused("compress", good, "--codec", audio, words="compressed already")
    refused("compress", good, "--codec", picture_codec, words="compressed already")
    for name in ("good.ogv", "good.png", "good.lsig"):
        out = tmp_path / name
        refused("decompress", good, "--codec", audio, "-o", out, words="must end in one of .wav")


def test_a_file_that_claims_what_its_codec_cannot_write(sounds, tmp_path, refused):
    codec = SignalCodec.load(sounds / "audio.lcodec")
    outline = Outline("audio", "int16", 1, (1 << 28,), 1)
    file = Archive(codec.fingerprint, 4, [Entry(outline)], b"\1\0\0", 0)
    path = tmp_path / "huge.lsig"
    path.write_bytes(file.to_bytes())
    refused("decompress", path, "--codec", sounds / "audio.lcodec", words="huge.lsig")


def test_options_of_one_kind_of_codecs_are_refused_by_the_other(
    sounds, pictures, picture_codec, refused
):
    audio, sound, picture = sounds / "audio.lcodec", sounds / "data/0.wav", pictures / "data/0.png"
    for option in (("--quality", 3), ("--archive", "x.lsig"), ("--variable", "t")):
        words = f"{option[0]} is for codecs of signals"
        refused("compress", picture, "--codec", picture_codec, *option, words=words)
    on_audio = ("compress", sound, "--codec", audio)
    refused(*on_audio, "--lmbda", 0.1, words="--lmbda is for codecs of pictures")
    refused(*on_audio, "--quality", 9, words="not one of this codec's, 0 to 8")
    refused(*on_audio, "--effort", len(EFFORT_STEPS), words="from 0 to 9")
    refused(*on_audio, "--variable", "t", words="--variable is for codecs of fields")
    refused(*on_audio, "--device", "cuda", words="run on the CPU")
    refused("compress", "memory://a.wav", "--codec", audio, words="memory://a.wav")


def test_runs_and_codecs_of_signals_are_none_of_pictures(
    sounds, pictures, picture_codec, tmp_path, refused
):
    run, audio = sounds / "run", sounds / "audio.lcodec"
    data, out = pictures / "data", tmp_path / "out.lcodec"
    refused("freeze", run, "-o", out, words="add --data DIR")
    refused("freeze", run, "--data", data, "-o", out, words="no signals of kind audio")
    refused("freeze", run, "--data", data, "-o", audio, words="add --force")
    refused("quantize", audio, "--data", data, "-o", out, words="is a codec of signals")
    refused("quantize", run, "--data", data, "-o", out, words="is a folder")
    outliers = ("--data", data, "-o", tmp_path / "out")
    (tmp_path / "out").mkdir()
    code = {run: "is a run of signals", audio: "is a codec of signals"}
    for place, words in code.items():
        refused("analyze", "outliers", place, *outliers, words=words)
    with pytest.raises(Exception, match="is a codec of pictures"):
        SignalCodec.load(picture_codec)


def test_a_run_of_pictures_needs_no_data_to_freeze(picture_folder, tmp_path, refused, lictor):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[data]\ncrop_size = 64\n[train]\nsteps = 1\nbatch_size = 1\n")
    tiny = "model.name=bmshj2018-factorized", "model.n=8", "model.m=8"
    args = ("train", recipe, "--data", picture_folder, "--out", tmp_path / "run", "--set", *tiny)
    code, _, err = lictor(*args)
    if code:
        pytest.fail("\n".join(err))
    assert not any("--data" in line for line in err)
    freeze = ("freeze", tmp_path / "run", "-o", tmp_path / "x.lcodec")
    refused(*freeze, "--data", picture_folder, words="--data is for runs of signals")


@pytest.mark.parametrize(
    ("module", "place", "name"),
    [("soundfile", "sounds", "0.wav"), ("nibabel", "volumes", "0.nii.gz"),
     ("xarray", "fields", "0.nc")],
)  # fmt: skip
def test_missing_packages_are_named(module, place, name, request, tmp_path, refused, monkeypatch):
    folder = request.getfixturevalue(place)
    codec = next(folder.glob("*.lcodec"))
    monkeypatch.setitem(sys.modules, module, None)
    out = ("-o", tmp_path / "x.lsig")
    refused(
        "compress", folder / "data" / name, "--codec", codec, *out, words="pip install 'lictor["
    )


def test_a_target_that_cannot_be_written_leaves_nothing(sounds, tmp_path, refused):
    if os.geteuid() == 0:
        out = tmp_path / "no-such-folder" / "x.lsig"
    else:
        (tmp_path / "locked").mkdir(mode=0o500)
        out = tmp_path / "locked" / "x.lsig"
    source = sounds / "data/0.wav"
    refused("compress", source, "--codec", sounds / "audio.lcodec", "-o", out, words="cannot write")


def test_torch_keeps_its_threads(sounds, tmp_path, lictor):
    before = torch.get_num_threads()
    out = ("-o", tmp_path / "x.lsig")
    assert (
        lictor("compress", sounds / "data/0.wav", "--codec", sounds / "audio.lcodec", *out)[0] == 0
    )
    assert torch.get_num_threads() == before
