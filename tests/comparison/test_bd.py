"""Bjøntegaard's deltas: their laws, what others compute, and resampling the pictures."""

import math
from dataclasses import replace

import numpy as np
import pytest
from bd_fixtures import codes, measured, published
from hypothesis import given, settings
from hypothesis import strategies as st

from lictor.comparison.anchors import load_anchor
from lictor.comparison.bd import Bootstrap, bd_quality, bd_rate, compare
from lictor.comparison.curve import curve_from_rows
from lictor.comparison.findings import picture_rows
from lictor.comparison.interpolation import METHODS
from lictor.errors import ConfigError, DataError

EVERY = pytest.mark.parametrize("method", METHODS)
FEW = settings(max_examples=30)


@st.composite
def rate_curve(draw):
    """Rates and qualities that rise, and cover 1 bpp and 30 dB with some room."""
    count = draw(st.integers(4, 9))
    rates = draw(st.lists(st.floats(0.2, 1), min_size=count, max_size=count))
    steps = draw(st.lists(st.floats(0.5, 3), min_size=count, max_size=count))
    rate = np.exp(np.cumsum(rates) - np.mean(np.cumsum(rates)))
    quality = np.cumsum(steps) - np.mean(np.cumsum(steps)) + 30
    return rate, quality


# ---------------------------------------------------------------- laws of the two numbers


@EVERY
@FEW
@given(a=rate_curve())
def test_a_curve_against_itself_is_nothing(method, a):
    assert bd_rate(*a, *a, method) == 0
    assert bd_quality(*a, *a, method) == 0


@EVERY
@FEW
@given(a=rate_curve(), b=rate_curve())
def test_the_way_back_undoes_the_way_there(method, a, b):
    there, back = bd_rate(*a, *b, method), bd_rate(*b, *a, method)
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1, rel=1e-9)
    assert bd_quality(*a, *b, method) == pytest.approx(-bd_quality(*b, *a, method), abs=1e-9)


@EVERY
@FEW
@given(a=rate_curve(), factor=st.floats(0.4, 2.5))
def test_a_factor_on_all_rates_is_the_bd_rate(method, a, factor):
    rate, quality = a
    delta = bd_rate(rate, quality, factor * rate, quality, method)
    assert delta == pytest.approx(100 * (factor - 1), rel=1e-8, abs=1e-8)


@EVERY
@FEW
@given(a=rate_curve(), shift=st.floats(-3, 3))
def test_a_shift_of_all_qualities_is_the_bd_quality(method, a, shift):
    rate, quality = a
    delta = bd_quality(rate, quality, rate, quality + shift, method)
    assert delta == pytest.approx(shift, abs=1e-9)


@EVERY
@FEW
@given(a=rate_curve(), b=rate_curve(), unit=st.floats(0.01, 1000), zero=st.floats(-20, 20))
def test_neither_the_unit_of_rates_nor_the_zero_of_quality_matters(method, a, b, unit, zero):
    moved = [(unit * rate, quality + zero) for rate, quality in (a, b)]
    for delta in (bd_rate, bd_quality):
        expected = delta(*a, *b, method)
        assert delta(*moved[0], *moved[1], method) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@EVERY
@FEW
@given(a=rate_curve(), b=rate_curve(), random=st.randoms())
def test_the_order_of_points_does_not_matter(method, a, b, random):
    order = list(range(len(b[0])))
    random.shuffle(order)
    shuffled = b[0][order], b[1][order]
    assert bd_rate(*a, *shuffled, method) == bd_rate(*a, *b, method)
    assert bd_quality(*a, *shuffled, method) == bd_quality(*a, *b, method)


@EVERY
@FEW
@given(between=st.sets(st.integers(1, 99), min_size=2, max_size=9))
def test_points_added_on_straight_lines_change_nothing(method, between):
    def curves(shares):
        quality = 28 + 12 * np.array(shares)
        anchor, test = np.exp(0.2 * quality - 6), np.exp(0.21 * quality - 6.5)
        return anchor, quality, test, quality

    refined = [0, *(n / 100 for n in sorted(between)), 1]
    expected = bd_rate(*curves([0, 0.2, 0.5, 1]), method)
    assert bd_rate(*curves(refined), method) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("method", ["pchip", "akima"])
def test_refining_smooth_curves_settles_the_number(method):
    exact = 100 * np.expm1(-0.3 * 4 * (1 - np.exp(-3)) / 12)
    errors = []
    for count in (4, 8, 16, 32):
        quality = np.linspace(28, 40, count)
        anchor = np.exp(quality / 4 - 9)
        test = anchor * np.exp(-0.3 * np.exp((28 - quality) / 4))
        errors.append(abs(bd_rate(anchor, quality, test, quality, method) - exact))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


