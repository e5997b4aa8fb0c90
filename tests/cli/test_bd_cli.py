"""`lictor bd` and `lictor anchors`: what they print and write, and how they refuse."""

import csv
import io
import json
import re
from pathlib import Path
from typing import get_args

import pytest

from lictor.cli import bd as bd_module
from lictor.cli.main import main
from lictor.comparison.curve import (
    AGGREGATIONS,
    METRICS,
    ImageResult,
    curve_from_rows,
    curve_to_json,
)
from lictor.comparison.interpolation import METHODS
from lictor.comparison.tables import FORMATS

BPP, PSNR = [0.1, 0.2, 0.4, 0.8, 1.6], [28.0, 30, 32, 34, 36]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def lictor(capsys):
    """Run a command in this process; return exit code, stdout and stderr lines."""

    def run(*args: object) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, args)])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out, captured.err.splitlines()

    return run


def write(name: str, bpp: list[float], psnr: list[float], /, **about) -> Path:
    about = {"name": name, "dataset": "kodak", "aggregation": "mean-psnr", **about}
    path = Path(f"{name}.json")
    path.write_text(json.dumps({**about, "results": {"bpp": bpp, "psnr": psnr}}))
    return path


def write_measured(name: str, gain: float) -> Path:
    rows = []
    for k in range(5):
        for i in range(4):
            psnr = 28 + 2 * k + gain * (1 + 0.1 * i) - i
            mse = 255**2 / 10 ** (psnr / 10)
            times = {"encode_s": 0.1, "decode_s": 0.1}
            row = ImageResult(
                *(f"q={k}", f"image-with-a-long-name-{i}.png", f"hash{i}", 8, 8, 8, 0.1 * 2**k),
                *(mse, mse, psnr, psnr, 0.9 + 0.01 * k),
                **times,
            )
            rows.append(row)
    path = Path(f"{name}.json")
    path.write_text(json.dumps(curve_to_json(curve_from_rows(name, rows, dataset="four"))))
    return path


def test_the_options_are_those_of_the_library():
    assert get_args(bd_module.Metric) == tuple(METRICS)
    assert get_args(bd_module.Aggregation) == tuple(AGGREGATIONS)
    assert get_args(bd_module.Method) == (*METHODS, "all")
    assert get_args(bd_module.Format) == ("terminal", *FORMATS)


def test_published_curves_are_compared_by_their_names(lictor):
    code, out, errors = lictor("bd", "vtm-9.1", "lalic", "elic", "jpeg")
    assert code == 0
    assert errors == []
    for figure in ("-15.26", "-7.36", "+208.49", "29.26–37.93", "42/100", "8/6"):
        assert figure in out
    assert "does not say how psnr was averaged" in out


def test_a_file_that_exists_wins_over_a_published_curve(lictor):
    write("ours", BPP, PSNR).rename("lalic")
    _, out, _ = lictor("bd", "vtm-9.1", "lalic", "--format", "json")
    assert json.loads(out)["comparisons"][0]["test"] == "ours"


@pytest.mark.parametrize(
    ("wrong", "near"), [("mlic+++", "mlic++"), ("results/elic2022.json", "elic"), ("q" * 5000, "")]
)
def test_what_is_neither_file_nor_anchor_is_one_line_with_near_names(lictor, wrong, near):
    for arguments in ((wrong, "lalic"), ("vtm-9.1", wrong)):
        code, out, errors = lictor("bd", *arguments)
        assert code == 1
        assert out == ""
        assert len(errors) == 1
        assert errors[0].startswith(f"lictor: error: {wrong}: neither a results file nor an anchor")
        assert near in errors[0]


