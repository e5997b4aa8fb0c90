"""Train-test mismatch of a model: the difference of two losses, and nothing is touched."""

import dataclasses

import pytest
import torch

from conftest import photo_tensor, tiny_model
from lictor.layers.quantize.catalogue import SURROGATES, mixed, noise, straight_through
from lictor.layers.quantize.noise import Noise
from lictor.layers.quantize.paths import AdditiveNoise
from lictor.layers.quantize.surrogate import Surrogate
from lictor.training.loss import rate_distortion
from lictor.training.mismatch import mismatch

from test_checkpoint import identical  # isort: skip

LMBDA = 0.01


@dataclasses.dataclass(frozen=True)
class _Shifted:
    """Rounds, and adds a constant: its mismatch is known."""

    shift: float

    def noise(self, like, draw):
        del like, draw

    def __call__(self, residual, noise):
        del noise
        return residual.round() + self.shift


@pytest.mark.parametrize("name", SURROGATES)
def test_it_is_the_difference_of_two_losses(name):
    model, x = tiny_model("mbt2018-mean"), photo_tensor(2, 64, 48)
    surrogate, source = SURROGATES[name](), Noise(seed=5, step=3)
    found = mismatch(model, surrogate, x, LMBDA, source)
    with torch.no_grad():
        trained = rate_distortion(x, model(x, surrogate=surrogate, noise=source), LMBDA)
        tested = rate_distortion(x, model(x), LMBDA)
    near = {"rel": 1e-4, "abs": 2e-5}
    assert set(found.rate_bpp) == {"y", "z"}
    assert sum(found.rate_bpp.values()) == pytest.approx(float(trained.bpp - tested.bpp), **near)
    assert found.distortion == pytest.approx(
        float(trained.distortion - tested.distortion), rel=1e-4, abs=1e-8
    )
    assert found.total == pytest.approx(
        sum(found.rate_bpp.values()) + LMBDA * 255**2 * found.distortion, **near
    )


def test_rounding_has_none_and_noise_has_where_it_is_put():
    model, x = tiny_model("mbt2018-mean"), photo_tensor(1, 64, 64)
    none = mismatch(model, straight_through(), x, LMBDA, Noise())
    assert max(map(abs, none.rate_bpp.values())) < 1e-5
    assert abs(none.distortion) < 1e-8
    both, rate_only = (mismatch(model, s, x, LMBDA, Noise()) for s in (noise(), mixed()))
    # Noise for the rate alone: the distortion is that of rounding, the rate of y is not.
    assert abs(rate_only.distortion) < 1e-8 < abs(both.distortion)
    assert abs(rate_only.rate_bpp["y"]) > 1e-3


def test_rates_are_told_apart_and_have_a_sign():
    model, x = tiny_model("mbt2018-mean"), photo_tensor(1, 64, 64)
    dearer = mismatch(model, Surrogate(_Shifted(0.0), _Shifted(40.0)), x, LMBDA, Noise())
    # Both latents end far outside, where a symbol costs 24 bits and never more.
    assert min(dearer.rate_bpp.values()) > 0
    for name, latent in model.analyse(x).items():
        assert dearer.rate_bpp[name] < 24 * latent[0].numel() / 64**2
    assert dearer.distortion == pytest.approx(0, abs=1e-8)


def test_it_draws_from_the_noise_it_is_given_and_touches_nothing():
    model, x = tiny_model("mbt2018-mean"), photo_tensor(1, 64, 64)
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    surrogate = Surrogate(AdditiveNoise(), AdditiveNoise())
    first = mismatch(model, surrogate, x, LMBDA, Noise(seed=1))
    assert first == mismatch(model, surrogate, x, LMBDA, Noise(seed=1))
    assert first != mismatch(model, surrogate, x, LMBDA, Noise(seed=2))
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert identical(before, model.state_dict())


def test_it_is_in_float32_whatever_is_around_it():
    model, x = tiny_model("mbt2018-mean"), photo_tensor(1, 64, 64)
    plain = mismatch(model, noise(), x, LMBDA, Noise())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mismatch(model, noise(), x, LMBDA, Noise()) == plain
