"""Laws of quantized models: what they compute, what stays exact, and what is refused."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from conftest import photo_tensor, tiny_model
from lictor.codecs.learned import Codec
from lictor.data.folder import ImageFolder
from lictor.errors import ConfigError, DataError
from lictor.layers.entropy_network import FRACTION_BITS, EntropyNetwork
from lictor.models.zoo import MODELS
from lictor.ptq.calibrate import (
    Observed,
    Ranges,
    calibration_crops,
    calibration_pictures,
    input_grid,
    observe,
)
from lictor.ptq.layer import LayerBits, QuantizedLayer
from lictor.ptq.quantize import quantize
from lictor.ptq.scheme import SCOPES, Scheme, layers_of, parse_scheme, scope_of
from lictor.ptq.storage import quantized_layers
from lictor.training.loss import rate_distortion

LAYERS = {
    "conv": (nn.Conv2d(6, 5, 3, stride=2, padding=1), (2, 6, 9, 8)),
    "groups": (nn.Conv2d(6, 6, 3, groups=3, bias=False), (2, 6, 9, 8)),
    "deconv": (nn.ConvTranspose2d(6, 5, 5, stride=2, padding=2, output_padding=1), (2, 6, 5, 4)),
    "linear": (nn.Linear(6, 5), (7, 6)),
}


@pytest.fixture(scope="module")
def crops() -> list[torch.Tensor]:
    return [photo_tensor(2, 64, 64, seed) for seed in range(2)]


def loss(model, crops) -> float:
    model = copy.deepcopy(model)
    model.freeze()
    with torch.no_grad():
        return sum(float(rate_distortion(x, model(x), 0.01).total) for x in crops) / len(crops)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_at_16_bits_a_layer_is_what_it_was(kind, exponent):
    layer, shape = LAYERS[kind]
    axis = 1 if len(shape) == 4 else -1
    x = torch.randn(shape) * torch.logspace(-1, 1, 6).view(-1, *[1] * (len(shape) - 2))
    seen = Observed()
    seen.see_extremes(x, axis % x.dim())
    seen.see_values(x, axis % x.dim())
    grid = input_grid("h_a.0", layer, seen, Scheme(16, 16), Ranges(balance=exponent))
    quantized = QuantizedLayer(layer, grid.bits, grid.steps, grid.copies)
    with torch.no_grad():
        difference = (quantized(x) - layer(x)).square().mean() / layer(x).square().mean()
    assert float(difference) < 1e-7


def test_channels_with_a_step_of_their_own_lose_less(crops):
    layer, x = (
        nn.Conv2d(8, 4, 3),
        torch.randn(4, 8, 16, 16) * torch.logspace(-2, 1, 8)[:, None, None],
    )
    layer.weight.data /= torch.logspace(-2, 1, 8)[:, None, None]  # all channels matter alike
    seen = Observed()
    seen.see_extremes(x, 1)
    seen.see_values(x, 1)
    errors = []
    for ranges in (Ranges(balance=0), Ranges(balance=1, split=0), Ranges(balance=1, split=0.25)):
        grid = input_grid("h_a.0", layer, seen, Scheme(None, 6), ranges)
        with torch.no_grad():
            out = QuantizedLayer(layer, grid.bits, grid.steps, grid.copies)(x)
            errors.append(float((out - layer(x)).square().mean()))
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1]


@pytest.mark.parametrize("name", MODELS)
def test_16_bits_reproduce_rate_and_distortion(name, crops):
    model = tiny_model(name)
    before = loss(model, crops)
    quantized = quantize(model, Scheme(16, 16), observe(model, crops))
    assert loss(quantized, crops) == pytest.approx(before, rel=1e-4)


def test_fewer_bits_change_more(crops):
    model = tiny_model("checkerboard")
    seen = observe(model, crops)
    x = crops[0]
    with torch.no_grad():
        y = model.g_a(x)
        errors = [
            float((quantize(model, Scheme(b, b), seen).g_a(x) - y).square().mean())
            for b in (10, 8, 6, 4)
        ]
    assert all(a < b / 2 for a, b in pairwise(errors))


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_is_quantized_and_nothing_else(scope, crops):
    model = tiny_model("checkerboard")
    before = copy.deepcopy(model.state_dict())
    quantized = quantize(model, Scheme(8, 8, scope), observe(model, crops))
    touched = set(quantized_layers(quantized))
    assert touched == set(layers_of(model, scope))
    assert {scope_of(name) for name in touched} == (
        {"g_a", "g_s", "entropy"} if scope == "all" else {scope}
    )
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])  # a copy was quantized


def test_the_picture_and_whole_numbers_stay_exact(crops):
    model = tiny_model("checkerboard")
    seen = observe(model, crops)
    assert seen["g_a.linear"].picture
    assert seen["h_s.net.0"].integers
    for name, x in (
        ("g_a.linear", torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255),
        ("h_s.net.0", torch.arange(-3, 5).float().view(1, -1, 1, 1).expand(1, 8, 2, 2)[:, :4]),
    ):
        grid = input_grid(name, layers_of(model)[name], seen[name], Scheme(8, 6), Ranges())
        assert grid.steps is not None
        steps = float(grid.steps[0])
        assert torch.allclose((x / steps).round() * steps, x, atol=1e-6)


def test_entropy_networks_of_integers_do_not_depend_on_the_order_of_sums():
    """What is exact can be summed in any order: permuting the taps changes nothing at all."""
    net = nn.Conv2d(64, 8, 3)
    x = torch.randn(1, 64, 12, 12) * 3
    seen = Observed()
    seen.see_extremes(x, 1)
    seen.see_values(x, 1)
    grid = input_grid("h_s.0", net, seen, Scheme(8, 8), Ranges(balance=0))
    order = torch.randperm(64)
    straight = QuantizedLayer(net, grid.bits, grid.steps).double()
    shuffled = copy.deepcopy(straight)
    shuffled.layer.weight.data = straight.layer.weight[:, order]
    assert torch.equal(straight(x.double()), shuffled(x.double()[:, order]))
    # In floating point, the order does show.
    plain, other = copy.deepcopy(net).double(), copy.deepcopy(net).double()
    other.weight.data = plain.weight[:, order]
    assert not torch.equal(plain(x.double()), other(x.double()[:, order]))


def test_frozen_parameters_are_on_the_grid_of_the_entropy_path(crops):
    model = tiny_model("mbt2018-mean")
    quantized = quantize(model, Scheme(8, 8), observe(model, crops))
    quantized.freeze()
    h_s = quantized.h_s
    assert isinstance(h_s, EntropyNetwork)
    out = h_s(torch.randint(-3, 4, (1, 8, 2, 2)).float()) * 2**FRACTION_BITS
    assert torch.equal(out, out.round())


def test_what_makes_no_sense_is_refused(crops):
    model = tiny_model("checkerboard")
    seen = observe(model, crops)
    quantized = quantize(model, Scheme(8, 8), seen)
    with pytest.raises(ConfigError, match="already"):
        quantize(quantized, Scheme(8, 8), seen)
    with pytest.raises(ConfigError, match="frozen"):
        quantize(Codec.freeze(model).model, Scheme(8, 8), seen)
    with pytest.raises(ConfigError, match="no layers in the scope 'entropy'"):
        quantize(tiny_model("bmshj2018-factorized"), Scheme(8, None, "entropy"), {})
    for observed in ({}, observe(MODELS["checkerboard"](n=16, m=8, depth=1), crops)):
        with pytest.raises(ConfigError, match="not observed, or in another model"):
            quantize(model, Scheme(8, 8), observed)
    for bits in (1, 17):
        with pytest.raises(ConfigError, match="2 to 16"):
            Scheme(bits, 8)
        with pytest.raises(ConfigError, match="2 to 16"):
            LayerBits(bits, None)
    for zero in (-1, 16):
        with pytest.raises(ConfigError, match="no code"):
            LayerBits(8, 4, zero)
    with pytest.raises(ConfigError, match="unknown scope 'g_b'"):
        Scheme(8, 8, "g_b")
    with pytest.raises(ConfigError, match="nothing to quantize"):
        Scheme(None, None)
    with pytest.raises(DataError, match="at least one crop"):
        observe(model, [])
    for wrong in (
        {"percentile": 50.0},
        {"percentile": 101.0},
        {"balance": -1.0},
        {"split": 2.0},
        {"headroom": -1.0},
    ):
        with pytest.raises(ConfigError):
            Ranges(**wrong)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_calibration_stops_where_an_activation_is_not_finite(value, crops):
    model = tiny_model("checkerboard")
    with torch.no_grad():
        model.g_a.body[1].bias[0] = value
    model.train()
    with pytest.raises(DataError, match="not finite"):
        observe(model, crops)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_schemes_are_read_and_shown_alike():
    for text, scheme in (
        ("W8A8", (8, 8)),
        ("w4", (4, None)),
        ("A6", (None, 6)),
        ("W16A2", (16, 2)),
    ):
        parsed = parse_scheme(text)
        assert (parsed.weights, parsed.activations) == scheme
        assert parsed.label == text.upper()
    for text in ("", "8", "W", "W8A", "INT8", "W8B8", "W1A8"):
        with pytest.raises(ConfigError):
            parse_scheme(text)


def test_only_what_looks_at_the_decoded_latent_gets_headroom(crops):
    expected = {
        "checkerboard": {"g_s.body.0", "g_s.linear"},
        "mbt2018-mean": {"g_s.0"},
        "bmshj2018-factorized": {"g_s.0"},
    }
    for name, layers in expected.items():
        model = tiny_model(name)
        seen = observe(model, crops)
        assert {layer for layer, observed in seen.items() if observed.latent} == layers
        for layer, observed in seen.items():
            observed.crop_highs[0] = observed.crop_highs[0] + 3  # the crops differ
            (low, high), (wide_low, wide_high) = (observed.reach(h) for h in (0.0, 2.0))
            assert torch.equal(low, observed.low)
            assert torch.equal(high, observed.high)
            assert bool((wide_high > high).all()) == (layer in layers)
            assert bool((wide_low <= low).all())


def test_percentiles_cut_both_tails():
    seen, x = Observed(), torch.linspace(-1, 3, 10_001).view(1, 1, -1, 1)
    seen.see_extremes(x, 1)
    seen.see_values(x, 1)
    assert seen.range(100) == (-1, 3)
    low, high = seen.range(90)
    assert low == pytest.approx(-0.8, abs=0.01)
    assert high == pytest.approx(2.8, abs=0.01)


def test_calibration_crops_depend_on_nothing_but_the_seed(picture_folder):
    pictures = calibration_pictures(picture_folder, most=5, seed=1)
    assert len(pictures) == 5
    again = calibration_pictures(picture_folder, most=5, seed=1)
    first, second = (calibration_crops(p, count=3, size=64, seed=2) for p in (pictures, again))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert pictures.names != calibration_pictures(picture_folder, most=5, seed=2).names


def test_unreadable_pictures_are_left_out_until_none_is_left(tmp_path, picture_folder, caplog):
    (picture_folder / "broken.png").write_bytes(b"no picture")
    assert isinstance(calibration_pictures(picture_folder), ImageFolder)
    assert "broken.png" in caplog.text
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of its 1 pictures"):
        calibration_pictures(tmp_path / "bad")
