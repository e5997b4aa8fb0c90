"""One point against a curve: the published numbers, laws of both, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
from bd_fixtures import measured, published
from hypothesis import given, settings
from hypothesis import strategies as st

from lictor.comparison.bd import bd_quality, bd_rate
from lictor.comparison.curve import Curve, curve_from_rows
from lictor.comparison.interpolation import METHODS
from lictor.comparison.point import (
    PointComparison,
    compare_point,
    is_point,
    point_quality,
    point_rate,
)
from lictor.errors import ConfigError, DataError

EVERY = pytest.mark.parametrize("method", METHODS)
THROUGH_POINTS = pytest.mark.parametrize("method", ["pchip", "akima"])
FEW = settings(max_examples=40)
BPP, PSNR = [0.1, 0.2, 0.4, 0.8], [30.0, 35, 40, 45]


@st.composite
def rising(draw):
    count = draw(st.integers(4, 8))
    step = st.lists(st.floats(0.2, 1), min_size=count, max_size=count)
    return np.exp(np.cumsum(draw(step)) - 3), 28 + 4 * np.cumsum(draw(step))


def shares(least: float = 0.0, most: float = 1.0):
    return st.floats(least, most)


def within(values: np.ndarray, share: float) -> float:
    return float(min(values[0] + share * (values[-1] - values[0]), values[-1]))


# ---------------------------------------------------------------- the two numbers


@EVERY
def test_the_published_numbers(method):
    assert f"{point_rate(BPP, PSNR, 0.18, 36, method):+.2f}" == "-21.65"
    assert f"{point_quality(BPP, PSNR, 0.18, 36, method):+.2f}" == "+1.76"


@THROUGH_POINTS
@FEW
@given(curve=rising(), data=st.data())
def test_a_point_of_the_curve_is_nothing_exactly(method, curve, data):
    i = data.draw(st.integers(0, len(curve[0]) - 1))
    assert point_rate(*curve, curve[0][i], curve[1][i], method) == 0
    assert point_quality(*curve, curve[0][i], curve[1][i], method) == 0


@EVERY
@FEW
@given(
    logs=st.lists(st.floats(0.2, 1), min_size=4, max_size=8),
    slope=st.floats(1, 10),
    share=shares(),
)
def test_on_a_straight_line_any_point_of_it_is_nothing(method, logs, slope, share):
    log_rate = np.cumsum(logs)
    at = within(log_rate, share)
    curve = np.exp(log_rate), 30 + slope * log_rate
    rate = min(max(math.exp(at), curve[0][0]), curve[0][-1])
    quality = min(30 + slope * at, curve[1][-1])
    assert point_rate(*curve, rate, quality, method) == pytest.approx(0, abs=1e-6)
    assert point_quality(*curve, rate, quality, method) == pytest.approx(0, abs=1e-6)


@EVERY
@FEW
@given(curve=rising(), factor=st.floats(0.3, 3), shift=st.floats(-5, 5), share=shares())
def test_a_factor_of_the_rate_and_a_shift_of_quality_are_told_as_such(
    method, curve, factor, shift, share
):
    rate, quality = within(curve[0], share), within(curve[1], share)
    ratio = 1 + point_rate(*curve, rate, quality, method) / 100
    moved = 1 + point_rate(*curve, factor * rate, quality, method) / 100
    assert moved == pytest.approx(factor * ratio, rel=1e-9)
    gain = point_quality(*curve, rate, quality, method)
    moved = point_quality(*curve, rate, quality + shift, method)
    assert moved == pytest.approx(gain + shift, abs=1e-9)


@FEW
@given(curve=rising(), one=shares(), other=shares(), share=shares())
def test_better_quality_saves_bits_and_fewer_bits_gain_quality(curve, one, other, share):
    rate, quality = within(curve[0], share), within(curve[1], share)
    low, high = sorted(within(curve[1], s) for s in (one, other))
    # Per cent, down to -100: what rounding does to them is no share of themselves.
    assert point_rate(*curve, rate, high) <= point_rate(*curve, rate, low) + 1e-9
    low, high = sorted(within(curve[0], s) for s in (one, other))
    assert point_quality(*curve, low, quality) >= point_quality(*curve, high, quality) - 1e-9


@FEW
@given(curve=rising(), share=shares())
def test_fewer_bits_at_equal_quality_is_more_quality_at_equal_bits(curve, share):
    """On a chain of straight pieces the two signs agree; between two points there is one piece."""
    two = [values[:2] for values in curve]
    rate, quality = within(two[0], share), within(two[1], 1 - share)
    rates, gains = point_rate(*two, rate, quality), point_quality(*two, rate, quality)
    if abs(gains) > 1e-6:
        assert (rates < 0) == (gains > 0)


@THROUGH_POINTS
def test_points_of_a_curve_apart_by_a_factor_say_its_bd_rate(method):
    bpp, psnr = np.array(BPP), np.array(PSNR)
    whole = bd_rate(bpp, psnr, 0.8 * bpp, psnr, method)
    for rate, quality in zip(0.8 * bpp, psnr, strict=True):
        assert point_rate(bpp, psnr, rate, quality, method) == pytest.approx(whole, abs=1e-9)
    whole = bd_quality(bpp, psnr, bpp, psnr + 0.7, method)
    for rate, quality in zip(bpp, psnr + 0.7, strict=True):
        assert point_quality(bpp, psnr, rate, quality, method) == pytest.approx(whole, abs=1e-9)


def test_the_order_of_the_anchors_points_does_not_matter():
    order = [2, 0, 3, 1]
    mixed = [BPP[i] for i in order], [PSNR[i] for i in order]
    assert point_rate(*mixed, 0.18, 36) == point_rate(BPP, PSNR, 0.18, 36)
    assert point_quality(*mixed, 0.18, 36) == point_quality(BPP, PSNR, 0.18, 36)


@pytest.mark.parametrize(
    ("bpp", "quality", "message"),
    [
        (0.0, 36, "positive rate"),
        (math.nan, 36, "positive rate"),
        (0.2, math.inf, "finite quality"),
        (0.2, 45.01, "quality is outside"),
        (0.2, 29.99, "quality is outside"),
    ],
)
def test_what_has_no_bits_at_equal_quality_is_named(bpp, quality, message):
    with pytest.raises(DataError, match=message):
        point_rate(BPP, PSNR, bpp, quality)


def test_what_has_no_quality_at_equal_bits_is_named():
    for bpp in (0.09, 0.81):
        with pytest.raises(DataError, match="rate is outside"):
            point_quality(BPP, PSNR, bpp, 36)
    with pytest.raises(DataError, match="must rise"):
        point_quality(BPP, PSNR[::-1], 0.2, 36)


# ---------------------------------------------------------------- comparisons of curves


ANCHOR = published("anchor", BPP, PSNR)


def point(bpp: float = 0.18, psnr: float = 36.0, **about) -> Curve:
    return published("point", [bpp], [psnr], **about)


def codes(result: PointComparison, level: str) -> list[str]:
    return [finding.code for finding in result.findings if finding.level == level]


@EVERY
def test_a_comparison_has_the_two_numbers_and_the_point(method):
    result = compare_point(ANCHOR, point(), method=method)
    assert is_point(point())
    assert not is_point(ANCHOR)
    assert result.findings == ()
    assert not result.refused
    assert result.point_rate == point_rate(BPP, PSNR, 0.18, 36, method)
    assert result.point_quality == point_quality(BPP, PSNR, 0.18, 36, method)
    assert (result.bpp, result.quality, result.num_points) == (0.18, 36, 4)
    assert (result.anchor, result.test, result.aggregation) == ("anchor", "point", "mean-psnr")


def test_a_quality_outside_of_the_anchors_is_refused_with_the_reason():
    result = compare_point(ANCHOR, point(psnr=50))
    assert codes(result, "error") == ["range"]
    assert math.isnan(result.point_rate)
    assert math.isnan(result.point_quality)
    assert "psnr of 50 is outside of anchor's range, 30 to 45" in str(result.findings[0])
    forced = compare_point(ANCHOR, point(psnr=50), force=True)
    assert not forced.refused
    assert math.isnan(forced.point_rate)
    assert forced.point_quality == pytest.approx(point_quality(BPP, PSNR, 0.18, 45) + 5, abs=1e-9)


def test_a_rate_outside_of_the_anchors_is_a_warning_and_one_number():
    result = compare_point(ANCHOR, point(bpp=1.8))
    assert codes(result, "warning") == ["range"]
    assert result.point_rate == pytest.approx(883.5 - 200, abs=0.1)
    assert math.isnan(result.point_quality)


@pytest.mark.parametrize("force", [False, True])
def test_outside_of_both_there_is_nothing_to_force(force):
    result = compare_point(ANCHOR, point(0.05, 25), force=force)
    assert result.refused
    assert codes(result, "warning") == codes(result, "error") == ["range"]


def test_the_curve_must_be_the_anchor():
    result = compare_point(point(), ANCHOR)
    assert codes(result, "error") == ["anchor"]
    assert "take the curve, anchor, as the anchor" in str(result.findings[0])
    result = compare_point(point(), replace(point(), name="other"), force=True)
    assert codes(result, "error") == ["anchor"]
    assert "at 4 settings or more" in str(result.findings[0])
    assert codes(compare_point(ANCHOR, ANCHOR, force=True), "error") == ["points"]


def test_findings_are_those_of_curves():
    short = published("short", BPP[:3], PSNR[:3])
    assert codes(compare_point(short, point()), "error") == ["points"]
    assert not compare_point(short, point(), force=True).refused
    assert compare_point(short, point(), method="cubic", force=True).refused
    falls = published("falls", [*BPP, 1.0], [*PSNR, 44.0])
    assert codes(compare_point(falls, point()), "error") == ["monotone"]
    assert compare_point(falls, point(), force=True).point_rate == pytest.approx(-21.65, abs=0.01)
    assert codes(compare_point(ANCHOR, point(dataset="other")), "error") == ["dataset"]
    assert codes(compare_point(ANCHOR, point(psnr=math.nan)), "error") == ["implausible"]
    assert codes(compare_point(ANCHOR, point(aggregation="mean-mse")), "error") == ["aggregation"]
    assert codes(compare_point(ANCHOR, point(counts_header=None)), "warning") == ["header"]
    assert codes(compare_point(ANCHOR, point(), metric="lpips"), "error") == ["metric"]
    with pytest.raises(ConfigError, match="'vmaf'"):
        compare_point(ANCHOR, point(), metric="vmaf")
    with pytest.raises(ConfigError, match="'linear'"):
        compare_point(ANCHOR, point(), method="linear")


@pytest.mark.parametrize("metric", ["psnr", "ms-ssim", "ms-ssim-db", "lpips"])
def test_one_setting_of_a_measured_curve_is_compared_in_every_metric(metric):
    """Lower LPIPS is better: a delta is test minus anchor in the metric's own direction."""
    anchor, better = measured("anchor"), measured("better", gain=0.5, spread=0)
    one = curve_from_rows("one", better.at("q=2"), dataset="made-up")
    result = compare_point(anchor, one, metric=metric)
    assert result.findings == ()
    assert result.quality == pytest.approx(one.quality(metric)[0])
    assert result.point_rate < 0
    assert (result.point_quality > 0) == (metric != "lpips")
    rows = [replace(row, sha256="other") for row in one.rows]
    other = curve_from_rows("one", rows, dataset="made-up")
    assert codes(compare_point(anchor, other, metric=metric), "error") == ["images"]
