"""Evaluations of signals from files to results, to BD-rates and to a page."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from lictor.cli.main import main
from lictor.codecs.signals.codec import SignalCodec
from lictor.codecs.signals.domain import Domain
from lictor.comparison.bd import compare
from lictor.comparison.curve import load_curve
from lictor.data.signals.formats import read_signal, write_signal
from lictor.data.signals.signal import Signal
from lictor.errors import ConfigError
from lictor.evaluation.signals import sweep
from lictor.evaluation.signals.contenders import (
    kind_of,
    parse_signal_contenders,
    with_shipped,
)
from lictor.evaluation.signals.items import items_of, part_of, read_signals
from lictor.evaluation.signals.quality import peak_of
from lictor.implicit.coordinates import COORDINATES
from lictor.implicit.model import IMPLICIT
from lictor.implicit.pca import fit_pca

pytest.importorskip("soundfile")
pytest.importorskip("imagecodecs")
RATE, LENGTH, PATCH = 8000, 4000, 160


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def sound(seed: int) -> Signal:
    rng = np.random.default_rng(seed)
    t = np.arange(LENGTH)
    x = sum(np.sin(t * f + p) for f, p in rng.uniform(0.02, 0.5, (4, 2))) / 5
    levels = np.rint(20000 * x * (1 + np.sin(t / 300)) / 2).astype(np.int16)
    return Signal(levels[None, :, None], None, "audio", {"sample_rate": RATE, "subtype": "PCM_16"})


def fields() -> Signal:
    grid = np.linspace(0, 4, 24)[:, None] + np.linspace(0, 3, 32)
    x = np.stack([np.sin(grid + i / 10) for i in range(4)])
    return Signal(x[..., None].astype(np.float32), None, "field", {})


@pytest.fixture(scope="module")
def codec_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sounds = [sound(seed) for seed in range(10, 14)]
    patches = np.concatenate([s.samples[0, : LENGTH // PATCH * PATCH, 0] for s in sounds])
    values = ((patches / 2**15 + 1) / 2).astype(np.float32).reshape(-1, PATCH, 1)
    model = IMPLICIT["pca"](COORDINATES["unit"]((PATCH,)), 1, latent=8)
    model.start_from(fit_pca([(values, None)], 8))
    domain = Domain("audio", 1, (PATCH,), low=-1.0, high=1.0)
    codec = SignalCodec.freeze(model, domain, sounds, qualities=(0, 12), weight_dtype=torch.float32)
    path = tmp_path_factory.mktemp("codec") / "speech.lcodec"
    codec.save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "sounds"
    place.mkdir()
    for seed in range(3):
        write_signal(place / f"{seed}.wav", sound(seed))
    return place


def run(folder: Path, out: Path, *specs: str, keep: int = 0) -> dict:
    contenders = parse_signal_contenders(specs, "audio")
    found = read_signals(folder, "audio")
    entries = sweep.entries_of(contenders, found, None)
    outcomes = list(sweep.evaluate_signals(entries, found, out=out, keep_items=keep))
    curves = sweep.finish_signals(entries, outcomes, found, out=out)
    return {"outcomes": outcomes, **{curve.name: curve for curve in curves}}


def test_rates_are_those_of_real_bytes(folder: Path, codec_file: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "out", f"{codec_file}:0,6,12")
    codec = SignalCodec.load(codec_file)
    signals = [read_signal(path) for path in sorted(folder.iterdir())]
    single, archive = result["speech"], result["speech-archive"]
    for i, q in enumerate((0, 6, 12)):
        sizes = [len(codec.encode([s], q)) for s in signals]
        assert [row.bytes for row in single.at(f"q{q}")] == sizes
        assert single.bpp[i] == pytest.approx(8 * np.mean(sizes) / LENGTH)
        whole = len(codec.encode(signals, q, names=["0", "1", "2"]))
        assert archive.bpp[i] == pytest.approx(8 * whole / (3 * LENGTH))
        assert archive.bpp[i] < single.bpp[i]  # one header, one stream
        for curve in (single, archive):
            own = 8 * codec_file.stat().st_size / (3 * LENGTH)
            assert curve.columns[sweep.WITH_NETWORK][i] == pytest.approx(curve.bpp[i] + own)
    assert np.all(np.diff(single.columns["psnr"]) > 0)
    assert single.columns["baseline-psnr"].max() < single.columns["psnr"].min()
    assert single.unit.name == "kbps"
    assert single.bpp[0] * single.unit.per_bpp == pytest.approx(
        8 * np.mean([row.bytes for row in single.at("q0")]) / (LENGTH / RATE) / 1000
    )


@pytest.mark.slow
def test_results_go_through_files_to_bd_rates(
    folder: Path, codec_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    curve = run(folder, out, f"{codec_file}:0,4,8,12", "flac")["speech"]
    loaded = load_curve(out / "speech.json")
    assert loaded.unit == curve.unit
    assert loaded.rows[0].baseline_psnr == curve.rows[0].baseline_psnr
    assert np.array_equal(loaded.columns[sweep.WITH_NETWORK], curve.columns[sweep.WITH_NETWORK])
    for aggregation in ("mean-psnr", "mean-mse"):
        assert compare(loaded, loaded, aggregation=aggregation).bd_rate == pytest.approx(0)
    lossless = load_curve(out / "flac.json")
    assert lossless.columns["psnr"][-1] == np.inf
    assert "psnr-y" not in lossless.columns


@pytest.mark.slow
def test_an_evaluation_goes_on_where_it_was(folder: Path, codec_file: Path, tmp_path: Path) -> None:
    out, specs = tmp_path / "out", (f"{codec_file}:0,6", "mp3:16,32")
    contenders = parse_signal_contenders(specs, "audio")
    found = read_signals(folder, "audio")
    entries = sweep.entries_of(contenders, found, None)
    stream = sweep.evaluate_signals(entries, found, out=out)
    for _ in range(7):
        next(stream)
    stream.close()
    second = run(folder, out, *specs)["outcomes"]
    # Six files of an item, and the archive of three that the seventh is in.
    assert sum(outcome.reused for outcome in second) == 6 + 3
    third = run(folder, out, *specs)["outcomes"]
    assert all(outcome.reused for outcome in third)
    write_signal(folder / "1.wav", sound(99))
    changed = run(folder, out, *specs)["outcomes"]
    again = {(o.task.contender, o.task.picture.name) for o in changed if not o.reused}
    # Of the archives every item is measured again: their file is another.
    assert again == {("speech", "1.wav"), ("mp3", "1.wav")} | {
        ("speech-archive", f"{i}.wav") for i in range(3)
    }


def test_items_of_a_file_are_one_by_one_and_together(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", fields().samples[..., 0])
    found = read_signals(tmp_path, "array", axes=2)
    assert [item.name for item in found.items] == [f"a.npy#{i}" for i in range(4)]
    entries = sweep.entries_of(parse_signal_contenders(["sz3:0.01"], "array"), found, None)
    outcomes = list(sweep.evaluate_signals(entries, found))
    single, archive = sweep.finish_signals(entries, outcomes, found)
    assert (single.name, archive.name) == ("sz3", "sz3-archive")
    assert single.images == archive.images
    assert archive.bpp[0] < single.bpp[0]


def test_parts_say_nothing_of_other_items() -> None:
    coords = {
        "time": {"dims": ["time"], "dtype": "int64", "values": [3, 4, 5, 6], "attrs": {}},
        "lat": {"dims": ["lat"], "dtype": "float64", "values": list(range(24)), "attrs": {}},
    }
    form = {
        "dims": ["time", "lat", "lon"], "rows": "lat", "columns": "lon", "name": "t",
        "shape": [4, 24, 32], "coords": coords,
    }  # fmt: skip
    signal = Signal(fields().samples, None, "field", form)
    part = part_of(signal, range(2, 3))
    assert part.form["coords"]["time"]["values"] == [5]
    assert part.form["coords"]["lat"] == coords["lat"]
    assert part.form["shape"] == [1, 24, 32]
    assert np.array_equal(part.samples, signal.samples[2:3])
    assert len({item.sha256 for item in items_of(signal, "x", 0)}) == 4
    assert part_of(signal, range(4)) is signal


def test_a_codec_that_fails_is_an_outcome(folder: Path, tmp_path: Path) -> None:
    write_signal(folder / "3.wav", Signal(sound(3).samples, None, "audio", {"sample_rate": 11025}))
    result = run(folder, tmp_path / "out", "opus:16", "flac:16")
    failed = [outcome for outcome in result["outcomes"] if outcome.row is None]
    assert [outcome.task.picture.name for outcome in failed] == ["3.wav"]
    assert "Opus takes sounds of" in failed[0].error
    assert "opus" not in result
    assert "flac" in result


def test_kinds_of_codecs(codec_file: Path, tmp_path: Path) -> None:
    assert kind_of(["default"]) is None
    assert kind_of(["jpeg", "avif:30"]) is None
    assert kind_of(["mp3:16,24", "flac"]) == "audio"
    assert kind_of([f"mine={codec_file}:0,4", "opus"]) == "audio"
    write_signal(tmp_path / "x.nii.gz", Signal(np.zeros((1, 3, 3, 3, 1)), None, "volume"))
    assert kind_of(["sz3", "jpeg2000"], str(tmp_path)) == "volume"
    with pytest.raises(ConfigError, match="not for the kind"):
        kind_of(["mp3", "sz3"])
    with pytest.raises(ConfigError, match="whole number from 0 to 12"):
        parse_signal_contenders([f"{codec_file}:13"], "audio")
    with pytest.raises(ConfigError, match="no codec of signals of kind audio"):
        parse_signal_contenders(["sz3"], "audio")


def test_a_codec_file_may_have_any_name(
    codec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "speech").write_bytes(codec_file.read_bytes())
    monkeypatch.chdir(tmp_path)
    for what in ("speech", str(tmp_path / "speech")):
        spec = with_shipped(f"{what}:0,4")
        assert kind_of([spec]) == "audio"
        (found,) = parse_signal_contenders([spec], "audio")
        assert found.network_bytes == dict.fromkeys(("q0", "q4"), codec_file.stat().st_size)
        assert found.contender.name == "speech"
    (tmp_path / "mp3").write_bytes(codec_file.read_bytes())
    assert parse_signal_contenders(["mp3"], "audio")[0].network_bytes == {}
    with pytest.raises(ConfigError, match="no codec of signals"):
        parse_signal_contenders(["missing"], "audio")


def test_ranges_are_common_or_the_files_own(codec_file: Path) -> None:
    contenders = parse_signal_contenders([str(codec_file)], "audio")
    assert sweep.common_peak(contenders, "audio") is None
    assert peak_of(sound(0)).low == -1.0
    assert sweep.common_peak(contenders, "field") == contenders[0].peak


def test_a_page_has_sounds_inside_and_no_link_outside(
    folder: Path, codec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "out", tmp_path / "page.html"
    specs = [f"{codec_file}:0,6,12", "mp3:16,32"]
    arguments = ["evaluate", str(folder), "--codecs", *specs, "-o", str(out), "--keep", "1"]
    assert command(*arguments) == 0
    told = capsys.readouterr().out
    for word in ("kbps", "baseline", "SNR", "with network", "speech-archive"):
        assert word in told
    assert command("report", out, "-o", page) == 0
    text = page.read_text()
    section = text[text.index('<section id="signals"') :]
    section = section[: section.index("</section>")]
    # The original, three rates of two curves, two of the third.
    assert section.count("<audio") == section.count("<img") == 1 + 3 + 3 + 2
    assert section.count('src="data:audio/flac;base64,') == 9
    assert not re.findall(r'(?:src|href)="(?!data:|#)', section)
    assert "media-src data:" in text
    assert "kbit per second" in text
    assert len(section) < 600_000


def test_lossless_points_are_told_and_do_not_hide_the_others(folder: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "out", tmp_path / "page.html"
    specs = ["flac:4,5,6,8,16", "mp3:8,16,24,32"]
    arguments = ["evaluate", folder, "--codecs", *specs, "-o", out, "--keep", 1]
    assert command(*arguments) == 0
    flac, mp3 = (load_curve(out / f"{name}.json") for name in ("flac", "mp3"))
    means = flac.columns["psnr-of-mean-mse"]
    assert (
        np.isinf(flac.columns["psnr"]).tolist() == np.isinf(means).tolist() == [False] * 4 + [True]
    )
    found = compare(flac, mp3)
    assert not found.refused
    assert found.num_points == (4, 4)
    assert "nothing is lost of an item at q16" in str(found.findings[0])
    assert "kbps" in str(found.findings[0])
    assert command("report", out, "-o", page) == 0
    text = page.read_text()
    assert "flac q16: " in text
    section = text[text.index('<section id="signals"') :]
    section = section[: section.index("</section>")]
    assert "without loss" in section
    assert "inf dB" not in section
    assert section.count("<table") == 1
    # The original, then a row for each codec.
    assert section.count('<div class="signals">') == 3


def test_maps_have_their_errors_on_one_scale(tmp_path: Path) -> None:
    place, out, page = tmp_path / "fields", tmp_path / "out", tmp_path / "page.html"
    place.mkdir()
    coords = {
        name: {"dims": [name], "dtype": "float64", "values": values.tolist(), "attrs": {}}
        for name, values in (("lat", np.linspace(80, -80, 24)), ("lon", np.arange(32) * 1.0))
    }
    form = {
        "dims": ["time", "lat", "lon"], "rows": "lat", "columns": "lon", "name": "t",
        "shape": [4, 24, 32], "coords": coords, "attrs": {"units": "K"},
        "beside": {}, "dataset": {},
    }  # fmt: skip
    pytest.importorskip("netCDF4")
    write_signal(place / "t.nc", Signal(fields().samples, None, "field", form))
    arguments = ["evaluate", str(place), "--codecs", "sz3:0.05,0.01", "jpeg2000:30,40"]
    assert command(*arguments, "-o", out, "--keep", 1) == 0
    assert command("report", out, "-o", page) == 0
    text = page.read_text()
    scales = re.findall("error: \N{PLUS-MINUS SIGN}([0-9.e-]+) K", text)
    assert len(scales) == 6  # of two curves and an archive
    assert len(set(scales)) == 1
    assert "cos-lat" in text


def test_wrong_options_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, words in (
        (["--codecs", "mp3", "--lpips"], "are for codecs of pictures"),
        (["--codecs", "jpeg", "--value-range", "0", "1"], "are for codecs of signals"),
        (["--codecs", "mp3:999"], "quality 999 is not from 8 to 320"),
        (["--codecs", "sz3", "--value-range", "1", "0"], "lower end first"),
    ):
        assert command("evaluate", folder, *arguments) == 1
        told = capsys.readouterr().err.strip()
        assert words in told
        assert "\n" not in told
