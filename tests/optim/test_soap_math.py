"""Views, rotations and factors: what holds for any shape."""

import dataclasses
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lictor.errors import ConfigError
from lictor.optim.factory import SoapSettings
from lictor.optim.soap_math import (
    POLICIES,
    adam_direction,
    first_basis,
    joint,
    make_plan,
    next_basis,
    orthonormal_by_cholesky,
    reorder,
    rotate,
    second_moments,
)

from soap_reference import multiply, unfold, viewed_shape  # isort: skip


@st.composite
def viewed(draw):
    shape = tuple(draw(st.lists(st.integers(1, 6), max_size=5)))
    options = {
        "shapes": draw(st.sampled_from(list(POLICIES))),
        "max_factor": draw(st.sampled_from([1, 4, 12, 2048])),
    }
    return shape, options


def random_stack(plan, shape, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, prod(shape), generator=generator, dtype=torch.float64)


def random_bases(plan, count=2):
    sides = plan.factor_sizes
    return [torch.linalg.qr(torch.randn(count, d, d, dtype=torch.float64))[0] for d in sides]


@given(viewed())
def test_the_axes_with_factors_are_those_of_the_policy(case):
    shape, options = case
    sides = viewed_shape(torch.Size(shape), **options)
    plan = make_plan(shape, **options)
    wanted = [d for d in sides if d <= options["max_factor"]] if len(sides) > 1 else []
    assert list(plan.factor_sizes) == wanted
    assert list(plan.ranks) == list(range(len(wanted)))
    for mode in plan.modes:
        assert mode.before * mode.size * mode.after == prod(shape)


@given(viewed())
def test_memory_order_changes_the_order_of_the_factors_only(case):
    shape, options = case
    if len(shape) < 3:
        return
    plain = make_plan(shape, **options)
    plan = make_plan(shape, **options, channels_last=True)
    in_order = [plan.factor_sizes[plan.ranks.index(k)] for k in range(len(plan.ranks))]
    assert in_order == list(plain.factor_sizes)
    assert sorted(plan.order) == list(range(len(shape)))


@given(viewed())
def test_second_moments_are_those_of_the_unfoldings(case):
    shape, options = case
    plan = make_plan(shape, **options)
    x = random_stack(plan, shape)
    sides = viewed_shape(torch.Size(shape), **options)
    axes = [i for i, d in enumerate(sides) if d <= options["max_factor"]]
    moments = second_moments(x, plan.modes)
    assert len(moments) == len(plan.factor_sizes)
    for row, tensor in enumerate(x.unbind()):
        for axis, moment in zip(axes, moments, strict=False):
            rows = unfold(tensor.reshape(sides), axis)
            torch.testing.assert_close(moment[row], rows @ rows.T)


@given(viewed())
def test_rotating_is_a_product_along_each_axis_and_back_undoes_it(case):
    shape, options = case
    plan = make_plan(shape, **options)
    x, bases = random_stack(plan, shape), random_bases(plan)
    rotated = rotate(x, joint(bases, plan.modes), plan.modes)
    sides = viewed_shape(torch.Size(shape), **options)
    axes = [i for i, d in enumerate(sides) if d <= options["max_factor"]]
    for row, tensor in enumerate(x.unbind()):
        wanted = tensor.reshape(sides)
        for axis, basis in zip(axes, bases, strict=False):
            wanted = multiply(wanted, basis[row].T, axis)
        torch.testing.assert_close(rotated[row], wanted.reshape(-1))
    again = rotate(rotated, joint(bases, plan.modes), plan.modes, back=True)
    torch.testing.assert_close(again, x)


@given(viewed())
def test_reordering_is_rotating_by_permutations(case):
    shape, options = case
    plan = make_plan(shape, **options)
    x = random_stack(plan, shape)
    orders = [torch.rand(2, d).argsort(-1) for d in plan.factor_sizes]
    turns = [torch.eye(order.shape[1], dtype=x.dtype)[order].mT.contiguous() for order in orders]
    wanted = rotate(x, joint(turns, plan.modes), plan.modes)
    assert torch.equal(reorder(x, orders, plan.modes), wanted)


@pytest.mark.parametrize("scale", [1.0, 1e-37, 1e30])
def test_the_first_basis_has_the_eigenvectors_largest_first(scale):
    q = torch.linalg.qr(torch.randn(3, 7, 7))[0]
    values = torch.arange(7, 0, -1).float().expand(3, 7)
    basis = first_basis(((q * values[:, None]) @ q.mT) * scale)
    assert torch.allclose((basis * q).sum(-2).abs(), torch.ones(3, 7), atol=1e-4)


def test_a_basis_where_the_routine_fails_is_the_identity(caplog):
    factor = torch.eye(4).repeat(2, 1, 1)
    factor[1, 0, 0] = float("nan")
    basis = first_basis(factor)
    assert torch.equal(basis[1], torch.eye(4))
    torch.testing.assert_close(basis[0] @ basis[0].T, torch.eye(4))
    assert "identity" in caplog.text


def test_a_basis_stays_where_its_factor_is_not_finite(caplog):
    factor = torch.randn(2, 5, 5)
    factor = factor @ factor.mT
    basis = first_basis(factor)
    alone, order_alone = next_basis(factor[:1], basis[:1])
    factor[1, 2, 3] = float("inf")
    new, order = next_basis(factor, basis)
    assert torch.equal(new[1], basis[1])
    assert torch.equal(order[1], torch.arange(5))
    torch.testing.assert_close(new[:1], alone)
    assert torch.equal(order[:1], order_alone)
    assert "not finite" in caplog.text


