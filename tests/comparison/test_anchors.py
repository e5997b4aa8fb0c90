"""The published curves: their names, where they are from, and the figures that others found."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lictor.comparison.anchors import anchor_names, load_anchor, near_anchors
from lictor.comparison.bd import compare
from lictor.comparison.curve import METRICS, curve_from_json, curve_to_json
from lictor.errors import DataError

ROOT = Path(__file__).resolve().parents[2]

# BD-rate in percent against VTM 9.1, VTM 18.0 and BPG 4:4:4, found with other code (PCHIP) when the
# points were collected. LALIC's first is what its authors report: -15.26.
FIGURES = {
    "lalic": (-15.26, -14.69, -32.89),
    "elic": (-7.36, -6.81, -26.56),
    "elic-sm": (-1.08, -0.19, -23.42),
    "dcae": (-16.98, -16.41, -34.28),
    "hpcm-large": (-19.95, -19.39, -36.83),
    "mlic++": (-15.02, -14.41, -33.00),
    "tcm-large": (-11.73, -11.15, -29.65),
    "qarv": (-5.86, -5.89, -21.73),
    "cool-chic-5.0": (-6.61, -6.11, -25.39),
    "c3": (5.21, 5.82, -16.31),
    "coin": (463.28, 476.68, 317.65),
    "bmshj2018-factorized": (68.10, 69.25, 32.55),
    "bmshj2018-hyperprior": (30.49, 31.24, 3.93),
    "bmshj2018-hyperprior-8bit": (31.03, 31.79, 4.32),
    "mbt2018-mean": (21.28, 21.96, -3.28),
    "mbt2018": (11.02, 11.62, -11.25),
    "cheng2020-anchor": (3.68, 4.48, -18.89),
    "minnen2020": (0.45, 0.83, -16.80),
    "jpeg": (208.49, 233.04, 143.04),
    "jpeg2000": (97.97, 99.33, 55.83),
    "webp": (78.75, 79.54, 44.18),
    "av1": (16.18, 17.32, -6.22),
    "bpg-444": (21.99, 23.55, 0.00),
    "bpg-420": (32.69, 31.31, 8.76),
    "vtm-9.1": (0.00, 0.17, -18.02),
    "vtm-18.0": (-0.17, 0.00, -19.06),
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_of_others_come_out(name):
    for anchor, figure in zip(("vtm-9.1", "vtm-18.0", "bpg-444"), FIGURES[name], strict=True):
        result = compare(load_anchor(anchor), load_anchor(name))
        assert not result.refused
        assert result.bd_rate == pytest.approx(figure, abs=0.0051)


@pytest.mark.parametrize(("anchor", "figure"), [("vtm-9.1", 136.07), ("bpg-444", 82.13)])
def test_a_published_curve_with_points_at_fault_needs_force(anchor, figure):
    curves = load_anchor(anchor), load_anchor("tfc-johnston2017")
    refused = compare(*curves)
    assert refused.refused
    assert "point 82" in " ".join(map(str, refused.findings))
    assert compare(*curves, force=True).bd_rate == pytest.approx(figure, abs=0.0051)


def test_there_are_136_with_plain_names():
    names = anchor_names()
    assert len(names) == 136
    assert list(names) == sorted(set(names))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name) for name in names)


@pytest.mark.parametrize("name", anchor_names())
def test_every_curve_is_sound_and_says_where_it_is_from(name):
    curve = load_anchor(name)
    assert curve.name == name
    assert curve.dataset == "kodak"
    assert (np.diff(curve.bpp) > 0).all()
    assert all(np.isfinite(column).all() for column in curve.columns.values())
    known = [metric for metric in METRICS if metric in curve.columns]
    assert known
    assert curve.counts_header is None
    about = curve.provenance
    assert about["label"]
    assert re.fullmatch(r"[\w-]+/[\w-]+", about["repo"])
    assert about["path"]
    assert re.fullmatch(r"[0-9a-f]{40}", about["commit"])
    # What is averaged how is known only where the source's own words say it.
    words = about.get("aggregation", "")
    assert (curve.aggregation == "mean-psnr") is words.startswith("mean of per-image PSNR")
    assert curve.aggregation in ("", "mean-psnr")
    assert "@" not in json.dumps(dict(about))
    back = curve_from_json(json.loads(json.dumps(curve_to_json(curve))))
    assert curve_to_json(back) == curve_to_json(curve)


def test_curves_keep_more_than_psnr_where_the_source_has_it():
    assert {"ms-ssim", "encoding_time", "decoding_time"} <= set(load_anchor("vtm-9.1").columns)
    cool_chic = load_anchor("cool-chic-5.0")
    assert cool_chic.aggregations("psnr") == ("mean-psnr", "mean-mse")
    assert cool_chic.settings == (
        "lambda=0.02",
        "lambda=0.004",
        "lambda=0.001",
        "lambda=0.0004",
        "lambda=0.0001",
    )
    of_ms_ssim = load_anchor("paper-elic2022-ms-ssim")
    assert "psnr" not in of_ms_ssim.columns
    assert of_ms_ssim.quality("ms-ssim-db")[0] == 11.593


def test_compressais_own_file_of_ms_ssim_in_db_is_the_same_curve():
    ours = load_anchor("paper-elic2022-ms-ssim")
    values = {"bpp": ours.bpp.tolist(), "ms-ssim-db-rgb": ours.columns["ms-ssim-db"].tolist()}
    theirs = curve_from_json({"name": "elic2022", "results": values})
    assert compare(ours, theirs, metric="ms-ssim-db").bd_rate == 0


def test_case_and_spaces_of_a_name_do_not_matter():
    assert load_anchor(" VTM-9.1").name == "vtm-9.1"


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("vtm", "vtm-9.1, vtm-18.0"),
        ("vtm18", "vtm-18.0"),
        ("elic2022", "elic"),
        ("hyperprior", "bmshj2018-hyperprior"),
        ("mlic+++", "mlic++"),
    ],
)
def test_an_unknown_name_gets_the_near_ones(wrong, near):
    with pytest.raises(DataError, match=f"{re.escape(wrong)}.*{re.escape(near)}"):
        load_anchor(wrong)


@pytest.mark.parametrize("wrong", ["", "x", "qqqqqqqq", "\n", "../anchors"])
def test_a_name_like_no_other_is_still_one_clear_error(wrong):
    assert near_anchors(wrong) == []
    with pytest.raises(DataError, match="lictor anchors"):
        load_anchor(wrong)


@pytest.fixture(scope="module")
def importer() -> ModuleType:
    path = ROOT / "benchmarks" / "import_anchors.py"
    spec = importlib.util.spec_from_file_location("import_anchors", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_names_is_that_of_the_asset(importer):
    assert sorted(importer.NAMES.values()) == list(anchor_names())


def source(name: str) -> dict:
    """A file as the import reads it, for any name."""
    return {
        "name": name,
        "dataset": "kodak",
        "source": {"repo": "a/b", "path": "c", "commit": "d"},
        "bpp": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "psnr": [30, 31, 32, 33, 34, 35],
        "note": "A note. If you have questions, ask someone (someone@example.com).",
    }


def test_the_import_takes_a_folder_of_exactly_the_named_files(importer, tmp_path):
    for stem in importer.NAMES:
        (tmp_path / f"{stem}.json").write_text(json.dumps(source(stem)))
    (tmp_path / "INDEX.json").write_text("[]")
    curves = importer.read_folder(tmp_path)
    assert list(curves) == list(anchor_names())
    assert curves["lalic"]["provenance"]["note"] == "A note."
    assert json.loads(importer.to_text(curves))["curves"] == curves
    (tmp_path / "new.json").write_text(json.dumps(source("new")))
    with pytest.raises(SystemExit, match="new"):
        importer.read_folder(tmp_path)
    (tmp_path / "new.json").unlink()
    (tmp_path / "lalic.json").unlink()
    with pytest.raises(SystemExit, match="lalic"):
        importer.read_folder(tmp_path)
