"""A prior says its rate twice, as differentiable bits and as integer tables: both must agree."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lictor.coding.tables import TOTAL, CdfTables
from lictor.errors import CheckpointError, ConfigError, LictorError
from lictor.priors.base import MIN_LIKELIHOOD, TAIL_MASS, AbstractPrior
from lictor.priors.channel import ChannelPrior
from lictor.priors.conditional import (
    AbstractConditionalPrior,
    GaussianPrior,
    GeneralizedGaussianPrior,
    LaplacePrior,
    scale_table,
)
from lictor.priors.factorized import FactorizedPrior
from lictor.priors.families import Family, Gaussian, GeneralizedGaussian, Laplace


def shaken_factorized(seed: int) -> FactorizedPrior:
    """A factorized prior as training may leave it: skewed, shifted, with several modes."""
    torch.manual_seed(seed)
    prior = FactorizedPrior(6)
    with torch.no_grad():
        for parameters, size in ((prior.matrices, 0.5), (prior.biases, 2.0), (prior.factors, 1.0)):
            for p in parameters:
                p.add_(size * torch.randn_like(p))
    return prior


def spread_channels(family: Family) -> ChannelPrior:
    """A prior per channel as training may leave it: narrow and wide, some below the bound."""
    prior = ChannelPrior(6, family)
    with torch.no_grad():
        prior.means.copy_(torch.tensor([0.3, -7.77, 0.0, 5.5, -0.01, 100.0]))
        prior.scales.copy_(torch.tensor([1.0, 0.3, -0.5, 9.0, 0.06, 60.0]))
    return prior


PRIORS = {
    "gaussian": GaussianPrior(),
    "laplace": LaplacePrior(),
    "generalized": GeneralizedGaussianPrior(),
    "blunt": GeneralizedGaussianPrior(4.0),
    "heavy": GeneralizedGaussianPrior(0.5, scale_bound=0.05),
    "channels": spread_channels(Gaussian()),
    "laplace channels": spread_channels(Laplace()),
    "generalized channels": spread_channels(GeneralizedGaussian(1.2)),
    "factorized": FactorizedPrior(6),
    "shaken": shaken_factorized(1),
    "shaken again": shaken_factorized(2),
}


GAUSSIAN_TABLES = GaussianPrior().tables()


def gaussian_rows(scales: torch.Tensor) -> torch.Tensor:
    """The rows of scales of any shape."""
    shaped = scales.reshape(1, 1, 1, -1)
    rows = GaussianPrior().indexes(tuple(shaped.shape), (shaped,), GAUSSIAN_TABLES)
    return rows.view(scales.shape)


def row_bits(prior: AbstractPrior, row: int, k: np.ndarray) -> np.ndarray:
    """The bits of integers `k` under one row of the tables, from the prior's own `bits`."""
    values = torch.from_numpy(k).float().view(1, 1, 1, -1)
    if isinstance(prior, AbstractConditionalPrior):
        scales = torch.full_like(values, scale_table(prior.scale_bound, prior.family)[row])
        return prior.bits(values, (scales,)).double().numpy().ravel()
    with torch.no_grad():
        return prior.bits(values.expand(1, 6, 1, -1), ())[0, row].double().numpy().ravel()


@pytest.fixture(params=PRIORS)
def prior(request) -> AbstractPrior:
    return PRIORS[request.param]


@functools.cache
def tables_of(prior: AbstractPrior) -> CdfTables:
    return prior.tables()


@pytest.fixture
def tables(prior) -> CdfTables:
    return tables_of(prior)


def inner(tables: CdfTables, row: int) -> np.ndarray:
    """The integers that a row codes without an escape."""
    return np.arange(tables.lengths[row] - 1) + tables.offset[row]


def cut_mass(prior: AbstractPrior, row: int, last: int) -> float:
    """What lies beyond `last` on both sides under a row of a family's tables, in float64."""
    if isinstance(prior, AbstractConditionalPrior):
        scale = scale_table(prior.scale_bound, prior.family)[row]
    elif isinstance(prior, ChannelPrior):
        scale = max(prior.scales[row].item(), prior.scale_bound)
    else:
        return 0.0
    return 2 * prior.family.tail((last + 0.5) / scale)


