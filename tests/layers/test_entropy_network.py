"""The one place that encoder and decoder must agree on to the last bit."""

import copy

import pytest
import torch
from torch import nn

from lictor.layers.blocks import upsample
from lictor.layers.entropy_network import FRACTION_BITS, EntropyNetwork


@pytest.fixture
def network() -> EntropyNetwork:
    torch.manual_seed(1)
    net = nn.Sequential(
        upsample(16, 24), nn.LeakyReLU(0.1), nn.Conv2d(24, 12, 3, padding=1), nn.ReLU()
    )
    return EntropyNetwork(net)


@pytest.fixture
def features() -> torch.Tensor:
    return 10 * torch.randn(3, 16, 9, 7)


@pytest.fixture
def frozen(network) -> EntropyNetwork:
    network.freeze()
    return network


def test_training_is_transparent(network, features):
    features.requires_grad_()
    output = network(features)
    assert torch.equal(output, network.net(features))
    output.sum().backward()
    assert features.grad is not None
    assert all(p.grad is not None for p in network.parameters())


def test_freezing_moves_the_output_by_no_more_than_half_a_grid_step(network, features):
    frozen = copy.deepcopy(network)
    frozen.freeze()
    difference = (frozen(features) - network(features)).abs().max()
    assert 0 < difference <= 0.5 / 2**FRACTION_BITS + 1e-4


def test_frozen_output_is_float32_on_the_grid_without_gradient(frozen, features):
    output = frozen(features.requires_grad_())
    assert output.dtype == torch.float32
    assert not output.requires_grad
    steps = output.double() * 2**FRACTION_BITS
    assert torch.equal(steps, steps.round())
    assert output.unique().numel() > 1000


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_frozen_output_depends_neither_on_threads_nor_on_batch_nor_on_memory_layout(
    frozen, features, threads, memory_format
):
    wanted = frozen(features)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = frozen(features.contiguous(memory_format=memory_format))
        alone = torch.cat(
            [frozen(f[None].contiguous(memory_format=memory_format)) for f in features]
        )
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together, wanted)
    assert torch.equal(alone, wanted)


def test_frozen_output_is_immune_to_autocast_and_to_train_mode(frozen, features):
    wanted = frozen(features)
    frozen.train()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(frozen(features), wanted)


def test_frozen_parameters_do_not_learn(frozen):
    assert all(p.dtype == torch.float64 and not p.requires_grad for p in frozen.parameters())
