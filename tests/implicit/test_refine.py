"""More effort for a latent: never worse, near the best there is, each item for itself."""

import itertools

import pytest
import torch

from lictor.implicit.coordinates import regular_grid
from lictor.implicit.meta import InnerLoop, Target, fit
from lictor.implicit.model import IMPLICIT
from lictor.implicit.refine import Effort, Quantizer, refine

QUANTIZER = Quantizer(torch.tensor([0.02, -0.01, 0.0]), torch.tensor([0.3, 0.2, 0.4]))


def _rate(symbols):
    """Bits as of a code that likes small numbers."""
    return torch.log2(1 + symbols.square()).sum(1)


def _fitted(items=6):
    torch.manual_seed(0)
    model = IMPLICIT["coinpp"](
        regular_grid((4, 4)), 1, latent=3, width=8, layers=3, w0=5.0, rate=0.5
    )
    y = model.decode(0.5 * torch.randn(items, 3)).detach() + 0.02 * torch.randn(items, 16, 1)
    target = Target(y)
    with torch.no_grad():
        z = fit(model.at(), target, model.first(y), model.rates(), InnerLoop(20))
    return model, target, z


def _cost(model, target, symbols, lmbda):
    with torch.no_grad():
        y_hat = model.decode(QUANTIZER.restore(symbols))
        return target.distortion(y_hat) + lmbda * _rate(symbols)


def test_without_steps_it_is_plain_rounding():
    model, target, z = _fitted()
    symbols = refine(model.at(), target, z, QUANTIZER, _rate, 1e-4, Effort(0))
    assert (symbols == torch.round((z - QUANTIZER.means) / QUANTIZER.steps)).all()


@pytest.mark.parametrize("lmbda", [0.0, 1e-4, 1e-2])
def test_more_steps_are_never_worse(lmbda):
    model, target, z = _fitted()
    costs = [
        _cost(
            model,
            target,
            refine(model.at(), target, z, QUANTIZER, _rate, lmbda, Effort(steps)),
            lmbda,
        )
        for steps in (0, 5, 40)
    ]
    assert (costs[1] <= costs[0]).all()
    assert (costs[2] <= costs[1]).all()
    assert costs[2].sum() < costs[0].sum()


def test_it_comes_near_the_best_of_all_symbols():
    model, target, z = _fitted()
    lmbda = 1e-4
    plain, refined = (
        _cost(
            model,
            target,
            refine(model.at(), target, z, QUANTIZER, _rate, lmbda, Effort(steps, 0.3)),
            lmbda,
        )
        for steps in (0, 100)
    )
    # Every triple of symbols about where the latents are: the best there is.
    all_symbols = torch.tensor(list(itertools.product(range(-6, 7), repeat=3))).float()
    with torch.no_grad():
        y_hat = model.decode(QUANTIZER.restore(all_symbols))
    distortion = (y_hat[:, None] - target.values).square().mean((2, 3))
    best = (distortion + lmbda * _rate(all_symbols)[:, None]).min(0).values
    assert (refined >= best - 1e-7).all()
    assert (refined - best).sum() < 0.3 * (plain - best).sum()


def test_dear_bits_are_saved():
    model, target, z = _fitted()
    bits = [
        _rate(refine(model.at(), target, z, QUANTIZER, _rate, lmbda, Effort(60, 0.3))).sum()
        for lmbda in (0.0, 1e-2, 1.0)
    ]
    assert bits[0] > bits[1] > bits[2]


def test_items_are_refined_each_for_itself_and_the_same_each_time():
    model, target, z = _fitted()
    together = refine(model.at(), target, z, QUANTIZER, _rate, 1e-3, Effort(20))
    assert (refine(model.at(), target, z, QUANTIZER, _rate, 1e-3, Effort(20)) == together).all()
    for i in range(len(z)):
        own = Target(target.values[i : i + 1])
        alone = refine(model.at(), own, z[i : i + 1], QUANTIZER, _rate, 1e-3, Effort(20))
        assert (alone[0] == together[i]).all()


def test_symbols_are_whole_and_the_network_is_left_alone():
    model, target, z = _fitted()
    with torch.no_grad():  # an encoder has its gradients off
        symbols = refine(model.at(), target, z, QUANTIZER, _rate, 1e-3, Effort(5))
    assert (symbols == symbols.round()).all()
    assert not symbols.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
