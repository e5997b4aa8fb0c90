"""Every path by name: its limits, its moments, its slope; and what pairs are refused."""

import dataclasses

import numpy as np
import pytest
import torch

from lictor.errors import ConfigError
from lictor.layers.quantize.catalogue import PATHS, SUA_VARIANTS, SURROGATES, pair, sua
from lictor.layers.quantize.noise import Draw
from lictor.layers.quantize.paths import AdditiveNoise, Path, UniversalQuantization
from lictor.layers.quantize.schedule import ExponentialTemperature, LinearTemperature
from lictor.layers.quantize.soft import (
    NoisySoftRound,
    SoftAssignment,
    SoftGradientRound,
    kumaraswamy,
    soft_round,
    soft_round_inverse,
)
from lictor.layers.quantize.surrogate import Surrogate
from lictor.priors.conditional import GaussianPrior

SAMPLES = 1_000_000
EVERY = pytest.mark.parametrize("name", PATHS)
TEMPERED = [n for n, c in PATHS.items() if "temperature" in vars(c())]


def draw(seed: int = 0) -> Draw:
    """Return what draws noise, the same from the same seed on."""
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.empty_like(like).uniform_(-0.5, 0.5, generator=generator)


def at(name: str, temperature: float) -> Path:
    """Return a path at a temperature."""
    path = PATHS[name]()
    assert dataclasses.is_dataclass(path)
    assert not isinstance(path, type)
    return dataclasses.replace(path, temperature=temperature)


def latents(samples: int = SAMPLES) -> torch.Tensor:
    """Return latents with a uniform fractional part, one to a picture."""
    return 8 * draw(7)(torch.empty(samples, 1, dtype=torch.float64))


def value_and_slope(path: Path, y: torch.Tensor, seed: int = 0):
    """Return a path's value and its derivative at latents."""
    held = y.clone().requires_grad_()
    value = path(held, path.noise(held, draw(seed)))
    (slope,) = torch.autograd.grad(value.sum(), held)
    return value.detach(), slope


# ------------------------------------------------------------------------------------ every path


@EVERY
def test_a_step_of_the_latent_is_a_step_of_the_value(name):
    path, y = PATHS[name](), latents(1000)
    noise = path.noise(y, draw())
    assert torch.allclose(path(y + 3, noise), path(y, noise) + 3, atol=1e-9)


@EVERY
def test_the_mean_slope_is_that_of_the_identity(name):
    # v(y + 1) = v(y) + 1 says so, whatever the path. Steep ones have few and large slopes; a soft
    # assignment looks at five integers only.
    _, slope = value_and_slope(PATHS[name](), latents())
    assert float(slope.mean()) == pytest.approx(1, abs=0.02)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_slopes_are_finite_at_integers_and_between(name, dtype):
    y = torch.arange(-8, 9, dtype=dtype).div(4).unsqueeze(1)
    path = PATHS[name]()
    for noise in (-0.5, 0.0, 0.49609375):
        held = y.clone().requires_grad_()
        given = path.noise(held, lambda like, value=noise: torch.full_like(like, value))
        value = path(held, given)
        (slope,) = torch.autograd.grad(value.sum(), held)
        assert value.dtype == dtype
        assert value.isfinite().all()
        assert slope.isfinite().all()
        assert float((value.detach() - y).abs().max()) <= 1.0


@pytest.mark.parametrize("name", TEMPERED)
def test_cold_is_rounding(name):
    offset = torch.linspace(-0.49, 0.49, 199, dtype=torch.float64).unsqueeze(1)
    y = torch.cat([n + offset for n in (-2, 0, 5)])
    for seed in range(3):
        value, _ = value_and_slope(at(name, 1e-4), y, seed)
        assert torch.allclose(value, y.round(), atol=1e-3)
        value, _ = value_and_slope(at(name, 0.0), y, seed)
        assert torch.allclose(value, y.round(), atol=1e-6)


@pytest.mark.parametrize("name", TEMPERED)
def test_a_temperature_out_of_range_is_refused(name):
    for wrong in (-0.1, 2000.0, float("nan")):
        with pytest.raises(ConfigError, match=r"temperature = .* must be from 0 to"):
            at(name, wrong)


# -------------------------------------------------------------------------------------- moments