def test_the_masses_of_all_integers_sum_to_one(prior, tables):
    for row in range(len(tables.lengths)):
        k = inner(tables, row)
        wide = np.arange(k[0] - len(k) - 9, k[-1] + len(k) + 10)
        bits = row_bits(prior, row, wide)
        counted = bits < -math.log2(MIN_LIKELIHOOD) - 1e-3
        mass = np.exp2(-bits)[counted].sum() + cut_mass(prior, row, wide[counted].max())
        # float32 rounds each end of an interval to 2^-25 of its cumulative.
        assert mass == pytest.approx(1, abs=1e-7 * len(wide) ** 0.5 + 3e-6)


def test_what_a_table_leaves_to_the_escape_is_at_most_the_tail_mass(prior, tables):
    for row in range(len(tables.lengths)):
        inside = np.exp2(-row_bits(prior, row, inner(tables, row))).sum()
        assert 1 - inside <= TAIL_MASS + 5e-6
        last = int(tables.lengths[row])
        assert tables.cdf[row, last] - tables.cdf[row, last - 1] <= 2


def test_no_row_is_longer_than_its_tails_demand(prior, tables):
    for row in range(len(tables.lengths)):
        k = inner(tables, row)
        if len(k) > 3:  # without its outermost symbols a row would leave too much
            bits = row_bits(prior, row, k[1:-1])
            # A likelihood below the least one counts as that, which is too much.
            inside = np.exp2(-bits)[bits < -math.log2(MIN_LIKELIHOOD) - 1e-3].sum()
            assert 1 - inside > TAIL_MASS - 5e-6


def floors(share: np.ndarray) -> float:
    """How many counts go to symbols (and the escape) because each has one at least."""
    return max(np.maximum(share, 1).sum() + 1 - TOTAL, 0.0)


def deviation(share: np.ndarray) -> np.ndarray:
    """How far a count may be from its share: by rounding, and by what it pays for the floors.

    What others of the row were rounded up by, half a count each at most, is paid in proportion too.
    """
    float32_error = 1e-6 * TOTAL
    paid = floors(share) / share[share > 2].sum() + len(share) / 2 / TOTAL
    return 1.2 + float32_error + share * paid


def test_every_count_is_its_share_of_65536_but_for_rounding_and_the_floors(prior, tables):
    # Nearest integer, at least 1, then settled to the sum: what rounding up to 1 gives to the
    # rarest symbols (and to the escape) is taken from the others in proportion.
    for row in range(len(tables.lengths)):
        counts = np.diff(tables.cdf[row, : tables.lengths[row]])
        share = TOTAL * np.exp2(-row_bits(prior, row, inner(tables, row)))
        assert (np.abs(counts - np.maximum(share, 1)) <= deviation(share)).all()


def test_bits_equal_the_cost_of_the_tables(prior, tables):
    # Per symbol the last theorem bounds it, tightly where the mass is. In expectation the excess
    # is the divergence of counts and shares: not negative, and no more than the floors take.
    for row in range(len(tables.lengths)):
        k = inner(tables, row)
        bits = row_bits(prior, row, k)
        cost = tables.bits(k, np.full(len(k), row))
        share = TOTAL * np.exp2(-bits)
        least, most = np.maximum(share - deviation(share), 1), share + deviation(share)
        counted = share > 1
        assert (cost[counted] <= 16 - np.log2(least[counted]) + 1e-9).all()
        assert (cost[counted] >= 16 - np.log2(most[counted]) - 1e-9).all()
        assert (cost <= np.maximum(bits, 16) + 1e-9).all()
        excess = (np.exp2(-bits) * (cost - bits)).sum()
        assert -2e-4 <= excess <= 2e-5 - math.log2(1 - floors(share) / TOTAL)


def test_bits_never_exceed_the_least_likelihood_and_keep_finite_gradients(prior):
    values = torch.tensor([0.0, 0.49, -7.5, 300.0, -3e4, 3e8]).view(1, 1, 1, 6)
    values = values.repeat(2, 6, 1, 1).requires_grad_()
    params = ()
    if isinstance(prior, AbstractConditionalPrior):
        scales = torch.tensor([-1.0, 0.0, 1e-3, 0.11, 5, 1e4]).view(1, 6, 1, 1)
        params = (scales.expand(2, 6, 1, 6).clone().requires_grad_(),)
    residual = values if params else prior.residual(values, params)
    bits = prior.bits(residual, params)
    bits.sum().backward()
    assert (bits >= 0).all()
    assert (bits <= -math.log2(MIN_LIKELIHOOD) + 1e-4).all()
    for tensor in (values, *params, *prior.parameters()):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
    prior.zero_grad()