def test_the_numbers_by_hand():
    # ln rate = q / 4, and a quarter less of it: straight lines, so every method is exact.
    quality = np.array([30.0, 32, 34, 36])
    rate = np.exp(quality / 4 - 9)
    for method in METHODS:
        assert bd_rate(rate, quality, 0.75 * rate, quality, method) == pytest.approx(-25)
        gained = bd_quality(rate, quality, 0.75 * rate, quality, method)
        assert gained == pytest.approx(-4 * math.log(0.75))


@pytest.mark.parametrize(
    ("bpp", "quality", "said"),
    [
        ([0.1, 0.2, 0.3], [30, 31], "as many qualities"),
        ([0.1], [30], "at least 2"),
        (np.ones((2, 4)), np.ones((2, 4)), "shapes"),
        ([0.1, 0.2, math.nan, 0.4], [30, 31, 32, 33], "finite"),
        ([0.1, 0.2, 0.3, 0.4], [30, 31, 32, math.inf], "finite"),
        ([0, 0.2, 0.3, 0.4], [30, 31, 32, 33], "positive"),
        ([0.1, 0.2, 0.3, 0.4], [30, 31, 31, 33], "rise"),
        ([0.1, 0.2, 0.2, 0.4], [30, 31, 32, 33], "rise"),
        ([0.1, 0.2, 0.3, 0.4], [33, 32, 31, 30], "rise"),
        ([0.1, 0.2, 0.3, 0.4], [50, 51, 52, 53], "quality in common"),
    ],
)
def test_points_that_make_no_curve_are_refused(bpp, quality, said):
    good = [0.1, 0.2, 0.3, 0.4], [30.0, 31, 32, 33]
    with pytest.raises(DataError, match=said):
        bd_rate(*good, bpp, quality)
    with pytest.raises(DataError, match=said):
        bd_rate(bpp, quality, *good)


def test_rates_without_overlap_have_no_bd_quality_but_a_bd_rate():
    few, many = ([0.1, 0.2, 0.3, 0.4], [5, 6, 7, 8]), ([30.1, 30.2, 30.3, 30.4], [30, 31, 32, 33])
    curves = few[0], many[1], many[0], many[1]
    assert bd_rate(*curves) > 5000
    with pytest.raises(DataError, match="rates in common"):
        bd_quality(*curves)


def test_cubic_needs_four_points():
    three = [0.1, 0.2, 0.3], [30, 31, 32]
    assert bd_rate(*three, *three) == 0
    with pytest.raises(DataError, match="at least 4"):
        bd_rate(*three, *three, "cubic")


def test_a_method_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="'linear'"):
        bd_rate([1, 2], [1, 2], [1, 2], [1, 2], "linear")


# ---------------------------------------------------------------- what others compute

PAIRS = [
    ("vtm-9.1", "lalic"),
    ("vtm-18.0", "elic"),
    ("bpg-444", "jpeg"),
    ("mbt2018-mean", "cool-chic-5.0"),
    ("tfc-webp", "webp"),
    ("vtm-18.0", "coin"),
    ("hm", "tfc-theis2017"),
]


def points(name: str) -> tuple[np.ndarray, np.ndarray]:
    curve = load_anchor(name)
    return curve.bpp, curve.quality("psnr")


@EVERY
@pytest.mark.parametrize(("anchor", "test"), PAIRS)
def test_bjontegaard_of_pypi_has_the_same_numbers(anchor, test, method):
    bjontegaard = pytest.importorskip("bjontegaard")
    curves = *points(anchor), *points(test)
    how = {"method": method, "require_matching_points": False, "min_overlap": 0}
    assert bd_rate(*curves, method) == pytest.approx(bjontegaard.bd_rate(*curves, **how), abs=1e-2)
    quality = bjontegaard.bd_psnr(*curves, **how)
    assert bd_quality(*curves, method) == pytest.approx(quality, abs=1e-2)


@pytest.mark.parametrize(("anchor", "test"), PAIRS)
def test_bd_metric_of_pypi_has_the_same_numbers(anchor, test):
    bd_metric = pytest.importorskip("bd_metric.bjontegaard_metric")
    curves = *points(anchor), *points(test)
    assert bd_rate(*curves, "cubic") == pytest.approx(bd_metric.BD_RATE(*curves), abs=1e-2)
    assert bd_quality(*curves, "cubic") == pytest.approx(bd_metric.BD_PSNR(*curves), abs=1e-2)


# ---------------------------------------------------------------- resampling of pictures


