"""The noisy quadratic model: closed forms against hand-computed values, laws, and simulation.

Simulations have 4,000 particles and fixed seeds; a variance must be within 3 % of its closed form.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lictor.analysis.nqm.closed_forms import (
    PLAIN,
    Averaging,
    Quadratic,
    equal_risk_step,
    excess_risk,
    moments_feedback,
    moments_no_feedback,
    ratio_feedback,
    ratio_no_feedback,
    risk_curve,
    settling_updates,
    simulate,
    simulated_variance,
    spectrum,
    steady_variance,
    step_factor,
    v_sgd,
)
from lictor.analysis.nqm.modes import (
    ChainGradient,
    Mode,
    OwnGradient,
    bias_price,
    embedded_risk,
    equal_mode,
    v_embedded,
)
from lictor.errors import ConfigError

UNIT = Quadratic(np.ones(1), np.ones(1))
LOOKAHEAD = Averaging(0.5, 5, feedback=True)
LOOK_ON = Averaging(0.5, 5, feedback=False)
PARTICLES, TOLERANCE = 4000, 0.03
# gamma, alpha, interval; variance of descent, ratio with and without feedback; h = sigma = 1.
TABLE = [
    (0.1, 0.5, 5, 0.052632, 0.442973, 0.612622),
    (0.1, 0.8, 5, 0.052632, 0.760822, 0.845217),
    (0.5, 0.5, 5, 0.333333, 0.340206, 0.343915),
    (0.01, 0.5, 10, 0.005025, 0.487755, 0.883636),
    (0.1, 0.02, 10, 0.052632, 0.013575, 0.020587),
    (1.5, 0.5, 5, 3.000000, 0.326316, 0.323077),
]
alphas = st.floats(1e-3, 1 - 1e-3)
factors = st.floats(-0.999, 0.999)


def example() -> Mode:
    """Four coordinates that differ in everything."""
    return Mode(
        slopes=np.array([1.0, 0.8, -0.5, 1.2]),
        curvatures=np.array([0.5, 0.4, 0.6, 0.3]),
        variances=np.array([1.0, 1.5, 0.7, 2.0]),
        misses=np.zeros(4),
    )


def measured(gamma, problem, averaging, *, curvature, num_updates=20, seed=0) -> float:
    """The simulated variance of the first coordinate at steady state."""
    states = simulate(
        gamma,
        problem,
        averaging,
        start=np.zeros((PARTICLES, 1)),
        generator=np.random.default_rng(seed),
    )
    skip = settling_updates(gamma, curvature, averaging)
    return float(simulated_variance(states, skip=skip, num_updates=num_updates)[0])


# Closed forms against values


@pytest.mark.parametrize("row", TABLE)
def test_variance_and_ratios_to_six_digits(row):
    gamma, alpha, interval, descent, feedback, no_feedback = row
    assert v_sgd(gamma, 1.0, 1.0) == pytest.approx(descent, abs=5e-7)
    rho = step_factor(gamma, 1.0) ** interval
    assert ratio_feedback(alpha, rho) == pytest.approx(feedback, abs=5e-7)
    assert ratio_no_feedback(alpha, rho) == pytest.approx(no_feedback, abs=5e-7)


def test_the_way_of_lookahead_step_by_step():
    way = moments_feedback(0.1, UNIT, LOOKAHEAD, start=np.ones(1), num_updates=3)
    assert way.means[1:, 0] == pytest.approx([0.795245, 0.632415, 0.502925], abs=5e-7)
    assert way.variances[1:, 0] == pytest.approx([0.00857002, 0.01398983, 0.01741739], abs=5e-9)
    assert (way.means[0, 0], way.variances[0, 0]) == (1, 0)


@pytest.mark.parametrize(
    ("gamma", "risks"),
    [
        (0.1, (0.131807, 0.063420, 0.112756)),
        (0.5, (0.711692, 0.306406, 0.458208)),
        (1.0, (1.642171, 0.657524, 0.881334)),
    ],
)
def test_excess_risk_of_a_spectrum(gamma, risks):
    problem = spectrum(100)
    assert problem.curvatures @ problem.variances / 2 == pytest.approx(50)
    for averaging, risk in zip((PLAIN, LOOKAHEAD, LOOK_ON), risks, strict=True):
        assert excess_risk(gamma, problem, averaging) == pytest.approx(risk, abs=5e-7)


def test_at_equal_variance_lookahead_is_slower_in_one_dimension():
    """Less variance at equal step is not more speed: the step must be compared too."""
    gamma = equal_risk_step(excess_risk(0.1, UNIT), UNIT, LOOKAHEAD)
    assert gamma == pytest.approx(0.24045, abs=5e-6)
    contraction = LOOKAHEAD.contraction(step_factor(gamma, 1.0)) ** (1 / 5)
    assert contraction == pytest.approx(0.9107, abs=5e-5)
    assert contraction > PLAIN.contraction(step_factor(0.1, 1.0)) == pytest.approx(0.9)


def test_in_a_wide_spectrum_averaging_is_faster_at_equal_risk():
    problem = spectrum(100)
    risk = excess_risk(0.1, problem)
    for averaging in (LOOKAHEAD, LOOK_ON):
        gamma = equal_risk_step(risk, problem, averaging)
        assert excess_risk(gamma, problem, averaging) == pytest.approx(risk, rel=1e-9)
        slowest = np.max(averaging.contraction(step_factor(gamma, problem.curvatures)))
        assert slowest ** (1 / 5) < 0.999  # what descent has


# Closed forms: laws


def test_ratios_are_below_one_and_rise_with_alpha():
    alpha = np.linspace(0.001, 0.999, 200)[:, None]
    rho = np.linspace(-0.999, 0.999, 200)[None]
    for ratio in (ratio_feedback, ratio_no_feedback):
        grid = ratio(alpha, rho)
        assert (grid > 0).all()
        assert (grid < 1).all()
        assert (np.diff(grid, axis=0) > 0).all()


@given(alpha=alphas, rho=factors)
def test_short_and_long_form_of_lookahead_are_equal(alpha, rho):
    noise = alpha**2 * (1 - rho**2)
    long = noise / (noise + 2 * alpha * (1 - alpha) * (1 - rho))
    assert ratio_feedback(alpha, rho) == pytest.approx(long, rel=1e-9)


@given(alpha=alphas)
def test_limits(alpha):
    assert ratio_feedback(alpha, 0.0) == pytest.approx(alpha / (2 - alpha))
    assert ratio_no_feedback(alpha, 0.0) == pytest.approx(alpha / (2 - alpha))
    assert ratio_feedback(alpha, 1.0) == pytest.approx(alpha)
    assert ratio_no_feedback(alpha, 1.0) == pytest.approx(1)
    assert ratio_feedback(alpha, -1.0) == 0


@given(rho=factors)
def test_at_alpha_one_it_is_plain_descent(rho):
    assert ratio_feedback(1.0, rho) == pytest.approx(1)
    assert ratio_no_feedback(1.0, rho) == pytest.approx(1)


@given(alpha=alphas, rho=factors)
def test_where_feedback_has_less_variance(alpha, rho):
    """Everywhere but where samples are weakly opposed, `alpha - 1 < rho < 0`."""
    difference = ratio_no_feedback(alpha, rho) - ratio_feedback(alpha, rho)
    assert difference * rho * (1 - alpha + rho) >= -1e-12


@given(alpha=alphas, gamma=st.floats(0.01, 1.99), interval=st.integers(1, 20))
def test_moments_end_at_the_closed_forms(alpha, gamma, interval):
    start = np.array([3.0])
    for feedback, moments in ((True, moments_feedback), (False, moments_no_feedback)):
        averaging = Averaging(alpha, interval, feedback)
        updates = min(settling_updates(gamma, 1.0, averaging, 1e-16), 1000)
        way = moments(gamma, UNIT, averaging, start=start, num_updates=updates)
        left = float(np.max(averaging.contraction(step_factor(gamma, 1.0)))) ** updates
        if left < 1e-7:
            steady = steady_variance(gamma, UNIT, averaging)
            assert way.variances[-1] == pytest.approx(steady, rel=1e-5, abs=1e-12)
            assert way.means[-1] == pytest.approx(0, abs=1e-4)


@given(gamma=st.floats(0.01, 1.9), interval=st.integers(1, 8))
def test_both_ways_are_one_at_alpha_one(gamma, interval):
    ways = [
        moments(gamma, UNIT, Averaging(1.0, interval, feedback), start=np.ones(1), num_updates=6)
        for feedback, moments in ((True, moments_feedback), (False, moments_no_feedback))
    ]
    assert ways[0].means == pytest.approx(ways[1].means)
    assert ways[0].variances == pytest.approx(ways[1].variances)


def test_moments_of_feedback_are_those_of_the_recursion():
    q, steady = 1 - 0.5 + 0.5 * 0.9**5, v_sgd(0.1, 1.0, 1.0)
    mean, variance = 2.0, 0.0
    way = moments_feedback(0.1, UNIT, LOOKAHEAD, start=np.full(1, 2.0), num_updates=30)
    for update in range(1, 31):
        mean, variance = q * mean, q**2 * variance + 0.25 * (1 - 0.9**10) * steady
        assert way.means[update, 0] == pytest.approx(mean, rel=1e-12)
        assert way.variances[update, 0] == pytest.approx(variance, rel=1e-12)


# Embedding


def test_embedding_with_own_gradient():
    mode = example()
    alone = v_sgd(0.2, mode.curvatures, mode.variances)
    assert alone == pytest.approx([0.0526, 0.0625, 0.0447, 0.0619], abs=5e-5)
    assert alone.sum() == pytest.approx(0.2217, abs=5e-5)
    embedded = v_embedded(0.2, OwnGradient(mode))
    assert embedded == pytest.approx([0.0526, 0.0337, 0.0132, 0.0758], abs=5e-5)
    assert embedded.sum() == pytest.approx(0.1753, abs=5e-5)
    # Lower exactly where the squared slope allows it: the last coordinate rises.
    assert ((embedded <= alone) == (mode.slopes**2 * alone[0] <= alone)).all()
    assert embedded[-1] > alone[-1]


def test_embedding_with_chained_gradient():
    mode = example()
    chained = v_embedded(0.2, ChainGradient(mode))
    assert chained[0] == pytest.approx(0.0626243, abs=5e-8)
    assert chained.sum() == pytest.approx(0.20854, abs=5e-6)
    divided = v_embedded(0.2 / mode.divisor, ChainGradient(mode))
    assert divided[0] == pytest.approx(0.0169718, abs=5e-8)
    assert divided.sum() == pytest.approx(0.05652, abs=5e-6)


def test_embedding_with_lookahead():
    mode = example()
    own = v_embedded(0.2, OwnGradient(mode), LOOKAHEAD)
    assert own[0] == pytest.approx(0.0233144, abs=5e-8)
    chained = v_embedded(0.2, ChainGradient(mode), LOOKAHEAD)
    assert chained[0] == pytest.approx(0.0236150, abs=5e-8)


@pytest.mark.parametrize(("size", "variance"), [(1, 0.1 / 1.9), (4, 0.0625), (16, 0.25), (19, 1.0)])
def test_a_chained_reference_gets_noisier_with_its_mode(size, variance):
    assert v_embedded(0.1, ChainGradient(equal_mode(size)))[0] == pytest.approx(variance)
    assert v_embedded(0.1, OwnGradient(equal_mode(size)))[0] == pytest.approx(0.1 / 1.9)
    divided = v_embedded(0.1 / size, ChainGradient(equal_mode(size)))[0]
    assert divided == pytest.approx(0.1 / 1.9 / size)


def test_a_chained_reference_of_twenty_is_refused():
    with pytest.raises(ConfigError, match=r"below 0\.1, or divide it by 20"):
        v_embedded(0.1, ChainGradient(equal_mode(20)))


@given(seed=st.integers(0, 10_000), size=st.integers(1, 30))
def test_a_divided_chained_step_is_as_stable_as_the_members(seed, size):
    generator = np.random.default_rng(seed)
    mode = random_mode(generator, size)
    largest_step = 1.999 / mode.curvatures.max()
    assert np.isfinite(v_embedded(largest_step / mode.divisor, ChainGradient(mode))).all()


def random_mode(generator: np.random.Generator, size: int) -> Mode:
    slopes, misses = generator.normal(0, 2, size), generator.normal(0, 1, size)
    slopes[0], misses[0] = 1, 0
    curvatures, variances = np.exp(generator.normal(0, 1, (2, size)))
    return Mode(slopes, curvatures, variances, misses)


@given(seed=st.integers(0, 10_000), size=st.integers(2, 30))
def test_a_fitted_slope_cannot_raise_variance(seed, size):
    """A least-squares line has the share rho^2 of the variance; what it leaves has the rest."""
    generator = np.random.default_rng(seed)
    steps = size + 2
    reference, weight = generator.normal(0, 1, (2, steps)) * np.exp(generator.normal(0, 3, (2, 1)))
    weight += generator.normal() * reference
    slope, offset = np.polyfit(reference, weight, 1)
    fit = slope * reference + offset
    share = np.corrcoef(reference, weight)[0, 1] ** 2
    assert fit.var() <= weight.var() * (1 + 1e-12)
    assert fit.var() == pytest.approx(share * weight.var(), rel=1e-9, abs=1e-12 * weight.var())
    left = (weight - fit).var()
    assert left == pytest.approx((1 - share) * weight.var(), abs=1e-11 * weight.var())


@given(seed=st.integers(0, 10_000), size=st.integers(1, 30))
def test_the_chain_pays_the_least_for_missed_lines(seed, size):
    mode = random_mode(np.random.default_rng(seed), size)
    own, chain = bias_price(OwnGradient(mode)), bias_price(ChainGradient(mode))
    assert own == pytest.approx(mode.curvatures * mode.misses**2 / 2)
    assert chain.sum() <= own.sum() * (1 + 1e-12)


def test_a_missed_line_costs_for_ever():
    """No step is so small that the price is not paid, and averaging does not help."""
    mode = Mode(np.ones(2), np.array([1.0, 0.5]), np.ones(2), np.array([0.0, 0.2]))
    assert bias_price(OwnGradient(mode)) == pytest.approx([0, 0.01])
    for averaging in (PLAIN, LOOKAHEAD, LOOK_ON):
        assert embedded_risk(1e-6, OwnGradient(mode), averaging) == pytest.approx(0.01, rel=1e-3)
    risk = embedded_risk(0.1, OwnGradient(mode))
    assert risk == pytest.approx(0.01 + (1 + 0.5) * v_sgd(0.1, 1.0, 1.0) / 2)


# Simulation


@pytest.mark.parametrize("row", TABLE)
def test_simulated_ratios(row):
    gamma, alpha, interval, descent, *ratios = row
    # Where updates are strongly correlated more of them are needed for the same accuracy.
    num_updates = 100 if min(alpha, gamma) < 0.1 else 20
    for feedback, ratio in zip((True, False), ratios, strict=True):
        averaging = Averaging(alpha, interval, feedback)
        variance = measured(gamma, UNIT, averaging, curvature=1.0, num_updates=num_updates)
        assert variance == pytest.approx(ratio * descent, rel=TOLERANCE)
    plain = measured(gamma, UNIT, PLAIN, curvature=1.0, num_updates=100)
    assert plain == pytest.approx(descent, rel=TOLERANCE)


@pytest.mark.parametrize("averaging", [LOOKAHEAD, LOOK_ON])
def test_simulated_ways(averaging):
    start = np.ones((20_000, 1))
    states = simulate(0.1, UNIT, averaging, start=start, generator=np.random.default_rng(1))
    moments = moments_feedback if averaging.feedback else moments_no_feedback
    way = moments(0.1, UNIT, averaging, start=np.ones(1), num_updates=8)
    for update, state in enumerate(itertools.islice(states, 8), 1):
        assert state.mean() == pytest.approx(way.means[update, 0], abs=0.004)
        assert state.var() == pytest.approx(way.variances[update, 0], rel=TOLERANCE)


@pytest.mark.parametrize("averaging", [PLAIN, LOOKAHEAD, LOOK_ON])
def test_simulated_spectrum(averaging):
    gamma, problem = 1.0, spectrum(100)
    start = np.sqrt(problem.variances)
    states = simulate(
        gamma,
        problem,
        averaging,
        start=np.tile(start, (400, 1)),
        generator=np.random.default_rng(2),
    )
    skip = settling_updates(gamma, problem.curvatures, averaging)
    curve = risk_curve(gamma, problem, averaging, start=start, num_updates=skip)
    assert curve[0] == pytest.approx(50)
    for update, state in enumerate(itertools.islice(states, skip), 1):
        if math.log2(update).is_integer():
            risk = (state**2).mean(axis=0) @ problem.curvatures / 2
            assert risk == pytest.approx(curve[update], rel=TOLERANCE)
    variances = simulated_variance(states, skip=0, num_updates=100)
    risk = variances @ problem.curvatures / 2
    assert risk == pytest.approx(excess_risk(gamma, problem, averaging), rel=TOLERANCE)


@pytest.mark.parametrize("averaging", [PLAIN, LOOKAHEAD, LOOK_ON])
@pytest.mark.parametrize("gradient", [OwnGradient, ChainGradient])
def test_simulated_embedding(gradient, averaging):
    reference = gradient(example())
    curvature = reference.reduced.curvatures[0]
    for gamma in (0.2, 0.2 / reference.mode.divisor):
        variance = measured(gamma, reference, averaging, curvature=curvature, num_updates=40)
        closed = v_embedded(gamma, reference, averaging)[0]
        assert variance == pytest.approx(closed, rel=TOLERANCE)


@pytest.mark.parametrize("size", [4, 16, 19])
def test_simulated_mode_sizes(size):
    reference = ChainGradient(equal_mode(size))
    variance = measured(0.1, reference, PLAIN, curvature=float(size))
    assert variance == pytest.approx(0.1 / (2 - 0.1 * size), rel=TOLERANCE)


@pytest.mark.parametrize("gradient", [OwnGradient, ChainGradient])
def test_simulated_price_of_missed_lines(gradient):
    """The mean error of every coordinate of the simulation is the price's."""
    mode = random_mode(np.random.default_rng(3), 4)
    reference = gradient(mode)
    gamma = 0.2 / float(reference.reduced.curvatures[0])
    states = simulate(
        gamma,
        reference,
        LOOK_ON,
        start=np.zeros((PARTICLES, 1)),
        generator=np.random.default_rng(4),
    )
    skip = settling_updates(gamma, reference.reduced.curvatures, LOOK_ON, 1e-6)
    tail = [mode.errors(state) for state in itertools.islice(states, skip, skip + 40)]
    risk = np.mean([(errors**2).mean(axis=0) @ mode.curvatures / 2 for errors in tail])
    assert risk == pytest.approx(embedded_risk(gamma, reference, LOOK_ON), rel=TOLERANCE)
    assert bias_price(reference).sum() > 0.1 * risk


