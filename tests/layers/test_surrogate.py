"""What tells one surrogate from another."""

import pytest
import torch

from lictor.errors import ConfigError
from lictor.layers.quantize.surrogate import (
    SURROGATES,
    AdditiveNoise,
    Mixed,
    StraightThrough,
    build_surrogate,
)


@pytest.fixture
def residual() -> torch.Tensor:
    return 5 * torch.randn(2, 3, 8, 8)


def test_additive_noise_shows_the_synthesis_what_it_charges_for(residual):
    for_synthesis, for_rate = AdditiveNoise()(residual, None)
    assert torch.equal(for_synthesis, for_rate)
    assert not torch.equal(for_rate, for_rate.round())


def test_straight_through_is_hard_rounding_on_both_paths(residual):
    for_synthesis, for_rate = StraightThrough()(residual, None)
    assert torch.equal(for_synthesis, residual.round())
    assert torch.equal(for_rate, residual.round())


def test_mixed_rounds_for_the_synthesis_and_adds_noise_for_the_rate(residual):
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    for_synthesis, for_rate = Mixed()(residual, first)
    assert torch.equal(for_synthesis, residual.round())
    assert torch.equal(for_rate, AdditiveNoise()(residual, second)[1])


def test_noise_is_uniform_on_the_unit_interval():
    zero = torch.zeros(100_000)
    _, noise = AdditiveNoise()(zero, torch.Generator().manual_seed(0))
    for power, moment in ((1, 0.0), (2, 1 / 12), (3, 0.0), (4, 1 / 80)):
        assert abs(float((noise**power).mean()) - moment) < 0.004
    assert noise.min() < -0.499
    assert noise.max() > 0.499


def test_build_gives_every_named_surrogate_and_names_the_choices_otherwise():
    for name in SURROGATES:
        assert isinstance(build_surrogate(name), SURROGATES[name])
    with pytest.raises(ConfigError, match=r"'nois'.*noise, straight-through, mixed"):
        build_surrogate("nois")