# For a uniform fractional part: E(v - round(y))^2, E(v - y)^2, and the variance of the slope.
MOMENTS = {
    ("noise", None): (1 / 6, 1 / 12, 0),
    ("universal", None): (1 / 6, 1 / 12, 0),
    ("straight-through", None): (0, 1 / 12, 0),
    ("stochastic", None): (1 / 4, 1 / 6, 0),
    ("stochastic-annealed", 0.5): (0.2125, 0.1472, 0),
    ("stochastic-annealed", 0.25): (0.1218, 0.1068, 0),
    ("stochastic-annealed", 0.1): (0.0513, 0.0878, 0),
    ("sga", 0.5): (0.164, 0.0887, None),
    ("sga", 0.2): (0.0878, 0.0858, None),
    **{("sua", t): (t / 4 - t**2 / 12, 1 / 12, 0) for t in (0.1, 0.5, 1.0)},
    **{("sua-a", t): (t**2 / 6, ((1 - t) ** 2 + t**2) / 12, 0) for t in (0.1, 0.5, 1.0)},
    **{("sua-d", t): (t / 4, (1 + t**2) / 12, 0) for t in (0.1, 0.5, 1.0)},
    # The mean of what was meant: the error of a uniform latent is 1/12 at every temperature.
    **{("soft-round-noise", t): (None, 1 / 12, None) for t in (0.15, 0.5, 2.0)},
    **{("sua-c", t): (None, 1 / 12, None) for t in (0.15, 0.5, 1.0)},
}


@pytest.mark.parametrize(("key", "expected"), MOMENTS.items(), ids=str)
def test_moments_are_those_of_the_formula(key, expected):
    name, temperature = key
    path = PATHS[name]() if temperature is None else at(name, temperature)
    y = latents()
    value, slope = value_and_slope(path, y)
    measured = (
        float((value - y.round()).square().mean()),
        float((value - y).square().mean()),
        float(slope.var()),
    )
    for number, law in zip(measured, expected, strict=True):
        if law is not None:
            assert number == pytest.approx(law, rel=0.012, abs=1e-9)


def test_the_warm_end_is_additive_noise():
    y = latents(100_000)
    drawn = draw()(y)
    for name in ("sua-a", "sua-c"):
        assert torch.allclose(at(name, 1.0)(y, drawn), y + drawn, atol=1e-12)
    for name in ("sua", "universal"):
        path = PATHS[name]()
        error = (path(y, drawn) - y).flatten().numpy()
        ordered = np.sort(error) + 0.5
        gap = np.abs(ordered - np.linspace(0, 1, len(ordered))).max()
        assert gap < 1.95 / len(ordered) ** 0.5  # Kolmogorov and Smirnov, one in a thousand
    assert torch.allclose(NoisySoftRound(1000.0)(y, drawn), y + drawn, atol=1e-3)


def test_dithered_rounding_rounds_up_with_the_probability_of_the_fraction():
    y = torch.full((SAMPLES, 1), 2.3, dtype=torch.float64)
    value, _ = value_and_slope(at("sua-d", 1.0), y)
    assert set(value.unique().tolist()) == {2.0, 3.0}
    assert float(value.mean()) == pytest.approx(2.3, abs=0.003)


def test_stochastic_rounding_has_its_closed_form_at_one_half():
    # At t = 1/2 the probability of the upper integer is r (1 + r) / (2 (1 - r + r^2)).
    for r in (0.1, 0.3, 0.8):
        value, _ = value_and_slope(
            at("stochastic-annealed", 0.5), torch.full((SAMPLES, 1), r, dtype=torch.float64)
        )
        up = r * (1 + r) / (2 * (1 - r + r * r))
        assert float(value.mean()) == pytest.approx(up, abs=0.003)


def test_universal_quantization_dithers_a_picture_at_once():
    y = torch.randn(4, 3, 5, 7)
    path = UniversalQuantization()
    dither = path.noise(y, draw())
    assert dither.shape == (4, 1, 1, 1)
    whole = path(y, dither) + dither
    assert torch.allclose(whole, whole.round(), atol=1e-5)


# --------------------------------------------------------------------------------- soft rounding


def test_soft_rounding_is_monotone_and_fixes_integers_and_halves():
    y = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    fixed = torch.arange(-4, 5, dtype=torch.float64) / 2
    for alpha in (0.0, 0.5, 3.0, 7.0):
        soft = soft_round(y, alpha)
        assert (soft.diff() > 0).all()
        assert torch.allclose(soft_round(fixed, alpha), fixed, atol=1e-12)
        assert torch.allclose(soft_round_inverse(soft, alpha), y, atol=1e-4)
    assert torch.equal(soft_round(y, 0.0), y)


