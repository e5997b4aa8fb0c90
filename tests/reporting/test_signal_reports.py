"""Reports of signals: what is drawn keeps its proportions, and the page leaves out what is not."""

import dataclasses
import re

import numpy as np
import pytest
from bd_fixtures import measured, published
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report import words

from lictor.comparison.bd import compare
from lictor.comparison.curve import Curve
from lictor.comparison.unit import kbps
from lictor.data.signals.signal import Signal
from lictor.reporting.charts import View, _paper_figure
from lictor.reporting.page import Options, anchor_of, build_report
from lictor.reporting.signals.drawings import (
    grey_planes,
    maps,
    planes,
    spectrogram,
    voxel_sides,
)
from lictor.reporting.sources import Source

PSNR = View("psnr", "mean-psnr")


def of_signals(curve: Curve, *, network: bool = False) -> Curve:
    columns = {**curve.columns, "baseline-psnr": np.full(len(curve.bpp), 12.0)}
    codec = {"network_bytes": dict.fromkeys(curve.settings, 1000)} if network else {}
    return dataclasses.replace(curve, columns=columns, codec=codec)


# -------------------------------------------------------------------------------------- drawings


@given(shape=st.tuples(*[st.integers(1, 12)] * 3), sides=st.tuples(*[st.floats(0.5, 4.0)] * 3))
@settings(max_examples=40, deadline=None)
def test_planes_are_as_wide_and_high_as_the_body(shape, sides):
    samples = np.arange(np.prod(shape)).reshape(shape)
    lengths = [n * side / min(sides) for n, side in zip(shape, sides, strict=True)]
    for axis, plane in enumerate(planes(samples, sides)):
        across, up = (length for i, length in enumerate(lengths) if i != axis)
        assert abs(plane.shape[0] - up) <= 0.5 + 1e-9
        assert abs(plane.shape[1] - across) <= 0.5 + 1e-9
        # Every row and column of the cut is there, in order.
        cut = np.rot90(np.take(samples, shape[axis] // 2, axis))
        assert list(dict.fromkeys(plane[0])) == list(cut[0])
        assert list(dict.fromkeys(plane[:, 0])) == list(cut[:, 0])


@given(shape=st.tuples(*[st.integers(1, 24)] * 3), sides=st.tuples(*[st.floats(0.5, 6.0)] * 3))
@settings(max_examples=40, deadline=None)
def test_a_sheet_of_planes_is_not_mostly_empty(shape, sides):
    affine = np.diag([*sides, 1.0]).tolist()
    volume = Signal(np.full((1, *shape, 1), 200, np.uint8), None, "volume", {"affine": affine})
    sheet = grey_planes(volume, 0.0, 200.0)  # the body white, the rest grey
    lengths = np.array(shape) * sides / min(sides)
    body = sheet[..., 0] == 255
    shortest, middle, longest = np.sort(lengths)
    if 4 * shortest < middle:  # slices fill it but for the gaps
        count = min(3, shape[int(np.argmin(lengths))])
        assert (~body).sum() == 4 * (count - 1) * sheet.shape[0]
    elif longest < 4 * middle:  # a stick has no planes that fill a sheet
        assert body.mean() > 0.15


def test_of_a_flat_volume_slices_are_shown():
    samples = np.tile(np.arange(5, dtype=np.uint8), (30, 22, 1))[None, ..., None]
    volume = Signal(samples, None, "volume", {})
    sheet = grey_planes(volume, 0.0, 4.0)
    assert sheet.shape == (22, 3 * 30 + 2 * 4, 3)
    shown = [sheet[:, start : start + 30, 0] for start in (0, 34, 68)]
    assert [np.unique(part).tolist() for part in shown] == [[0], [128], [255]]
    one = Signal(samples[:, :, :, :1], None, "volume", {})
    assert grey_planes(one, 0.0, 4.0).shape == (22, 30, 3)
    thick = Signal(np.zeros((1, 30, 20, 6, 1), np.uint8), None, "volume", {})
    assert grey_planes(thick, 0.0, 4.0).shape == (20, 20 + 30 + 30 + 2 * 4, 3)


def test_voxels_have_the_sides_of_the_affine_matrix_however_it_turns():
    angle = 0.3
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, -1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.0, 2.0, 3.5])
    volume = np.zeros((1, 2, 2, 2, 1), np.uint8)
    assert voxel_sides(Signal(volume, None, "volume", {"affine": affine.tolist()})) == (
        pytest.approx((1.0, 2.0, 3.5))
    )
    for bad in (
        np.zeros((4, 4)),
        np.diag([1.0, 1e9, 1.0, 1.0]),
        np.eye(3),
        np.full((4, 4), np.nan),
    ):
        form = {"affine": bad.tolist()}
        assert voxel_sides(Signal(volume, None, "volume", form)) == (1.0, 1.0, 1.0)
    assert voxel_sides(Signal(volume, None, "volume", {})) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("seconds", [0.05, 0.3, 1.0, 30.0])
def test_spectrograms_are_wide_pictures_however_short_the_sound(seconds):
    noise = np.random.default_rng(0).normal(0, 3000, (1, int(seconds * 8000), 1)).astype(np.int16)
    picture, _ = spectrogram(Signal(noise, None, "audio", {"sample_rate": 8000}))
    rows, columns = picture.shape[:2]
    assert rows == 101  # of 25 ms
    assert 350 <= columns <= 1000


