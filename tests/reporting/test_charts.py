"""Charts: what is drawn, that it can be told apart, and that a file is the same file again."""

import dataclasses
import json
import math

import numpy as np
import pytest
from bd_fixtures import measured, published

from conftest import combined
from lictor.comparison.curve import METRICS
from lictor.errors import DataError
from lictor.reporting.charts import (
    View,
    rd_figure,
    save_chart,
    styles,
    time_figure,
    times_of,
    views,
)

PSNR = View("psnr", "mean-psnr")


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_curves_differ_in_colour_and_shape_and_stand_out_on_both_pages():
    looks = styles([measured(str(i)) for i in range(16)])
    assert len({(look.light, look.symbol) for look in looks}) == 16
    assert len({look.symbol for look in looks[:8]}) == 8
    for look in looks:
        assert contrast(look.light, "#ffffff") >= 3
        assert contrast(look.dark, "#1a1f24") >= 3


def test_a_figure_has_the_points_of_every_curve_that_has_the_view():
    curves = [measured("a"), published("b", [0.1, 0.2], [30, 33])]
    figure = rd_figure(curves, PSNR)
    assert [trace["name"] for trace in figure["data"]] == ["a", "b"]
    np.testing.assert_allclose(figure["data"][0]["x"], curves[0].bpp, atol=1e-6)
    np.testing.assert_allclose(figure["data"][0]["y"], curves[0].columns["psnr"], atol=1e-6)
    assert [trace["line"]["dash"] for trace in figure["data"]] == ["solid", "dash"]
    assert figure["data"][1]["line"]["width"] < figure["data"][0]["line"]["width"]
    only_measured = rd_figure(curves, View("lpips", "mean-psnr"))
    assert [trace["meta"] for trace in only_measured["data"]] == [0]
    assert "lower is better" in only_measured["layout"]["yaxis"]["title"]["text"]
    json.dumps(figure, allow_nan=False)


def test_points_that_are_not_finite_are_not_drawn():
    curve = published("b", [0.1, 0.2, 0.3], [30, math.inf, math.nan])
    assert rd_figure([curve], PSNR)["data"][0]["x"] == [0.1]


def test_markup_in_names_is_text():
    figure = rd_figure([measured("<b>bold</b> %{x}")], PSNR)
    assert figure["data"][0]["name"] == "&lt;b&gt;bold&lt;/b&gt; %{x}"
    assert "bold" not in figure["data"][0]["hovertemplate"]


def test_views_are_those_of_any_curve_and_decibels_of_ms_ssim_come_once():
    alone = published("b", [0.1, 0.2], [30, 33])
    assert views([alone]) == (PSNR,)
    found = views([measured(), alone])
    assert {view.metric for view in found} == set(METRICS)
    assert View("psnr", "mean-mse") in found
    assert View("ms-ssim-db", "mean-psnr") in found
    columns = {**alone.columns, "ms-ssim": np.array([0.9, 0.95])}
    with_mean = dataclasses.replace(alone, columns=columns)
    found = [view for view in views([measured(), with_mean]) if view.metric == "ms-ssim-db"]
    assert found == [View("ms-ssim-db", "mean-ms-ssim")]
    drawn = rd_figure([with_mean], found[0])["data"][0]["y"]
    np.testing.assert_allclose(drawn, [10, -10 * math.log10(0.05)], atol=1e-5)


def test_a_speed_measurement_replaces_the_times_of_the_evaluation():
    curve = measured("a")
    (first, *_) = times_of(curve)
    assert (first.encode_s, first.decode_s) == pytest.approx((0.1, 0.2))
    assert not first.alone
    assert first.seconds("decode", per_megapixel=True) == pytest.approx(20)  # of 0.01 megapixels
    speed = {"q=0": {"encode_s": 0.5, "decode_s": 0.25, "encode_s_per_megapixel": 3.0}}
    (first, second, *_) = times_of(dataclasses.replace(curve, codec={"speed": speed}))
    assert (first.encode_s, first.encode_s_per_megapixel, first.alone) == (0.5, 3.0, True)
    assert first.decode_s_per_megapixel == pytest.approx(25)
    assert not second.alone
    assert times_of(published("b", [0.1, 0.2], [30, 33])) == ()


def test_a_speed_that_is_damaged_is_as_none():
    for speed in (3, {"q=0": None}, {"q=0": {"encode_s": "fast"}}, {"q=0": {"encode_s": None}}):
        (first, *_) = times_of(dataclasses.replace(measured(), codec={"speed": speed}))
        assert not first.alone


def test_the_time_chart_has_one_line_for_each_codec_with_times():
    curves = [measured("a" * 40), published("b", [0.1, 0.2], [30, 33]), measured("c")]
    figure = time_figure(curves, per_megapixel=True)
    assert [trace["meta"] for trace in figure["data"]] == [0, 0, 2, 2]
    assert figure["layout"]["yaxis"]["ticktext"] == ["a" * 23 + "…", "c"]
    encode, decode = figure["data"][:2]
    assert encode["y"] < decode["y"]
    assert decode["marker"]["symbol"] == encode["marker"]["symbol"] + "-open"


@pytest.mark.parametrize(("log_rate", "suffix"), combined([False, True], [".pdf", ".svg", ".png"]))
def test_a_chart_file_is_the_same_file_again(tmp_path, suffix, log_rate):
    curves = [measured("_a $x$ 你"), published("b", [0.1, 0.2], [30, 33])]
    path = tmp_path / f"chart{suffix}"
    save_chart(path, curves, log_rate=log_rate)
    first = path.read_bytes()
    save_chart(path, curves, log_rate=log_rate)
    assert path.read_bytes() == first
    assert len(first) > 3000


def test_a_pdf_has_its_fonts_inside_and_no_date(tmp_path):
    path = tmp_path / "chart.pdf"
    save_chart(path, [measured()])
    data = path.read_bytes()
    assert b"/FontFile2" in data
    assert b"/Type3" not in data
    assert b"CreationDate" not in data


def test_a_chart_that_cannot_be_made_says_why(tmp_path):
    with pytest.raises(DataError, match="must end in one of"):
        save_chart(tmp_path / "chart.jpg", [measured()])
    with pytest.raises(DataError, match="no curve has LPIPS"):
        save_chart(
            tmp_path / "chart.pdf",
            [published("b", [0.1, 0.2], [30, 33])],
            View("lpips", "mean-psnr"),
        )
    with pytest.raises(DataError, match="cannot write"):
        save_chart(tmp_path / "none" / "chart.pdf", [measured()])
    assert list(tmp_path.iterdir()) == []
