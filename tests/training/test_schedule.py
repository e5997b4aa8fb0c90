"""Learning rates are pure, continuous functions of progress."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lictor.errors import ConfigError
from lictor.training.schedule import SCHEDULES, flat_cosine, learning_rate

EVERY = pytest.mark.parametrize("schedule", SCHEDULES)
SHARE = st.floats(0, 1)


@EVERY
@given(SHARE, st.floats(1e-9, 10), st.floats(0, 0.99), SHARE)
def test_the_rate_is_pure_and_between_zero_and_the_peak(schedule, progress, peak, warmup, final):
    settings = {"shape": SCHEDULES[schedule](), "peak": peak, "warmup": warmup, "final": final}
    rate = learning_rate(progress, **settings)
    assert 0 <= rate <= peak * (1 + 1e-12)
    assert learning_rate(progress, **settings) == rate
    if progress >= warmup:
        assert rate >= final * peak * (1 - 1e-12)


@EVERY
@pytest.mark.parametrize("warmup", [0.05, 0.5])
def test_the_rate_is_continuous_and_after_the_warmup_never_rises(schedule, warmup):
    steps = 2000
    rates = [
        learning_rate(i / steps, shape=SCHEDULES[schedule](), peak=1, warmup=warmup, final=0.1)
        for i in range(steps + 1)
    ]
    # The steepest parts are the ramp, 1 / warmup, and the fall of flat-cosine, pi / 2 / 0.4.
    steepest = (1 / warmup + 4) / steps
    for i, (before, after) in enumerate(itertools.pairwise(rates)):
        assert abs(after - before) <= steepest
        if i / steps >= warmup:
            assert after <= before + 1e-12
    assert rates[0] == 0


@EVERY
def test_the_rate_starts_at_the_peak_and_ends_at_its_final_share(schedule):
    def rate(progress: float) -> float:
        return learning_rate(progress, shape=SCHEDULES[schedule](), peak=3.0, warmup=0, final=0.25)

    assert rate(0) == 3.0
    assert rate(1) == pytest.approx(3.0 if schedule == "constant" else 0.75)


def test_flat_cosine_stays_at_the_peak_for_sixty_percent():
    settings = {"shape": flat_cosine, "peak": 1.0, "warmup": 0.0, "final": 0.0}
    assert learning_rate(0.6, **settings) == 1
    assert learning_rate(0.8, **settings) == pytest.approx(0.5)
    assert learning_rate(0.62, **settings) < 1


def test_the_warmup_is_linear():
    settings = {"shape": SCHEDULES["constant"](), "peak": 2.0, "warmup": 0.1, "final": 1.0}
    assert learning_rate(0.05, **settings) == pytest.approx(1.0)
    assert learning_rate(0.025, **settings) == pytest.approx(0.5)
    assert learning_rate(0.1, **settings) == 2.0


@given(st.floats(0, 0.99), SHARE)
def test_the_flat_part_is_as_long_as_it_is_told(flat, progress):
    value = SCHEDULES["flat-cosine"](flat=flat)(progress)
    if progress <= flat:
        assert value == 1
    else:
        assert value == pytest.approx(SCHEDULES["cosine"]()((progress - flat) / (1 - flat)))
    assert SCHEDULES["flat-cosine"]()(progress) == flat_cosine(progress, flat=0.6)


def test_a_flat_part_that_never_ends_is_refused():
    with pytest.raises(ConfigError, match=r"flat = 1\.0 must be from 0 to below 1"):
        SCHEDULES["flat-cosine"](flat=1.0)
