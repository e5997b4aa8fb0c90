"""Traditional codecs of signals: round trips with bounded errors, from bytes alone."""

import numpy as np
import pytest

from lictor.data.signals import quiet
from lictor.data.signals.signal import Signal
from lictor.errors import BitstreamError, ConfigError, DataError
from lictor.evaluation.signals.array_peers import Sz3, Zfp
from lictor.evaluation.signals.audio_peers import Flac, Mp3, Opus
from lictor.evaluation.signals.peers import SIGNAL_PEERS
from lictor.evaluation.signals.quality import aligned, from_unit, measure, peak_of
from lictor.evaluation.signals.slice_peers import (
    Jpeg2000Planes,
    JpegXlPlanes,
    PicturePeer,
    X265Planes,
    ffmpeg_version,
)

pytest.importorskip("soundfile")
pytest.importorskip("imagecodecs")
RNG = np.random.default_rng(5)


def smooth(*shape: int) -> np.ndarray:
    grids = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij")
    return np.sin(sum((i + 1) * g for i, g in enumerate(grids)))


def sound(rate: int = 16000, channels: int = 1) -> Signal:
    t = np.arange(rate) / rate
    wave = 0.4 * np.sin(2 * np.pi * 440 * t) * np.sin(7 * t) + 0.1 * np.sin(2 * np.pi * 900 * t)
    levels = np.rint(2**15 * np.stack([wave] * channels, -1)).astype(np.int16)
    return Signal(levels[None], None, "audio", {"sample_rate": rate})


@pytest.mark.parametrize("make", [Sz3, Zfp])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("shape", [(1, 30, 1), (3, 20, 24, 1), (1, 9, 10, 11, 1), (2, 17, 2)])
def test_error_bounds_are_kept(make: type, dtype: type, shape: tuple[int, ...]) -> None:
    samples = (1000 * smooth(*shape)).astype(dtype)
    signal = Signal(samples, None, "array")
    for share in (0.05, 0.001):
        coder = make(share)
        data = coder.encode([signal])
        (back,) = coder.decode(data)
        assert back.shape == shape
        bound = share * np.ptp(samples.astype(np.float64))
        assert np.abs(back - samples.astype(np.float64)).max() <= bound * (1 + 1e-3)


@pytest.mark.parametrize("make", [Sz3, Zfp, Jpeg2000Planes, JpegXlPlanes])
def test_masked_samples_do_not_spoil_the_others(make: type) -> None:
    x = smooth(2, 24, 32)[..., None].astype(np.float32)
    mask = RNG.random(x.shape[:-1]) > 0.1
    signal = Signal(np.where(mask[..., None], x, np.nan), mask, "field")
    quality = {Sz3: 0.01, Zfp: 0.01, Jpeg2000Planes: 60, JpegXlPlanes: 100}[make]
    coder = make(quality)
    (back,) = coder.decode(coder.encode([signal]))
    assert np.isfinite(back).all()
    assert np.abs(back - x)[mask].max() < 0.1 * np.ptp(x)
    whole = len(coder.encode([Signal(x, None, "field")]))
    assert len(coder.encode([signal])) > whole  # where there are values costs bytes


@pytest.mark.parametrize("make", [Jpeg2000Planes, JpegXlPlanes])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(2, 40, 48, 1), (2, 20, 24, 5, 1), (1, 3, 2, 4, 1)])
def test_slices_come_back_in_place(make: type, dtype: type, shape: tuple[int, ...]) -> None:
    kind = "field" if len(shape) == 4 else "volume"
    samples = (100 + 90 * smooth(*shape)).astype(dtype)
    signal = Signal(samples, None, kind)
    coder = make(50 if make is Jpeg2000Planes else 97)
    (back,) = coder.decode(coder.encode([signal]))
    assert back.shape == shape
    assert np.sqrt(np.mean((back - samples.astype(np.float64)) ** 2)) < 0.02 * np.ptp(samples)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("shape", [(2, 33, 35, 5, 1), (1, 3, 2, 4, 1), (1, 7, 90, 1, 1)])