@EVERY
@pytest.mark.parametrize(
    ("metric", "aggregation"),
    [
        ("psnr", "mean-psnr"),
        ("psnr", "mean-mse"),
        ("psnr-y", "mean-psnr"),
        ("psnr-y", "mean-mse"),
        ("ms-ssim", None),
        ("ms-ssim-db", None),
        ("lpips", None),
    ],
)
def test_the_interval_is_around_the_number(method, metric, aggregation):
    curves = measured("anchor"), measured("test", gain=0.2)
    result = compare(*curves, metric=metric, aggregation=aggregation, method=method)
    assert result.findings == ()
    assert result.interval is not None
    assert result.interval.num_images == 12
    low, high = result.interval.bd_rate
    assert low <= result.bd_rate <= high
    low, high = result.interval.bd_quality
    assert low <= result.bd_quality <= high


def test_the_interval_is_that_of_a_slow_loop():
    anchor, test = measured("anchor"), measured("test", gain=0.4)
    result = compare(anchor, test, bootstrap=Bootstrap(resamples=50, seed=3, confidence=0.8))
    draws = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), 50)
    rates = []
    for draw in draws:
        curves = []
        for curve in (anchor, test):
            pictures = list(picture_rows(curve).values())
            drawn = [pictures[i] for i in range(12) for _ in range(draw[i])]
            curves.append([np.mean([rows[k].bpp for rows in drawn]) for k in range(5)])
            curves.append([np.mean([rows[k].psnr for rows in drawn]) for k in range(5)])
        rates.append(bd_rate(*curves))
    assert result.interval is not None
    np.testing.assert_allclose(result.interval.bd_rate, np.quantile(rates, [0.1, 0.9]))


def test_one_seed_gives_one_interval_and_more_confidence_a_wider_one():
    curves = measured("anchor"), measured("test")

    def interval(**how) -> tuple[float, float]:
        result = compare(*curves, bootstrap=Bootstrap(**how)).interval
        assert result is not None
        return result.bd_rate

    assert interval(seed=1) == interval(seed=1) != interval(seed=2)
    (low, high), (lower, higher) = interval(confidence=0.5), interval(confidence=0.99)
    assert lower < low < high < higher


def test_a_gain_on_every_picture_leaves_no_doubt():
    anchor = measured("same")
    rows = tuple(replace(row, bpp=0.8 * row.bpp) for row in anchor.rows)
    test = replace(
        anchor, name="less", rows=rows, columns={**anchor.columns, "bpp": 0.8 * anchor.bpp}
    )
    result = compare(anchor, test)
    assert result.bd_rate == pytest.approx(-20)
    assert result.interval is not None
    assert result.interval.bd_rate == pytest.approx((-20, -20))
    assert [delta.bd_rate for delta in result.per_image] == pytest.approx([-20] * 12)


def test_every_picture_has_the_numbers_of_its_own_curves():
    anchor, test = measured("anchor"), measured("test", gain=0.3)
    result = compare(anchor, test, bootstrap=None)
    assert result.interval is None
    assert [delta.image for delta in result.per_image] == sorted(anchor.images)
    for delta, key in zip(result.per_image, sorted(anchor.images), strict=True):
        own = []
        for curve in (anchor, test):
            rows = [row for row in curve.rows if row.image == key]
            own += [[row.bpp for row in rows], [row.psnr for row in rows]]
        assert delta.bd_rate == pytest.approx(bd_rate(*own))
        assert delta.bd_quality == pytest.approx(bd_quality(*own))


def test_a_picture_whose_own_curve_does_not_rise_has_no_number():
    anchor = measured("anchor", images=30)
    rows = [
        replace(row, psnr=30.0) if (row.image, row.setting) == ("07.png", "q=3") else row
        for row in anchor.rows
    ]
    psnr = [np.mean([r.psnr for r in rows if r.setting == s]) for s in anchor.settings]
    bad = replace(anchor, rows=tuple(rows), columns={**anchor.columns, "psnr": np.array(psnr)})
    result = compare(anchor, bad)
    assert math.isfinite(result.bd_rate)
    assert [d.image for d in result.per_image if math.isnan(d.bd_rate)] == ["07.png"]
    assert result.interval is not None


def test_resamples_that_make_no_curves_give_no_interval():
    anchor = measured("anchor", images=4)
    # One picture of the four holds the curve up; without it there is nothing to compare.
    lift = {"01.png": 60.0}
    rows = tuple(replace(r, psnr=r.psnr - 20 + lift.get(r.image, 0.0)) for r in anchor.rows)
    psnr = [np.mean([r.psnr for r in rows if r.setting == s]) for s in anchor.settings]
    test = replace(anchor, rows=rows, columns={**anchor.columns, "psnr": np.array(psnr)})
    result = compare(anchor, test)
    assert math.isfinite(result.bd_rate)
    assert result.interval is None
    assert "interval" in codes(result)


def test_one_picture_gives_no_interval():
    result = compare(measured("a", images=1), measured("b", images=1))
    assert math.isfinite(result.bd_rate)
    assert result.interval is None
    assert len(result.per_image) == 1


