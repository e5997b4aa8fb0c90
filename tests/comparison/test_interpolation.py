"""Means under interpolated curves: SciPy's own, exact where the curve is known, in any batch."""

import numpy as np
import pytest
import scipy.interpolate
from hypothesis import given
from hypothesis import strategies as st

from lictor.comparison.interpolation import METHODS, mean_value, value_at
from lictor.errors import ConfigError

STEP = st.floats(0.05, 3.0)
VALUE = st.one_of(st.integers(-5000, 5000).map(lambda n: n / 1000), st.integers(-2, 2).map(float))


@st.composite
def points(draw, least=2):
    steps = draw(st.lists(STEP, min_size=least, max_size=12))
    values = draw(st.lists(VALUE, min_size=len(steps), max_size=len(steps)))
    return np.cumsum(steps), np.array(values)


def mean(x, y, low, high, method):
    one = (np.array(values, float)[None] for values in (x, y))
    bounds = (np.array([value], float) for value in (low, high))
    return mean_value(*one, *bounds, method)[0]


@pytest.mark.parametrize(
    ("method", "reference"),
    [
        ("pchip", scipy.interpolate.PchipInterpolator),
        ("akima", scipy.interpolate.Akima1DInterpolator),
    ],
)
@given(curve=points(), ends=st.tuples(st.floats(0, 0.45), st.floats(0.55, 1)))
def test_piecewise_methods_are_those_of_scipy(method, reference, curve, ends):
    x, y = curve
    # Rounding may step over the end, where SciPy has no curve any more.
    low, high = np.minimum(x[0] + np.array(ends) * (x[-1] - x[0]), x[-1])
    expected = float(reference(x, y).integrate(low, high)) / (high - low)
    assert mean(x, y, low, high, method) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(curve=points(least=4))
def test_cubic_is_the_polynomial_of_least_squares(curve):
    x, y = curve
    low, high = x[0] + 0.1 * (x[-1] - x[0]), x[-1]
    area = np.polynomial.Polynomial.fit(x, y, 3).integ()
    expected = (area(high) - area(low)) / (high - low)
    assert mean(x, y, low, high, "cubic") == pytest.approx(expected, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("method", METHODS)
@given(steps=st.lists(STEP, min_size=4, max_size=9), a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_a_straight_line_is_its_middle(method, steps, a, b):
    x = np.cumsum(steps)
    low, high = x[0] + 0.2 * (x[-1] - x[0]), x[-1]
    expected = a + b * (low + high) / 2
    assert mean(x, a + b * x, low, high, method) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("method", ["pchip", "akima"])
def test_more_points_of_a_smooth_curve_come_nearer_to_its_mean(method):
    errors = []
    for count in (5, 9, 17, 33):
        x = np.linspace(0, 2, count)
        errors.append(abs(mean(x, np.exp(x), 0, 2, method) - (np.exp(2) - 1) / 2))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_curves_of_a_batch_do_not_see_each_other(method):
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.uniform(0.1, 1, (20, 6)), axis=1)
    y = rng.normal(size=x.shape)
    low, high = x[:, 0] + 0.05, x[:, -1] - 0.05
    together = mean_value(x, y, low, high, method)
    alone = [mean(*curve, method) for curve in zip(x, y, low, high, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-9)


def value(x, y, at, method):
    one = (np.array(values, float)[None] for values in (x, y))
    return value_at(*one, np.array([at], float), method)[0]


@pytest.mark.parametrize(
    ("method", "reference"),
    [
        ("pchip", scipy.interpolate.PchipInterpolator),
        ("akima", scipy.interpolate.Akima1DInterpolator),
    ],
)
@given(curve=points(), place=st.floats(0, 1))
def test_values_of_piecewise_methods_are_those_of_scipy(method, reference, curve, place):
    x, y = curve
    at = min(x[0] + place * (x[-1] - x[0]), x[-1])
    expected = float(reference(x, y)(at))
    assert value(x, y, at, method) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(curve=points(least=4), place=st.floats(0, 1))
def test_values_of_cubic_are_those_of_the_polynomial_of_least_squares(curve, place):
    x, y = curve
    at = x[0] + place * (x[-1] - x[0])
    expected = np.polynomial.Polynomial.fit(x, y, 3)(at)
    assert value(x, y, at, "cubic") == pytest.approx(expected, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("method", ["pchip", "akima"])
@given(curve=points())
def test_at_its_points_a_curve_is_what_they_say_exactly(method, curve):
    x, y = curve
    batch = (np.tile(row, (len(x), 1)) for row in (x, y))
    np.testing.assert_array_equal(value_at(*batch, x, method), y)


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_of_values_is_the_mean_value(method):
    x = np.array([0.0, 0.5, 1.7, 2.0, 3.1])
    y = np.array([1.0, 1.2, 4.0, 3.0, 3.5])
    places = 3.1 * (np.arange(20_000) + 0.5) / 20_000
    batch = (np.tile(row, (len(places), 1)) for row in (x, y))
    sampled = value_at(*batch, places, method).mean()
    assert sampled == pytest.approx(mean(x, y, 0.0, 3.1, method), rel=1e-6)


def test_a_method_that_does_not_exist_is_named():
    for call in (mean, lambda x, y, low, _, method: value(x, y, low, method)):
        with pytest.raises(ConfigError, match=r"'spline'.*pchip, akima, cubic"):
            call([0, 1], [0, 1], 0, 1, "spline")
