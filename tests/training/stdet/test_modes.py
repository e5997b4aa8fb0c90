"""Modes: what is affine to a reference is found, and its line is the least-squares one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lictor.errors import ConfigError
from lictor.training.stdet.modes import (
    AffineStats,
    assign,
    correlation,
    find_references,
    sample_indices,
    sample_sizes,
)

T = 20


def trajectories(n: int, t: int = T, seed: int = 0) -> torch.Tensor:
    """Random walks around values far larger than their moves."""
    generator = torch.Generator().manual_seed(seed)
    walks = torch.randn(n, t, generator=generator, dtype=torch.float64).cumsum(1)
    return 3 * torch.randn(n, 1, generator=generator, dtype=torch.float64) + 0.1 * walks


def three_modes(per_mode: int = 200, noise: float = 0.01) -> tuple[torch.Tensor, torch.Tensor]:
    """Affine images, of either sign, of a decay, a sine and a parabola; and whose each is."""
    generator = torch.Generator().manual_seed(1)
    t = torch.linspace(0, 1, T, dtype=torch.float64)
    shapes = torch.stack([torch.exp(-5 * t), torch.sin(9 * t), (t - 0.5) ** 2 * 4])
    label = torch.arange(3 * per_mode) % 3
    slope = (torch.rand(len(label), 1, generator=generator).double() + 0.5) * (
        1 - 2 * torch.randint(2, (len(label), 1), generator=generator)
    )
    offset = torch.randn(len(label), 1, generator=generator).double()
    rough = noise * torch.randn(len(label), T, generator=generator).double()
    return slope * shapes[label] + offset + rough, label


def test_three_modes_are_found_whole_and_pure():
    weights, label = three_modes()
    sampled = sample_indices([600], 200, np.random.default_rng(0))
    found = find_references(weights[sampled], 3)
    assert sorted(label[sampled[found]].tolist()) == [0, 1, 2]
    mode, rho = assign(iter(weights.split(77)), weights[sampled[found]])
    assert torch.equal(label[sampled[found]][mode.long()], label)  # purity 1
    assert rho.abs().min() > 0.99
    assert (rho < 0).sum() > 100
    assert (rho > 0).sum() > 100


def test_larger_modes_come_first_and_the_reference_is_the_best_correlated_member():
    weights, label = three_modes(60)
    keep = (label == 0) | ((label == 1) & (torch.arange(180) < 120)) | (torch.arange(180) < 40)
    weights, label = weights[keep], label[keep]
    found = find_references(weights, 3)
    sizes = torch.bincount(label)[label[found]]
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    for reference in found:
        members = torch.nonzero(label == label[reference]).flatten()
        means = correlation(weights[members], weights[members]).abs().mean(1)
        assert members[means.argmax()] == reference


def test_correlation_is_numpys_and_zero_for_what_never_moves():
    first, second = trajectories(7), trajectories(5, seed=3)
    wanted = np.corrcoef(first.numpy(), second.numpy())[:7, 7:]
    assert np.abs(correlation(first, second).numpy() - wanted).max() < 1e-12
    still = torch.full((1, T), 0.1)  # 0.1 is no float: its mean would be off by a rounding
    assert correlation(still, first.float()).abs().max() == 0
    assert correlation(first, first).diagonal().sub(1).abs().max() < 1e-12


@pytest.mark.parametrize("snapshots", range(2, T + 1))
def test_the_running_fit_is_the_least_squares_fit_after_each_snapshot(snapshots):
    weights = trajectories(40, snapshots)
    references = torch.tensor([3, 17, 30])
    mode = torch.arange(40, dtype=torch.int32) % 3
    mode[references] = torch.arange(3, dtype=torch.int32)
    stats = AffineStats(mode, references, dtype=torch.float64)
    for snapshot in weights.T:
        stats.update(snapshot)
    slope, offset = stats.coefficients()
    rho = stats.correlation()
    for k in range(40):
        reference = weights[references[mode[k]]]
        design = torch.stack([reference, torch.ones_like(reference)], 1)
        batch = torch.linalg.lstsq(design, weights[k]).solution
        assert torch.allclose(torch.stack([slope[k], offset[k]]), batch, rtol=1e-10, atol=1e-10)
        wanted = np.corrcoef(weights[k].numpy(), reference.numpy())[0, 1]
        assert abs(float(rho[k]) - wanted) < 1e-6
    assert slope[references].tolist() == [1, 1, 1]
    assert offset[references].tolist() == [0, 0, 0]


def test_slopes_survive_float32_where_raw_normal_equations_give_another_sign():
    generator = torch.Generator().manual_seed(0)
    reference = 0.5 + 1e-4 * torch.randn(T, generator=generator, dtype=torch.float64)
    weights = torch.stack([reference, 2 * reference - 0.3]).float()
    stats = AffineStats(torch.zeros(2, dtype=torch.int32), torch.tensor([0]))
    for snapshot in weights.T:
        stats.update(snapshot)
    slope, offset = stats.coefficients()
    assert abs(float(slope[1]) - 2) < 2e-3
    assert abs(float(offset[1]) + 0.3) < 1e-3
    design = torch.stack([weights[0], torch.ones(T)])
    raw = torch.linalg.pinv(design @ design.T) @ (design @ weights[1])
    assert abs(float(raw[0]) - 2) > 0.1  # what the sums of deviations are for


def test_a_negative_slope_is_a_line_like_any_other_and_constants_have_none():
    reference = trajectories(1)[0]
    weights = torch.stack([reference, -3 * reference + 1, torch.full_like(reference, 0.7)])
    mode, rho = assign(iter([weights]), weights[:1])
    assert mode.tolist() == [0, 0, 0]
    assert torch.allclose(rho, torch.tensor([1.0, -1.0, 0.0]))
    stats = AffineStats(mode, torch.tensor([0]), dtype=torch.float64)
    for snapshot in weights.T:
        stats.update(snapshot)
    slope, offset = stats.coefficients()
    assert slope.tolist() == pytest.approx([1, -3, 0], abs=1e-12)
    assert offset.tolist() == pytest.approx([0, 1, 0.7], abs=1e-12)
    assert stats.correlation().tolist() == pytest.approx([1, -1, 0])


def test_all_weights_of_a_reference_that_never_moves_are_their_means():
    weights = torch.stack([torch.full((T,), 2.0).double(), trajectories(1)[0]])
    stats = AffineStats(torch.zeros(2, dtype=torch.int32), torch.tensor([0]), dtype=torch.float64)
    for snapshot in weights.T:
        stats.update(snapshot)
    slope, offset = stats.coefficients()
    assert slope.tolist() == [0, 0]
    assert torch.allclose(offset, weights.mean(1))
    assert stats.correlation().tolist() == [0, 0]


def test_the_variance_of_the_fit_is_rho_squared_and_that_of_the_rest_is_what_is_left():
    weights = trajectories(30)
    stats = AffineStats(torch.zeros(30, dtype=torch.int32), torch.tensor([0]), dtype=torch.float64)
    for snapshot in weights.T:
        stats.update(snapshot)
    slope, offset = stats.coefficients()
    fit = slope[:, None] * weights[0] + offset[:, None]
    squared = correlation(weights, weights[:1])[:, 0] ** 2
    variance = weights.var(1, correction=0)
    assert (fit.var(1, correction=0) / variance - squared).abs().max() < 1e-12
    assert ((weights - fit).var(1, correction=0) / variance - (1 - squared)).abs().max() < 1e-12


def test_a_restored_fit_goes_on_bitwise():
    weights = trajectories(30).float()
    mode, references = torch.zeros(30, dtype=torch.int32), torch.tensor([4])
    whole, half = AffineStats(mode, references), AffineStats(mode, references)
    for snapshot in weights.T[:11]:
        whole.update(snapshot)
        half.update(snapshot)
    again = AffineStats(mode, references)
    again.load_state_dict(half.state_dict())
    for snapshot in weights.T[11:]:
        whole.update(snapshot)
        again.update(snapshot)
    for a, b in zip(whole.coefficients(), again.coefficients(), strict=True):
        assert torch.equal(a, b)


sizes = st.lists(st.integers(1, 60), min_size=1, max_size=12)


@given(sizes, st.data())
def test_a_sample_has_exactly_so_many_distinct_places_in_every_tensor_if_it_can(sizes, data):
    total = sum(sizes)
    count = data.draw(st.integers(1, total))
    indices = sample_indices(sizes, count, np.random.default_rng(data.draw(st.integers(0, 99))))
    assert indices.dtype == np.int64
    assert len(set(indices.tolist())) == len(indices) == count
    assert 0 <= indices.min() <= indices.max() < total
    assert indices.tolist() == sorted(indices.tolist())
    starts = np.cumsum([0, *sizes])
    hits = np.histogram(indices, starts)[0]
    assert (hits <= sizes).all()
    if count >= 2 * len(sizes):
        assert (hits >= 1).all()
        assert hits.tolist() == sample_sizes(sizes, count)


def test_half_of_a_sample_is_even_over_tensors_and_half_goes_by_size():
    # Evenly 20 each, but the last has only 10; by size 54 and 5; what is left, 11, goes to the one
    # with the fewest samples that can take all of it.
    assert sample_sizes([900, 90, 10], 120) == [20 + 54, 20 + 5 + 11, 10]
    assert sample_sizes([900, 90, 10], 5) == []  # too few for that: any


def test_the_same_seed_samples_the_same_and_too_many_is_an_error():
    first, second = (sample_indices([50, 8], 20, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, second)
    with pytest.raises(ConfigError, match=r"stdet\.samples = 59, but there are 58"):
        sample_indices([50, 8], 59, np.random.default_rng(0))


def test_what_cannot_be_clustered_is_named():
    with pytest.raises(ConfigError, match=r"9 snapshots are too few.*stdet\.warmup"):
        find_references(trajectories(30, 9), 3)
    with pytest.raises(ConfigError, match=r"stdet\.modes = 31 of only 30"):
        find_references(trajectories(30), 31)
    with pytest.raises(ConfigError, match="only 0 of 30 sampled weights have moved"):
        find_references(torch.ones(30, T), 3)
