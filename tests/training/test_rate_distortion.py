"""The task of a learned codec: the crops and the noise of a step, however it is split."""

import dataclasses
import itertools

import pytest
import torch

from conftest import combined, tiny_model
from lictor.data.crops import Crops
from lictor.errors import ConfigError
from lictor.layers.quantize.catalogue import SURROGATES, mixed
from lictor.runtime import Runtime
from lictor.training.rate_distortion import RateDistortionTask


def task_of(folder, **options) -> RateDistortionTask:
    model = tiny_model("mbt2018-mean")
    crops = Crops(folder, 64, 8, seed=3)
    return RateDistortionTask(model, crops, folder, 0.01, mixed().at, **options)


def gradients(task: RateDistortionTask, step: int) -> list[torch.Tensor]:
    """The mean gradient of what one process has of a step."""
    pieces = task.batch(step)
    for piece in pieces:
        (task.loss(piece, step=step, progress=0.0).total / len(pieces)).backward()
    return [p.grad.clone() for p in task.model.parameters()]


@pytest.mark.parametrize(
    ("name", "of"), combined(SURROGATES, [(1, 2), (1, 8), (2, 1), (2, 2), (4, 1)])
)
def test_a_split_step_has_the_gradient_of_the_whole(folder, name, of):
    processes, pieces = of

    def split(processes: int, rank: int, pieces: int) -> list[torch.Tensor]:
        runtime = Runtime(rank=rank, world_size=processes)
        task = task_of(folder, pieces=pieces, runtime=runtime)
        return gradients(dataclasses.replace(task, surrogate=SURROGATES[name]().at), 5)

    whole = split(1, 0, 1)
    parts = [split(processes, rank, pieces) for rank in range(processes)]
    for g, *shares in zip(whole, *parts, strict=True):
        mean = torch.stack(shares).mean(0)
        assert (mean - g).norm() <= 1e-4 * g.norm() + 1e-7


def test_the_pieces_of_all_processes_are_the_crops_of_the_step_in_order(folder):
    whole = task_of(folder).batch(2)[0].crops
    tasks = [
        task_of(folder, pieces=2, runtime=Runtime(rank=rank, world_size=2)) for rank in range(2)
    ]
    pieces = list(itertools.chain.from_iterable(task.batch(2) for task in tasks))
    assert [piece.first for piece in pieces] == [0, 2, 4, 6]
    assert torch.equal(torch.cat([piece.crops for piece in pieces]), whole)


def test_noise_that_is_drawn_ahead_is_the_noise(folder):
    plain, ahead = task_of(folder), task_of(folder, draws_ahead=True)
    for step in range(3):
        losses = [
            task.loss(task.batch(step)[0], step=step, progress=0.0).total for task in (plain, ahead)
        ]
        assert torch.equal(*losses)


def test_a_step_that_does_not_split_into_equal_pieces_is_refused(folder):
    with pytest.raises(ConfigError, match=r"8 does not split into 3 pieces \(train.accumulate\)"):
        task_of(folder, pieces=3)
    with pytest.raises(ConfigError, match="not a multiple of the 3 processes"):
        task_of(folder, runtime=Runtime(rank=0, world_size=3))
