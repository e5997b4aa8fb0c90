"""A model as one vector: the same order whatever the memory layout, each weight once."""

import pytest
import torch
from torch import nn

from lictor.errors import CheckpointError, ConfigError
from lictor.training.stdet.flat import FlatParameters, edit_flat, flat


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, (2, 5)), nn.ConvTranspose2d(4, 2, 3), nn.Linear(6, 5))


def test_the_order_is_that_of_the_values_and_not_of_the_memory():
    plain, last = net(), net()
    last.load_state_dict(plain.state_dict())
    last.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    assert torch.equal(FlatParameters(plain).gather(), FlatParameters(last).gather())
    kernel = last[0].weight.detach()
    assert flat(kernel).data_ptr() == kernel.data_ptr()  # a view, not a copy
    assert torch.equal(flat(kernel)[:3], kernel[0, :, 0, 0])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_edit_of_the_vector_is_an_edit_of_the_tensor(layout):
    for shape in [(4, 3, 2, 5), (1, 1, 3, 3), (3, 1, 1, 1), (2, 7), (5,), ()]:
        t = torch.randn(shape)
        t = t.to(memory_format=layout) if t.dim() == 4 else t
        wanted = flat(t).clone()
        wanted[-1] = 7.0
        edit_flat(t, lambda v: v[-1].fill_(7.0))
        assert torch.equal(flat(t), wanted)
    every_other = torch.zeros(6, 4)[::2, 1:3]
    edit_flat(every_other, lambda v: v.copy_(torch.arange(6.0)))
    assert torch.equal(every_other.flatten(), torch.arange(6.0))


def test_split_and_locate_are_the_inverse_of_gather():
    parameters = FlatParameters(net())
    vector = parameters.gather()
    assert len(parameters) == len(vector) == sum(p.numel() for p in parameters.parameters)
    for p, piece in parameters.split(vector):
        assert torch.equal(flat(p.detach()), piece)
    for index in (0, 119, 120, 123, 124, len(parameters) - 1):
        number, place = parameters.locate(index)
        assert flat(parameters.parameters[number])[place] == vector[index]
    assert parameters.describe(121) == "0.bias[1]"


def test_what_is_left_out_frozen_or_shared_is_not_counted_or_counted_once():
    model = net()
    assert len(FlatParameters(model, [model[0].weight])) == len(FlatParameters(model)) - 120
    model[1].requires_grad_(False)
    assert "1.weight" not in FlatParameters(model).names
    twice = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    twice[1].weight = twice[0].weight
    assert len(FlatParameters(twice)) == 9 + 3 + 3
    with pytest.raises(ConfigError, match="no parameters"):
        FlatParameters(model, model.parameters())


def test_places_beyond_what_float32_counts_are_exact():
    """2^24 + 1 is no float32: an index kept as one would point to its neighbour."""
    size = 2**24 + 8
    with torch.device("meta"):
        parameters = FlatParameters(nn.ParameterList([nn.Parameter(torch.empty(size))] * 1))
    assert parameters.locate(16_777_217) == (0, 16_777_217)
    assert parameters.describe(16_777_217).endswith("[16777217]")


def test_a_signature_of_another_model_is_an_error():
    parameters = FlatParameters(net())
    parameters.check(parameters.signature())
    other = FlatParameters(nn.Sequential(nn.Linear(2, 3)))
    for signature in (other.signature(), parameters.signature()[:-1]):
        with pytest.raises(CheckpointError, match="another model"):
            parameters.check(signature)
