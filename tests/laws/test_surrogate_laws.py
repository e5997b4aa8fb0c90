"""Theorems that hold for every quantization surrogate."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lictor.coders import RateCoder
from lictor.layers.quantize.catalogue import SURROGATES, noise
from lictor.layers.quantize.noise import Noise
from lictor.layers.quantize.paths import Path
from lictor.layers.quantize.surrogate import Surrogate
from lictor.priors.conditional import GaussianPrior

EVERY = pytest.mark.parametrize("name", SURROGATES)
# A schedule is checked when a surrogate is made: once for all the draws below.
MADE = {name: make() for name, make in SURROGATES.items()}


def _resolves(name: str) -> bool:
    return any(getattr(p, "resolves_bins", False) for p in vars(MADE[name]).values())


SOFT = [name for name in SURROGATES if _resolves(name)]
FLAT = [name for name in SURROGATES if name not in SOFT]
# Rounding that chance decides goes up to a whole step, and is not the latent on average.
LEAPING = ["stochastic-annealed"]


class Plain:
    """A center of zero, for residuals of any shape."""

    def residual(self, latent: torch.Tensor, params: tuple) -> torch.Tensor:
        return latent

    def restore(self, quantized: torch.Tensor, params: tuple) -> torch.Tensor:
        return quantized

    def held(self, params: tuple) -> tuple:
        return params


def take(name: str, residual: torch.Tensor, generator: torch.Generator):
    """What both uses get for a latent whose center is zero."""

    def draw(like: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(like).uniform_(-0.5, 0.5, generator=generator)

    return MADE[name](residual, Plain(), (), draw)


@EVERY
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 2**32))
def test_shape_and_dtype_stay_and_nothing_moves_far(name, shape, seed):
    residual = 20 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    for path in take(name, residual, torch.Generator().manual_seed(seed)):
        assert path.shape == residual.shape
        assert path.dtype == residual.dtype
        # Half a step, a whole one by chance; and the spacing of floats near 60.
        most = 1.0 if name in (*SOFT, *LEAPING) else 0.5
        assert ((path - residual).abs() <= most + 4e-6).all()


@pytest.mark.parametrize("name", FLAT)
def test_the_gradient_of_both_paths_is_that_of_the_identity(name):
    weights = torch.randn(50)
    for path in (0, 1):
        residual = torch.randn(50, requires_grad=True)
        out = take(name, residual, torch.Generator().manual_seed(1))[path]
        (out * weights).sum().backward()
        # That of dsq is so to three digits only.
        assert torch.allclose(residual.grad, weights, rtol=2e-3 if name == "dsq" else 0, atol=0)


@pytest.mark.parametrize("name", [name for name in FLAT if name not in LEAPING])
def test_noise_averages_to_the_residual_or_the_path_is_rounding(name):
    values = torch.linspace(-2, 2, 17)
    residual = values.repeat(4000).unsqueeze(1)  # each in a picture of its own
    for path in take(name, residual, torch.Generator().manual_seed(0)):
        drawn = path.view(4000, 17)
        if torch.equal(drawn[0], values.round()):
            assert (drawn == values.round()).all()
        else:  # the mean of 4000 draws has a standard error of 0.0046
            assert ((drawn.mean(0) - values).abs() < 0.025).all()


@EVERY
def test_one_seed_gives_one_result_and_the_global_generator_is_not_touched(name):
    residual = torch.randn(4, 4)
    before = torch.get_rng_state()
    first = take(name, residual, torch.Generator().manual_seed(9))
    second = take(name, residual, torch.Generator().manual_seed(9))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(before, torch.get_rng_state())
    original = residual.clone()
    take(name, residual, None)
    assert torch.equal(residual, original)


@EVERY
def test_it_is_a_value_of_two_paths(name):
    surrogate = SURROGATES[name]()
    assert isinstance(surrogate.synthesis, Path)
    assert isinstance(surrogate.rate, Path)
    assert surrogate == SURROGATES[name]()
    if surrogate.temperature is None:
        assert surrogate.at(0.5) == surrogate
    else:
        moment = surrogate.at(0.5)
        assert moment.at(0.9) == moment
        assert type(moment.synthesis) is type(surrogate.synthesis)
        assert moment.mean_gradient == surrogate.mean_gradient


def _mean_bits(residual: torch.Tensor, scale: float, surrogate: Surrogate | None) -> float:
    coder = RateCoder(surrogate, Noise())
    latent = residual.view(1, 1, 1, -1)
    scales = torch.full_like(latent, scale)
    coder.code("y", latent, GaussianPrior(), scales, shape=(1, 1, 1, latent.numel()))
    return float(coder.bits["y"]) / residual.numel()


@pytest.mark.parametrize("scale", [0.15, 0.3, 0.6, 1.0, 4.0, 16.0])
def test_noise_never_charges_less_than_rounding_for_gaussian_data(scale):
    # With data that follow the prior, the noisy charge is h(y + u) = E_d H(round(y + d) | d), the
    # entropy of rounding averaged over all offsets d of the grid; the hard charge is H(round(y)),
    # the offset 0. A cell around the mode is the cheapest grid for a narrow Gaussian; for a wide
    # one all grids cost the same.
    normal = torch.distributions.Normal(0.0, scale)
    y = normal.icdf((torch.arange(200_000.0) + 0.5) / 200_000)
    hard, noisy = _mean_bits(y, scale, None), _mean_bits(y, scale, noise())
    error = 0.003 + 0.01 * (scale < 0.3)  # Monte Carlo; rare dear symbols at small scales
    assert noisy >= hard - error
    if scale <= 0.3:
        assert noisy > hard + 0.2
    if scale >= 1:
        assert noisy == pytest.approx(hard, abs=0.005)


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("spread", [1, 6])
def test_noise_never_charges_less_than_rounding_where_the_grid_is_dithered(scale, spread):
    # Whatever the integers: let the residual be uniform around each of them. Minus log2 of a
    # Gaussian's unit-interval mass is convex (the mass is log-concave), so Jensen's inequality
    # says E bits(k + dither + noise) >= bits(k). Kept below the clamp of 24 bits.
    rng = np.random.default_rng(0)
    limit = min(spread, int(4 * scale))
    integers = rng.integers(-limit, limit + 1, 50_000)
    residual = torch.from_numpy(integers + rng.uniform(-0.5, 0.5, 50_000)).float()
    assert _mean_bits(residual, scale, noise()) > _mean_bits(residual, scale, None)
