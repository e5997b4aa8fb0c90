"""Theorems that hold for every prior that a model can name: training, freezing, coding, storing."""

import numpy as np
import pytest
import torch

from conftest import combined, photo, photo_tensor
from lictor.codecs.learned import Codec
from lictor.errors import CheckpointError, ConfigError, LictorError
from lictor.layers.quantize.catalogue import SURROGATES, mixed
from lictor.layers.quantize.noise import Noise
from lictor.models.base import AbstractCodecModel
from lictor.models.hyperprior import FactorizedModel
from lictor.models.zoo import MODELS, build_model
from lictor.priors.channel import ChannelPrior
from lictor.priors.families import Laplace
from lictor.priors.table import PRIORS
from lictor.ptq.calibrate import observe
from lictor.ptq.quantize import quantize
from lictor.ptq.scheme import Scheme
from lictor.training.recipe import ModelConfig

# Whole tables of models and cases.
pytestmark = pytest.mark.slow

WITH_HYPERPRIOR = [name for name in MODELS if name != FactorizedModel.name]
CHOICES = {
    "gaussian": {"scale_bound": 0.15},
    "gaussian channels": {"prior_z": "channel"},
    "laplace": {"prior": "laplace"},
    "laplace channels": {"prior": "laplace", "prior_z": "channel", "scale_bound": 0.04},
    "generalized": {"prior": "generalized-gaussian"},
    "generalized channels": {"prior": "generalized-gaussian", "prior_z": "channel", "beta": 1.2},
}
EVERY = pytest.mark.parametrize(("choice", "name"), combined(CHOICES, WITH_HYPERPRIOR))


def chosen_model(name: str, choice: str) -> AbstractCodecModel:
    """A tiny model with such priors, whose latents have symbols of some size."""
    torch.manual_seed(0)
    model = MODELS[name](**MODELS[name].tiny, **CHOICES[choice])
    with torch.no_grad():
        for part in (model.g_a, model.h_a):
            [m for m in part.modules() if isinstance(m, torch.nn.Conv2d)][-1].weight.mul_(20)
        if isinstance(model.prior_z, ChannelPrior):
            model.prior_z.means.normal_(0, 2)
            model.prior_z.scales.uniform_(-0.2, 3)
    return model


@EVERY
def test_a_codec_decodes_what_it_encoded_and_is_rebuilt_from_its_file(name, choice, tmp_path):
    codec = Codec.freeze(chosen_model(name, choice))
    image = photo(50, 90)
    encoded = codec.encode_verbose(image)
    assert (codec.decode(encoded.data) == encoded.reconstruction).all()
    # Latents of random weights do not follow their priors: escapes cost more than the rate says.
    assert 0.7 < encoded.estimated_bytes / len(encoded.data) < 1.3
    codec.save(tmp_path / "a.lcodec")
    loaded = Codec.load(tmp_path / "a.lcodec")
    assert loaded.fingerprint == codec.fingerprint
    assert loaded.describe()["hyperparameters"] == codec.describe()["hyperparameters"]
    assert loaded.encode(image) == encoded.data
    for entry, value in CHOICES[choice].items():
        assert loaded.model.hyperparameters()[entry] == value
    thawed = codec.thaw()
    assert thawed.hyperparameters() == codec.model.hyperparameters()
    assert Codec.freeze(thawed).fingerprint == codec.fingerprint


@EVERY
def test_quantized_networks_tell_the_same_to_encoder_and_decoder(name, choice, tmp_path):
    model = chosen_model(name, choice)
    small = quantize(model, Scheme(8, 8), observe(model, [photo_tensor(2, 64, 64)]))
    codec = Codec.freeze(small, weight_dtype=torch.float16)
    codec.save(tmp_path / "q.lcodec")
    encoded = codec.encode_verbose(photo(50, 70))
    loaded = Codec.load(tmp_path / "q.lcodec")
    np.testing.assert_array_equal(loaded.decode(encoded.data), encoded.reconstruction)


