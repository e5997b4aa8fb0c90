"""Embedded weights are on their lines, exactly, whatever holds them; and they stay in."""

import pytest
import torch
from torch import nn

from lictor.training.stdet.embedding import Embedding
from lictor.training.stdet.flat import FlatParameters, flat


def lines(parameters: FlatParameters, share: float = 0.4, seed: int = 0):
    """An embedding in three modes, with the lines of a share of all weights."""
    generator = torch.Generator().manual_seed(seed)
    n = len(parameters)
    references = torch.tensor([2, n // 2 + 20, n - 1])
    mode = torch.randint(3, (n,), generator=generator).int()
    mode[references] = torch.arange(3).int()
    chosen = torch.rand(n, generator=generator) < share
    chosen[references] = False
    slope, offset = (torch.randn(n, generator=generator) for _ in range(2))
    embedding = Embedding(parameters, mode, references)
    embedding.add(chosen, slope, offset)
    return embedding, mode, chosen, slope, offset


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last])
def parameters(request) -> FlatParameters:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 3), nn.Linear(6, 5))
    net.to(memory_format=request.param)  # pyright: ignore[reportCallIssue]
    return FlatParameters(net)


def test_projection_puts_the_embedded_on_their_lines_and_moves_nothing_else(parameters):
    embedding, mode, chosen, slope, offset = lines(parameters)
    before = parameters.gather()
    embedding.project()
    after = parameters.gather()
    wanted = torch.addcmul(offset, slope, before[embedding.references][mode.long()])
    assert torch.equal(after[chosen], wanted[chosen])
    assert torch.equal(after[~chosen], before[~chosen])
    embedding.project()
    assert torch.equal(parameters.gather(), after)
    assert len(embedding) == int(chosen.sum())


def test_projection_of_other_values_leaves_the_model_alone(parameters):
    embedding, mode, chosen, slope, offset = lines(parameters)
    before = parameters.gather()
    copies = {id(p): torch.randn_like(p) for p in parameters.parameters}
    reference = parameters.gather(lambda p: copies[id(p)])[embedding.references]
    embedding.project(lambda p: copies[id(p)])
    assert torch.equal(parameters.gather(), before)
    projected = parameters.gather(lambda p: copies[id(p)])
    wanted = torch.addcmul(offset, slope, reference[mode.long()])
    assert torch.equal(projected[chosen], wanted[chosen])


def test_what_is_in_keeps_its_line_when_more_come_in(parameters):
    embedding, _, chosen, slope, offset = lines(parameters)
    everything = torch.ones_like(chosen)
    everything[embedding.references] = False
    embedding.add(everything, slope + 1, offset - 1)
    assert torch.equal(embedding.embedded, everything)
    assert torch.equal(embedding.slope[chosen], slope[chosen])
    assert torch.equal(embedding.offset[everything & ~chosen], (offset - 1)[everything & ~chosen])
    shares = [embedding.share_of(number) for number in range(len(parameters.names))]
    assert shares[1] == 1
    assert len(embedding.free_places(1)) == 0
    assert shares[0] == 1 - 1 / 108
    assert embedding.free_places(0).tolist() == [2]


def test_zero_silences_exactly_the_embedded(parameters):
    embedding, _, chosen, *_ = lines(parameters)
    for p in parameters.parameters:
        p.grad = torch.ones_like(p)
    parameters.parameters[-1].grad = None
    embedding.zero(lambda p: p.grad)
    silenced = torch.cat([flat(p.grad) for p in parameters.parameters[:-1] if p.grad is not None])
    assert torch.equal(silenced == 0, chosen[: len(silenced)])


@pytest.mark.parametrize("missing", [None, 3])
def test_the_chain_rule_is_autograds_of_the_re_parametrised_loss(parameters, missing):
    """`own` is a reference's gradient with all others held; `chain` also lets lines follow it."""
    embedding, mode, chosen, slope, offset = lines(parameters)
    h = torch.rand(len(parameters)) + 0.1
    embedding.project()
    values = parameters.gather()

    def loss(vector: torch.Tensor) -> torch.Tensor:
        return (h * vector**2).sum() + vector.sin().sum() ** 2

    own = torch.func.grad(loss)(values)
    if missing is not None:  # a parameter without a gradient says nothing
        start, end = parameters.offsets[missing : missing + 2]
        own[start:end] = 0

    for number, (p, piece) in enumerate(parameters.split(own)):
        shape = [p.shape[k] for k in (0, 2, 3, 1)] if p.dim() == 4 else p.shape
        piece = piece.view(shape).permute(0, 3, 1, 2) if p.dim() == 4 else piece.view(shape)
        p.grad = None if number == missing else torch.empty_like(p).copy_(piece)
    embedding.chain()
    embedding.zero(lambda p: p.grad)

    def on_lines(reference: torch.Tensor) -> torch.Tensor:
        vector = values.index_put((embedding.references,), reference)
        line = offset + slope * reference[mode.long()]
        seen = torch.ones_like(chosen)
        if missing is not None:
            seen[start:end] = False
        return loss(torch.where(chosen & seen, line, vector))

    wanted = torch.func.grad(on_lines)(values[embedding.references])
    got = parameters.gather(lambda p: torch.zeros_like(p) if p.grad is None else p.grad)
    assert torch.allclose(got[embedding.references], wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(got[embedding.references], own[embedding.references], rtol=0.01)
    others = ~chosen
    others[embedding.references] = False
    assert torch.equal(got[others], own[others])
    assert not got[chosen].any()


def test_a_reference_beyond_what_float32_counts_is_the_right_weight():
    far = 16_777_217  # 2^24 + 1, which float32 takes for 2^24
    weight = nn.Parameter(torch.zeros(far + 3))
    with torch.no_grad():
        weight[far - 1 :] = torch.tensor([1.0, 20.0, 300.0, 4000.0])
    parameters = FlatParameters(nn.ParameterList([weight]))
    mode = torch.zeros(len(weight), dtype=torch.int32)
    embedding = Embedding(parameters, mode, torch.tensor([far]))
    chosen = torch.zeros(len(weight), dtype=torch.bool)
    chosen[[5, far + 1]] = True
    embedding.add(chosen, torch.full((len(weight),), 2.0), torch.ones(len(weight)))
    embedding.project()
    assert weight[5] == weight[far + 1] == 41
    assert (weight[far - 1], weight[far], weight[far + 2]) == (1, 20, 4000)


def test_a_restored_embedding_projects_alike(parameters):
    embedding, mode, *_ = lines(parameters)
    again = Embedding(parameters, mode, embedding.references)
    again.load_state_dict(Embedding(parameters, mode, embedding.references).state_dict())
    before = parameters.gather()
    again.project()  # nothing is embedded yet
    assert torch.equal(parameters.gather(), before)
    again.load_state_dict(embedding.state_dict())
    again.project()
    first = parameters.gather()
    for p, piece in parameters.split(before):
        shape = [p.shape[k] for k in (0, 2, 3, 1)] if p.dim() == 4 else p.shape
        piece = piece.view(shape).permute(0, 3, 1, 2) if p.dim() == 4 else piece.view(shape)
        p.detach().copy_(piece)
    embedding.project()
    assert torch.equal(parameters.gather(), first)