def test_a_simulation_is_what_its_seed_says():
    def last(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        states = simulate(0.1, UNIT, LOOKAHEAD, start=np.zeros((5, 1)), generator=generator)
        return next(itertools.islice(states, 3, None))

    assert (last(0) == last(0)).all()
    assert (last(0) != last(1)).any()


# What is refused


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: v_sgd(2.0, 1.0, 1.0), "take a step below 2"),
        (lambda: step_factor(0.0, 1.0), "must be positive"),
        (lambda: step_factor(math.nan, 1.0), "must be positive"),
        (lambda: excess_risk(2.5, spectrum(3)), "diverges"),
        (lambda: v_embedded(4.0, OwnGradient(example())), "take a step below 4"),
        (lambda: v_embedded(1.5, ChainGradient(example())), "divide it by 3.33"),
        (
            lambda: simulate(2.0, UNIT, start=np.zeros((1, 1)), generator=np.random.default_rng(0)),
            "diverges",
        ),
        (
            lambda: risk_curve(2.0, UNIT, LOOK_ON, start=np.ones(1), num_updates=1),
            "diverges",
        ),
        (lambda: settling_updates(3.0, 1.0), "diverges"),
        (lambda: Averaging(0.0, 5), "alpha"),
        (lambda: Averaging(1.1, 5), "alpha"),
        (lambda: Averaging(math.nan, 5), "alpha"),
        (lambda: Averaging(0.5, 0), "interval"),
        (lambda: ratio_feedback(0.5, 1.1), "correlation"),
        (lambda: Quadratic(np.array([1.0, -1.0]), np.ones(2)), "positive"),
        (lambda: Quadratic(np.ones(1), np.array([math.inf])), "positive"),
        (lambda: Quadratic(np.ones(0), np.ones(0)), "one list"),
        (lambda: spectrum(0), "at least 1"),
        (lambda: equal_mode(0), "at least 1"),
        (lambda: Mode(np.full(2, 2.0), np.ones(2), np.ones(2), np.zeros(2)), "entry 0"),
        (lambda: equal_risk_step(-1.0, UNIT), "no step"),
        (lambda: equal_risk_step(1e9, UNIT), "no step"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(call, words):
    with pytest.raises(ConfigError, match=words):
        call()
