"""What tells one surrogate from another, and what a pair of paths does with a prior's center."""

import dataclasses

import pytest
import torch

from lictor.errors import ConfigError
from lictor.layers.quantize.catalogue import SURROGATES, mixed, noise, straight_through
from lictor.layers.quantize.noise import Draw
from lictor.layers.quantize.paths import AdditiveNoise, AnnealedDither, StraightThrough
from lictor.layers.quantize.schedule import LinearTemperature
from lictor.layers.quantize.surrogate import MEAN_GRADIENTS, Surrogate
from lictor.priors.conditional import GaussianPrior
from lictor.priors.factorized import FactorizedPrior

PLAIN = FactorizedPrior(3)


def draw(seed: int = 0) -> Draw:
    """Return what draws noise, the same from the same seed on."""
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.empty_like(like).uniform_(-0.5, 0.5, generator=generator)


@pytest.fixture
def residual() -> torch.Tensor:
    return 5 * torch.randn(2, 3, 8, 8)


def test_additive_noise_shows_the_synthesis_what_it_charges_for(residual):
    for_synthesis, for_rate = noise()(residual, PLAIN, ())
    assert torch.equal(for_synthesis, for_rate)
    assert not torch.equal(for_rate, for_rate.round())


def test_straight_through_is_hard_rounding_on_both_paths(residual):
    for_synthesis, for_rate = straight_through()(residual, PLAIN, ())
    assert torch.equal(for_synthesis, residual.round())
    assert torch.equal(for_rate, residual.round())


def test_mixed_rounds_for_the_synthesis_and_adds_noise_for_the_rate(residual):
    for_synthesis, for_rate = mixed()(residual, PLAIN, (), draw(3))
    assert torch.equal(for_synthesis, residual.round())
    assert torch.equal(for_rate, noise()(residual, PLAIN, (), draw(3))[1])


def test_noise_is_uniform_on_the_unit_interval():
    drawn = AdditiveNoise().noise(torch.zeros(100_000), draw())
    for power, moment in ((1, 0.0), (2, 1 / 12), (3, 0.0), (4, 1 / 80)):
        assert abs(float((drawn**power).mean()) - moment) < 0.004
    assert drawn.min() < -0.499
    assert drawn.max() > 0.499


def test_the_table_takes_the_settings_of_a_surrogate_and_no_others():
    assert SURROGATES["mixed"](mean_gradient="recon") == mixed("recon")
    with pytest.raises(ConfigError, match=r"mean_gradient = 'some' must be none, recon or full"):
        SURROGATES["mixed"](mean_gradient="some")
    with pytest.raises(ConfigError, match=r"'mean_grad'.*did you mean 'mean_gradient'"):
        SURROGATES["mixed"](mean_grad="none")


# --------------------------------------------------------------------------- one draw, or two


