"""Soft choices of integers: their limits, their moments, their gradients in closed form."""

import math

import pytest
import torch

from lictor.errors import ConfigError
from lictor.layers.quantize.gumbel import (
    GumbelAnnealing,
    LinearWeight,
    LogitScore,
    SigmoidWeight,
    ThreeWayGumbelAnnealing,
    annealed,
    atanh_score,
    cosine_score,
    gumbel,
    logistic,
)
from lictor.layers.quantize.noise import draw_anew

SCORES = (atanh_score, cosine_score, LogitScore(), LogitScore(4 / 3))
PATHS = [
    *(lambda t, s=score: GumbelAnnealing(t, s) for score in SCORES),
    *(
        lambda t, w=weight: ThreeWayGumbelAnnealing(t, w)
        for weight in (LinearWeight(), SigmoidWeight())
    ),
]
EVERY = pytest.mark.parametrize("path", PATHS)


@EVERY
def test_cold_it_is_rounding(path):
    integers = torch.randint(-20, 20, (50_000,)).double()
    residual = integers + 0.98 * (torch.rand(50_000).double() - 0.5)  # less than 0.49 away
    cold = path(1e-4)
    value = cold(residual, cold.noise(residual, draw_anew))
    assert (value - integers).abs().max() < 1e-3


@EVERY
@pytest.mark.parametrize("temperature", [0.5, 0.2])
def test_the_gradient_is_that_of_the_identity_on_average(path, temperature):
    residual = (10 * torch.rand(400_000).double()).requires_grad_()
    soft = path(temperature)
    soft(residual, soft.noise(residual, draw_anew)).sum().backward()
    grad = residual.grad
    assert float(grad.mean()) == pytest.approx(1, abs=5 * float(grad.std()) / 400_000**0.5)
    assert 5 * float(grad.std()) / 400_000**0.5 < 0.05


def test_moments_of_stochastic_gumbel_annealing():
    # By simulation, to three digits: E(v - round(y))^2 and E(v - y)^2 for a uniform fraction.
    known = {0.5: (0.164, 0.0887), 0.2: (0.0878, 0.0858), 0.1: (0.0479, 0.0841)}
    residual = 4 * torch.rand(1_000_000).double()
    for temperature, (from_integer, from_value) in known.items():
        value = GumbelAnnealing(temperature)(residual, draw_anew(residual))
        found = float((value - residual.round()).square().mean())
        assert found == pytest.approx(from_integer, rel=0.01)
        assert float((value - residual).square().mean()) == pytest.approx(from_value, rel=0.01)


def test_the_gradient_of_stochastic_gumbel_annealing_has_a_closed_form():
    residual = (3 + 0.01 + 0.98 * torch.rand(1000).double()).requires_grad_()
    value = GumbelAnnealing(0.4)(residual, draw_anew(residual))
    value.sum().backward()
    up, r = (value - 3).detach(), (residual - 3).detach()
    expected = up * (1 - up) / 0.4**2 * (1 / (1 - r**2) + 1 / (1 - (1 - r) ** 2))
    torch.testing.assert_close(residual.grad, expected)


@EVERY
def test_an_integer_of_steps_moves_the_choice_along(path):
    residual = torch.rand(1000).double()
    soft = path(0.5)
    noise = soft.noise(residual, draw_anew)
    torch.testing.assert_close(soft(residual + 7, noise), soft(residual, noise) + 7)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 1e-8, 0.0])
def test_an_integer_stays_and_has_no_gradient(score, temperature):
    residual = torch.arange(-3.0, 4.0).requires_grad_()
    value = GumbelAnnealing(temperature, score)(residual, 0.5 - 1e-7 * torch.ones(7))
    assert torch.equal(value, residual.detach())
    value.sum().backward()
    assert torch.equal(residual.grad, torch.zeros(7))


def test_scores_are_the_logarithms_of_what_they_say():
    r = torch.linspace(0.05, 0.95, 19).double()
    cosine = ((math.pi / 2 * (1 - r)).cos() ** 2 / (math.pi / 2 * r).cos() ** 2).log()
    torch.testing.assert_close(cosine_score(r), cosine)
    torch.testing.assert_close(LogitScore()(r), (r / (1 - r)).log())
    scaled = [torch.sigmoid(-1.4 * (d.log() - (1 - d).log())) for d in (1 - r, r)]
    torch.testing.assert_close(LogitScore(1.4)(r), (scaled[0] / scaled[1]).log())
    torch.testing.assert_close(LinearWeight(1.4)(r), ((1 - 0.98 * r) ** 1.4).log())


def test_noise_has_its_law():
    uniform = torch.rand(1_000_000).double() - 0.5
    assert float(logistic(uniform).var()) == pytest.approx(math.pi**2 / 3, rel=0.01)
    assert float(gumbel(uniform).mean()) == pytest.approx(0.5772, abs=0.005)
    assert float(gumbel(uniform).var()) == pytest.approx(math.pi**2 / 6, rel=0.01)
    ends = torch.tensor([-0.5, 0.5])
    assert logistic(ends).isfinite().all()
    assert gumbel(ends).isfinite().all()


def test_the_temperature_is_held_and_then_falls():
    assert annealed(0) == annealed(700 / 2000) == 0.5
    assert annealed(1) == pytest.approx(0.5 * math.exp(-1.3))
    assert annealed(1700 / 2000) == pytest.approx(0.5 / math.e)


@pytest.mark.parametrize("kind", [GumbelAnnealing, ThreeWayGumbelAnnealing])
@pytest.mark.parametrize("temperature", [-0.1, 1.1, math.nan])
def test_a_temperature_out_of_range_is_refused(kind, temperature):
    with pytest.raises(ConfigError, match="temperature"):
        kind(temperature)
