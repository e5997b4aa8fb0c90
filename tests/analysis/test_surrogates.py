"""Stand-ins for rounding: closed forms, laws, and figures that were derived by other means."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from lictor.analysis.surrogates.means import mean_gradient, true_mean_gradient
from lictor.analysis.surrogates.moments import path_curve, path_moments
from lictor.analysis.surrogates.rate import (
    SOURCES,
    SPREADS,
    best_scales,
    bounded_rates,
    gaussian_log_bits,
    noise_rate,
    round_rate,
)
from lictor.analysis.surrogates.risk import (
    LINEAR,
    ROUGH,
    RateLoss,
    gradient_risk,
    thetas,
    through,
    true_gradient,
    uniform_draw,
)
from lictor.analysis.surrogates.toy import ToySettings, banana, train_toy
from lictor.errors import ConfigError
from lictor.layers.quantize.catalogue import PATHS, SURROGATES
from lictor.layers.quantize.gumbel import GumbelAnnealing
from lictor.layers.quantize.paths import (
    AdditiveNoise,
    AnnealedDither,
    DitheredRounding,
    ExpectedGradientNoise,
    ShrinkingNoise,
    StochasticRounding,
    StraightThrough,
    UniversalQuantization,
)
from lictor.layers.quantize.schedule import LinearTemperature
from lictor.layers.quantize.soft import NoisySoftRound, SoftGradientRound, SoftRound
from lictor.layers.quantize.surrogate import Surrogate
from lictor.priors.conditional import GaussianPrior

QUADRATIC = LINEAR  # of a linear decoder


def risk(path, loss=ROUGH, spread=1.0, samples=20_000, seed=0):
    return gradient_risk(
        through(path), loss, spread, places=thetas(), samples=samples, seed=seed
    )  # fmt: skip


# Moments


@pytest.mark.parametrize(
    ("path", "mismatch", "error"),
    [
        (AdditiveNoise(), 1 / 6, 1 / 12),
        (ExpectedGradientNoise(), 1 / 6, 1 / 12),
        (UniversalQuantization(), 1 / 6, 1 / 12),
        (StraightThrough(), 0, 1 / 12),
        (SoftGradientRound(0.2), 0, 1 / 12),
        *((AnnealedDither(t), t / 4 - t**2 / 12, 1 / 12) for t in (0.75, 0.5, 0.25, 0.1)),
        *((DitheredRounding(t), t / 4, (1 + t**2) / 12) for t in (1.0, 0.5)),
        *((ShrinkingNoise(t), t**2 / 6, ((1 - t) ** 2 + t**2) / 12) for t in (0.75, 0.5, 0.25)),
        (StochasticRounding(0.25), 0.1218, 0.1068),
        (GumbelAnnealing(0.2), 0.0878, 0.0858),
        (SoftRound(0.2), 0.0378, 0.0171),
        (NoisySoftRound(0.2), 0.104, 1 / 12),
    ],
)
def test_moments(path, mismatch, error):
    found = path_moments(path, samples=200_000, seed=0)
    assert found.mismatch == pytest.approx(mismatch, rel=0.015, abs=1e-12)
    assert found.error == pytest.approx(error, rel=0.015)


def test_jacobians_are_one_on_average_and_vary_as_they_should():
    for name in PATHS:
        path = PATHS[name]()
        found = path_moments(path, samples=200_000, seed=1)
        deviation = math.sqrt(found.var_jacobian / 200_000)
        assert abs(found.mean_jacobian - 1) < 6 * deviation + 1e-2, name
    assert path_moments(AnnealedDither(0.3), samples=1000, seed=0).var_jacobian == 0
    soft = path_moments(SoftRound(0.2), samples=200_000, seed=0)
    assert (soft.var_jacobian, soft.max_jacobian) == pytest.approx((0.711, 2.53), rel=0.02)
    assert path_moments(SoftGradientRound(0.2), samples=200_000, seed=0).var_jacobian == (
        pytest.approx(soft.var_jacobian, rel=1e-9)
    )


def test_a_curve_is_a_path_at_each_place():
    y = torch.linspace(-1.2, 1.2, 25, dtype=torch.float64)
    curve = path_curve(StraightThrough(), y, samples=3, seed=0)
    assert torch.equal(curve.value, y.round())
    assert torch.equal(curve.value_band[0], curve.value_band[1])
    noisy = path_curve(AdditiveNoise(), y, samples=4000, seed=0)
    assert torch.allclose(noisy.value, y, atol=0.03)
    assert torch.allclose(
        noisy.value_band[1] - noisy.value_band[0], torch.tensor(0.8).double(), atol=0.05
    )


# Risk


@pytest.mark.parametrize("loss", [LINEAR, ROUGH, RateLoss(0.3)])
@pytest.mark.parametrize("spread", [0.2, 1.0])
def test_the_true_gradient_is_that_of_the_expected_loss(loss, spread):
    def expected(theta):
        k = torch.arange(-20, 21, dtype=torch.float64)
        edges = (torch.cat([k - 0.5, k[-1:] + 0.5]) - theta) / spread
        return float((torch.special.ndtr(edges).diff() * loss(k)).sum())

    theta, step = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64), 1e-5
    slopes = [(expected(t + step) - expected(t - step)) / (2 * step) for t in theta]
    assert true_gradient(loss, theta, spread).tolist() == pytest.approx(slopes, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    "path",
    [
        AdditiveNoise(), UniversalQuantization(), StraightThrough(), AnnealedDither(0.5),
        ShrinkingNoise(0.5), ExpectedGradientNoise(), GumbelAnnealing(0.5), SoftRound(0.3),
        NoisySoftRound(0.3),
    ],
)  # fmt: skip
def test_without_roughness_no_gradient_is_biased(path):
    found = risk(path, QUADRATIC)
    assert abs(found.squared_bias) < 5 * found.bias_error + 1e-4 * found.scale


def test_bias_and_variance_on_a_rough_decoder():
    noise, straight = risk(AdditiveNoise()), risk(StraightThrough())
    assert 0.04 < noise.relative_bias < 0.07
    assert 2.2 < straight.relative_bias < 2.5
    assert noise.relative_variance == pytest.approx(17.5, rel=0.05)
    assert straight.relative_variance == pytest.approx(6.1, rel=0.05)
    assert straight.mismatch == 0
    assert noise.mismatch == pytest.approx(0.202, abs=0.01)
    # A large batch divides variance alone: what is better at one sample is worse at many.
    assert noise.relative_risk(1) > straight.relative_risk(1)
    assert noise.relative_risk(16) < straight.relative_risk(16)


def test_temperature_trades_bias_for_mismatch():
    found = [risk(AnnealedDither(t)) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert np.all(np.diff([r.relative_bias for r in found]) < 0)
    assert np.all(np.diff([r.mismatch for r in found]) > 0)
    assert np.all(np.diff([r.variance for r in found]) > 0)
    ends = risk(StraightThrough()), risk(UniversalQuantization())
    for end, reached in zip(ends, (found[0], found[-1]), strict=True):
        assert reached.variance == pytest.approx(end.variance, rel=0.03)
        assert reached.squared_bias == pytest.approx(end.squared_bias, rel=0.05, abs=0.03)


def test_variance_of_gumbel_annealing_rises_as_it_cools():
    cold, cool, noise = (
        risk(path, QUADRATIC)
        for path in (GumbelAnnealing(0.1), GumbelAnnealing(0.2), AdditiveNoise())
    )
    assert cold.variance > cool.variance > noise.variance


def test_the_mean_gradient_has_the_bias_of_noise_and_less_variance():
    noise, mean = risk(AdditiveNoise()), risk(ExpectedGradientNoise())
    assert mean.squared_bias == pytest.approx(noise.squared_bias, abs=4 * noise.bias_error)
    assert mean.relative_variance == pytest.approx(8.5, rel=0.05)


def test_risk_of_the_rate():
    places = thetas(20, 0.5) + 0.0125
    for scale, truth, noise, straight in ((0.3, 3.87, 1.36, 1.40), (0.11, 29.6, 20.9, 20.1)):
        for path, bias in ((AdditiveNoise(), noise), (StraightThrough(), straight)):
            found = gradient_risk(
                through(path), RateLoss(scale), scale, places=places, samples=10_000, seed=0
            )
            assert found.scale**0.5 == pytest.approx(truth, rel=0.005)
            assert found.squared_bias**0.5 == pytest.approx(bias, rel=0.03)


def test_a_risk_needs_samples():
    with pytest.raises(ConfigError, match="at least 2 samples"):
        risk(AdditiveNoise(), samples=1)


# Rates


@pytest.mark.parametrize("scale", [0.11, 0.5, 3.0, 64.0])
def test_bits_are_those_of_a_distribution(scale):
    k = torch.arange(-600, 601, dtype=torch.float64)
    bits = gaussian_log_bits(k, scale)
    assert float((-bits * math.log(2)).exp().sum()) == pytest.approx(1, abs=1e-6)
    assert torch.equal(bits, bits.flip(0))


def test_bits_where_they_are_extreme():
    values = torch.tensor([0.0, 1.0, 2.0, 50.0], dtype=torch.float64, requires_grad=True)
    bits = gaussian_log_bits(values, 0.11)
    assert bits.tolist()[:3] == pytest.approx([7.908e-6, 18.477, 139], rel=5e-3)
    bits.sum().backward()
    assert values.grad is not None
    assert bool(torch.isfinite(values.grad).all())
    # For y far out the mass ends at its nearer edge: bits are those of a normal tail.
    tail = -torch.special.log_ndtr(torch.tensor(-49.5 / 0.11).double()) / math.log(2)
    assert float(bits[3].detach()) == pytest.approx(float(tail), rel=1e-9)


def test_rates_of_a_matched_gaussian():
    gaussian = SOURCES["gaussian"]
    table = {0.05: (0.1303, 0), 0.11: (0.2867, 1e-4), 0.2: (0.5212, 0.1089), 0.5: (1.2544, 1.2412)}
    for scale, (noise, rounded) in table.items():
        assert noise_rate(gaussian, scale, scale) == pytest.approx(noise, abs=1e-4)
        assert round_rate(gaussian, scale, scale) == pytest.approx(rounded, abs=1e-4)
    assert noise_rate(gaussian, 0.02, 0.02) / 0.02 == pytest.approx(2.60608, abs=1e-4)
    for scale in (0.75, 1.0, 2.0):
        assert noise_rate(gaussian, scale, scale) == pytest.approx(
            round_rate(gaussian, scale, scale), abs=1e-4
        )


def test_the_scale_that_is_best_with_noise_is_too_narrow_for_heavy_tails():
    spreads = np.array([0.033, 0.061, 0.111, 0.202])
    student = best_scales(SOURCES["student"], spreads)
    assert student.noise == pytest.approx([0.034, 0.062, 0.113, 0.204], abs=0.001)
    assert student.rounding == pytest.approx([0.127, 0.145, 0.178, 0.218], abs=0.004)
    gaussian = best_scales(SOURCES["gaussian"], np.array([0.3]))
    assert gaussian.noise == pytest.approx([0.3], abs=0.003)
    assert gaussian.rounding == pytest.approx([0.3], abs=0.001)
    with pytest.raises(ConfigError, match=r"0\.01 to 2"):
        best_scales(SOURCES["student"], np.array([0.001]))


def test_a_bound_of_the_scale_helps_until_it_taxes_every_zero():
    bounds = np.array([1e-6, 0.11, 0.15, 0.25])
    without, customary, wide, too_wide = bounded_rates(
        SOURCES["student"], best_scales(SOURCES["student"], SPREADS), bounds
    )
    assert wide < customary < without
    assert too_wide > customary
    assert [without, customary, wide, too_wide] == pytest.approx(
        [0.5514, 0.5495, 0.5472, 0.5797], abs=0.002
    )


# Gradients of means


def both(path, mode):
    return Surrogate(path, path, mode)


@pytest.mark.parametrize(
    "path", [AdditiveNoise(), StraightThrough(), UniversalQuantization(), AnnealedDither(0.4)]
)
def test_a_mean_hears_nothing_unless_it_is_a_level(path):
    for mode in ("none", "full"):
        found = mean_gradient(both(path, mode), 0.15, 0.1, samples=1000, seed=0)
        assert max(abs(found.mean), found.deviation) < 1e-12


def test_no_gradient_reaches_a_mean_that_is_held_whatever_the_path():
    found = mean_gradient(both(GumbelAnnealing(0.5), "none"), 0.15, 0.1, samples=1000, seed=0)
    assert (found.mean, found.deviation) == (0, 0)


@pytest.mark.parametrize(
    ("spread", "offset", "value"),
    [(0.15, 0.1, -0.192), (0.15, 0.25, -0.404), (0.3, 0.25, -0.108), (1.0, 0.3, 0.0)],
)
def test_a_level_of_reconstruction_hears_the_truth(spread, offset, value):
    def distortion(center):
        y = torch.linspace(-12, 12, 400_001, dtype=torch.float64) * spread + offset
        weights = torch.exp(-0.5 * ((y - offset) / spread).square())
        error = ((y - center).round() - (y - center)).square()
        return float((weights * error).sum() / weights.sum())

    slope = (distortion(1e-3) - distortion(-1e-3)) / 2e-3
    truth = true_mean_gradient(spread, offset)
    assert truth == pytest.approx(value, abs=6e-4)
    assert truth == pytest.approx(slope, abs=2e-3)
    found = mean_gradient(both(StraightThrough(), "recon"), spread, offset, samples=20_000, seed=0)
    assert abs(found.mean - truth) < 4 * found.standard_error
    assert found.deviation > 0.25


def test_what_goes_through_a_random_jacobian_is_noise():
    found = mean_gradient(both(GumbelAnnealing(0.5), "full"), 0.15, 0.1, samples=50_000, seed=0)
    # Tails are so heavy that no figure of the deviation is stable: many times the signal.
    assert found.deviation > 5 * abs(found.truth) > 0.9
    at_high_rate = mean_gradient(
        both(GumbelAnnealing(0.2), "full"), 1.0, 0.3, samples=50_000, seed=0
    )
    assert abs(at_high_rate.mean) < 4 * at_high_rate.standard_error
    assert 1.2 < at_high_rate.deviation < 3


@pytest.mark.parametrize("mode", ["none", "recon", "full"])
def test_the_rate_always_reaches_the_means(mode):
    prior, generator = GaussianPrior(), torch.Generator().manual_seed(0)
    y = torch.randn((500, 1, 1, 1), generator=generator, dtype=torch.float64).requires_grad_()
    means = torch.zeros_like(y, requires_grad=True)
    params = (means, torch.full_like(y, 0.6).detach())
    _, bits = both(AdditiveNoise(), mode).charge(y, prior, params, uniform_draw(generator))
    to_y, to_means = torch.autograd.grad(bits.sum(), (y, means))
    assert float(to_means.abs().max()) > 0.1
    assert torch.allclose(to_means, -to_y)


# Toy codecs

FEW = ToySettings(steps=100, batch=128, replicas=2, test_points=5000, hidden=0)


def test_the_strip_is_bent_and_centered():
    x = banana((200_000,), torch.Generator().manual_seed(0))
    cosine, sine = math.cos(0.5), math.sin(0.5)
    along, bent = cosine * x[:, 0] + sine * x[:, 1], cosine * x[:, 1] - sine * x[:, 0]
    assert float(along.std()) == pytest.approx(3, rel=0.02)
    assert float(bent.mean()) == pytest.approx(0, abs=0.02)
    assert float((bent - 0.1 * along.square() + 0.9).std()) == pytest.approx(0.5, rel=0.02)


@pytest.mark.slow
def test_a_toy_codec_learns_and_its_seed_decides():
    found = train_toy(SURROGATES["noise"](), FEW, seed=0)
    again = train_toy(SURROGATES["noise"](), FEW, seed=0)
    other = train_toy(SURROGATES["noise"](), FEW, seed=1)
    assert found == again != other
    start = train_toy(SURROGATES["noise"](), dataclasses.replace(FEW, steps=1), seed=0)
    assert max(found.test) < min(start.test) - 0.1
    assert found.test[0] != found.test[1]
    losses = np.array(found.test_bits) + FEW.lmbda * np.array(found.test_error)
    assert losses == pytest.approx(found.test, rel=1e-6)


def test_means_and_gaps_are_those_of_the_replicas():
    few = dataclasses.replace(FEW, hidden=4)
    a = train_toy(SURROGATES["straight-through"](), few, seed=0)
    assert len(set(a.test)) == 2
    assert a.mean == pytest.approx(sum(a.test) / 2)
    assert a.gap == pytest.approx(sum(a.train) / 2 - a.mean)


@pytest.mark.slow
def test_a_synthesis_that_sees_what_is_not_charged_raises_the_alarm():
    schedule = LinearTemperature(1.0, 0.1, 0.0, 0.95)
    leaking = Surrogate(SoftRound(), AdditiveNoise(), temperature=schedule, force=True)
    settings = dataclasses.replace(FEW, steps=600, lmbda=0.5)
    leak, honest = (
        train_toy(surrogate, settings, seed=0) for surrogate in (leaking, SURROGATES["mixed"]())
    )
    assert leak.leaks
    assert not honest.leaks
    assert leak.gap < -0.4 < honest.gap


def test_settings_of_a_toy_codec_are_checked():
    with pytest.raises(ConfigError, match="at least 1"):
        ToySettings(steps=0)
    with pytest.raises(ConfigError, match="lmbda"):
        ToySettings(lmbda=0.0)