def test_equal_paths_share_one_draw_and_others_draw_their_own(residual):
    paths = AnnealedDither(0.5), AnnealedDither(0.5)
    shared = Surrogate(*paths, mean_gradient="full")(residual, PLAIN, (), draw())
    assert torch.equal(*shared)
    apart = Surrogate(AnnealedDither(1.0), AdditiveNoise())(residual, PLAIN, (), draw())
    # At temperature 1 both move by noise alone: the two noises must not be one.
    first, second = (path - residual for path in apart)
    both = torch.stack([first.flatten(), second.flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.2


# ------------------------------------------------------------------------------- annealed dither


def test_annealed_dither_is_noise_at_one_end_and_rounding_at_the_other(residual):
    path = AnnealedDither(0.0)
    drawn = path.noise(residual, draw())
    assert torch.equal(path(residual, drawn), residual.round())
    y = torch.linspace(-3, 3, 200_001)
    error = AnnealedDither(1.0)(y, AnnealedDither().noise(y, draw())) - y
    assert error.abs().max() <= 0.5 + 1e-5
    for power, moment in ((1, 0.0), (2, 1 / 12), (4, 1 / 80)):
        assert abs(float((error**power).mean()) - moment) < 0.003


@pytest.mark.parametrize("temperature", [0.1, 0.25, 0.5, 0.75])
def test_annealed_dither_has_the_moments_that_its_formula_implies(temperature):
    # For a uniform fractional part: E(v - y)^2 = 1/12 whatever the temperature, and
    # E(v - round(y))^2 = t/4 - t^2/12.
    y = 6 * draw(1)(torch.zeros(400_000))
    path = AnnealedDither(temperature)
    drawn = path.noise(y, draw(2))
    value = path(y, drawn)
    assert float((value - y).square().mean()) == pytest.approx(1 / 12, rel=0.01)
    expected = temperature / 4 - temperature**2 / 12
    assert float((value - y.round()).square().mean()) == pytest.approx(expected, rel=0.02)
    whole = value + temperature * drawn
    assert torch.allclose(whole, whole.round(), atol=1e-5)


def test_the_temperature_of_a_pair_is_that_of_the_moment(residual):
    annealed = Surrogate(AnnealedDither(), AdditiveNoise(), temperature=LinearTemperature())
    assert annealed.at(0.3).synthesis == AnnealedDither(1.0)
    assert annealed.at(0.825).synthesis == AnnealedDither(0.5)
    assert annealed.at(1.0).synthesis == AnnealedDither(0.0)
    assert annealed.at(1.0).rate == AdditiveNoise()
    assert torch.equal(annealed.at(1.0)(residual, PLAIN, (), draw())[0], residual.round())
    assert mixed().at(0.5) == mixed()
    with pytest.raises(ConfigError, match="temperature"):
        dataclasses.replace(mixed(), temperature=LinearTemperature())
    with pytest.raises(ConfigError, match=r"temperature = 1\.5"):
        AnnealedDither(1.5)


def test_a_linear_temperature_holds_its_ends_and_never_jumps():
    line = LinearTemperature(1.0, 0.25, 0.5, 0.75)
    assert [line(p) for p in (0.0, 0.5, 0.625, 0.75, 1.0)] == [1.0, 1.0, 0.625, 0.25, 0.25]
    step = LinearTemperature(0.8, 0.1, 0.5, 0.5)
    assert [step(0.5), step(0.500001)] == [0.8, 0.1]
    for first, last in ((0.9, 0.5), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(ConfigError, match="of the run"):
            LinearTemperature(first=first, last=last)


# --------------------------------------------------------------------- gradients of the center


@dataclasses.dataclass(frozen=True)
class _Doubling:
    """A path whose jacobian is 2, not 1: what the center's two places get does not cancel."""

    def noise(self, like, draw):
        return None

    def __call__(self, residual, noise):
        return residual.round().detach() + 2 * (residual - residual.detach())


@pytest.mark.parametrize("pair", [(StraightThrough(), AdditiveNoise()), (_Doubling(), _Doubling())])
def test_the_gradient_of_a_mean_is_what_its_name_says_and_values_are_alike(pair):
    # With jacobian J: dD/dy = J; dD/dmu is 0 (none), 1 (recon), 1 - J (full).
    jacobian = 2.0 if isinstance(pair[0], _Doubling) else 1.0
    latent, mean, scale = (torch.rand(1, 2, 3, 3) + 0.5 for _ in range(3))
    values = []
    for mode in MEAN_GRADIENTS:
        y, mu = latent.clone().requires_grad_(), mean.clone().requires_grad_()
        surrogate = Surrogate(*pair, mean_gradient=mode)
        y_hat, for_rate = surrogate(y, GaussianPrior(), (mu, scale), draw())
        to_y, to_mu = torch.autograd.grad(
            y_hat.sum(), (y, mu), retain_graph=True, allow_unused=True
        )
        wanted = {"none": 0.0, "recon": 1.0, "full": 1 - jacobian}[mode]
        assert torch.equal(to_y, torch.full_like(y, jacobian))
        if to_mu is None:
            assert wanted == 0
        else:
            assert torch.equal(to_mu, torch.full_like(mu, wanted))
        # The rate always reaches the means, else nothing would train them.
        rate_jacobian = 2.0 if isinstance(pair[1], _Doubling) else 1.0
        (rate_to_mu,) = torch.autograd.grad(for_rate.sum(), mu)
        assert torch.equal(rate_to_mu, torch.full_like(mu, -rate_jacobian))
        values.append((y_hat.detach(), for_rate.detach()))
    assert all(torch.equal(a, b) for pair in values for a, b in zip(pair, values[0], strict=True))


def test_an_unknown_mean_gradient_is_refused():
    with pytest.raises(ConfigError, match=r"mean_gradient = 'some'.*none, recon, full"):
        Surrogate(StraightThrough(), AdditiveNoise(), mean_gradient="some")
