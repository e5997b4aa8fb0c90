"""The noise of a step is a function of its number, and different wherever it should be."""

import itertools

import pytest
import torch

from lictor.layers.quantize.noise import Noise


def draw(noise: Noise, name: str = "y", number: int = 1) -> torch.Tensor:
    return noise.uniform(torch.zeros(1, 1000), name, number)[0]


def test_the_same_step_draws_the_same_however_often_and_in_whatever_order():
    before = torch.get_rng_state()
    first = [draw(Noise(3, step)) for step in range(5)]
    again = [draw(Noise(3, step)) for step in reversed(range(5))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_seeds_steps_pictures_names_and_calls_draw_unrelated_numbers():
    draws = [
        draw(Noise(seed, step, first, 2), name, number)
        for seed, step, first in itertools.product((0, 1), repeat=3)
        for name in ("y", "z")
        for number in (1, 2)
    ]
    # The ways to write the same digits must not meet either.
    draws += [draw(Noise(1, 11)), draw(Noise(11, 1)), draw(Noise(11, 11), "y 1", 1)]
    correlation = torch.corrcoef(torch.stack(draws))
    off = correlation - torch.eye(len(draws))
    assert off.abs().max() < 0.2  # of 595 pairs, six standard deviations of 1 / sqrt(1000)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("parts", [(8,), (4, 4), (1, 5, 2)])
def test_a_step_draws_the_same_in_however_many_parts(parts, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.zeros(8, 3, 4, 5).contiguous(memory_format=layout)
    whole = Noise(1, 2).uniform(x, "y", 1)
    starts = [sum(parts[:k]) for k in range(len(parts))]
    pieces = [
        Noise(1, 2, start, 8).uniform(x[start : start + size], "y", 1)
        for start, size in zip(starts, parts, strict=True)
    ]
    assert torch.equal(torch.cat(pieces), whole)
    assert whole.std() > 0.2


def test_noise_is_uniform_and_its_neighbours_know_nothing_of_each_other():
    drawn = Noise(5, 7).uniform(torch.zeros(4, 8, 100, 100), "y", 1)
    for power, moment in ((1, 0.0), (2, 1 / 12), (3, 0.0), (4, 1 / 80)):
        assert abs(float((drawn.double() ** power).mean()) - moment) < 0.002
    counts = torch.histc(drawn, 64, -0.5, 0.5)
    # Chi squared with 63 degrees of freedom: 63 +- 11.
    assert ((counts - 5000) ** 2 / 5000).sum() < 130
    assert -0.5 < drawn.min() < -0.4999
    assert 0.4999 < drawn.max() < 0.5
    for other in (drawn.roll(1, d) for d in range(4)):
        correlation = torch.corrcoef(torch.stack([drawn.flatten(), other.flatten()]))[0, 1]
        assert abs(float(correlation)) < 0.01  # 320,000 pairs: five standard deviations
