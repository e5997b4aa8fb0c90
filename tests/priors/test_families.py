"""Families against closed forms, against each other, and what a scale bound does to a rate."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from lictor.errors import ConfigError
from lictor.ops import lower_bound
from lictor.priors.conditional import GeneralizedGaussianPrior, LaplacePrior
from lictor.priors.families import (
    Family,
    Gaussian,
    GeneralizedGaussian,
    Laplace,
    bound_of_beta,
    interval_bits,
)

FAMILIES = {
    "gaussian": Gaussian(),
    "laplace": Laplace(),
    "generalized": GeneralizedGaussian(),
    "beta 0.5": GeneralizedGaussian(0.5),
    "beta 3": GeneralizedGaussian(3.0),
}


@pytest.fixture(params=FAMILIES)
def family(request) -> Family:
    return FAMILIES[request.param]


def bits(family: Family, values, scale: float) -> np.ndarray:
    """The bits of values under one scale, in float64."""
    values = torch.as_tensor(np.asarray(values, dtype=np.float64))
    return interval_bits(values, torch.full_like(values, scale), family).numpy()


def exact_mass(family: Family, values, scale: float) -> np.ndarray:
    """The mass of unit intervals in float64, not bounded from below."""
    distance = torch.as_tensor(np.abs(np.asarray(values, dtype=np.float64)))
    near, far = (distance - 0.5) / scale, (distance + 0.5) / scale
    return ((family.both_tails(near) - family.both_tails(far)) / 2).numpy()


# ------------------------------------------------------------------------------- what they are


def test_masses_of_all_integers_sum_to_one_at_every_scale(family):
    for scale in np.geomspace(family.default_bound, 64, 12):
        reach = math.ceil(scale * family.deviation * (20 if family.deviation < 2 else 60))
        k = np.arange(-reach, reach + 1)
        mass = exact_mass(family, k, scale)
        assert mass.sum() == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(mass, mass[::-1], rtol=1e-12)
        assert (mass >= 0).all()


def test_the_density_is_the_slope_of_the_tails_and_has_the_deviation_it_says(family):
    def density(t: float) -> float:
        return float(family.density(torch.tensor([t], dtype=torch.float64)))

    for t in (0.01, 0.4, 1.0, 2.1):
        mass = family.tail(t) - family.tail(1.5 * t)
        assert mass == pytest.approx(quad(density, t, 1.5 * t)[0], rel=1e-8)
        both = float(family.both_tails(torch.tensor([t], dtype=torch.float64)))
        assert both == pytest.approx(2 * family.tail(t), rel=1e-8)
    variance = 2 * quad(lambda t: t * t * density(t), 0, np.inf, limit=500)[0]
    assert family.deviation == pytest.approx(math.sqrt(variance), rel=1e-4)


@pytest.mark.parametrize("beta", [0.5, 0.7, 1.0, 1.2, 1.5, 2.0, 2.7, 4.0])
def test_the_tails_by_polynomials_are_those_of_scipy(beta):
    t = np.linspace(0, 45 ** (1 / beta), 30_001)  # down to 2^-64
    exact = special.gammaincc(1 / beta, t**beta)
    ours = GeneralizedGaussian(beta).both_tails(torch.from_numpy(t)).numpy()
    np.testing.assert_allclose(ours, exact, rtol=1e-9)
    np.testing.assert_allclose(
        GeneralizedGaussian(beta).both_tails(torch.from_numpy(-t)).numpy(), 2 - exact, rtol=1e-9
    )
    single = torch.from_numpy(t).float()
    exact = special.gammaincc(1 / beta, single.double().numpy() ** beta)
    np.testing.assert_allclose(
        GeneralizedGaussian(beta).both_tails(single).numpy(), exact, rtol=1e-5
    )


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5, 2.0, 4.0])
def test_masses_are_those_of_scipy_to_a_millionth_at_every_scale(beta):
    family = GeneralizedGaussian(beta)
    for scale in np.geomspace(0.01, 256 / family.deviation, 25):
        values = np.concatenate([[0.0, 0.3, 0.5, 0.7], np.geomspace(1, 12 * scale + 1, 60)])
        law = stats.gennorm(beta, scale=scale)
        low, high = values - 0.5, values + 0.5
        inside = law.cdf(high) - law.cdf(low)
        exact = np.where(low > 0.3 * scale, law.sf(low) - law.sf(high), inside)
        seen = exact > 2.0**-40
        np.testing.assert_allclose(exact_mass(family, values, scale)[seen], exact[seen], rtol=1e-6)


def test_beta_2_is_a_gaussian_and_beta_1_is_laplace():
    values = np.linspace(-9, 9, 181)
    for scale in (0.11, 0.5, 3.0, 40.0):
        np.testing.assert_allclose(
            bits(GeneralizedGaussian(2.0), values, math.sqrt(2) * scale),
            bits(Gaussian(), values, scale),
            rtol=1e-7,
            atol=1e-8,
        )
        np.testing.assert_allclose(
            bits(GeneralizedGaussian(1.0), values, scale),
            bits(Laplace(), values, scale),
            rtol=1e-7,
            atol=1e-8,
        )
    for prior, other, stretch in (
        (GeneralizedGaussian(2.0), Gaussian(), math.sqrt(2)),
        (GeneralizedGaussian(1.0), Laplace(), 1.0),
    ):
        assert prior.tail(0.9) == pytest.approx(other.tail(0.9 * stretch), rel=1e-12)
        assert prior.deviation * stretch == pytest.approx(other.deviation)


@pytest.mark.parametrize("beta", [0.49, 4.01, 0.0, -1.0, math.nan, math.inf])
def test_a_beta_out_of_range_is_refused(beta):
    with pytest.raises(ConfigError, match=r"beta = .* must be from 0\.5 to 4"):
        GeneralizedGaussianPrior(beta)


# ---------------------------------------------------------------------------- the scale bound


def test_what_symbols_cost_at_the_bounds():
    assert bits(Gaussian(), [0, 1], 0.11) == pytest.approx([7.908e-6, 18.477], rel=2e-4)
    assert bits(GeneralizedGaussian(), [0, 1, -1], 0.12) == pytest.approx(
        [1.02e-4, 14.79, 14.79], rel=2e-3
    )


def test_the_default_bounds_of_all_betas_charge_a_zero_the_same():
    wanted = bits(GeneralizedGaussian(1.5), [0], 0.12)[0]
    assert bound_of_beta(1.5) == 0.12
    assert bound_of_beta(1.4999999) == pytest.approx(0.12, abs=1e-6)
    for beta in (0.7, 1.0, 1.2, 2.0, 3.0, 4.0):
        assert bits(GeneralizedGaussian(beta), [0], bound_of_beta(beta))[0] == pytest.approx(
            wanted, rel=1e-4
        )
    assert LaplacePrior().scale_bound == bound_of_beta(1.0) == pytest.approx(0.0523, abs=5e-5)
    assert bound_of_beta(0.5) == 0.01


@pytest.mark.parametrize(
    ("scale", "gradient", "passed"),
    [(0.05, 1.0, 0.0), (0.05, -1.0, -1.0), (0.11, 1.0, 1.0), (0.2, 1.0, 1.0), (0.2, -1.0, -1.0)],
)
def test_below_the_bound_only_a_gradient_that_lifts_the_scale_passes(scale, gradient, passed):
    scales = torch.tensor([scale], requires_grad=True)
    bounded = lower_bound(scales, 0.11)
    assert bounded.item() == pytest.approx(max(scale, 0.11))
    (got,) = torch.autograd.grad(bounded, scales, torch.tensor([gradient]))
    assert got.item() == passed


def noisy_bits(center: float, sigma: float) -> float:
    """The mean bits of `center` plus uniform noise under a Gaussian, not bounded from below."""

    def at(v: float) -> float:
        a, b = (0.5 - abs(v)) / sigma, (-0.5 - abs(v)) / sigma
        gap = special.log_ndtr(b) - special.log_ndtr(a)
        return -(special.log_ndtr(a) + math.log1p(-math.exp(gap))) / math.log(2)

    ends = (center - 0.5, center + 0.5)
    inside = [v for v in (-0.5, 0.0, 0.5) if ends[0] < v < ends[1]]
    return quad(at, *ends, points=inside or None)[0]


def test_noise_charges_a_latent_at_its_mean_in_proportion_to_the_scale():
    # 2 kappa sigma, kappa being the integral of -log2 of the normal cumulative from 0 on
    kappa = quad(lambda t: -special.log_ndtr(t) / math.log(2), 0, 12)[0]
    assert kappa == pytest.approx(0.688938, abs=1e-6)
    for sigma in (0.05, 0.11, 0.15):
        assert noisy_bits(0.0, sigma) / sigma == pytest.approx(1.37788, abs=2e-4)


def test_noise_charges_narrow_matched_latents_in_proportion_too():
    sigma = 0.01
    y, weight = special.roots_hermitenorm(60)
    mean = sum(w * noisy_bits(sigma * v, sigma) for v, w in zip(y, weight, strict=True))
    assert mean / weight.sum() / sigma == pytest.approx(2.60608, abs=1e-3)


def student_rates(bounds: list[float]) -> dict[float, float]:
    """The mean rate of rounded Student-t(3) latents, each scale as noise would learn it.

    The experiment: 26 deviations from 0.01 to 1.5; the Gaussian scale that has the least rate with
    noise, but at least the bound; the rate of rounding at that scale, at most 29.9 bits a symbol.
    """
    totals = dict.fromkeys(bounds, 0.0)
    for deviation in np.geomspace(0.01, 1.5, 26):
        law = stats.t(3, scale=deviation / math.sqrt(3))
        # The density of latent plus noise on a grid that is fine near the center.
        fine = deviation / math.sqrt(3) * np.sinh(np.linspace(0, 12, 1500))
        grid = np.unique(
            np.concatenate(
                [fine[fine < 60], np.linspace(0, 60, 4001), 0.5 + fine, np.abs(0.5 - fine)]
            )
        )
        grid = grid[grid < 60]
        v = (grid[1:] + grid[:-1]) / 2
        weight = np.diff(grid) * (law.sf(v - 0.5) - law.sf(v + 0.5)) * 2
        k = np.arange(1, 400)
        symbols = np.concatenate([[1 - 2 * law.sf(0.5)], 2 * (law.sf(k - 0.5) - law.sf(k + 0.5))])

        def floored(values: np.ndarray, scale: float) -> np.ndarray:
            return -np.log2(np.maximum(exact_mass(Gaussian(), values, scale), 1e-9))

        def noisy(log_scale: float, weight=weight, v=v, floored=floored) -> float:
            return float((weight * floored(v, math.exp(log_scale))).sum())

        best = math.exp(
            minimize_scalar(noisy, bounds=(math.log(1e-3), math.log(3)), method="bounded").x
        )
        for bound in bounds:
            rate = (symbols * floored(np.arange(400), max(best, bound))).sum()
            totals[bound] += float(rate) / 26
    return totals


def test_a_bound_repairs_the_scales_that_noise_learns_for_heavy_tails():
    rates = student_rates([1e-6, 0.11, 0.15, 0.20, 0.25])
    assert rates[0.15] < rates[0.11] < rates[1e-6]
    assert rates[0.25] > rates[0.11]
    wanted = {1e-6: 0.5514, 0.11: 0.5495, 0.15: 0.5472, 0.20: 0.5532, 0.25: 0.5797}
    for bound, rate in wanted.items():
        assert rates[bound] == pytest.approx(rate, abs=0.002)
