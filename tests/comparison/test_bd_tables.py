"""Tables say what comparisons hold, and stay tables whatever a name is."""

import csv
import io
import json
import math
import re
from dataclasses import replace

import pytest
from bd_fixtures import measured, published

from lictor.comparison.bd import Comparison, compare
from lictor.comparison.findings import Finding
from lictor.comparison.point import PointComparison, compare_point
from lictor.comparison.tables import (
    FORMATS,
    bd_table,
    image_table,
    point_table,
    to_csv,
    to_json,
    to_latex,
    to_markdown,
)
from lictor.errors import ConfigError

BPP, PSNR = [0.1, 0.2, 0.4, 0.8, 1.6], [28.0, 30, 32, 34, 36]
HOSTILE = r"a|b & c_d #1 [e] *f* <i> \g {h} 100% ~ ^ $x$ `k`"


@pytest.fixture
def comparisons() -> list[Comparison]:
    anchor = measured("anchor", dataset="made-up")
    return [
        compare(anchor, measured("better", gain=0.5)),
        compare(anchor, published("worse", BPP, [27.0, 29, 31, 33, 35])),
        compare(anchor, published("short", BPP[:2], PSNR[:2])),
    ]


def test_a_row_has_the_numbers_of_its_comparison(comparisons):
    table = bd_table(comparisons)
    assert table.columns == (
        "test",
        "BD-rate %",
        "95 % interval",
        "BD-PSNR dB",
        "PSNR dB",
        "overlap %",
        "points",
        "notes",
    )
    better, worse, short = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    first = comparisons[0]
    assert better["BD-rate %"] == f"{first.bd_rate:+.2f}"
    assert better["BD-PSNR dB"] == f"{first.bd_quality:+.2f}"
    assert better["PSNR dB"] == "{:.2f}–{:.2f}".format(*first.quality_range)
    assert first.interval is not None
    assert better["95 % interval"] == "[{:+.2f}, {:+.2f}]".format(*first.interval.bd_rate)
    assert better["points"] == "5/5"
    assert better["notes"] == ""
    assert worse["95 % interval"] == "-"
    assert short["BD-rate %"] == "refused"
    assert short["points"] == "5/2"
    assert table.notes[int(short["notes"].split()[0]) - 1].startswith(
        "refused: short: has 2 points"
    )
    assert "against anchor" in table.title
    assert "mean-psnr" in table.title
    assert "pchip" in table.title


def test_what_comparisons_do_not_share_gets_a_column():
    curves = published("a", BPP, PSNR), published("b", BPP, PSNR)
    different = [compare(*curves), compare(*curves, method="akima"), compare(*reversed(curves))]
    table = bd_table(different)
    assert table.columns[:3] == ("test", "anchor", "method")
    assert [row[:3] for row in table.rows] == [
        ("b", "a", "pchip"),
        ("b", "a", "akima"),
        ("a", "b", "pchip"),
    ]
    assert "interval" not in " ".join(table.columns)


def test_a_note_that_several_rows_have_is_there_once():
    anchor = published("a", BPP, PSNR, aggregation="")
    table = bd_table([compare(anchor, published(n, BPP, PSNR)) for n in "bc"])
    assert len(table.notes) == 1
    assert [row[-1] for row in table.rows] == ["1", "1"]


def test_tables_of_nothing_or_of_several_metrics_are_refused():
    psnr = compare(measured("a"), measured("b"))
    with pytest.raises(ConfigError, match="one metric"):
        bd_table([psnr, compare(measured("a"), measured("b"), metric="lpips")])
    with pytest.raises(ConfigError, match="comparisons"):
        bd_table([])


def test_the_pictures_have_a_table_and_a_mean(comparisons):
    table = image_table(comparisons)
    assert table.columns == ("image", "better")
    assert len(table.rows) == 13
    deltas = [delta.bd_rate for delta in comparisons[0].per_image]
    assert table.rows[3] == ("03.png", f"{deltas[3]:+.2f}")
    assert table.rows[-1] == ("mean", f"{sum(deltas) / 12:+.2f}")
    assert image_table(comparisons[1:]).rows == ()


def test_a_picture_without_a_number_is_a_dash_and_not_in_the_mean(comparisons):
    first, *rest = comparisons[0].per_image
    hole = replace(comparisons[0], per_image=(replace(first, bd_rate=math.nan), *rest))
    table = image_table([hole])
    assert table.rows[0] == ("00.png", "-")
    assert table.rows[-1][1] == f"{sum(delta.bd_rate for delta in rest) / 11:+.2f}"


def named(name: str) -> Comparison:
    result = compare(measured("anchor"), replace(measured("test"), name=name))
    return replace(result, findings=(Finding("warning", "x", f"about {name}", "do\nthis"),))


@pytest.mark.parametrize("name", [HOSTILE, "two\nlines", "*star", "[bracket", "-1.5"])
def test_markdown_stays_a_table_whatever_the_name(name):
    lines = to_markdown([named(name)], per_image=True).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    assert cells == [9, 9, 9] + [3] * 15
    assert not any("\n" in line for line in lines)
    assert sum(line.startswith("1. ") for line in lines) == 1


