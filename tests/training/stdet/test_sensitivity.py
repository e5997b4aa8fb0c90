"""Sensitivities: means of what gradients say, and nothing of a step without a finite one."""

import pytest
import torch
from torch import nn

from lictor.errors import ConfigError
from lictor.training.stdet.flat import FlatParameters
from lictor.training.stdet.selection import Scores, select
from lictor.training.stdet.sensitivity import KINDS, Sensitivity


@pytest.fixture
def parameters() -> FlatParameters:
    return FlatParameters(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 2)))


def give_gradients(parameters: FlatParameters, seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in parameters.parameters:
        p.grad = scale * torch.randn(p.shape, generator=generator)


def gradient(parameters: FlatParameters) -> torch.Tensor:
    return parameters.gather(lambda p: p.grad)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_the_mean_of_its_formula(parameters, kind):
    sensitivity = Sensitivity(parameters, kind)
    weights, move = parameters.gather(), torch.randn(len(parameters))
    terms = []
    for seed in range(5):
        give_gradients(parameters, seed)
        g = gradient(parameters)
        terms.append(
            {
                "grad2": g**2,
                "gradabs": g.abs(),
                "snip": (g * weights).abs(),
                "delta_fisher": 0.5 * g**2 * move**2,
            }[kind]
        )
        sensitivity.add()
    assert torch.allclose(sensitivity.score(move), torch.stack(terms).mean(0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_gradient_that_is_not_finite_leaves_no_trace(parameters, value):
    clean, hit = Sensitivity(parameters, "grad2"), Sensitivity(parameters, "grad2")
    for seed in range(3):
        give_gradients(parameters, seed)
        clean.add()
        hit.add()
        parameters.parameters[1].grad[0] = value  # pyright: ignore[reportOptionalSubscript]
        hit.add()
    assert torch.equal(clean.score(torch.ones(58 + 9)), hit.score(torch.ones(58 + 9)))


def test_weights_without_gradients_have_none_and_no_steps_are_no_sensitivity(parameters):
    sensitivity = Sensitivity(parameters, "grad2")
    nothing = torch.ones(len(parameters))
    assert not sensitivity.score(nothing).any()
    sensitivity.add()
    assert sensitivity.steps == 0
    give_gradients(parameters, 0)
    parameters.parameters[0].grad = None
    sensitivity.add()
    score = sensitivity.score(nothing)
    assert not score[:54].any()
    assert score[54:].all()
    sensitivity.reset()
    assert not sensitivity.score(nothing).any()
    assert sensitivity.state_dict() == {"steps": 0, "sum": None}


def test_a_restored_mean_goes_on(parameters):
    whole, half = Sensitivity(parameters, "snip"), Sensitivity(parameters, "snip")
    give_gradients(parameters, 0)
    whole.add()
    half.add()
    again = Sensitivity(parameters, "snip")
    again.load_state_dict(half.state_dict() | {"sum": half.state_dict()["sum"].clone()})  # pyright: ignore
    give_gradients(parameters, 1)
    whole.add()
    again.add()
    move = torch.zeros(len(parameters))
    assert torch.equal(whole.score(move), again.score(move))


def test_delta_fisher_chooses_what_raises_a_quadratic_loss_least(parameters):
    """With g^2 = h the score is the loss of moving a weight of curvature h onto its line."""
    generator = torch.Generator().manual_seed(3)
    h = torch.rand(len(parameters), generator=generator) + 0.01
    move = torch.randn(len(parameters), generator=generator)
    for p, piece in parameters.split(h.sqrt()):
        p.grad = torch.empty_like(p).copy_(
            piece.view(p.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
            if p.dim() == 4
            else piece.view(p.shape)
        )
    sensitivity = Sensitivity(parameters, "delta_fisher")
    sensitivity.add()
    candidates = torch.ones(len(parameters), dtype=torch.bool)
    drift = torch.rand(len(parameters), generator=generator)
    chosen, _ = select(
        Scores(candidates, drift, sensitivity.score(move)),
        how="sensitivity",
        count=12,
        dummies=0,
        generator=generator,
    )
    assert set(torch.nonzero(chosen).flatten().tolist()) == set(
        torch.argsort(h * move**2)[:12].tolist()
    )


def test_an_unknown_kind_is_an_error(parameters):
    with pytest.raises(ConfigError, match="unknown sensitivity 'hessian': choose one of grad2"):
        Sensitivity(parameters, "hessian")