def test_the_power_iteration_finds_the_eigenvectors_and_sorts_them():
    q = torch.linalg.qr(torch.randn(1, 6, 6, dtype=torch.float64))[0]
    values = torch.tensor([32.0, 16, 8, 4, 2, 1], dtype=torch.float64)
    factor = (q * values) @ q.mT
    basis = torch.linalg.qr(torch.randn(1, 6, 6, dtype=torch.float64))[0]
    for _ in range(60):
        basis, order = next_basis(factor, basis)
    assert torch.equal(order[0], torch.arange(6))
    torch.testing.assert_close((basis * q).sum(-2).abs(), torch.ones(1, 6, dtype=torch.float64))


def test_the_sign_of_a_column_is_that_of_its_image():
    factor = torch.randn(4, 6, 9, dtype=torch.float64)
    factor = factor @ factor.mT
    basis = torch.linalg.qr(torch.randn(4, 6, 6, dtype=torch.float64))[0]
    new, order = next_basis(factor, basis)
    images = (factor @ basis).gather(-1, order[:, None].expand_as(basis))
    assert bool(((new * images).sum(-2) >= 0).all())


def test_a_zero_factor_gives_a_basis():
    zero = torch.zeros(1, 3, 3)
    for basis in (first_basis(zero), next_basis(zero, first_basis(zero))[0]):
        assert torch.equal(basis.abs().sort(-1, descending=True).values[..., 0], torch.ones(1, 3))
        torch.testing.assert_close(basis @ basis.mT, torch.eye(3)[None])


def test_the_direction_of_adam_is_its_moments_quotient():
    grads = torch.randn(5, 2, 3, dtype=torch.float64)
    mean, square = torch.zeros(2, 2, 3, dtype=torch.float64).unbind()
    for grad in grads:
        got = adam_direction(grad.clone(), mean, square, betas=(0.9, 0.7), eps=1e-3)
    weights = torch.arange(4, -1, -1, dtype=torch.float64)[:, None, None]
    wanted_mean = (0.1 * 0.9**weights * grads).sum(0)
    wanted_square = (0.3 * 0.7**weights * grads**2).sum(0)
    torch.testing.assert_close(mean, wanted_mean)
    torch.testing.assert_close(square, wanted_square)
    torch.testing.assert_close(got, wanted_mean / (wanted_square.sqrt() + 1e-3))


def test_recipes_may_name_the_policies_that_there_are():
    (field,) = (f for f in dataclasses.fields(SoapSettings) if f.name == "shapes")
    allows = field.metadata["rule"].allows
    assert all(allows(name) for name in POLICIES)
    assert not allows("none")
    with pytest.raises(ConfigError, match="unknown shape policy 'none': choose one of split"):
        make_plan((3, 3), shapes="none", max_factor=9)


@pytest.mark.parametrize("fails", [1, 2])
def test_eigenvectors_are_tried_again_in_double_precision(monkeypatch, caplog, fails):
    real, seen = torch.linalg.eigh, []

    def eigh(factor):
        seen.append(factor.dtype)
        if len(seen) <= fails:
            raise torch.linalg.LinAlgError("did not converge")
        return real(factor)

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    factor = torch.diag(torch.tensor([1.0, 3.0, 2.0]))[None]
    basis = first_basis(factor)
    assert seen == [torch.float32, torch.float64]
    wanted = torch.eye(3)[:, [1, 2, 0]] if fails == 1 else torch.eye(3)
    torch.testing.assert_close(basis[0].abs(), wanted)
    assert ("identity" in caplog.text) == (fails == 2)


@pytest.mark.parametrize("side", [1, 2, 5, 40, 160])
def test_the_basis_by_cholesky_is_that_of_householder_with_positive_diagonals(side):
    generator = torch.Generator().manual_seed(side)
    spread = torch.logspace(0, -4, side)
    turn = torch.linalg.qr(torch.randn(3, side, side, generator=generator))[0]
    factor = turn * spread @ turn.mT
    basis = torch.linalg.qr(turn + 0.05 * torch.randn(3, side, side, generator=generator))[0]
    power = factor @ basis
    q, r = torch.linalg.qr(power.double())
    wanted = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    got = orthonormal_by_cholesky(power, basis)
    assert got.dtype == power.dtype
    assert (got - wanted).abs().max() < 0.02  # the smallest eigenvalues are moved by 3 per mille
    assert (got[:, :, : side // 2 + 1] - wanted[:, :, : side // 2 + 1]).abs().max() < 1e-3


@pytest.mark.parametrize("rank", [0, 1, 30])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20])
def test_the_basis_by_cholesky_is_orthonormal_even_of_a_singular_factor(rank, scale):
    generator = torch.Generator().manual_seed(rank)
    rows = torch.randn(2, 64, rank, generator=generator)
    basis = torch.linalg.qr(torch.randn(2, 64, 64, generator=generator))[0]
    q = orthonormal_by_cholesky(scale * (rows @ rows.mT) @ basis, basis).double()
    assert (q.mT @ q - torch.eye(64)).abs().max() < 1e-5