def test_slices_of_x265_come_back_in_place(dtype: type, shape: tuple[int, ...]) -> None:
    try:
        ffmpeg_version()
    except ConfigError as error:
        pytest.skip(str(error))
    samples = (100 + 90 * smooth(*shape)).astype(dtype)
    signal, sizes = Signal(samples, None, "volume"), []
    for quality, share in ((0, 0.01), (51, 0.5)):
        data = X265Planes(quality).encode([signal])
        (back,) = X265Planes(quality).decode(data)
        assert back.shape == shape
        error = np.sqrt(np.mean((back - samples.astype(np.float64)) ** 2))
        assert error < share * np.ptp(samples)
        sizes.append(len(data))
    assert sizes[0] > sizes[1]
    for damaged in (data[:2], data[: len(data) // 2]):
        with pytest.raises(BitstreamError):
            X265Planes(51).decode(damaged)


def test_sounds_come_back_in_time() -> None:
    signal = sound()
    found = {}
    for coder, least in ((Mp3(64), 20), (Mp3(16), 10), (Opus(64), 20), (Flac(16), 300)):
        data = coder.encode([signal])
        samples = coder.decode(data)[0]
        if coder.delays:
            samples = aligned(signal.samples[0], samples[0])[None]
        restored = from_unit(samples, "audio", signal.samples.dtype)
        quality = measure(signal, restored, peak_of(signal))
        assert quality.snr > least, coder.name
        found[coder.name] = len(data)
    assert found["MP3 16 kbps"] < found["MP3 64 kbps"]
    # A second of 64 kbps is 8000 bytes; frames and headers are whole.
    assert 7500 < found["MP3 64 kbps"] < 9500


def test_fewer_bits_of_flac_are_fewer_bytes_with_a_bounded_error() -> None:
    signal = sound(channels=2)
    sizes = []
    for bits in (6, 10, 16):
        data = Flac(bits).encode([signal])
        back = from_unit(Flac(bits).decode(data)[0], "audio", np.dtype(np.int16))
        assert np.abs(back - signal.samples).max() <= 2.0 ** (15 - bits)
        sizes.append(len(data))
    assert sizes == sorted(sizes)


def test_what_a_sound_codec_cannot_take_is_one_line() -> None:
    with pytest.raises(ConfigError, match="Opus takes sounds of"):
        Opus(16).encode([sound(rate=22050)])
    with pytest.raises(ConfigError, match="MP3 has 8 to 160 kbps at 16000 Hz, not 320"):
        Mp3(320).encode([sound()])
    with pytest.raises(DataError, match="sample rate"):
        Mp3(32).encode([Signal(np.zeros((1, 9, 1)), None, "audio")])
    for coder in (Mp3(32), Opus(16), Flac(16), Sz3(0.1), Zfp(0.1), Jpeg2000Planes(30)):
        with pytest.raises(BitstreamError):
            coder.decode(b"")
    with pytest.raises(DataError, match="pictures take one picture"):
        PicturePeer("jpeg", 50).encode([sound()])


def test_missing_packages_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(quiet.importlib, "import_module", missing)
    for kind, name, extra in (
        ("audio", "mp3", "audio"),
        ("volume", "sz3", "jpegxl"),
        ("field", "jpeg2000", "jpegxl"),
    ):
        with pytest.raises(ConfigError, match=rf"pip install 'lictor\[{extra}\]'") as caught:
            SIGNAL_PEERS[kind][name].library()
        assert "\n" not in str(caught.value)


def test_every_peer_names_itself_and_sweeps_within_its_qualities() -> None:
    for peers in SIGNAL_PEERS.values():
        for peer in peers.values():
            names = [peer.make(quality).name for quality in peer.qualities]
            assert len(set(names)) == len(names) >= 4
            assert peer.lowest <= min(peer.qualities) < max(peer.qualities) <= peer.highest


@pytest.mark.parametrize("name", ["sz3", "zfp", "jpeg2000", "jpegxl"])
def test_the_usual_sweep_of_arrays_reaches_from_coarse_to_fine(name: str) -> None:
    noise = RNG.normal(0, 0.02, (1, 64, 64, 1))
    signal = Signal((smooth(1, 64, 64, 1) + noise).astype(np.float32), None, "field")
    peer, found = SIGNAL_PEERS["field"][name], []
    for quality in peer.qualities:
        coder = peer.make(quality)
        found.append(measure(signal, coder.decode(coder.encode([signal]))[0], peak_of(signal)))
    decibels = [quality.psnr for quality in found]
    assert min(decibels) < 32
    assert max(decibels) > 38


def test_header_bytes_of_slices_are_few() -> None:
    import imagecodecs

    picture = Signal(RNG.integers(0, 255, (1, 32, 32, 1)).astype(np.uint8), None, "image")
    bare = imagecodecs.jpegxl_encode(picture.samples[0, ..., 0], distance=1.0, effort=7)
    ours = JpegXlPlanes(90).encode([picture])
    assert 0 < len(ours) - len(bare) <= 3
