"""`lictor demo --modality`: what it makes is what it says, and what is missing is one line."""

import dataclasses
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import photo
from lictor.cli import demo_data, demo_files, demo_signals
from lictor.cli.demo_data import SOURCES
from lictor.cli.demo_signals import _nearest, _qualities, _Row, run_signal_demo
from lictor.cli.main import main
from lictor.codecs.signals.codec import SignalCodec
from lictor.codecs.signals.domain import Domain
from lictor.codecs.signals.network import Network
from lictor.data.signals.formats import read_signal, write_signal
from lictor.data.signals.signal import Signal
from lictor.errors import DataError, LictorError
from lictor.implicit.coordinates import COORDINATES
from lictor.implicit.model import IMPLICIT
from lictor.implicit.pca import fit_pca


def call(*args: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([*map(str, args)])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def few_thumbnails(folder: Path) -> list[Path]:
    paths = [folder / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        Image.fromarray(photo(32, 32, seed=i)).save(path)
    return paths


def sound(folder: Path) -> list[Path]:
    t = np.arange(2000)[:, None]
    noise = np.random.default_rng(0).normal(0, 500, t.shape)
    samples = (np.sin(0.2 * t) * 9000 + np.sin(0.9 * t) * 4000 + noise).astype(np.int16)
    form = {"sample_rate": 8000, "subtype": "PCM_16"}
    write_signal(folder / "tone.wav", Signal(samples[None], None, "audio", form))
    return [folder / "tone.wav"]


def volume(folder: Path) -> list[Path]:
    axes = np.meshgrid(*(np.arange(n) for n in (12, 10, 9)), indexing="ij")
    samples = (120 + 60 * np.sin(sum(axes) / 3))[None, ..., None].astype(np.uint8)
    form = {"affine": np.diag([1.0, 2.0, 3.0, 1.0]).tolist()}
    write_signal(folder / "ball.nii.gz", Signal(samples, None, "volume", form))
    return [folder / "ball.nii.gz"]


def field(folder: Path) -> list[Path]:
    rows = 280 + 20 * np.cos(np.linspace(-1.5, 1.5, 12))[:, None] + np.zeros((12, 20))
    waves = np.stack([rows + 3 * np.sin(np.arange(20) / 3 + day) for day in range(2)])
    names = ("time", "latitude", "longitude")
    coords = {name: np.arange(n, dtype=float) for name, n in zip(names, waves.shape, strict=True)}
    coords["latitude"] = np.linspace(-80, 80, 12)
    attrs = {"latitude": {"units": "degrees_north"}, "longitude": {"units": "degrees_east"}}
    xarray = pytest.importorskip("xarray")
    data = xarray.DataArray(waves.astype("float32"), coords, names, name="t")
    for name, told in attrs.items():
        data[name].attrs.update(told)
    paths = [folder / "a.nc", folder / "b.nc"]
    for path in paths:
        data.to_netcdf(path)
    return paths


# Modality: what is coded, the grid of a patch, whether that is an item, channels.
SMALL = {
    "audio": (sound, (50,), False, 1),
    "volume": (volume, (4, 4, 4), False, 1),
    "field": (field, (12, 20), True, 1),
    "thumbnails": (few_thumbnails, (32, 32), True, 3),
}
EXTRAS = {"audio": "soundfile", "volume": "nibabel", "field": "xarray"}


def small_codec(modality: str, folder: Path) -> Path:
    """Freeze principal components of the very signals that are coded."""
    write, grid, whole, channels = SMALL[modality]
    data = folder / "data"
    data.mkdir()
    kind = "image" if modality == "thumbnails" else modality
    signals = [read_signal(path, kind=kind) for path in write(data)]
    low, high = {"volume": (0.0, 255.0), "field": (200.0, 320.0), "audio": (-1.0, 1.0)}.get(
        modality, (0.0, 1.0)
    )
    domain = Domain(kind, channels, grid, whole=whole, low=low, high=high, clip=None)
    net = IMPLICIT["pca"](COORDINATES["unit"](grid), channels, latent=3)
    network = Network(net, domain)
    grids = [(len(signal), *domain.patches(signal.grid)) for signal in signals]
    ranges = [domain.range_of(signal) for signal in signals]
    cut = [network.cut(signals, ranges, block)[0].numpy() for block in network.blocks(grids)]
    net.start_from(fit_pca([(np.nan_to_num(y), None) for y in cut], 3))
    path = folder / "small.lcodec"
    SignalCodec.freeze(net, domain, signals, qualities=(0, 8), steps=1).save(path)
    return path


@pytest.fixture
def small(monkeypatch):
    """Put little made-up signals in the place of the real ones, and decode in this process."""
    for modality, (write, *_) in SMALL.items():
        changed = dataclasses.replace(SOURCES[modality], write=write)
        monkeypatch.setitem(SOURCES, modality, changed)

    def here(files: list[Path], codec_file: Path, folder: Path) -> None:
        given = (*files, "--codec", codec_file, "-o", folder, "--force")
        assert call("decompress", *given) == 0

    monkeypatch.setattr(demo_signals, "decode_elsewhere", here)


def wait_for_extras(modality: str) -> None:
    if modality in EXTRAS:
        pytest.importorskip(EXTRAS[modality])


@pytest.mark.parametrize("modality", SMALL)
def test_a_demo_leaves_files_that_are_what_its_table_says(modality, small, tmp_path, capsys):
    wait_for_extras(modality)
    codec_file, out = small_codec(modality, tmp_path), tmp_path / "out"
    capsys.readouterr()
    assert run_signal_demo(modality, out, force=False, codec_file=codec_file) == 0
    shown = capsys.readouterr().out
    codec = SignalCodec.load(out / f"{SOURCES[modality].codec}.lcodec")
    files = sorted(out.glob("*.lsig"))
    assert len(files) == len(_qualities(codec)) == 3
    lines = re.findall(r"lictor (q\d+) +(\d+) +[\d.]+ +([\d.-]+) ", shown)
    rows = {quality: numbers for quality, *numbers in lines}
    kind = codec.domain.kind
    originals = [
        read_signal(path, kind=kind).samples for path in sorted((out / "original").iterdir())
    ]
    span = {"audio": 2.0**16, "image": 255.0}.get(kind, codec.domain.high - codec.domain.low)
    for file in files:
        quality = file.stem.rpartition("-")[2]
        num_bytes, psnr = rows[quality]
        assert int(num_bytes) == file.stat().st_size
        found = [signal.samples for signal in codec.decode(file.read_bytes())]
        restored = out / "restored"
        inner = sorted((restored / file.stem).glob("*")) or sorted(restored.glob(f"{file.stem}.*"))
        assert all(
            np.array_equal(read_signal(path, kind=kind).samples, samples)
            for path, samples in zip(inner, found, strict=True)
        )
        errors = [
            np.mean((a.astype(float) - b.astype(float)) ** 2)
            for x, y in zip(originals, found, strict=True)
            for a, b in zip(x, y, strict=True)
        ]
        assert float(psnr) == pytest.approx(
            np.mean(-10 * np.log10(np.array(errors) / span**2)), abs=0.006
        )
    (picture,) = out.glob("*.png")
    with Image.open(picture) as image:
        assert min(image.size) > 32
    with pytest.raises(LictorError, match="add --force"):
        run_signal_demo(modality, out, force=False, codec_file=codec_file)


def test_a_sample_that_decodes_otherwise_ends_the_demo(small, tmp_path, monkeypatch):
    decode = demo_signals.decode_elsewhere

    def wrong(files: list[Path], codec_file: Path, folder: Path) -> None:
        decode(files, codec_file, folder)
        path = next((folder / files[0].stem).iterdir())
        pixels = np.array(Image.open(path))
        pixels[3, 4, 1] ^= 1
        Image.fromarray(pixels).save(path)

    monkeypatch.setattr(demo_signals, "decode_elsewhere", wrong)
    codec_file = small_codec("thumbnails", tmp_path)
    with pytest.raises(LictorError, match=r"\.png: 1 samples decode otherwise than encoded"):
        run_signal_demo("thumbnails", tmp_path / "out", force=False, codec_file=codec_file)


@pytest.mark.parametrize("modality", SMALL)
def test_missing_data_are_one_line_and_leave_nothing(modality, tmp_path, monkeypatch, capsys):
    wait_for_extras(modality)
    monkeypatch.setattr(demo_data, "find_spec", lambda name: None)
    assert call("demo", "--modality", modality, "--out", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    extra = "demo-field" if modality == "field" else "demo"
    assert f'pip install "lictor[{extra}]"' in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("modality", "module"), EXTRAS.items())
def test_missing_readers_are_one_line_too(modality, module, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(demo_data, "_inside", lambda *about: Path(__file__))
    if modality != "field":
        place = tmp_path / ("a.wav" if modality == "audio" else "a.nii.gz")
        place.write_bytes(b"something")
        monkeypatch.setattr(demo_data, "_inside", lambda *about: place)
    assert call("demo", "--modality", modality, "--out", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    extra = {"audio": "audio", "volume": "volumes", "field": "fields"}[modality]
    assert f"pip install 'lictor[{extra}]'" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("modality", "package", "dtype", "grid"),
    [
        ("thumbnails", "skimage", "uint8", (32, 32)),
        ("volume", "nibabel", "uint8", (128, 96, 24)),
        ("audio", "auditok", "int16", None),
        ("field", "iris_sample_data", "float32", (145, 192)),
    ],
)
def test_packages_have_what_shipped_codecs_take(modality, package, dtype, grid, tmp_path):
    pytest.importorskip(package)
    wait_for_extras(modality)
    source = SOURCES[modality]
    files = source.write(tmp_path)
    assert sorted(files) == sorted(tmp_path.iterdir())
    codec = SignalCodec.load(demo_signals.find_codec(source.codec))
    for path in files:
        signal = demo_signals.read_for(codec, str(path))
        assert signal.samples.dtype == dtype
        assert grid in (None, signal.grid)
        assert signal.samples.std() > 0
        if modality == "audio":
            assert signal.form["sample_rate"] == 8000
            assert 5 < signal.grid[0] / 8000 < 30


def test_a_peer_without_its_library_is_said_and_left_out(monkeypatch, capsys):
    from rich.console import Console

    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert list(demo_signals._available(("mp3",), "audio", Console(width=200))) == []
    assert "without mp3" in capsys.readouterr().out
    assert list(demo_signals._available(("jpeg", "webp"), "image", Console())) == ["jpeg", "webp"]


def test_peers_are_the_nearest_in_size():
    rows = [_Row(str(size), size, 30.0, 10.0) for size in (800, 100, 400, 200)]
    assert [row.num_bytes for row in _nearest(rows, [130, 120, 900])] == [100, 800]
    assert [row.num_bytes for row in _nearest(rows, [150])] == [200]  # by ratio, not difference
    assert _nearest([], [5]) == []


def test_a_demo_is_not_in_the_way_of_another(tmp_path):
    assert set(SOURCES) == set(demo_files.MODALITIES)
    for name in SOURCES:
        (tmp_path / name).mkdir()
    demo_files.demo_folder(tmp_path, [], force=False)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match="--force"):
        demo_files.demo_folder(tmp_path, [], force=False)


def test_training_is_for_pictures(tmp_path, capsys):
    assert call("demo", "--modality", "audio", "--train-s", 1, "--out", tmp_path / "out") == 1
    assert "--train-s is for the demo of pictures" in capsys.readouterr().err
