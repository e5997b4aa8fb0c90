"""Outlier measures: their values on known distributions, their bounds, and what they look at."""

import math

import numpy as np
import pytest
import torch

from conftest import photo, photo_tensor, tiny_model
from lictor.analysis.outliers import (
    METRICS,
    CodecReport,
    Outliers,
    TensorReport,
    channel_kurtosis,
    codec_outliers,
    element_kurtosis,
    max_median_ratios,
    outliers,
    range_over_sigma,
    share_beyond,
    sqnr,
)
from lictor.codecs.learned import Codec
from lictor.errors import DataError
from lictor.models.zoo import MODELS
from lictor.ptq.calibrate import observe
from lictor.ptq.quantize import quantize
from lictor.ptq.scheme import Scheme
from lictor.reporting.outliers_chart import tensors_in_order

N, C = 20_000, 192


def gaussian() -> torch.Tensor:
    return torch.randn(N, C)


def laplace() -> torch.Tensor:
    return torch.distributions.Laplace(0.0, 1.0).sample((N, C))


def one_loud() -> torch.Tensor:
    x = gaussian()
    x[:, 17] *= 20
    return x


def one_hot() -> torch.Tensor:
    x = torch.zeros(100, C)
    x[:, 17] = torch.randn(100)
    return x


@pytest.mark.parametrize(
    ("make", "channels", "elements", "ratio"),
    [
        (gaussian, 1.0, 3.0, 4.43),
        (laplace, 1.0, 6.0, 8.54),
        (one_loud, (191 + 20**4) * C / (191 + 400) ** 2, 3 * (191 + 20**4) * C / 591**2, 24.0),
    ],
)
def test_known_distributions_have_their_known_values(make, channels, elements, ratio):
    x = make()
    assert channel_kurtosis(x) == pytest.approx(channels, rel=0.03)
    assert element_kurtosis(x) == pytest.approx(elements, rel=0.03)
    assert float(max_median_ratios(x).mean()) == pytest.approx(ratio, rel=0.03)


def test_one_channel_alone_has_the_largest_kurtosis():
    assert channel_kurtosis(one_hot()) == pytest.approx(C)


@pytest.mark.parametrize("make", [gaussian, laplace, one_loud, one_hot])
def test_kurtosis_is_from_one_to_the_number_of_channels(make):
    assert 1 <= channel_kurtosis(make()) <= C + 1e-9


def test_equal_channels_have_kurtosis_one():
    assert channel_kurtosis(torch.ones(5, 7)) == 1


@pytest.mark.parametrize("factor", [1e-3, 7.5, 4096.0])
def test_nothing_depends_on_the_scale(factor):
    x = laplace()[:500]
    for measured, again in zip(
        outliers(x).__dict__.values(), outliers(factor * x).__dict__.values(), strict=True
    ):
        assert again == pytest.approx(measured, rel=1e-3)


def test_the_median_of_an_even_count_is_between_the_middle_two():
    x = torch.tensor([[1.0, 2.0, 4.0, 12.0]])
    assert max_median_ratios(x).tolist() == [4.0]
    assert max_median_ratios(x[:, :3]).tolist() == [2.0]
    assert math.isfinite(float(max_median_ratios(torch.tensor([[0.0, 0.0, 1.0]]))[0]))


def test_distances_are_from_the_mean_in_deviations():
    x = torch.zeros(10_000) + 5
    x[::2] += 1
    assert range_over_sigma(x) == pytest.approx(1)
    x[0] = 105.0
    assert range_over_sigma(x) == pytest.approx(
        99.5 / float(x.double().std(correction=0)), rel=1e-3
    )
    assert share_beyond(x) == pytest.approx(1e-4)


def test_eight_bits_of_a_uniform_tensor_are_48_decibels():
    x = torch.linspace(-1, 1, 100_001)
    assert sqnr(x) == pytest.approx(48.1, abs=0.15)
    assert sqnr(x, 6) == pytest.approx(36.0, abs=0.15)
    assert sqnr(torch.cat([x, torch.tensor([10.0])])) < 35
    assert sqnr(torch.zeros(4)) == math.inf


