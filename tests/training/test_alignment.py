"""Alignment scores: bounds, identities, and no NaN where a vector has no direction."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lictor.training.alignment import alignment, conflict_rate, cosines, dots, ratios


def vectors(count: int, seed: int, *, dtype: torch.dtype = torch.float64) -> list:
    """Random vectors of three tensors of different shapes."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((3, 4), (5,), ())
    return [
        [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
        for _ in range(count)
    ]


def flat(vector) -> np.ndarray:
    return np.concatenate([t.double().reshape(-1).numpy() for t in vector])


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_alignment_is_twice_the_squared_mean_unit_vector_less_one(seed, count):
    many = vectors(count, seed)
    units = [flat(v) / np.linalg.norm(flat(v)) for v in many]
    wanted = 2 * np.linalg.norm(np.mean(units, axis=0)) ** 2 - 1
    assert alignment(*many) == pytest.approx(wanted, abs=1e-12)
    assert -1 - 1e-12 <= alignment(*many) <= 1 + 1e-12


@given(st.integers(0, 10_000))
def test_for_two_vectors_alignment_is_the_cosine(seed):
    u, v = vectors(2, seed)
    a, b = flat(u), flat(v)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert alignment(u, v) == pytest.approx(cosine, abs=1e-12)
    assert cosines(u, v)[0] == pytest.approx(cosine, abs=1e-12)


@given(st.integers(0, 1000), st.floats(1e-30, 1e30), st.floats(1e-30, 1e30))
def test_scores_do_not_depend_on_lengths(seed, first, second):
    u, v = vectors(2, seed)
    total, each = cosines([first * t for t in u], [second * t for t in v])
    assert total == pytest.approx(cosines(u, v)[0], abs=1e-12)
    np.testing.assert_allclose(each, cosines(u, v)[1], atol=1e-12)


def test_alike_opposed_orthogonal():
    (u,) = vectors(1, 0)
    minus = [-t for t in u]
    assert alignment(u) == 1
    assert alignment(u, u, u) == pytest.approx(1)
    assert alignment(u, minus) == pytest.approx(-1)
    axes = [[row] for row in torch.eye(3)]
    assert alignment(*axes[:2]) == 0
    assert alignment(*axes) == pytest.approx(-1 / 3)
    assert alignment(axes[0], axes[0], [-axes[0][0]]) == pytest.approx(2 / 9 - 1)


def test_each_tensor_has_its_own_cosine():
    first = [torch.tensor([1.0, 0.0]), torch.tensor([2.0]), torch.zeros(3)]
    second = [torch.tensor([0.0, 1.0]), torch.tensor([-5.0]), torch.ones(3)]
    total, each = cosines(first, second)
    assert each == [0.0, -1.0, 0.0]
    assert total == pytest.approx(-10 / math.sqrt(5) / math.sqrt(1 + 25 + 3))


def test_a_zero_vector_is_unrelated_to_all_and_never_nan():
    (u,) = vectors(1, 1)
    zero = [torch.zeros_like(t) for t in u]
    assert cosines(u, zero) == (0.0, [0.0, 0.0, 0.0])
    assert cosines(zero, zero)[0] == 0
    assert alignment(u, zero) == 0
    assert alignment(zero, zero, zero) == pytest.approx(-1 / 3)  # as three orthogonal ones
    assert cosines([], []) == (0.0, [])
    tiny = [1e-300 * t for t in u]
    assert cosines(tiny, tiny)[0] == 0
    single = [torch.full((2,), 1e-40)]  # below the normal numbers of float32
    assert cosines(single, single)[0] == pytest.approx(1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_gives_nan_rather_than_a_score(bad):
    (u,) = vectors(1, 2)
    broken = [u[0], u[1].clone().fill_(bad), u[2]]
    total, each = cosines(broken, u)
    assert math.isnan(total)
    assert math.isnan(each[1])
    assert each[0] == pytest.approx(1)


def test_float32_vectors_are_summed_in_float64():
    large, small = torch.full((1,), 1e4), torch.full((100_000,), 1e-3)
    (product,) = dots([torch.cat([large, small])], [torch.cat([large, small])])
    assert product == pytest.approx(1e8 + 0.1, rel=1e-12)


def test_ratios_of_sums_are_not_means_of_ratios():
    total, each = ratios([1.0, -4.0], [1.0, 4.0], [1.0, 4.0])
    assert each == [1.0, -1.0]
    assert total == pytest.approx(-3 / 5)
    assert ratios([1.0], [-1.0], [1.0]) == (0.0, [0.0])  # not a square at all


def test_the_conflict_rate_counts_scores_below_zero():
    assert conflict_rate([-0.1, 0.0, 0.5, -1.0]) == 0.5
    assert conflict_rate([math.nan, -1.0]) == 1
    assert math.isnan(conflict_rate([]))
    assert math.isnan(conflict_rate([math.nan]))


def test_no_vector_or_different_shapes_are_refused():
    (u,) = vectors(1, 3)
    with pytest.raises(ValueError, match="at least one"):
        alignment()
    with pytest.raises(ValueError, match="shorter"):
        cosines(u, u[:2])