BAD_FILES = {
    "empty": "",
    "cut": '{"name": "x", "results": {"bpp": [0.1, 0.2',
    "list": "[1, 2]",
    "no results": '{"name": "x"}',
    "no rate": '{"results": {"psnr": [30, 31]}}',
    "no metric": '{"results": {"bpp": [0.1, 0.2]}}',
    "not numbers": '{"results": {"bpp": ["a"], "psnr": [30]}}',
    "nan rate": '{"results": {"bpp": [NaN, 0.2], "psnr": [30, 31]}}',
    "lengths": '{"results": {"bpp": [0.1, 0.2], "psnr": [30]}}',
    "deep": "[" * 100_000,
    "no points": '{"results": {"bpp": [], "psnr": []}}',
    "one point, far away": '{"results": {"bpp": [0.3], "psnr": [3]}}',
    "two points": '{"results": {"bpp": [0.3, 0.4], "psnr": [30, 31]}}',
    "nan": '{"results": {"bpp": [0.1, 0.2, 0.3, 0.4, 0.5], "psnr": [30, NaN, 32, 33, 34]}}',
    "falls": '{"results": {"bpp": [0.1, 0.2, 0.3, 0.4, 0.5], "psnr": [34, 33, 32, 31, 30]}}',
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_line_and_the_others_go_on(lictor, case):
    Path("bad.json").write_text(BAD_FILES[case])
    code, out, errors = lictor("bd", "vtm-9.1", "bad.json", "lalic")
    assert code == 1
    assert len(errors) == 1, errors
    assert errors[0].startswith("lictor: error: bad")
    assert "-15.26" in out
    assert lictor("bd", "bad.json", "lalic")[0] == 1


def test_a_folder_is_no_curve(lictor):
    Path("folder").mkdir()
    code, _, errors = lictor("bd", "vtm-9.1", "folder")
    assert code == 1
    assert "is a folder" in errors[0]


def test_what_is_refused_says_why_and_is_compared_by_force(lictor):
    test = write("falls", BPP, [28, 30, 29, 34, 36])
    code, out, errors = lictor("bd", "vtm-9.1", test)
    assert code == 1
    assert out == ""
    assert len(errors) == 1
    assert errors[0].startswith("lictor: error: falls against vtm-9.1: falls: more bits")
    assert errors[0].endswith("(or --force)")
    assert errors[0].count("force") == 1
    code, out, errors = lictor("bd", "vtm-9.1", test, "--force")
    assert (code, errors) == (0, [])
    assert "compared all the same" in out


def test_force_is_not_offered_where_it_does_not_help(lictor):
    for test in (write("one", [20.0], [5.0]), write("far", BPP, [5.0, 6, 7, 8, 9])):
        _, _, errors = lictor("bd", "vtm-9.1", test)
        assert len(errors) == 1
        assert "--force" not in errors[0]
        assert lictor("bd", "vtm-9.1", test, "--force")[0] == 1


def test_measured_curves_have_an_interval_and_pictures(lictor):
    anchor, test = write_measured("anchor", 0), write_measured("test", 0.5)
    code, out, _ = lictor("bd", anchor, test, "--per-image", "--confidence", "0.9")
    assert code == 0
    assert re.search(r"\[-\d+\.\d\d, -\d+\.\d\d\]", out)
    assert "90 %" in out
    assert "image-with-a-long-name-3.png" in out
    assert "mean" in out
    _, out, _ = lictor("bd", anchor, test, "--bootstrap", 0)
    assert "[" not in out
    one, two, other = (
        lictor("bd", anchor, test, "--format", "json", "--seed", seed)[1] for seed in (1, 1, 2)
    )
    assert one == two != other


def test_without_pictures_per_image_says_so(lictor):
    assert "no BD-rate of each picture" in lictor("bd", "vtm-9.1", "lalic", "--per-image")[1]


def test_all_methods_are_rows(lictor):
    _, out, _ = lictor("bd", "vtm-9.1", "lalic", "--method", "all", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["method"] for row in rows] == list(METHODS)
    assert all(float(row["bd_rate"]) == pytest.approx(-15.26, abs=0.4) for row in rows)


def test_a_single_point_has_its_two_numbers_and_no_bd_rate(lictor):
    anchor = write("anchor", [0.1, 0.2, 0.4, 0.8], [30, 35, 40, 45])
    point, curve = write("point", [0.18], [36]), write("curve", BPP, [p + 4 for p in PSNR])
    code, out, errors = lictor("bd", anchor, point, "--method", "akima")
    assert (code, errors) == (0, [])
    for word in ("single points, which have no BD-rate", "-21.65", "+1.76", "0.1800", "36.00"):
        assert word in out
    assert "BD-PSNR" not in out
    _, out, _ = lictor("bd", anchor, curve, point, "--per-image")
    assert out.index("BD-PSNR") < out.index("single points") < out.index("-21.65")
    assert "no BD-rate of each picture" in out
    rows = json.loads(lictor("bd", anchor, point, "--method", "all", "--format", "json")[1])
    assert rows["comparisons"] == []
    assert [row["method"] for row in rows["points"]] == list(METHODS)
    assert all(f"{row['point_rate']:.2f}" == "-21.65" for row in rows["points"])
    for suffix in (".md", ".csv", ".tex", ".json"):
        assert lictor("bd", anchor, curve, point, "-o", f"t{suffix}")[0] == 0
        assert "21.65" in Path(f"t{suffix}").read_text()
    _, out, errors = lictor("bd", anchor, curve, point, "--per-image", "--format", "csv")
    assert "point" not in out
    assert errors[-1].startswith("lictor: warning: single points have no BD-rates of pictures")


def test_a_point_that_cannot_be_compared_says_why(lictor):
    anchor = write("anchor", [0.1, 0.2, 0.4, 0.8], [30, 35, 40, 45])
    point, far = write("point", [0.18], [36]), write("far", [0.18], [50])
    code, out, errors = lictor("bd", anchor, far, point)
    assert code == 1
    assert "-21.65" in out
    assert "refused" in out
    assert len(errors) == 1
    assert "outside of anchor's range, 30 to 45" in errors[0]
    assert errors[0].endswith("(or --force)")
    code, out, errors = lictor("bd", anchor, far, "--force")
    assert (code, errors) == (0, [])
    assert "+15.76" in out
    for other, reason in ((anchor, "take the curve, anchor, as the anchor"), (far, "4 settings")):
        code, out, errors = lictor("bd", point, other)
        assert (code, out, len(errors)) == (1, "", 1)
        assert reason in errors[0]


def test_metric_and_average_are_chosen(lictor):
    command = ("bd", "cool-chic-4.2", "cool-chic-5.0", "--format", "json")
    of_mse = json.loads(lictor(*command, "--aggregation", "mean-mse")[1])["comparisons"][0]
    assert of_mse["aggregation"] == "mean-mse"
    command = ("bd", "mbt2018", "elic", "--metric", "ms-ssim", "--format", "json")
    assert json.loads(lictor(*command)[1])["comparisons"][0]["metric"] == "ms-ssim"


@pytest.mark.parametrize(
    ("name", "begins"),
    [("t.md", "against"), ("t.csv", "anchor,test"), ("t.tex", "% against"), ("t.JSON", "{")],
)
def test_the_suffix_of_the_output_is_its_format(lictor, name, begins):
    code, out, errors = lictor("bd", "vtm-9.1", "lalic", "-o", name)
    assert (code, out) == (0, "")
    assert errors[0] == f"table in {name}"
    assert all(line.startswith("lictor: warning: ") for line in errors[1:])
    assert len(errors) == 3
    assert Path(name).read_text(encoding="utf-8").startswith(begins)


def test_a_format_may_be_chosen_for_any_suffix(lictor):
    assert lictor("bd", "vtm-9.1", "lalic", "-o", "t.txt", "--format", "latex")[0] == 0
    assert r"\toprule" in Path("t.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "wrong",
    [
        ("-o", "t.txt"),
        ("-o", "t"),
        ("-o", "no/such/t.md"),
        ("-o", "t.md", "--format", "terminal"),
        ("--bootstrap", "-1"),
        ("--confidence", "1.5"),
        ("--confidence", "nan"),
        ("--seed", "-1"),
    ],
)
def test_a_wrong_option_is_one_line_and_writes_nothing(lictor, wrong):
    code, out, errors = lictor("bd", "vtm-9.1", "lalic", *wrong)
    assert (code, out) == (1, "")
    assert len(errors) == 1
    assert errors[0].startswith("lictor: error: ")
    assert list(Path().iterdir()) == []


def test_a_table_of_refusals_only_is_not_written(lictor):
    Path("t.md").write_text("precious")
    assert lictor("bd", "vtm-9.1", write("one", [0.5], [3.0]), "-o", "t.md")[0] == 1
    assert Path("t.md").read_text() == "precious"


def test_wrong_usage_is_exit_code_2(lictor):
    assert lictor("bd")[0] == 2
    assert lictor("bd", "vtm-9.1")[0] == 2
    assert lictor("bd", "vtm-9.1", "lalic", "--metric", "vmaf")[0] == 2
    assert lictor("bd", "vtm-9.1", "lalic", "--method", "linear")[0] == 2


def test_curves_of_one_name_are_told_apart(lictor):
    first = write("ours", BPP, PSNR).rename("first.json")
    second = write("ours", BPP, [p + 0.5 for p in PSNR]).rename("second.json")
    _, out, _ = lictor("bd", "vtm-9.1", first, second, "--format", "json")
    names = [comparison["test"] for comparison in json.loads(out)["comparisons"]]
    assert names == ["ours (first.json)", "ours (second.json)"]


def test_a_file_without_a_name_goes_by_its_own(lictor):
    write("x", BPP, PSNR, name="").rename("mine.json")
    _, out, _ = lictor("bd", "vtm-9.1", "mine.json", "--format", "json")
    assert json.loads(out)["comparisons"][0]["test"] == "mine"


def test_names_do_not_reach_the_terminal_as_commands(lictor):
    write("x", BPP, PSNR, name="a\nb\x1b[31m[bold]", errors=["one\ntwo\x1b[0m"]).rename("x.json")
    write("y", BPP[:2], PSNR[:2], name="c\nd\x1b[31m").rename("y.json")
    _, out, errors = lictor("bd", "vtm-9.1", "x.json", "y.json")
    assert "\x1b" not in out
    assert "a b?[31m[bold]" in out
    assert len(errors) == 1
    assert "\x1b" not in errors[0]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_width_cuts_a_number(lictor, width, monkeypatch):
    from rich.console import Console

    def console() -> Console:
        return Console(width=width, force_terminal=True, color_system=None)

    monkeypatch.setattr(bd_module, "_console", console)
    anchor, test = write_measured("an-anchor-with-a-long-name", 0), write_measured("test", 0.5)
    for command in (
        ("bd", anchor, test, "vtm-18.0", "--method", "all", "--per-image", "--force"),
        ("bd", "vtm-9.1", "bmshj2018-factorized-ms-ssim-8bit", "jpeg"),
        ("bd", "vtm-9.1", write("a-point-with-a-long-name", [0.5], [33.0]), "--method", "all"),
        ("anchors",),
        ("anchors", "vtm-18.0"),
    ):
        _, out, _ = lictor(*command)
        # Facts about a published curve are lines of their own, for the terminal to wrap.
        table = out[out.index("─") :] if command == ("anchors", "vtm-18.0") else out
        assert all(len(line) <= width for line in table.splitlines())
        assert "…" not in out
        # Every number is one that a wide terminal shows too.
        with monkeypatch.context() as wide:
            wide.setattr(bd_module, "_console", lambda: Console(width=400))
            _, whole, _ = lictor(*command)
        number = re.compile(r"(?<![\w.])[+-]?\d+\.\d+(?![\w.])")
        assert set(number.findall(out)) <= set(number.findall(whole))


def test_anchors_lists_the_published_curves(lictor):
    code, out, _ = lictor("anchors")
    assert code == 0
    assert "136 published curves" in out
    line = next(line for line in out.splitlines() if line.split()[:1] == ["vtm-18.0"])
    for cell in ("36", "0.029–2.822", "24.89–44.57", "psnr", "duanzhiihao/lossy-vae"):
        assert cell in line
    line = next(line for line in out.splitlines() if "paper-elic2022-ms-ssim" in line)
    assert "ms-ssim-db" in line


def test_anchors_filters_by_name_label_and_source(lictor):
    content = json.loads(lictor("anchors", "--filter", "Cool-Chic", "--json")[1])
    assert "cool-chic-5.0" in content
    assert "vtm-9.1" not in content
    assert content["cool-chic-5.0"]["psnr"] == [27.435298, 41.167492]
    assert "evc-small" in json.loads(lictor("anchors", "--filter", "PlotDigitizer", "--json")[1])
    code, _, errors = lictor("anchors", "--filter", "no such thing")
    assert code == 1
    assert len(errors) == 1


def test_anchors_shows_one_with_its_points_and_source(lictor):
    code, out, _ = lictor("anchors", "elic")
    assert code == 0
    for word in ("JiangWeibeta/ELIC", "results/elic_official_kodak.csv", "b240a4c", "not stated"):
        assert word in out
    assert "26.265" in out


def test_one_anchor_as_json_is_a_results_file(lictor):
    _, out, _ = lictor("anchors", "lalic", "--json")
    Path("copy.json").write_text(out)
    _, out, _ = lictor("bd", "copy.json", "lalic", "--format", "csv")
    assert float(next(csv.DictReader(io.StringIO(out)))["bd_rate"]) == 0


def test_an_unknown_anchor_is_one_line(lictor):
    code, _, errors = lictor("anchors", "vtm")
    assert code == 1
    assert len(errors) == 1
    assert "vtm-9.1" in errors[0]
