"""Optimizer state of the free entries only: the same training, with less memory."""

import copy

import pytest
import torch
from torch import nn

from lictor.training.stdet.flat import flat
from lictor.training.stdet.released import ReleasedStates, state_bytes

OPTIMIZERS = {
    "adam": lambda ps: torch.optim.Adam(ps, 0.01, fused=True),
    "adam, decayed": lambda ps: torch.optim.Adam(ps, 0.01, weight_decay=0.1),
    "adamw": lambda ps: torch.optim.AdamW(ps, 0.01, weight_decay=0.1, amsgrad=True),
    "sgd": lambda ps: torch.optim.SGD(ps, 0.01, momentum=0.9),
}


class Pair:
    """The same weights trained with all of the state, and with that of the free entries."""

    def __init__(self, name: str):
        self.dense = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)  # pyright: ignore
        self.small = copy.deepcopy(self.dense)
        self.dense_optimizer = OPTIMIZERS[name](list(self.dense.parameters()))
        self.optimizer = OPTIMIZERS[name](list(self.small.parameters()))
        self.released = ReleasedStates(self.optimizer)
        self.free = torch.ones(216, dtype=torch.bool)

    def release(self, share: float) -> None:
        self.free &= torch.rand(216, generator=torch.Generator().manual_seed(1)) >= share
        self.released.release(self.small.weight, torch.nonzero(self.free).flatten())

    def step(self, seed: int) -> None:
        for model, optimizer in ((self.dense, self.dense_optimizer), (self.small, self.optimizer)):
            generator = torch.Generator().manual_seed(seed)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator).contiguous(
                    memory_format=torch.channels_last if p.dim() == 4 else torch.contiguous_format
                )
            optimizer.step()

    def distance(self) -> float:
        first, second = (flat(m.weight.detach())[self.free] for m in (self.dense, self.small))
        bias = (self.dense.bias - self.small.bias).detach().abs().max()  # pyright: ignore
        return max(float((first - second).abs().max()), float(bias))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_free_entries_are_trained_as_they_were_and_others_stay(name):
    pair = Pair(name)
    for seed in range(4):
        pair.step(seed)
    for share in (0.4, 0.7, 0.9):
        pair.release(share)
        before = flat(pair.small.weight.detach()).clone()
        for seed in range(3):
            pair.step(seed)
        assert torch.equal(flat(pair.small.weight.detach())[~pair.free], before[~pair.free])
        assert not torch.equal(flat(pair.small.weight.detach())[pair.free], before[pair.free])
        assert pair.distance() <= 1e-7


def test_memory_falls_with_the_free_entries():
    pair = Pair("adam")
    pair.step(0)
    before = state_bytes(pair.optimizer)
    assert before == state_bytes(pair.dense_optimizer) == 2 * 4 * (216 + 8) + 2 * 4
    pair.release(0.6)
    after = state_bytes(pair.optimizer)
    assert after == before - 8 * int((~pair.free).sum())
    pair.step(1)
    assert state_bytes(pair.optimizer) == after
    seen = [p for group in pair.optimizer.param_groups for p in group["params"]]
    assert all(p.grad is None for p in seen if p.numel() == int(pair.free.sum()))


def test_a_weight_moved_from_outside_is_trained_from_there():
    pair = Pair("adam")
    pair.step(0)
    pair.release(0.5)
    for model in (pair.dense, pair.small):
        model.weight.detach().add_(1.0)
    pair.step(1)
    assert pair.distance() <= 2e-7


def test_without_a_gradient_nothing_moves():
    pair = Pair("adam")
    pair.step(0)
    pair.release(0.5)
    before = pair.small.weight.detach().clone()
    pair.small.zero_grad(set_to_none=True)
    pair.optimizer.step()
    assert torch.equal(pair.small.weight, before)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_saved_state_goes_on_bitwise(share):
    pair = Pair("adam")
    pair.step(0)
    pair.release(share)
    pair.step(1)
    other = Pair("adam")
    other.small.load_state_dict(pair.small.state_dict())
    other.optimizer.load_state_dict(copy.deepcopy(pair.optimizer.state_dict()))
    other.released.restore(other.small.weight, torch.nonzero(pair.free).flatten())
    for seed in range(2, 5):
        pair.step(seed)
        other.step(seed)
    assert torch.equal(pair.small.weight, other.small.weight)
    assert torch.equal(pair.small.bias, other.small.bias)  # pyright: ignore


def test_a_forgotten_weight_is_the_optimizers_again_and_without_state():
    pair = Pair("adam")
    pair.step(0)
    pair.release(0.5)
    assert pair.small.weight in pair.released
    pair.released.forget(pair.small.weight)
    assert pair.small.weight not in pair.released
    assert pair.optimizer.param_groups[0]["params"][0] is pair.small.weight
    assert state_bytes(pair.optimizer) == 2 * 4 * 8 + 4
    pair.released.forget(pair.small.weight)  # twice is once
    pair.step(1)
    assert state_bytes(pair.optimizer) == 2 * 4 * (216 + 8) + 2 * 4