def test_an_image_costs_alone_what_it_costs_in_a_batch(prior):
    values = 4 * torch.randn(3, 6, 5, 4)
    params = (torch.rand(3, 6, 5, 4) * 3,) if isinstance(prior, AbstractConditionalPrior) else ()
    together = prior.bits(values, params)
    for i in range(3):
        alone = prior.bits(values[i : i + 1], tuple(p[i : i + 1] for p in params))
        assert torch.allclose(alone[0], together[i], atol=1e-5)


def test_indexes_name_rows_that_exist_and_have_the_latents_shape(prior, tables):
    shape = (2, 6, 4, 3)
    params = (10 * torch.randn(shape).exp(),) if isinstance(prior, AbstractConditionalPrior) else ()
    indexes = prior.indexes(shape, params, tables)
    assert indexes.shape == shape
    assert indexes.min() >= 0
    assert indexes.max() < len(tables.lengths)


# -------------------------------------------------------------------------------------- gaussian


@given(st.integers(1, 10_000 * 1024))
def test_the_index_is_that_of_the_nearest_scale_in_ratio(units):
    scale = units / 1024  # what a frozen entropy network gives
    indexes = gaussian_rows(torch.tensor([scale]))
    distance = np.abs(np.log(scale_table()) - math.log(scale))
    assert distance[int(indexes)] <= distance.min() + 1e-6


def rows_by_float_boundaries(scales: torch.Tensor) -> torch.Tensor:
    """The rows as the first codecs chose them, with boundaries computed at decode time."""
    table = np.exp(np.linspace(math.log(0.11), math.log(256.0), 64))
    boundaries = torch.from_numpy(np.sqrt(table[:-1] * table[1:])).float()
    return torch.bucketize(scales, boundaries, out_int32=True)


def test_every_scale_has_the_row_that_float_boundaries_give_it():
    units = torch.arange(-10, 300 * 1024, dtype=torch.float32)
    extremes = [-math.inf, -3e38, -(2.0**31), 2.0**20, 2.0**21, 2.0**31, 3e38, math.inf, math.nan]
    scales = torch.cat([units / 1024, torch.tensor(extremes)])
    assert torch.equal(gaussian_rows(scales), rows_by_float_boundaries(scales))


def test_the_row_is_the_number_of_thresholds_below_the_scale():
    thresholds = GAUSSIAN_TABLES.thresholds
    assert thresholds is not None
    assert thresholds.shape == (63,)
    for row, threshold in enumerate(thresholds.tolist()):
        scales = torch.tensor([threshold, threshold + 1]) / 1024
        assert gaussian_rows(scales).tolist() == [row, row + 1]


def test_the_tables_alone_choose_the_row():
    moved = replace(GAUSSIAN_TABLES, thresholds=np.arange(63, dtype=np.int32) * 1024 - 512)
    scales = torch.tensor([-1.0, 0.0, 2.0, 61.4, 61.6, 1e9]).view(1, 1, 1, -1)
    rows = GaussianPrior().indexes(tuple(scales.shape), (scales,), moved)
    assert rows.flatten().tolist() == [0, 1, 3, 62, 63, 63]
    bare = replace(GAUSSIAN_TABLES, thresholds=None)
    with pytest.raises(CheckpointError, match="thresholds"):
        GaussianPrior().indexes(tuple(scales.shape), (scales,), bare)


def test_choosing_rows_computes_no_transcendental_function(monkeypatch):
    scales = (torch.rand(1, 2, 3, 4) * 1024).round() / 1024
    expected = rows_by_float_boundaries(scales)
    for module in (np, torch, math):
        for name in ("exp", "log", "sqrt", "linspace"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, None)
    rows = GaussianPrior().indexes((1, 2, 3, 4), (scales,), GAUSSIAN_TABLES)
    assert torch.equal(rows, expected)


@pytest.mark.parametrize("bound", [0.01, 0.04, 0.5, 16])
def test_the_table_starts_at_the_priors_bound_and_rates_agree_with_it(bound):
    prior = GaussianPrior(scale_bound=bound)
    tables, table = prior.tables(), scale_table(bound)
    assert table[0] == pytest.approx(bound)
    assert table[-1] == pytest.approx(256)
    values = torch.arange(-3.0, 4.0).view(1, 1, 1, -1)
    below, at = (torch.full_like(values, s) for s in (bound / 9, bound))
    assert torch.equal(prior.bits(values, (below,)), prior.bits(values, (at,)))
    k = inner(tables, 0)
    values = torch.from_numpy(k).float().view(1, 1, 1, -1)
    bits = prior.bits(values, (torch.full_like(values, bound),)).numpy().ravel()
    likely = bits < 8
    costs = tables.bits(k, np.zeros(len(k), int))
    np.testing.assert_allclose(costs[likely], bits[likely], atol=0.02)


