"""The report's content: what it says, that text stays text, and that it needs nothing else."""

import dataclasses
import html
import io
import json
import re

import numpy as np
import pytest
from bd_fixtures import measured, published
from PIL import Image
from report_fixtures import EVIL, SPEED, save, write_results

from conftest import photo
from lictor.comparison.bd import compare
from lictor.comparison.curve import load_curve
from lictor.errors import DataError
from lictor.evaluation.pictures import original_path, picture_path
from lictor.reporting.gallery import (
    data_uri,
    gallery,
    kept_pictures,
    matched_rates,
    nearest_setting,
)
from lictor.reporting.markup import join, script_json, tag
from lictor.reporting.page import Options, build_report
from lictor.reporting.sources import Source, load_sources


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of JPEG and WebP, and one of an evil name, with two pictures kept."""
    folder = tmp_path_factory.mktemp("results")
    speed = {"speed": {f"q{q}": SPEED for q in (10, 30, 55, 80)}}
    write_results(folder, "JPEG", codec=speed, errors=("broken.png: not a picture",))
    write_results(folder, "WebP", "WEBP", provenance={"command": "run <me>", "jobs": 4})
    write_results(folder, EVIL, "WEBP", (5, 20, 50, 90))
    return folder


@pytest.fixture(scope="module")
def sources(folder):
    return load_sources([str(folder)])[0]


@pytest.fixture(scope="module")
def page(sources):
    return build_report(
        [*sources, Source(published("paper", [0.2, 0.4, 0.8, 1.6], [26, 29, 32, 35]))]
    )


def without_scripts(page: str) -> str:
    return re.sub(r"<(script|style)\b[^>]*>.*?</\1>", "", page, flags=re.DOTALL)


def data_of(page: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', page)
    return json.loads(found)


def words(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", without_scripts(page)))


def test_markup_escapes_all_that_is_not_markup():
    made = tag("p", "<b>", tag("b", 'a & "b"'), None, title='"><i>', hidden=True, id=None)
    assert made == (
        '<p title="&quot;&gt;&lt;i&gt;" hidden>&lt;b&gt;<b>a &amp; &quot;b&quot;</b></p>'
    )
    assert join("<", tag("br"), 3) == "&lt;<br>3"


def test_json_in_a_script_cannot_end_it_and_says_what_json_cannot():
    text = script_json({"a": EVIL + "<!-- &", "b": float("nan"), "c": [float("inf"), 1.5]})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": EVIL + "<!-- &", "b": None, "c": ["inf", 1.5]}


def test_an_evil_name_is_text_everywhere(page, sources):
    assert EVIL not in page
    assert page.count("<script") == 6  # our own, with the data
    assert page.lower().count("</script") == 6
    assert EVIL in words(page)
    assert data_of(page)["curves"][2]["name"] == EVIL
    evil = dataclasses.replace(
        sources[0].curve,
        **dict.fromkeys(("name", "description", "dataset"), EVIL),
        errors=(EVIL,),
        provenance={EVIL: {EVIL: [EVIL, {"command": EVIL}]}, "jobs": EVIL},
        codec={"settings": {EVIL: EVIL}, "speed": {"q10": {"kmac_per_pixel": {EVIL: 1.0}}}},
    )
    harmful = build_report([Source(evil)], Options(title=EVIL), notes=[EVIL])
    assert EVIL not in harmful
    assert harmful.count("<script") == 6


def test_the_page_loads_nothing(page):
    markup = without_scripts(page)
    assert "http" not in words(page)
    assert not re.findall(r"""(?:src|action|poster|srcset)\s*=""", markup)
    assert set(re.findall(r'href="([^"]*)"', markup)) <= {
        "data:,",
        *(f"#{i}" for i in re.findall(r'id="([^"]+)"', markup)),
    }
    style = "".join(re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline' 'unsafe-eval" not in policy
    assert "http" not in policy


@pytest.mark.slow
def test_the_same_inputs_make_the_same_bytes(sources):
    assert build_report(sources) == build_report(sources)


def test_the_table_has_what_compare_says(page, sources):
    jpeg, webp = sources[0].curve, sources[1].curve
    comparison = compare(jpeg, webp)
    body = re.findall(r'<tbody data-view="psnr\|mean-psnr" data-anchor="0">(.*?)</tbody>', page)[0]
    shown = words(body)
    assert f"{comparison.bd_rate:+.1f} %".replace("-", "−") in shown
    assert "No number" in shown  # the published one is of other pictures
    assert "evaluate both on the same pictures" in shown
    data = data_of(page)
    assert data["bd"]["psnr|mean-psnr"][0][1]["rate"] == round(comparison.bd_rate, 3)
    own = {delta.image: round(delta.bd_rate, 3) for delta in comparison.per_image}
    shown_own = data["bd"]["psnr|mean-psnr"][0][1]["per_image"]
    assert dict(zip(data["images"], shown_own, strict=True)) == own
    assert data["bd"]["psnr|mean-psnr"][0][3] == {"rate": None, "per_image": None}


@pytest.mark.slow
def test_only_the_table_of_the_chosen_anchor_is_seen(sources):
    page = build_report(sources, Options(anchor="WebP", pictures=0))
    seen = re.findall(r'<tbody data-view="([^"]*)" data-anchor="(\d+)">', page)
    assert seen == [("psnr|mean-psnr", "1")]
    with pytest.raises(DataError, match="'HEIC' is not one of the curves: JPEG, WebP"):
        build_report(sources, Options(anchor="HEIC"))


def test_times_say_how_they_were_taken(page):
    text = words(page)
    assert "Measured on its own: warm calls, one after the other, medians: JPEG." in text
    assert "Taken while 4 processes ran beside each other: slower than alone: WebP." in text
    assert "From the evaluation: one process, each picture once: " + EVIL in text


def test_costs_are_there_when_measured_and_only_these(page):
    text = words(page)
    assert "5.05 M" in text
    assert "g_a 8.2, g_s 9.0" in text
    assert "300 MB" in text
    assert "Peak memory, encode" not in text
    plain = words(build_report([Source(measured())]))
    assert "lictor evaluate ... --speed" in plain


def test_origin_and_warnings_are_told(page):
    text = words(page)
    assert "run <me>" in text
    assert "JPEG: broken.png: not a picture" in text
    assert "mean over images of the PSNR in dB" in text


def test_a_curve_with_a_lossless_point_says_that_it_is_not_drawn(sources):
    curve = sources[0].curve
    columns = {**curve.columns, "psnr": np.array([30, 31, 32, np.inf])}
    text = words(build_report([Source(dataclasses.replace(curve, columns=columns))]))
    assert "JPEG: PSNR dB is not finite at q80; not drawn." in text


@pytest.mark.slow
def test_without_kept_pictures_the_page_says_how_to_get_them(sources):
    without = [Source(source.curve) for source in sources]
    assert "lictor evaluate ... --keep 3" in words(build_report(without))
    assert "made without pictures" in words(build_report(sources, Options(pictures=0)))


def test_a_report_of_published_curves_or_one_alone_is_a_page():
    curve = published("paper", [0.2, 0.4, 0.8, 1.6], [26, 29, 32, 35])
    text = words(build_report([Source(curve)]))
    assert "BD-rate needs a second" in text
    assert "no numbers of single pictures" in text
    assert "None of these results has times" in text
    with pytest.raises(DataError, match="at least one finite quality"):
        build_report([])


def test_a_curve_of_one_point_has_its_two_numbers(tmp_path):
    anchor = published("paper", [0.1, 0.2, 0.4, 0.8], [30, 35, 40, 45])
    point, far = published("one rate", [0.18], [36]), published("far", [0.18], [50])
    page = build_report([Source(curve) for curve in (anchor, point, far)])
    bodies = re.findall(r'<tbody data-view="psnr\|mean-psnr" data-anchor=.*?</tbody>', page)
    assert "no BD-rate: −21.7 % bits at equal quality, +1.76 dB at equal bits" in words(bodies[0])
    assert "outside of paper's range, 30 to 45" in html.unescape(words(bodies[0]))
    assert "take the curve, paper, as the anchor" in words(bodies[1])
    assert data_of(page)["bd"]["psnr|mean-psnr"][0][1] == {"rate": None, "per_image": None}


# ------------------------------------------------------------------------------------- pictures


def pixels(uri: str) -> np.ndarray:
    import base64

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_embedded_pictures_are_the_kept_ones_bit_by_bit(folder, sources):
    shown = gallery(sources, count=2, limit_bytes=10**8)
    assert [picture["name"] for picture in shown.pictures] == ["one.png", "two.png"]
    assert not shown.notes
    for picture in shown.pictures:
        kept = np.asarray(Image.open(original_path(folder, picture["name"])))
        assert (pixels(picture["original"]) == kept).all()
        for index, entries in picture["codecs"].items():
            assert [e["bpp"] for e in entries] == sorted(e["bpp"] for e in entries)
            for entry in entries:
                name = sources[index].kept_as
                path = picture_path(folder, name, entry["setting"], picture["name"])
                assert (pixels(entry["uri"]) == np.asarray(Image.open(path))).all()


def test_a_picture_is_webp_or_png_whichever_is_smaller(tmp_path):
    for name, image in {"flat": np.zeros((1, 1, 3), np.uint8), "photo": photo(64, 64)}.items():
        path = tmp_path / f"{name}.png"
        save(image, path)
        uri = data_uri(path)
        kind = re.match(r"data:image/(\w+);base64,", uri)
        assert kind is not None
        assert (pixels(uri)[..., :3] == image).all()
        assert len(pixels_bytes(uri)) <= path.stat().st_size


def pixels_bytes(uri: str) -> bytes:
    import base64

    return base64.b64decode(uri.partition(",")[2])


def test_the_nearest_rate_is_the_nearest():
    rates = {"a": 0.25, "b": 0.5, "c": 0.75}
    assert nearest_setting(rates, 0.05) == "a"
    assert nearest_setting(rates, 0.49) == "b"
    assert nearest_setting(rates, 0.625) == "b"  # the lower of two
    assert nearest_setting(rates, 9) == "c"


def test_matches_are_the_nearest_rates_of_this_picture(sources):
    (picture,) = gallery(sources, count=1, limit_bytes=10**8).pictures
    for left, own in picture["codecs"].items():
        for right, others in picture["codecs"].items():
            for entry, place in zip(own, picture["matches"][left][right], strict=True):
                gaps = [abs(other["bpp"] - entry["bpp"]) for other in others]
                assert gaps[place] == min(gaps)
    row = sources[0].curve.rows[0]
    entry = next(e for e in picture["codecs"][0] if e["setting"] == row.setting)
    assert (entry["bytes"], entry["psnr"], entry["ms_ssim"]) == (row.bytes, row.psnr, row.ms_ssim)


def test_matched_rates_lie_in_the_range_of_all():
    one, other = {"a": 0.1, "b": 1.6}, {"a": 0.2, "b": 0.8}
    np.testing.assert_allclose(matched_rates([one, other], 3), [0.2, 0.4, 0.8])
    np.testing.assert_allclose(matched_rates([one, other], 1), [0.4])
    np.testing.assert_allclose(matched_rates([one, other, {"a": 9}], 2), [0.2, 0.8])
    apart = {"a": 3.2, "b": 6.4}
    np.testing.assert_allclose(matched_rates([one, apart], 2), [0.1, 6.4])


@pytest.mark.slow
def test_a_limit_thins_settings_then_pictures_and_says_so(sources):
    everything = gallery(sources, count=2, limit_bytes=10**8)
    settings = [sum(map(len, p["codecs"].values())) for p in everything.pictures]
    less = gallery(sources, count=2, limit_bytes=everything.embedded_bytes * 3 // 4)
    assert less.embedded_bytes <= everything.embedded_bytes * 3 // 4
    assert len(less.pictures) == 2
    assert sum(sum(map(len, p["codecs"].values())) for p in less.pictures) < sum(settings)
    assert "nearest to" in less.notes[0]
    assert "--picture-mb" in less.notes[0]
    one = gallery(sources, count=2, limit_bytes=everything.embedded_bytes // 5)
    assert len(one.pictures) == 1
    assert "1 of 2 pictures" in one.notes[0]
    none = gallery(sources, count=2, limit_bytes=1000)
    assert not none.pictures
    assert "Not even one picture" in none.notes[0]
    assert "nearest to" in words(
        build_report(sources, Options(picture_bytes=everything.embedded_bytes // 2))
    )


def test_an_original_that_is_another_picture_is_not_shown(tmp_path):
    write_results(tmp_path, keep=1)
    save(photo(170, 240, seed=9), original_path(tmp_path, "one.png"))
    sources, _ = load_sources([str(tmp_path)])
    assert kept_pictures(sources, 3)
    shown = gallery(sources, count=3, limit_bytes=10**8)
    assert not shown.pictures
    assert "another picture" in shown.notes[0]


@pytest.mark.slow
def test_pictures_of_two_folders_are_compared_when_they_are_the_same(tmp_path):
    write_results(tmp_path / "a", "JPEG", keep=1)
    write_results(tmp_path / "b", "WebP", "WEBP", keep=2)
    sources, _ = load_sources([str(tmp_path / "a"), str(tmp_path / "b")])
    first, second = gallery(sources, count=2, limit_bytes=10**8).pictures
    assert set(first["codecs"]) == {0, 1}
    assert set(second["codecs"]) == {1}


# -------------------------------------------------------------------------------------- sources


def test_sources_are_files_folders_and_published_curves(folder):
    sources, notes = load_sources([str(folder / "1.json"), str(folder), "bpg-444"])
    assert [s.curve.name for s in sources] == ["WebP", "JPEG", EVIL, "bpg-444"]
    assert sources[-1].file is None
    assert not notes


def test_what_is_no_result_in_a_folder_is_left_out_and_told(tmp_path):
    write_results(tmp_path, keep=0)
    (tmp_path / "other.json").write_text("[]")
    sources, notes = load_sources([str(tmp_path)])
    assert len(sources) == 1
    assert "other.json" in notes[0]
    assert "other.json" in words(build_report(sources, notes=notes))


@pytest.mark.slow
def test_curves_of_one_name_are_told_apart(tmp_path):
    for place in ("a", "b"):
        write_results(tmp_path / place, keep=1)
    write_results(tmp_path / "a", keep=0)
    sources, _ = load_sources([str(tmp_path / "a")])
    assert [s.curve.name for s in sources] == ["JPEG (0)", "JPEG (1)"]
    sources, _ = load_sources([str(tmp_path / "a" / "0.json"), str(tmp_path / "b" / "0.json")])
    assert [s.curve.name for s in sources] == ["JPEG (a)", "JPEG (b)"]
    assert {s.kept_as for s in sources} == {"JPEG"}
    assert set(gallery(sources, count=1, limit_bytes=10**8).pictures[0]["codecs"]) == {0, 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.json", "no such file or folder, nor a published curve"),
        ("bpg-44", "published curves like it: .*bpg-444"),
        ("x" * 5000, "no such file or folder"),
        ("a\0b", "no such file or folder"),
    ],
)
def test_a_result_that_does_not_exist_is_named(name, message):
    with pytest.raises(DataError, match=message):
        load_sources([name])


def test_a_folder_without_results_says_so(tmp_path):
    with pytest.raises(DataError, match="has no results file"):
        load_sources([str(tmp_path)])
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"bad\.json"):
        load_sources([str(tmp_path)])
    with pytest.raises(DataError, match="'results'"):
        load_sources([str(tmp_path / "bad.json")])


def test_a_curve_without_a_name_has_its_files(tmp_path):
    write_results(tmp_path, keep=0)
    content = json.loads((tmp_path / "0.json").read_text())
    del content["name"]
    (tmp_path / "mine.json").write_text(json.dumps(content))
    assert load_curve(tmp_path / "mine.json").name == "unnamed"
    assert load_sources([str(tmp_path / "mine.json")])[0][0].curve.name == "mine"
