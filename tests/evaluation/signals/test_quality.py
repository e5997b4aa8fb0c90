"""What is measured of decoded signals: closed forms, masks, delays, units."""

import math

import numpy as np
import pytest

from lictor.comparison.unit import (
    BITS_PER_PIXEL,
    BITS_PER_SAMPLE,
    kbps,
    shared_unit,
    unit_from_json,
)
from lictor.data.signals.signal import Signal
from lictor.errors import DataError, LictorError
from lictor.evaluation.signals.quality import (
    Peak,
    aligned,
    from_unit,
    in_unit,
    latitude_weights,
    measure,
    peak_of,
    unit_for,
)

RNG = np.random.default_rng(3)


def field(rows: int = 6, **form: object) -> Signal:
    return Signal(RNG.normal(size=(1, rows, 8, 1)).astype(np.float32), None, "field", form)


def test_a_constant_error_has_the_psnr_of_its_share_of_the_range() -> None:
    x = Signal(np.linspace(0, 9, 40).reshape(1, 40, 1), None, "array")
    for error in (0.5, 0.01):
        quality = measure(x, x.samples + error, Peak(0, 10, ""))
        assert quality.psnr == pytest.approx(-20 * math.log10(error / 10), abs=1e-9)


def test_sounds_are_measured_on_zero_to_one_with_silence_beside_them() -> None:
    t = np.arange(8000)
    sine = Signal(np.sin(2 * np.pi * t / 80)[None, :, None], None, "audio")
    quality = measure(sine, 0.9 * sine.samples, peak_of(sine))
    # A sine of amplitude 1 has power 1/2; [-1, 1] on [0, 1] has a quarter of the squares.
    assert quality.baseline_psnr == pytest.approx(10 * math.log10(8), abs=1e-6)
    assert quality.snr == pytest.approx(20, abs=1e-6)
    assert quality.psnr == pytest.approx(20 + 10 * math.log10(8), abs=1e-6)


def test_integers_are_measured_as_their_unit_says() -> None:
    levels = np.array([0, 16384, -32768, 32767], np.int16)
    assert in_unit(levels, "audio", levels.dtype).tolist() == [0, 0.5, -1, 32767 / 32768]
    back = from_unit(in_unit(levels, "audio", levels.dtype), "audio", levels.dtype)
    assert np.array_equal(back, levels)
    image = Signal(np.full((1, 4, 4, 3), 100, np.uint8), None, "image")
    assert measure(image, image.samples + np.uint8(5), peak_of(image)).mse == pytest.approx(25)
    # What a file of integers cannot hold is rounded before it is measured.
    assert measure(image, image.samples + 0.4, peak_of(image)).psnr == math.inf


def test_what_is_masked_does_not_matter() -> None:
    mask = RNG.random((1, 6, 8)) > 0.4
    x = RNG.normal(size=(1, 6, 8, 1))
    y, peak = x + RNG.normal(size=x.shape) / 10, Peak(-3, 3, "")
    wild = np.where(mask[..., None], y, 1e6)
    signals = [
        Signal(np.where(mask[..., None], x, filling), mask, "field") for filling in (0, 7, np.nan)
    ]
    found = [measure(s, decoded, peak) for s in signals for decoded in (y, wild)]
    assert all(quality == found[0] for quality in found)
    assert found[0].mse == pytest.approx(255**2 * ((x - y)[mask] ** 2).mean() / 36)
    whole = measure(Signal(x, None, "field"), y, peak)
    assert whole.mse != pytest.approx(found[0].mse)


def test_the_mean_is_each_channels_own() -> None:
    samples = np.broadcast_to(np.array([0.25, 0.75]), (1, 5, 5, 2))
    constant = Signal(samples.copy(), None, "array")
    assert measure(constant, constant.samples, Peak(0, 1, "")).baseline_psnr == math.inf


def test_latitudes_weigh_by_their_cosine() -> None:
    latitudes = [60.0, 0.0, -60.0]
    form = {"rows": "lat", "coords": {"lat": {"values": latitudes}}}
    x = Signal(np.zeros((1, 3, 4, 1)) + np.arange(4)[:, None], None, "field", form)
    assert latitude_weights(x) == pytest.approx([0.5, 1, 0.5])
    error = np.zeros(x.samples.shape)
    error[0, 1] = 1.0  # at the equator alone: half of all the weight, a third of the rows
    quality = measure(x, x.samples + error, Peak(0, 10, ""))
    assert quality.psnr == pytest.approx(10 * math.log10(100 * 3))
    assert quality.psnr_lat == pytest.approx(10 * math.log10(100 * 2))
    flat = measure(x, x.samples + 1, Peak(0, 10, ""))
    assert flat.psnr_lat == pytest.approx(flat.psnr)
    assert latitude_weights(field(5))[2] == pytest.approx(1)


@pytest.mark.parametrize("delay", [-1105, -3, 0, 7, 1536])
def test_delays_are_undone(delay: int) -> None:
    x = RNG.normal(size=(6000, 2)).cumsum(0)
    x -= x.mean(0)
    late = np.pad(x, ((max(delay, 0), 50), (0, 0)))[max(-delay, 0) :]
    back = aligned(x, late)
    assert back.shape == x.shape
    inside = slice(max(-delay, 0), len(x))
    assert np.array_equal(back[inside], x[inside])


def test_silence_is_aligned_with_anything() -> None:
    assert not aligned(np.ones((40, 1)), np.zeros((90, 1))).any()
    assert aligned(np.ones((40, 1)), np.zeros((0, 1))).shape == (40, 1)


def test_other_shapes_and_values_are_refused() -> None:
    x = field()
    with pytest.raises(LictorError, match="came back as"):
        measure(x, x.samples[:, 1:], Peak(0, 1, ""))
    with pytest.raises(LictorError, match="not finite"):
        measure(x, np.full_like(x.samples, np.nan), Peak(0, 1, ""))


def test_units_of_the_kinds() -> None:
    # Eight bits of a sound of 8 kHz in ten samples: the unit is a factor, and nothing else.
    assert kbps(8000).per_bpp * 0.8 == pytest.approx(6.4)
    assert 128 / 1600 * 5 * kbps(16000).per_bpp == pytest.approx(6.4)
    sounds = [Signal(np.zeros((1, 9, 1)), None, "audio", {"sample_rate": r}) for r in (8000, 16000)]
    assert unit_for(sounds[:1]) == kbps(8000)
    assert unit_for(sounds) == BITS_PER_SAMPLE
    assert unit_for([Signal(np.zeros((1, 2, 2, 2, 1)), None, "volume")]).name == "bpv"
    assert shared_unit([BITS_PER_PIXEL, BITS_PER_PIXEL]) == BITS_PER_PIXEL
    for wrong in (3, {"name": "a"}, {"name": "a", "words": "b", "per_bpp": 0}):
        with pytest.raises(DataError, match="unit"):
            unit_from_json(wrong)


def test_constant_signals_have_a_range() -> None:
    peak = peak_of(Signal(np.full((1, 3, 3, 1), 7.0), None, "field"))
    assert (peak.low, peak.high) == (7.0, 8.0)