def test_a_tone_is_at_its_height():
    t = np.arange(4000) / 8000
    tone = (8000 * np.sin(2 * np.pi * 1000 * t)).astype(np.int16)[None, :, None]
    picture, _ = spectrogram(Signal(tone, None, "audio", {"sample_rate": 8000}))
    brightest = picture.astype(int).sum(-1).sum(1).argmax()
    assert brightest == 100 - 25  # 1000 Hz in steps of 40, low ones at the bottom


@pytest.mark.parametrize("south_first", [True, False])
def test_maps_have_north_up(south_first):
    latitudes = np.linspace(-90, 90, 5) if south_first else np.linspace(90, -90, 5)
    samples = np.broadcast_to(latitudes[:, None], (5, 7))[None, ..., None].astype(np.float32)
    form = {"rows": "y", "coords": {"y": {"dims": ["y"], "values": latitudes.tolist()}}}
    field = Signal(samples, None, "field", form)
    off = dataclasses.replace(field, samples=samples + np.where(samples > 80, 4, 0).astype("f4"))
    drawn = maps(field, [off])
    assert drawn.original[0].astype(int).sum() > drawn.original[-1].astype(int).sum()  # yellow
    error = drawn.decoded[0][:, -7:].astype(int)
    assert (error[0, :, 0] > error[0, :, 2]).all()  # red in the north
    assert np.ptp(error[1:]) <= 1  # and nothing elsewhere
    assert drawn.worst == 4


@pytest.mark.parametrize("log_rate", [False, True])
@pytest.mark.parametrize("count", [2, 9])
def test_chart_files_have_rates_in_their_unit_and_hide_no_curve(count, log_rate):
    curves = [
        dataclasses.replace(of_signals(measured(f"c{i}", gain=i / 2)), unit=kbps(8000))
        for i in range(count)
    ]
    figure = _paper_figure(curves, PSNR, log_rate)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "Rate (kbit per second)"
    for line, curve in zip(axes.lines, curves, strict=True):
        np.testing.assert_allclose(line.get_xdata(), 8 * curve.bpp)
    figure.draw_without_rendering()
    (legend,) = [axes.get_legend()] if count == 2 else figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [curve.name for curve in curves]
    if count == 9:
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())


# -------------------------------------------------------------------------------------- the page


def test_the_anchor_is_a_curve_and_of_signals_one_that_people_know():
    point, few = published("flac", [9.0], [90.0]), published("few", [1, 2, 3], [30, 31, 32])
    ours, mp3 = measured("ours"), measured("mp3")
    known = [of_signals(c) for c in (point, few, mp3)]
    mine = of_signals(ours, network=True)
    assert anchor_of([known[0], mine, known[1], known[2]], PSNR) == 3
    assert anchor_of([known[0], mine], PSNR) == 1
    assert anchor_of([mine, of_signals(measured("zfp"))], PSNR) == 1
    assert anchor_of([of_signals(measured("zfp")), of_signals(measured("sz3"))], PSNR) == 1
    assert anchor_of([known[0], known[1]], PSNR) == 0  # nothing better
    assert anchor_of([known[0], mine, known[2]], PSNR, "flac") == 0  # as was asked
    assert anchor_of([ours, mp3], PSNR) == 0  # of pictures the first
    assert anchor_of([point, few, ours, mp3], PSNR) == 2
    lossless = published("flac", [4, 5, 6, 7], [60, 70, np.inf, np.inf])
    assert anchor_of([of_signals(lossless), mine], PSNR) == 1


def test_signals_may_be_better_than_pictures_can_be():
    fine = [60, 72, 84, 96, 107]
    bpp = [2.0, 4.0, 6.0, 8.0, 10.0]
    anchor, test = published("a", bpp, fine), published("b", [b / 2 for b in bpp], fine)
    assert compare(anchor, test).refused
    found = compare(of_signals(anchor), of_signals(test))
    assert not found.refused
    assert found.bd_rate == pytest.approx(-50)
    absurd = published("c", bpp, [60, 72, 84, 96, 400])
    assert compare(of_signals(anchor), of_signals(absurd)).refused


def test_a_page_of_signals_says_nothing_of_pictures():
    mp3, ours = (measured(name, provenance={"jobs": 1}) for name in ("mp3", "ours"))
    curves = [of_signals(mp3), of_signals(ours, network=True)]
    page = build_report([Source(curve) for curve in curves])
    text = words(page)
    assert 'href="#pictures"' not in page
    assert 'id="pictures"' not in page
    assert 'href="#signals"' in page
    assert "12 items" in text
    assert "Per item" in text
    assert "No decoded pictures" not in text
    assert re.search(r"No decoded signals were kept.*--keep 3", text)
    for of_items in ("bootstrap over the items", "each item once", "same items", "million samples"):
        assert of_items in text
    for of_pictures in ("picture", "megapixel", "--speed"):
        assert of_pictures not in text.replace("Charts and pictures need JavaScript", "")
    plain = build_report([Source(mp3), Source(ours)], options=Options())
    for of_pictures in ("same pictures", "megapixel", "--speed", "each picture once"):
        assert of_pictures in words(plain)
    assert 'href="#signals"' not in plain
    assert 'id="pictures"' in plain
    assert "12 pictures" in words(plain)
