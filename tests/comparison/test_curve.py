"""A curve averages its rows, and its file gives back what went in or says what is wrong."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lictor.comparison.curve import (
    MEAN_MSE,
    MEAN_PSNR,
    METRICS,
    ImageResult,
    curve_from_json,
    curve_from_rows,
    curve_to_json,
    load_curve,
    row_to_json,
)
from lictor.errors import DataError
from lictor.metrics import ms_ssim_db, psnr_of_mse


def row(setting: str, image: str, num_bytes: int, mse: float, **other) -> ImageResult:
    values = {
        "sha256": image,
        "width": 100,
        "height": 50,
        "bpp": 8 * num_bytes / 5000,
        "mse_y": mse / 2,
        "psnr": psnr_of_mse(mse),
        "psnr_y": psnr_of_mse(mse / 2),
        "ms_ssim": 0.9,
        "encode_s": 1.0,
        "decode_s": 0.5,
    }
    return ImageResult(setting=setting, image=image, bytes=num_bytes, mse=mse, **(values | other))


ROWS = [
    row("q2", "a", 800, 20.0),
    row("q2", "b", 1200, 80.0),
    row("q1", "a", 400, 60.0),
    row("q1", "b", 500, 200.0),
]


def test_points_are_means_over_pictures_by_rising_rate():
    curve = curve_from_rows("c", ROWS)
    assert curve.settings == ("q1", "q2")
    np.testing.assert_allclose(curve.bpp, [8 * 450 / 5000, 8 * 1000 / 5000])
    expected = [np.mean([psnr_of_mse(m) for m in pair]) for pair in ((60, 200), (20, 80))]
    np.testing.assert_allclose(curve.quality("psnr"), expected)
    of_mean = [psnr_of_mse(130), psnr_of_mse(50)]
    np.testing.assert_allclose(curve.quality("psnr", MEAN_MSE), of_mean)
    np.testing.assert_allclose(curve.columns["psnr-of-mean-mse"], of_mean)
    of_luma = [psnr_of_mse(65), psnr_of_mse(25)]
    np.testing.assert_allclose(curve.quality("psnr-y", MEAN_MSE), of_luma)


@given(st.lists(st.floats(0.01, 6e4), min_size=2, max_size=6))
def test_the_mean_of_psnr_is_never_below_the_psnr_of_the_mean(errors):
    curve = curve_from_rows("c", [row("s", str(i), 10, e) for i, e in enumerate(errors)])
    assert curve.quality("psnr")[0] >= curve.quality("psnr", MEAN_MSE)[0] - 1e-9


def test_ms_ssim_in_db_is_averaged_in_db():
    rows = [row("s", "a", 10, 1.0, ms_ssim=0.9), row("s", "b", 10, 1.0, ms_ssim=0.99)]
    curve = curve_from_rows("c", rows)
    assert curve.quality("ms-ssim-db")[0] == pytest.approx(15.0)
    assert ms_ssim_db(1.0) == math.inf


def test_a_metric_that_one_picture_lacks_is_not_averaged_over_the_others():
    rows = [row("s", "a", 10, 1.0), row("s", "b", 10, 1.0, ms_ssim=math.nan)]
    curve = curve_from_rows("c", rows)
    assert math.isnan(curve.quality("ms-ssim")[0])
    assert curve.quality("psnr")[0] == pytest.approx(psnr_of_mse(1.0))


@pytest.mark.parametrize("rows", [[], ROWS[:3], [*ROWS, ROWS[0]]])
def test_settings_of_other_pictures_do_not_make_a_curve(rows):
    with pytest.raises(DataError, match="same pictures"):
        curve_from_rows("c", rows)


def test_a_file_gives_back_the_curve():
    lossless = row("q3", "a", 4000, 0.0), row("q3", "b", 4000, 1.0)
    curve = curve_from_rows(
        "c",
        [*ROWS, *lossless],
        description="d",
        dataset="set",
        codec={"k": 1},
        provenance={"jobs": 2},
        errors=("e",),
    )
    text = json.dumps(curve_to_json(curve), allow_nan=False)
    back = curve_from_json(json.loads(text))
    assert back.rows[4].psnr == math.inf
    assert back.quality("psnr")[2] == math.inf
    for metric in METRICS:
        for aggregation in curve.aggregations(metric):
            np.testing.assert_array_equal(
                back.quality(metric, aggregation), curve.quality(metric, aggregation)
            )
    np.testing.assert_equal(curve_to_json(back), curve_to_json(curve))
    assert back.images == {"a": "a", "b": "b"}


COMPRESSAI = {
    "name": "mbt2018-mean",
    "description": "Inference (cpu)",
    "results": {
        "bpp": [0.3, 0.1, 0.2],
        "psnr-rgb": [31.0, 27.0, 29.0],
        "ms-ssim-rgb": [0.97, 0.92, 0.95],
        "encoding_time": [1, 1, 1],
    },
}


def test_a_file_of_compressai_loads_and_is_sorted():
    curve = curve_from_json(COMPRESSAI)
    np.testing.assert_array_equal(curve.bpp, [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(curve.quality("psnr"), [27.0, 29.0, 31.0])
    assert curve.aggregation == ""
    assert curve.aggregations("psnr") == (MEAN_PSNR,)
    assert curve.counts_header is None
    with pytest.raises(DataError, match="has no psnr as PSNR of the mean"):
        curve.quality("psnr", MEAN_MSE)
    with pytest.raises(DataError, match="has no lpips"):
        curve.quality("lpips")


def changed(**results) -> dict:
    content = json.loads(json.dumps(COMPRESSAI))
    content["results"].update(results)
    return {**content, "results": {k: v for k, v in content["results"].items() if v is not ...}}


WRONG = {
    "a list": ([], "JSON object"),
    "no results": ({"name": "x"}, "'results'"),
    "another format": (COMPRESSAI | {"format": "lictor-curve-9"}, "lictor-curve-9"),
    "no rate": (changed(bpp=...), r"results\.bpp is missing"),
    "no metric": (changed(**{"psnr-rgb": ..., "ms-ssim-rgb": ...}), "no metric"),
    "uneven": (changed(bpp=[0.1, 0.2]), "has 3 values, but results.bpp 2"),
    "text for a number": (changed(bpp=[0.1, "x", 0.3]), r"results\.bpp must be a number.*'x'"),
    "true for a number": (changed(bpp=[0.1, True, 0.3]), "must be a number"),
    "missing rate": (changed(bpp=[0.1, None, 0.3]), "positive numbers"),
    "negative rate": (changed(bpp=[0.1, -1, 0.3]), "positive numbers"),
    "not a list": (changed(bpp=3), r"results\.bpp must be a list"),
    "settings": (changed(setting=[1, 2, 3]), r"results\.setting must be a list of strings"),
    "aggregation": (COMPRESSAI | {"aggregation": "median"}, "median"),
    "flag": (COMPRESSAI | {"counts_header": "yes"}, "counts_header must be true"),
    "name": (COMPRESSAI | {"name": 5}, "name must be text"),
    "huge": (changed(bpp=[0.1, 10**400, 0.3]), "too large"),
    "no size": (
        COMPRESSAI | {"images": [{**row_to_json(ROWS[0]), "width": 0}]},
        r"images\[0\]\.width must be at least 1",
    ),
    "negative error": (
        COMPRESSAI | {"images": [{**row_to_json(ROWS[0]), "mse": -1.0}]},
        r"images\[0\]\.mse must be at least 0",
    ),
    "rows": (COMPRESSAI | {"images": [{}]}, r"images\[0\]\.setting is missing"),
    "row of another type": (
        COMPRESSAI | {"images": [{"setting": "s", "image": "i", "sha256": "x", "width": "w"}]},
        r"images\[0\]\.width must not be 'w'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_a_file_is_named(case, tmp_path):
    content, message = WRONG[case]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        load_curve(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[" * 10000, "\xff"])
def test_what_is_no_json_is_named(text, tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"results\.json"):
        load_curve(path)
    with pytest.raises(DataError, match="no such"):
        load_curve(tmp_path / "none.json")
    with pytest.raises(DataError, match="is a folder"):
        load_curve(tmp_path)


def test_the_mean_of_psnrs_of_a_published_curve_is_what_it_says():
    """A published curve that says it is the PSNR of the mean error is never taken for the other."""
    curve = curve_from_json(COMPRESSAI | {"aggregation": MEAN_MSE})
    assert curve.aggregations("psnr") == (MEAN_MSE,)
    with pytest.raises(DataError, match="mean over images"):
        curve.quality("psnr", MEAN_PSNR)
    both = curve_from_json(changed(**{"psnr-of-mean-mse": [30.5, 26.5, 28.5]}))
    np.testing.assert_array_equal(both.quality("psnr", MEAN_MSE), [26.5, 28.5, 30.5])
    assert replace(both, rows=()).aggregations("psnr") == (MEAN_PSNR, MEAN_MSE)