@pytest.mark.parametrize(
    "name", ["soft-round", "soft-round-noise", "sga", "deterministic-annealing", "soft-to-hard"]
)
@pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0])
def test_slopes_are_those_of_the_values(name, temperature):
    y, step = latents(500), 1e-6
    path = at(name, temperature)
    inside = (y - y.floor() - 0.5).abs() < 0.49
    noise = path.noise(y, draw())
    if noise is not None:  # away from where the noisy value changes bins
        noise = noise * 0.3
    held = y.clone().requires_grad_()
    (slope,) = torch.autograd.grad(path(held, noise).sum(), held)
    finite = (path(y + step, noise) - path(y - step, noise)) / (2 * step)
    assert torch.allclose(slope[inside], finite[inside], rtol=1e-3, atol=1e-4)


def test_a_hard_forward_keeps_the_soft_slope():
    y = latents(1000)
    for soft, hard in (
        (at("soft-round", 0.3), SoftGradientRound(0.3)),
        (SoftAssignment(0.3), SoftAssignment(0.3, hard=True)),
    ):
        value, slope = value_and_slope(hard, y)
        assert torch.equal(value, y.round())
        assert torch.allclose(slope, value_and_slope(soft, y)[1], atol=1e-12)
    # At its default the slope of dsq is that of the identity to three digits.
    assert float((value_and_slope(PATHS["dsq"](), y)[1] - 1).abs().max()) < 2e-3


@pytest.mark.parametrize(
    ("shape", "variance"),
    [(1.0, 0.0833), (1.5, 0.0604), (2.0, 0.0448), (3.0, 0.0263), (4.0, 0.0168)],
)
def test_kumaraswamy_noise_has_its_variance_and_its_mode_at_zero(shape, variance):
    uniform = draw()(torch.empty(2 * SAMPLES, dtype=torch.float64))
    noise = kumaraswamy(uniform, shape)
    assert float(noise.var()) == pytest.approx(variance, rel=0.01)
    assert float(noise.abs().max()) <= 0.5
    if shape == 1:
        assert torch.equal(noise, uniform)
        return
    counts = torch.histc(noise, bins=20, min=-0.5, max=0.5)
    assert int(counts.argmax()) in (9, 10)


# ------------------------------------------------------------------------------- the mean gradient


def test_the_expected_gradient_is_the_mean_of_the_gradients_of_noise():
    prior = GaussianPrior()
    residual = torch.linspace(-2, 2, 21).view(1, 1, 1, 21)
    scales = torch.full_like(residual, 0.4).requires_grad_()
    u = torch.linspace(-0.5, 0.5, 20_001)[:-1] + 0.5 / 20_000
    held = residual.clone().requires_grad_()
    spread = held.view(-1, 1) + u
    prior.bits(spread[None, None], (torch.full_like(spread, 0.4)[None, None],)).mean(
        -1
    ).sum().backward()
    mean = held.grad
    held.grad = None

    surrogate = pair(synthesis="straight-through", rate="expected-noise")
    params = (torch.zeros_like(held), scales)
    _, bits = surrogate.charge(held, prior, params, draw(5))
    bits.sum().backward()
    assert mean is not None
    assert torch.allclose(held.grad, mean, atol=2e-3)
    # Its value, and the gradient of the scales, are those of plain noise.
    other = scales.detach().clone().requires_grad_()
    _, plain = pair().charge(held.detach(), prior, (params[0], other), draw(5))
    plain.sum().backward()
    assert torch.equal(bits.detach(), plain.detach())
    assert torch.equal(scales.grad, other.grad)


# ------------------------------------------------------------------------------------------ pairs


LEAKS = [n for n, c in PATHS.items() if getattr(c(), "resolves_bins", False)]


def test_what_tells_positions_is_known():
    assert set(LEAKS) == {
        "identity", "sga", "deterministic-annealing", "soft-round", "soft-round-noise",
        "soft-to-hard", "kumaraswamy",
    }  # fmt: skip


@pytest.mark.parametrize("name", LEAKS)
def test_a_pair_that_leaks_is_refused_unless_forced(name):
    with pytest.raises(ConfigError, match="leaks"):
        pair(synthesis=name, rate="noise")
    forced = pair(synthesis=name, rate="noise", force=True)
    assert type(forced.synthesis) is type(PATHS[name]())
    if name != "identity":
        shared = pair(synthesis=name, rate=name)
        y = torch.randn(2, 3, 4, 4)
        for_synthesis, for_rate = shared(y, GaussianPrior(), (torch.ones_like(y),), draw())
        assert torch.equal(for_synthesis, for_rate)


def test_a_rate_of_nothing_quantized_is_refused():
    with pytest.raises(ConfigError, match="bounds nothing"):
        pair(synthesis="identity", rate="identity")