@pytest.mark.parametrize("name", MODELS)
def test_latents_and_every_layer_are_measured(name):
    codec = Codec.freeze(tiny_model(name))
    report = codec_outliers(name, codec, [photo(50, 70), photo(64, 64, 1)])
    names = [t.name for t in report.tensors]
    latents = [t.name for t in report.tensors if t.part == "latent"]
    assert latents == {
        "bmshj2018-factorized": ["y"],
        "bmshj2018-hyperprior": ["z", "y", "y / sigma"],
    }.get(name, ["z", "y", "y - mu", "(y - mu) / sigma"])
    assert len(names) == len(set(names))
    assert {"g_a", "g_s"} <= set(report.parts)
    assert set(report.escapes) == set(codec.tables)
    assert report.num_pictures == 2
    for part in report.parts:
        worst = report.worst(part)
        for key in METRICS:
            values = [getattr(t.measures, key) for t in report.tensors if t.part == part]
            assert getattr(worst, key) == (min(values) if key == "sqnr" else max(values))


def test_y_is_what_the_analysis_gives():
    model = tiny_model("bmshj2018-factorized")
    image = photo(64, 64)
    report = codec_outliers("it", Codec.freeze(model), [image])
    with torch.no_grad():
        y = model.g_a(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    expected = outliers(y.movedim(1, -1).reshape(-1, 8))
    assert report.tensors[0].measures.channel_kurtosis == pytest.approx(
        expected.channel_kurtosis, rel=1e-4
    )


def test_escape_symbols_are_counted():
    model = tiny_model("bmshj2018-factorized")
    codec = Codec.freeze(model)
    few = codec_outliers("few", codec, [photo(64, 64)]).escapes["y"]
    with torch.no_grad():
        model.g_a[-1].weight.mul_(1e4)
    many = codec_outliers("many", Codec.freeze(model), [photo(64, 64)]).escapes["y"]
    assert few < many <= 8 * 4 * 4


def test_a_quantized_codec_shows_what_its_layers_give_not_their_integers():
    model = tiny_model("checkerboard")
    x = photo_tensor(1, 64, 64)
    quantized = quantize(model, Scheme(16, 16), observe(model, [x]))
    image = (x[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    plain, integers = (codec_outliers("", Codec.freeze(m), [image]) for m in (model, quantized))
    assert [t.name for t in plain.tensors] == [t.name for t in integers.tensors]
    for a, b in zip(plain.tensors, integers.tensors, strict=True):
        assert b.measures.channel_kurtosis == pytest.approx(a.measures.channel_kurtosis, rel=0.02)


def test_a_tensor_without_a_measure_does_not_hide_the_others():
    """Zeros have no kurtosis; where they come among pictures and layers must not matter."""
    model = tiny_model("bmshj2018-factorized")
    with torch.no_grad():
        model.g_a[0].bias.zero_()
    codec = Codec.freeze(model)
    black, bright = np.zeros((64, 64, 3), np.uint8), photo(64, 64)
    first = {
        key: next(
            t.measures for t in codec_outliers("", codec, pictures).tensors if t.name == "g_a.0"
        )
        for key, pictures in {
            "black": [black],
            "bright": [bright],
            "last": [black, bright],
            "before": [bright, black],
        }.items()
    }
    assert math.isnan(first["black"].element_kurtosis)
    assert first["black"].sqnr == math.inf
    for both in (first["last"], first["before"]):
        assert both.element_kurtosis == first["bright"].element_kurtosis
        assert both.sqnr == first["bright"].sqnr
    report = codec_outliers("", codec, [black])
    values = [t.measures.channel_kurtosis for t in report.tensors if t.part == "g_a"]
    assert math.isnan(values[0])
    assert report.worst("g_a").channel_kurtosis == max(v for v in values if not math.isnan(v))


def test_without_pictures_there_is_nothing_to_measure():
    with pytest.raises(DataError, match="there is none"):
        codec_outliers("", Codec.freeze(tiny_model("checkerboard")), [])


def test_all_measures_are_there():
    assert set(METRICS) == set(Outliers.__dataclass_fields__)


def test_the_chart_keeps_the_tensors_of_a_network_together():
    """Whatever codecs are compared, and though their layers have different names."""

    measures = Outliers(*[1.0] * len(METRICS))

    def report(*names: str) -> CodecReport:
        tensors = tuple(TensorReport(n, n.split(".")[0], 1, measures) for n in names)
        return CodecReport("it", tensors, {}, 1)

    names = tensors_in_order(
        [report("y", "g_a.body.0", "g_s.0", "h_a.0"), report("y", "g_a.0", "g_s.0", "g_s.6")]
    )
    assert names == ["y", "g_a.body.0", "g_a.0", "g_s.0", "g_s.6", "h_a.0"]