def test_pictures_are_the_same_by_their_content_not_by_their_names():
    anchor, test = measured("anchor"), measured("test", dataset="called otherwise")
    renamed = tuple(replace(row, image=f"renamed-{row.image}") for row in test.rows)
    plain, result = compare(anchor, test), compare(anchor, replace(test, rows=renamed))
    assert result.findings == ()
    assert result == plain


@pytest.mark.parametrize(
    "how",
    [
        {"resamples": 0},
        {"resamples": 10**9},
        {"seed": -1},
        {"confidence": 0.0},
        {"confidence": 1.0},
    ],
)
def test_a_bootstrap_that_cannot_be_is_refused(how):
    with pytest.raises(ConfigError, match="bootstrap"):
        Bootstrap(**how)


# ---------------------------------------------------------------- comparing curves


def test_the_number_is_that_of_the_points_over_the_common_range():
    anchor = published("anchor", [0.1, 0.2, 0.4, 0.8], [28, 30, 32, 34])
    test = published("test", [0.1, 0.2, 0.4, 0.8, 1.6], [28.5, 30.4, 32.6, 34.5, 36.8])
    result = compare(anchor, test)
    curves = anchor.bpp, anchor.columns["psnr"], test.bpp, test.columns["psnr"]
    assert result.bd_rate == bd_rate(*curves)
    assert result.bd_quality == bd_quality(*curves)
    assert result.quality_range == (28.5, 34)
    assert result.bpp_range == (0.1, 0.8)
    assert result.num_points == (4, 5)
    assert result.overlap == pytest.approx((5.5 / 6, 5.5 / 8.3))
    assert (result.anchor, result.test, result.method) == ("anchor", "test", "pchip")
    assert result.aggregation == "mean-psnr"
    assert not result.refused
    assert result.findings == ()


def test_the_order_in_which_pictures_were_measured_changes_no_bit():
    curve = measured("a", images=24)
    backwards = curve_from_rows("a", curve.rows[::-1])
    for name, column in curve.columns.items():
        np.testing.assert_array_equal(backwards.columns[name], column)


def test_fewer_bits_at_equal_distance_are_a_gain_where_lower_is_better():
    result = compare(measured("a", spread=0), measured("b", gain=0.5, spread=0), metric="lpips")
    assert result.bd_rate < 0
    assert result.bd_quality < 0  # a shorter distance
    assert 0 < result.quality_range[0] < result.quality_range[1]


def test_the_average_is_one_that_both_curves_have():
    both, of_mean = measured("both"), replace(measured("mse"), rows=(), aggregation="mean-mse")
    of_mean = replace(
        of_mean, columns={**of_mean.columns, "psnr": both.quality("psnr", "mean-mse")}
    )
    result = compare(both, of_mean)
    assert result.aggregation == "mean-mse"
    assert result.bd_rate == pytest.approx(0, abs=1e-9)
    assert result.findings == ()
    rows_too = replace(of_mean, rows=both.rows)
    np.testing.assert_allclose(rows_too.quality("psnr", "mean-psnr"), both.columns["psnr"])
    cool_chic = compare(load_anchor("cool-chic-4.2"), load_anchor("cool-chic-5.0"))
    of_mse = compare(
        load_anchor("cool-chic-4.2"), load_anchor("cool-chic-5.0"), aggregation="mean-mse"
    )
    assert cool_chic.aggregation == "mean-psnr"
    assert of_mse.aggregation == "mean-mse"
    assert cool_chic.bd_rate != of_mse.bd_rate


def test_ms_ssim_in_db_is_of_the_mean_where_a_file_has_nothing_else():
    name = "bmshj2018-hyperprior-ms-ssim"
    result = compare(load_anchor("mbt2018"), load_anchor(name), metric="ms-ssim-db")
    assert result.aggregation == "mean-ms-ssim"
    curves = []
    for curve in (load_anchor("mbt2018"), load_anchor(name)):
        curves += [curve.bpp, -10 * np.log10(1 - curve.columns["ms-ssim"])]
    assert result.bd_rate == bd_rate(*curves)
    ours = replace(measured("ours"), dataset="kodak", rows=())
    assert compare(load_anchor(name), ours, metric="ms-ssim-db").aggregation == "mean-ms-ssim"
    both = compare(measured("a"), measured("b"), metric="ms-ssim-db")
    assert both.aggregation == "mean-psnr"


@pytest.mark.parametrize(
    "wrong", [{"metric": "vmaf"}, {"aggregation": "median"}, {"method": "spline"}]
)
def test_a_choice_that_does_not_exist_is_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong.values()))):
        compare(measured("a"), measured("b"), **wrong)
