"""Integers that cost least: against brute force, in the limit, and what their weights rest on."""

import itertools

import pytest
import torch

from conftest import photo_tensor, tiny_model
from lictor.codecs.rdoq import Goal, RateDistortionRounding, cheapest, look_around, parts
from lictor.coders import RateCoder
from lictor.models.zoo import MODELS
from lictor.priors.conditional import GaussianPrior
from lictor.priors.factorized import FactorizedPrior

EVERY = pytest.mark.parametrize("name", MODELS)


def _priors(kind: str):
    if kind == "gaussian":
        shape = (1, 3, 4, 5)
        params = (torch.randn(shape), 0.2 + 2 * torch.rand(shape))
        return GaussianPrior(), params
    return FactorizedPrior(3), ()


@pytest.mark.parametrize("kind", ["gaussian", "factorized"])
def test_it_is_the_best_of_all_choices_of_neighbours_and_zero(kind):
    prior, params = _priors(kind)
    residual, weights = 3 * torch.randn(1, 3, 4, 5), 4 * torch.rand(1, 3, 4, 5)
    rounding = RateDistortionRounding({"y": [weights]})
    with torch.no_grad():
        chosen = rounding("y", residual, prior, params)
        cost = weights * (chosen - residual).square() + prior.bits(chosen, params)
        others = [residual.floor(), residual.ceil(), torch.zeros_like(residual)]
        costs = [weights * (q - residual).square() + prior.bits(q, params) for q in others]
    assert torch.equal(cost, torch.stack(costs).amin(0))
    assert not torch.equal(chosen, residual.round())


def test_a_sum_over_elements_is_least_when_each_is():
    residual = torch.tensor([0.6, -1.4, 0.45, 2.5001])
    weights = torch.tensor([1.0, 3.0, 0.2, 8.0])

    def bits(q: torch.Tensor) -> torch.Tensor:
        return 1.5 * q.abs()

    best = min(
        itertools.product(range(-3, 4), repeat=4),
        key=lambda q: float(
            (weights * (torch.tensor(q) - residual) ** 2 + bits(torch.tensor(q))).sum()
        ),
    )
    assert cheapest(residual, weights, bits).tolist() == list(best)


@pytest.mark.parametrize("kind", ["gaussian", "factorized"])
def test_without_end_of_weight_it_is_rounding_and_without_weight_the_mode(kind):
    prior, params = _priors(kind)
    residual = 3 * torch.randn(1, 3, 4, 5)
    with torch.no_grad():
        for weight, expected in ((1e12, residual.round()), (0.0, None)):
            weights = torch.full_like(residual, weight)
            chosen = RateDistortionRounding({"y": [weights]})("y", residual, prior, params)
            if expected is None:
                if kind == "gaussian":  # whose mode is 0
                    assert torch.equal(chosen, torch.zeros_like(residual))
            else:
                assert torch.equal(chosen, expected)


def test_a_latent_without_weights_is_rounded():
    residual = 3 * torch.randn(1, 3, 4, 5)
    chosen = RateDistortionRounding({})("z", residual, FactorizedPrior(3), ())
    assert torch.equal(chosen, residual.round())


@EVERY
def test_parts_come_as_a_model_codes_them(name):
    model, x = tiny_model(name), photo_tensor(1, 64, 128)
    seen: dict[str, list[torch.Tensor]] = {}

    def note(name, residual, prior, params):
        seen.setdefault(name, []).append(prior.restore(residual, params))
        return residual.round()

    with torch.no_grad():
        latents = model.analyse(x)
        model.code(RateCoder(rounding=note), latents, tuple(x.shape))
        found = parts(model, latents, tuple(x.shape))
    assert found.keys() == seen.keys()
    for latent in found:
        assert len(found[latent]) == len(seen[latent])
        for a, b in zip(found[latent], seen[latent], strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@EVERY
@pytest.mark.parametrize("channels", [1, 3])
def test_slopes_are_those_of_the_distortion(name, channels):
    model, x = tiny_model(name).double(), photo_tensor(1, 50, 60).double()
    padded = torch.nn.functional.pad(x, (0, 4, 0, 14), mode="replicate")
    with torch.no_grad():
        latents = {n: t.clone() for n, t in model.analyse(padded).items()}
        goal = Goal(x[:, :channels], 700.0)
    local = look_around(model.synthesise, goal, latents, 0)
    assert local.slopes.keys() == local.gains.keys() == {"y"}
    direction, h = torch.randn_like(latents["y"]), 1e-6
    with torch.no_grad():
        ends = [
            goal.distortion(model.synthesise({**latents, "y": latents["y"] + s * h * direction}))
            for s in (1, -1)
        ]
    slope = float((local.slopes["y"] * direction).sum())
    assert float(ends[0] - ends[1]) / (2 * h) == pytest.approx(slope, rel=1e-4)


def test_gains_are_the_diagonal_on_average():
    # A synthesis that is linear: gains are the squared norms of its columns, alike in a channel.
    columns = torch.randn(4, 3, 2, 2)

    def synthesise(latents):
        return torch.nn.functional.conv_transpose2d(latents["y"], columns, stride=2) / 10

    goal = Goal(torch.zeros(1, 3, 32, 32), 1.0)
    found = [
        look_around(synthesise, goal, {"y": torch.zeros(1, 4, 16, 16)}, seed).gains["y"]
        for seed in range(20)
    ]
    mean = torch.stack(found).mean((0, 1, 3, 4))
    torch.testing.assert_close(mean, columns.square().sum((1, 2, 3)) / 100, rtol=0.05, atol=0)


def test_what_is_not_seen_has_no_error():
    goal = Goal(torch.full((1, 3, 5, 6), 0.5), 2.0)
    x_hat = torch.rand(1, 3, 8, 8)
    x_hat[..., :5, :6] = 0.5 + 1 / 255
    assert float(goal.distortion(x_hat)) == pytest.approx(2 * 90 / 255**2, rel=1e-3)
    levels = float((torch.tensor(0.5 + 1 / 255) * 255).round()) / 255
    assert goal.exact(x_hat) == pytest.approx(2 * 90 * (levels - 0.5) ** 2, rel=1e-4)
