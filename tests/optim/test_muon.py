"""Muon on views: what torch's own does to explicit matrices, whatever the memory format."""

import copy

import pytest
import torch
from torch import nn

from lictor.errors import ConfigError
from lictor.optim.factory import OPTIMIZERS
from lictor.optim.muon import Muon

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon yet")

SHAPES = [(6, 5, 3, 3), (7, 4), (5,), (), (4, 1, 1)]


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(s)) for s in SHAPES]


def give_gradients(params, step: int) -> None:
    for i, p in enumerate(params):
        noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + i))
        p.grad = (p.detach() + noise).clone(memory_format=torch.preserve_format)


def values(params) -> list[torch.Tensor]:
    return [p.detach().clone() for p in params]


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_matrices_get_muon_and_the_rest_adamw(memory):
    params, plain = parameters(), parameters()
    params[0].data = params[0].data.contiguous(memory_format=memory)
    order = (0, 2, 3, 1) if memory == torch.channels_last else (0, 1, 2, 3)
    plain[0] = nn.Parameter(plain[0].detach().permute(order).flatten(1))
    plain[4] = nn.Parameter(plain[4].detach().flatten(1))
    optimizer = Muon(params, lr=0.02, betas=(0.8, 0.9), weight_decay=0.1)
    matrices = [p for p in plain if p.ndim == 2 and p.shape[1] > 1]
    muon = torch.optim.Muon(matrices, 0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    rest = [p for p in plain if not any(p is q for q in matrices)]
    adamw = torch.optim.AdamW(rest, 0.02, betas=(0.8, 0.9), weight_decay=0.1, fused=True)
    for step in range(8):
        give_gradients(params, step)
        for p, q in zip(params, plain, strict=True):
            grad = p.grad.permute(order) if p.ndim == 4 else p.grad
            q.grad = grad.reshape(q.shape).clone()
        for each in (optimizer, muon, adamw):
            each.step()
    assert equal([params[0].permute(order).flatten(1), *params[1:4]], plain[:4])


def test_the_rate_of_the_outer_groups_counts_and_states_go_on_bitwise():
    params, others = parameters(), parameters()
    optimizer, twin = Muon(params, lr=0.1), Muon(others, lr=7.0)
    for step in range(6):
        if step == 3:
            twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            for p, q in zip(params, others, strict=True):
                q.data.copy_(p.data)
        optimizer.param_groups[0]["lr"] = twin.param_groups[0]["lr"] = 0.1 / (step + 1)
        for each, its in ((optimizer, params), (twin, others)):
            give_gradients(its, step)
            each.step()
    assert equal(values(params), values(others))
    copied = copy.deepcopy(optimizer)
    for each in (optimizer, copied):
        give_gradients(each.param_groups[0]["params"], 9)
        each.step()
    assert equal(values(params), values(copied.param_groups[0]["params"]))
    optimizer.param_groups[0]["lr"] = 0.0
    before = values(params)
    give_gradients(params, 10)
    optimizer.step()
    assert equal(values(params), before)


def test_parameters_that_move_in_memory_are_followed():
    params = parameters()
    optimizer = Muon(params, lr=0.1)
    for memory in (torch.channels_last, torch.contiguous_format):
        params[0].data = params[0].data.clone(memory_format=memory)
        before = params[0].detach().clone()
        give_gradients(params, 1)
        optimizer.step()
        assert not torch.equal(params[0], before)


def test_a_torch_without_muon_is_named(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ConfigError, match="has no Muon"):
        OPTIMIZERS["muon"](nn.Linear(2, 2), 1e-4)
