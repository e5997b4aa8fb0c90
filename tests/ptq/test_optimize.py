"""Rounding for the loss: it helps, it stays near, and the model is whole afterwards."""

import itertools

import pytest
import torch

from conftest import photo_tensor, tiny_model
from lictor.codecs.learned import Codec
from lictor.errors import ConfigError
from lictor.ptq.calibrate import observe
from lictor.ptq.optimize import Settings, optimize
from lictor.ptq.quantize import quantize
from lictor.ptq.scheme import Scheme, layers_of
from lictor.ptq.storage import quantized_layers
from lictor.training.loss import rate_distortion


def objective(x, out):
    return rate_distortion(x, out, 0.05).total


def hard_loss(model, x) -> float:
    with torch.no_grad():
        return float(objective(x, model(x)))


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(4, 8),
        pytest.param(Scheme(4, None), marks=pytest.mark.slow),
        pytest.param(Scheme(None, 4), marks=pytest.mark.slow),
    ],
)
def test_it_lowers_the_loss_and_leaves_whole_codes(scheme):
    x = photo_tensor(2, 64, 64)
    model = tiny_model("checkerboard")
    quantized = quantize(model, scheme, observe(model, [x]))
    before = hard_loss(quantized, x)
    steps = list(
        optimize(quantized, model, itertools.repeat(x), objective, Settings(30, codes_lr=0.05))
    )
    assert [progress.step for progress in steps] == list(range(30))
    assert hard_loss(quantized, x) < before
    originals = layers_of(model)
    layers = quantized_layers(quantized)
    assert layers.keys() == originals.keys()
    for layer in layers.values():
        if scheme.weights is not None:
            codes = layer.layer.weight
            assert torch.equal(codes, codes.round())
            assert -8 <= codes.min() <= codes.max() <= 7
    Codec.freeze(quantized)


def test_closed_early_the_model_is_whole_and_little_changed():
    x = photo_tensor(2, 64, 64)
    model = tiny_model("bmshj2018-factorized")
    quantized = quantize(model, Scheme(8, 8), observe(model, [x]))
    codes = {n: q.layer.weight.clone() for n, q in quantized_layers(quantized).items()}
    steps = optimize(quantized, model, itertools.repeat(x), objective, Settings(100))
    next(steps)
    assert not quantized_layers(quantized)
    steps.close()
    assert quantized_layers(quantized).keys() == codes.keys()
    for name, layer in quantized_layers(quantized).items():
        assert float((layer.layer.weight - codes[name]).abs().max()) <= 1


def test_wrong_settings_are_refused():
    for wrong in ({"steps": 0}, {"reach": 0.1}, {"bias_lr": -1.0}):
        with pytest.raises(ConfigError):
            Settings(**wrong)
    model = tiny_model("checkerboard")
    with pytest.raises(ConfigError, match="not quantized"):
        next(optimize(model, model, [photo_tensor(1, 64, 64)], objective, Settings(1)))


def test_exact_grids_stay_exact():
    x = photo_tensor(2, 64, 64)
    model = tiny_model("checkerboard")
    quantized = quantize(model, Scheme(8, 8), observe(model, [x]))
    layers = quantized_layers(quantized)
    picture = next(q for name, q in layers.items() if name.startswith("g_a"))
    assert torch.equal(picture.steps, torch.full_like(picture.steps, 1 / 255))
    whole = [q for q in layers.values() if q.steps.unique().numel() == 1 and q.steps[0] % 1 == 0]
    before = [q.steps.clone() for q in whole]
    settings = Settings(5, factors_lr=0.1)
    for _ in optimize(quantized, model, itertools.repeat(x), objective, settings):
        pass
    assert torch.equal(picture.steps, torch.full_like(picture.steps, 1 / 255))
    assert whole
    assert all(torch.equal(q.steps, steps) for q, steps in zip(whole, before, strict=True))


def test_another_model_and_a_loss_that_is_not_finite_are_refused():
    x = photo_tensor(2, 64, 64)
    model = tiny_model("checkerboard")
    quantized = quantize(model, Scheme(8, 8), observe(model, [x]))
    codes = {n: q.layer.weight.clone() for n, q in quantized_layers(quantized).items()}
    with pytest.raises(ConfigError, match="another"):
        next(optimize(quantized, tiny_model("mbt2018-mean"), [x], objective, Settings(1)))
    with pytest.raises(ConfigError, match="not finite"):
        next(optimize(quantized, model, [x * torch.nan], objective, Settings(1)))
    for name, layer in quantized_layers(quantized).items():
        assert torch.equal(layer.layer.weight, codes[name])
