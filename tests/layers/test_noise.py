"""The noise of a step is a function of its number, and different wherever it should be."""

import itertools

import torch

from lictor.layers.quantize.noise import Noise

CPU = torch.device("cpu")


def draw(noise: Noise, name: str = "y", number: int = 1) -> torch.Tensor:
    return torch.rand(1000, generator=noise.generator(name, number, CPU))


def test_the_same_step_draws_the_same_however_often_and_in_whatever_order():
    before = torch.get_rng_state()
    first = [draw(Noise(3, step)) for step in range(5)]
    again = [draw(Noise(3, step)) for step in reversed(range(5))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_seeds_steps_ranks_names_and_calls_draw_unrelated_numbers():
    draws = [
        draw(Noise(*numbers), name, number)
        for numbers in itertools.product((0, 1), repeat=3)
        for name in ("y", "z")
        for number in (1, 2)
    ]
    # The ways to write the same digits must not meet either.
    draws += [draw(Noise(1, 11)), draw(Noise(11, 1)), draw(Noise(11, 11), "y 1", 1)]
    correlation = torch.corrcoef(torch.stack(draws))
    off = correlation - torch.eye(len(draws))
    assert off.abs().max() < 0.2  # of 595 pairs, six standard deviations of 1 / sqrt(1000)