@pytest.mark.parametrize("name", [HOSTILE, "two\nlines", "*star", "[bracket", "-1.5"])
def test_latex_stays_a_table_whatever_the_name(name):
    text = to_latex([named(name)], per_image=True)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    body = [line for line in text.splitlines() if not line.startswith("%")]
    plain = [re.sub(r"\\[{}&%$#_]", "", line) for line in body]
    joined = "\n".join(plain)
    assert joined.count("{") == joined.count("}")
    assert joined.count("$") % 2 == 0
    assert not re.search(r"[#%_~]", joined)
    rows = [line for line in plain if line.endswith(r"\\")]
    assert {row.count("&") for row in rows} == {7, 1}
    # Behind the end of a row, a star or a bracket would be taken for its option.
    assert not any(row.startswith(("*", "[")) for row in rows)


def test_latex_has_real_minus_signs(comparisons):
    text = to_latex(comparisons)
    assert f"${comparisons[0].bd_rate:+.2f}$" in text
    assert r"\toprule" in text
    assert "–" not in text


def test_csv_keeps_every_digit(comparisons):
    first, second, third = csv.DictReader(io.StringIO(to_csv(comparisons)))
    assert float(first["bd_rate"]) == comparisons[0].bd_rate
    assert float(first["bd_quality"]) == comparisons[0].bd_quality
    assert comparisons[0].interval is not None
    assert float(first["bd_rate_low"]) == comparisons[0].interval.bd_rate[0]
    assert float(second["overlap_test"]) == comparisons[1].overlap[1]
    assert second["bd_rate_low"] == ""
    assert (third["refused"], third["bd_rate"]) == ("True", "")
    assert "too few" in third["findings"]


def test_csv_of_pictures(comparisons):
    rows = list(csv.DictReader(io.StringIO(to_csv(comparisons, per_image=True))))
    assert len(rows) == 12
    assert [float(row["bd_rate"]) for row in rows] == [
        delta.bd_rate for delta in comparisons[0].per_image
    ]
    assert {row["test"] for row in rows} == {"better"}
    assert to_csv(comparisons[1:], per_image=True) == ""


def test_json_is_strict_and_whole(comparisons):
    content = json.loads(to_json(comparisons, per_image=True), parse_constant=pytest.fail)
    assert content["format"] == "lictor-bd-1"
    first, second, third = content["comparisons"]
    assert first["bd_rate"] == comparisons[0].bd_rate
    assert first["interval"]["bootstrap"]["resamples"] == 1000
    assert len(first["per_image"]) == 12
    assert second["interval"] is None
    assert third["bd_rate"] is None
    assert third["refused"] is True
    assert third["findings"][0].keys() == {"level", "code", "reason", "remedy"}
    assert "per_image" not in json.loads(to_json(comparisons))["comparisons"][0]


@pytest.fixture
def points() -> list[PointComparison]:
    anchor = published("anchor", BPP, PSNR)
    return [
        compare_point(anchor, published("fine", [0.5], [34.0])),
        compare_point(anchor, published("far", [0.5], [50.0])),
    ]


def test_points_have_a_table_of_their_own_which_says_that_it_is_no_bd_rate(points):
    table = point_table(points)
    assert table.columns == (
        "test",
        "bits at equal PSNR %",
        "PSNR at equal bits dB",
        "bpp",
        "PSNR dB",
        "notes",
    )
    fine, far = table.rows
    first = points[0]
    numbers = (f"{first.point_rate:+.2f}", f"{first.point_quality:+.2f}")
    assert fine == ("fine", *numbers, "0.5000", "34.00", "")
    assert far == ("far", "refused", "-", "0.5000", "50.00", "1")
    assert table.notes[0].startswith("refused: far: its psnr of 50 is outside")
    assert "no BD-rate" in table.title
    assert "against anchor; average mean-psnr; method pchip" in table.title
    with pytest.raises(ConfigError, match="comparisons"):
        point_table([])
    lpips = compare_point(published("a", BPP, PSNR), published("b", [0.5], [34.0]), metric="lpips")
    with pytest.raises(ConfigError, match="one metric"):
        point_table([first, lpips])
    assert point_table([lpips]).columns[1:3] == ("bits at equal LPIPS %", "LPIPS at equal bits")


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_pages_have_a_table_for_curves_and_one_for_points(form, comparisons, points):
    write = FORMATS[form]
    assert write(comparisons, points) == f"{write(comparisons)}\n{write([], points)}"
    shown = f"{points[0].point_rate:+.2f}"
    assert shown in write([], points)
    assert "BD-PSNR" not in write([], points)


def test_csv_has_columns_for_both_and_no_number_in_the_others(comparisons, points):
    curve, *_, fine, far = csv.DictReader(io.StringIO(to_csv(comparisons, points)))
    assert curve["point_rate"] == curve["point_quality"] == ""
    assert float(curve["bd_rate"]) == comparisons[0].bd_rate
    assert float(fine["point_rate"]) == points[0].point_rate
    assert float(fine["point_quality"]) == points[0].point_quality
    assert fine["bd_rate"] == fine["bd_quality"] == far["point_rate"] == ""
    assert (far["refused"], float(far["quality"])) == ("True", 50)
    assert next(csv.DictReader(io.StringIO(to_csv(comparisons)))).keys() < curve.keys()


def test_json_lists_points_beside_comparisons(comparisons, points):
    content = json.loads(to_json(comparisons, points), parse_constant=pytest.fail)
    assert len(content["comparisons"]) == len(comparisons)
    fine, far = content["points"]
    assert fine["point_rate"] == points[0].point_rate
    assert far["point_rate"] is None
    assert (fine["refused"], far["refused"]) == (False, True)
    assert far["findings"][0]["code"] == "range"
    assert json.loads(to_json(comparisons))["points"] == []


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_ends_with_one_line_break(comparisons, name):
    text = FORMATS[name](comparisons)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