@EVERY
def test_every_weight_learns_from_the_rate(name, choice):
    model, x = chosen_model(name, choice), photo_tensor(1, 64, 64)
    for surrogate in (make() for make in SURROGATES.values()):
        model.zero_grad()
        out = model(x, surrogate=surrogate, noise=Noise())
        (out.total_bits.mean() + (out.x_hat - x).square().sum()).backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_customary_priors_leave_no_trace():
    for name in WITH_HYPERPRIOR:
        tiny = dict(MODELS[name].tiny)
        assert build_model(name, tiny).hyperparameters() == tiny
        same = {"prior": "gaussian", "scale_bound": 0.11, "prior_z": "factorized"}
        assert build_model(name, tiny | same).hyperparameters() == tiny


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beta": 1.5}, "beta is a setting of generalized-gaussian, not of gaussian"),
        ({"prior": "laplase"}, "unknown prior 'laplase'.*laplace"),
        ({"prior_z": "chanel"}, "prior_z = 'chanel' must be factorized or channel"),
        ({"scale_bound": 0.0}, "scale_bound = 0.0 must be from 0.01 to 16"),
        ({"prior": "generalized-gaussian", "beta": 5.0}, "beta = 5.0 must be from 0.5 to 4"),
    ],
)
def test_what_no_prior_is_is_refused(wrong, message):
    for name in WITH_HYPERPRIOR:
        with pytest.raises(ConfigError, match=message):
            build_model(name, {**MODELS[name].tiny, **wrong})
        with pytest.raises(ConfigError, match=message):
            MODELS[name].build(**MODELS[name].tiny, **wrong)
    with pytest.raises(ConfigError, match=r"setting of bmshj2018-hyperprior and mbt2018-mean and"):
        ModelConfig(FactorizedModel.name, {"prior": "laplace"})


# ------------------------------------------------------------------------------ channels of z


def test_a_channels_center_is_held_or_learns_as_the_surrogate_says():
    prior = ChannelPrior(3, Laplace())
    with torch.no_grad():
        prior.means.copy_(torch.tensor([0.3, -2.0, 7.5]))
    z = 5 * torch.randn(2, 3, 4, 4)
    for gradient, wanted in (("none", 0.0), ("recon", 32.0), ("full", 0.0)):
        z_hat, for_rate = mixed(gradient)(z, prior, ())
        assert torch.equal(
            (z_hat - prior.means.view(1, 3, 1, 1)).round(), prior.residual(z, ()).round()
        )
        got = torch.zeros(3)
        if z_hat.requires_grad:
            got = torch.autograd.grad(z_hat.sum(), prior.means, retain_graph=True)[0]
        assert got.tolist() == pytest.approx([wanted] * 3, abs=1e-4)
        (rate,) = torch.autograd.grad(prior.bits(for_rate, ()).sum(), prior.means)
        assert (rate != 0).all()


def test_a_channel_has_the_row_of_its_own_scale():
    prior = ChannelPrior(3, Laplace(), scale_bound=0.1)
    with torch.no_grad():
        prior.scales.copy_(torch.tensor([-1.0, 2.0, 30.0]))
    tables = prior.tables()
    assert tables.lengths[0] < tables.lengths[1] < tables.lengths[2]
    assert (prior.indexes((2, 3, 1, 1), (), tables)[1].ravel() == torch.arange(3)).all()
    prior.check_tables(tables)
    with pytest.raises(CheckpointError, match="4 channels need a row each, not 3"):
        ChannelPrior(4, Laplace()).check_tables(tables)


@pytest.mark.parametrize("scale", [1e5, float("nan"), float("inf")])
def test_a_channel_that_no_table_can_hold_is_an_error(scale):
    prior = ChannelPrior(2, Laplace())
    with torch.no_grad():
        prior.scales[1] = scale
    with pytest.raises(LictorError, match="diverged"):
        prior.tables()


@pytest.mark.parametrize("prior", PRIORS)
def test_thresholds_of_all_bounds_rise(prior):
    for bound in (0.01, 0.0413, 0.12, 1.0, 16.0):
        for options in ({}, {"beta": 0.5}, {"beta": 4.0}):
            if options and prior != "generalized-gaussian":
                continue
            thresholds = PRIORS[prior](scale_bound=bound, **options)._thresholds()
            assert (np.diff(thresholds) > 0).all()