@pytest.mark.parametrize("bound", [0.0, -1.0, 0.009, 17, math.nan, math.inf])
def test_a_bound_that_no_table_can_start_at_is_refused(bound):
    with pytest.raises(ConfigError, match="scale_bound"):
        GaussianPrior(scale_bound=bound)


def test_scales_of_the_table_choose_themselves_and_others_clamp():
    scales = torch.from_numpy(scale_table()).float()
    wanted = list(range(len(scales)))
    scales = torch.cat([scales, torch.tensor([-5.0, 0.0, 1e9])])
    indexes = gaussian_rows(scales)
    assert indexes.flatten().tolist() == [*wanted, 0, 0, len(wanted) - 1]


def test_means_are_the_center_and_change_neither_bits_nor_indexes():
    prior, shape = GaussianPrior(), (1, 2, 3, 3)
    means, scales = torch.randn(shape), torch.rand(shape) + 0.2
    latent, residual = torch.randn(shape), torch.randn(shape)
    assert torch.equal(prior.residual(latent, (means, scales)), latent - means)
    assert torch.equal(prior.restore(residual, (means, scales)), residual + means)
    assert prior.residual(latent, (scales,)) is latent
    assert prior.restore(residual, (scales,)) is residual
    assert torch.equal(prior.bits(residual, (means, scales)), prior.bits(residual, (scales,)))
    assert torch.equal(
        prior.indexes(shape, (means, scales), GAUSSIAN_TABLES),
        prior.indexes(shape, (scales,), GAUSSIAN_TABLES),
    )


@given(st.floats(0.2, 200))
def test_between_two_scales_the_nearest_row_costs_less_than_a_sixtieth_of_a_bit(scale):
    # The price of 64 rows instead of a continuum, on data that follow the true scale: neighbours
    # differ by 13 %, so a scale is off by at most 6.2 %, which is 0.0055 bits; the rest are counts.
    tables = GAUSSIAN_TABLES
    row = int(gaussian_rows(torch.tensor(scale)))
    k = inner(tables, row)
    edges = (np.append(k, k[-1] + 1) - 0.5) / scale * math.sqrt(0.5)
    p = np.diff([0.5 * math.erf(e) for e in edges])
    cost = tables.bits(k, np.full(len(k), row))
    entropy = -(p[p > 0] * np.log2(p[p > 0])).sum()
    assert (p * cost).sum() - entropy < 1 / 60


# ------------------------------------------------------------------------------------ factorized


def test_each_channel_has_a_row_of_its_own():
    prior = FactorizedPrior(6)
    tables = prior.tables()
    assert tables.thresholds is None
    indexes = prior.indexes((2, 6, 3, 2), (), tables)
    assert (indexes == torch.arange(6).view(1, 6, 1, 1)).all()


def stretch(prior: FactorizedPrior, by: float) -> None:
    with torch.no_grad():
        prior.matrices[0].fill_(by)


def shift(prior: FactorizedPrior, by: float) -> None:
    with torch.no_grad():
        prior.biases[0].fill_(by)


@pytest.mark.parametrize(
    "diverge",
    [
        lambda prior: stretch(prior, -30.0),
        lambda prior: stretch(prior, math.nan),
        lambda prior: shift(prior, 1e6),
        lambda prior: shift(prior, -1e6),
        lambda prior: shift(prior, math.nan),
    ],
    ids=["too wide", "nan slope", "far left", "far right", "nan place"],
)
def test_a_density_that_no_table_can_hold_is_an_error(diverge):
    prior = FactorizedPrior(3)
    diverge(prior)
    with pytest.raises(LictorError, match=r"factorized prior .*(trained|diverged)"):
        prior.tables()


@pytest.mark.parametrize("place", [-3000, -7, 0, 5, 3000])
def test_a_narrow_density_anywhere_gets_a_short_row_around_its_place(place):
    prior = FactorizedPrior(2)
    with torch.no_grad():
        prior.matrices[0].fill_(40.0)
        for bias in prior.biases:
            bias.zero_()
        prior.biases[0].fill_(-40.0 * place)
    tables = prior.tables()
    assert (tables.lengths <= 4).all()
    for row in range(2):
        assert place in inner(tables, row)
        assert tables.bits(np.array([place]), np.array([row])) < 0.01