def test_a_pair_that_leaks_anywhere_on_its_way_is_refused():
    with pytest.raises(ConfigError, match="leaks"):
        sua(variant="A")  # noise at 1 and rounding at 0 are harmless, what is between is not
    with pytest.raises(ConfigError, match="leaks"):
        pair(synthesis="dsq", rate="universal", temperature=10.0, temperature_end=0.3)
    with pytest.raises(ConfigError, match=r"leaks.* or force it"):
        SURROGATES["dsq"](temperature_end=0.3)
    assert SURROGATES["dsq"](temperature_end=0.3, force=True).at(1.0).rate == (
        UniversalQuantization()
    )
    assert (
        sua(variant="A", shared=True).at(0.8).rate == sua(variant="A", force=True).at(0.8).synthesis
    )


@pytest.mark.parametrize("variant", SUA_VARIANTS)
def test_sua_goes_from_noise_to_rounding(variant):
    surrogate = sua(variant=variant, shared=True)
    y = torch.randn(64, 4, 8, 8)
    params = (torch.ones_like(y),)
    first, _ = surrogate.at(0.0)(y, GaussianPrior(), params, draw())
    last, _ = surrogate.at(1.0)(y, GaussianPrior(), params, draw())
    assert torch.allclose(last, y.round(), atol=1e-5)
    assert float((first - y.round()).square().mean()) > 0.1


def test_sua_by_default_keeps_additive_noise_for_the_rate():
    for progress in (0.0, 0.8, 1.0):
        assert sua().at(progress).rate == AdditiveNoise()


def test_settings_replace_what_a_surrogate_has_by_itself():
    sga = SURROGATES["sga"]
    assert sga().temperature == ExponentialTemperature(0.5, 0.1, 0.0, 1.0)
    assert sga(temperature_end=0.2).temperature == ExponentialTemperature(0.5, 0.2, 0.0, 1.0)
    assert sga(anneal="linear").temperature == LinearTemperature(0.5, 0.1, 0.0, 1.0)
    kept = SURROGATES["pair"](synthesis="sua", rate="noise", temperature=0.5)
    assert {float(vars(kept.at(p).synthesis)["temperature"]) for p in (0, 0.5, 1)} == {0.5}


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        (
            "sua",
            {"anneal_from": 0.9, "anneal_until": 0.2},
            r"anneal_until = 0\.2 must not be before anneal_from = 0\.9",
        ),
        ("sua", {"temperature": 1.5}, r"temperature = 1\.5 must be from 0 to 1"),
        ("sua", {"temperature_end": 2.0}, r"temperature = 2\.0 must be from 0 to 1"),
        ("sua", {"temperature_end": -1.0}, "at least 0"),
        ("sua", {"anneal": "exponential"}, "both must be positive"),
        ("sua", {"anneal_from": 0.97}, r"anneal_until = 0\.95 must not be before"),
        ("sua", {"variant": "E"}, "A, B, C or D"),
        ("sua", {"variant": "b"}, "A, B, C or D; did you mean 'B'"),
        ("pair", {"synthesis": "sgd"}, "must be identity, noise, .*; did you mean 'sga'"),
        ("pair", {"temperature_end": 0.1}, "where it begins"),
        ("pair", {"temperature": 0.1}, "takes none"),
    ],
)
def test_wrong_settings_are_refused_with_what_would_be_right(name, settings, words):
    with pytest.raises(ConfigError, match=words):
        SURROGATES[name](**settings)


def test_an_exponential_temperature_falls_in_equal_ratios():
    curve = ExponentialTemperature(0.8, 0.1, 0.2, 0.8)
    assert [curve(p) for p in (0.0, 0.2, 0.8, 1.0)] == [0.8, 0.8, 0.1, 0.1]
    assert curve(0.5) == pytest.approx((0.8 * 0.1) ** 0.5)
    ratios = [curve(p + 0.1) / curve(p) for p in (0.2, 0.4, 0.6)]
    assert ratios == pytest.approx([ratios[0]] * 3)


def test_equal_paths_are_one_sample_and_others_are_two():
    y = torch.randn(2, 3, 64, 64)
    prior, params = GaussianPrior(), (torch.ones_like(y),)
    for name in ("noise", "universal", "sga", "soft-round-noise", "kumaraswamy"):
        assert torch.equal(*SURROGATES[name]().at(0.5)(y, prior, params, draw()))
    apart = Surrogate(AdditiveNoise(), PATHS["sua"]())(y, prior, params, draw())
    first, second = (value - y for value in apart)
    both = torch.stack([first.flatten(), second.flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.05
