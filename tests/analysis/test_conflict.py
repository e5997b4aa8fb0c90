"""Rows of the conflict probe: read strictly, averaged over phases, drawn."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lictor.analysis.conflict import (
    SCORES,
    load_conflict_run,
    load_conflict_runs,
    means_to_csv,
    means_to_json,
    notes,
    phase_means,
)
from lictor.errors import DataError
from lictor.reporting.conflict_charts import (
    _edges,
    _layer_figure,
    _score_figure,
    running_mean,
    save_layer_chart,
    save_score_chart,
)

from conflict_fixtures import row, write_run  # isort: skip


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [row(10), row(20, intra_pre=None), row(30, inter_upd=-1)]
    run = load_conflict_run(write_run(tmp_path / "adam", rows))
    assert (run.name, run.steps) == ("adam", (10, 20, 30))
    assert list(run.scores) == list(SCORES)[:6]
    assert run.scores["intra_raw"] == tuple(r["intra_raw"] for r in rows)
    assert math.isnan(run.scores["intra_pre"][1])
    assert run.scores["inter_upd"][2] == -1
    assert list(run.layers) == ["g_a.0.weight", "g_a.0.bias"]
    assert run.layers["g_a.0.bias"]["intra_h"][0] == rows[0]["layers"]["g_a.0.bias"]["intra_h"]
    assert run.config["optim.beta1"] == 0.9


def test_scores_that_only_some_rows_have_are_missing_in_the_others(tmp_path):
    rows = [row(10), row(20, lag=True)]
    del rows[1]["layers"]["g_a.0.bias"]
    run = load_conflict_run(write_run(tmp_path / "a", rows))
    assert math.isnan(run.scores["inter_raw_lag"][0])
    assert not math.isnan(run.scores["inter_raw_lag"][1])
    assert math.isnan(run.layers["g_a.0.bias"]["intra_raw"][1])


def test_a_run_without_a_configuration_still_has_its_scores(tmp_path):
    folder = write_run(tmp_path / "a", [row(1)])
    for content in (None, "", "[1]", '{"a": 3}'):
        (folder / "config.json").unlink(missing_ok=True)
        if content is not None:
            (folder / "config.json").write_text(content)
        assert load_conflict_run(folder).config == {}


BAD = {
    "cut": '{"kind": "conflict", "step": 20, "intra_r',
    "empty line": "",
    "no object": "[1, 2]",
    "no step": json.dumps({k: v for k, v in row(20).items() if k != "step"}),
    "no score": json.dumps({k: v for k, v in row(20).items() if k != "inter_pre"}),
    "no layers": json.dumps(row(20) | {"layers": {}}),
    "layers of another kind": json.dumps(row(20) | {"layers": {"a": 3}}),
    "text": json.dumps(row(20, intra_raw="0.5")),
    "true": json.dumps(row(20, intra_raw=True)),
    "above 1": json.dumps(row(20, intra_raw=1.5)),
    "NaN": json.dumps(row(20, intra_raw=math.nan)),
    "infinity": json.dumps(row(20, intra_raw=math.inf)),
    "step of another kind": json.dumps(row(20) | {"step": "20"}),
    "step zero": json.dumps(row(20) | {"step": 0}),
    "deep": "[" * 100_000,
    "not text": "\udcff\udcfe",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_damaged_line_is_named_with_its_number_and_a_remedy(tmp_path, bad):
    folder = write_run(tmp_path / "a", [row(10)])
    with (folder / "conflict.jsonl").open("a", errors="surrogateescape") as log:
        log.write(bad + "\n")
    with pytest.raises(DataError, match=r"conflict\.jsonl: line 2 is damaged; .*resume") as error:
        load_conflict_run(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("steps", [(10, 10), (20, 10)])
def test_rows_of_two_runs_in_one_file_are_refused(tmp_path, steps):
    with pytest.raises(DataError, match="line 2 is out of order"):
        load_conflict_run(write_run(tmp_path / "a", [row(step) for step in steps]))


def test_what_is_not_a_run_with_rows_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(DataError, match="absent: no such run folder"):
        load_conflict_run(tmp_path / "absent")
    (tmp_path / "plain").mkdir()
    with pytest.raises(DataError, match=r"plain: has no conflict\.jsonl; train with --set train"):
        load_conflict_run(tmp_path / "plain")
    with pytest.raises(DataError, match="has no rows yet"):
        load_conflict_run(write_run(tmp_path / "empty", []))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="file: no such run folder"):
        load_conflict_run(tmp_path / "file")
    (tmp_path / "odd" / "conflict.jsonl").mkdir(parents=True)
    with pytest.raises(DataError, match="odd: cannot read the run"):
        load_conflict_run(tmp_path / "odd")
    for path in ("a\0b", "x" * 5000):
        with pytest.raises(DataError):
            load_conflict_run(path)


def test_two_runs_of_one_name_are_refused(tmp_path):
    first = write_run(tmp_path / "one" / "adam", [row(1)])
    second = write_run(tmp_path / "two" / "adam", [row(1)])
    with pytest.raises(DataError, match=r"two runs are called 'adam': .*one.*two.*rename"):
        load_conflict_runs([first, second])
    with pytest.raises(DataError, match="two runs"):
        load_conflict_runs([first, first])
    other = write_run(tmp_path / "soap", [row(1)])
    assert [run.name for run in load_conflict_runs([other, first])] == ["soap", "adam"]


def test_runs_that_are_not_alike_are_noted(tmp_path):
    def noted(**changes):
        folders = [
            write_run(tmp_path / f"a{len(list(tmp_path.iterdir()))}", [row(1)]),
            write_run(tmp_path / f"b{len(list(tmp_path.iterdir()))}", [row(1)], **changes),
        ]
        return notes(load_conflict_runs(folders))

    assert noted() == noted(optim={"lr": 1.0}) == noted(train={"seed": 1}) == []
    assert noted(optim={"beta1": 0.95}) == [
        "inter_upd is not comparable: the runs differ in optim.beta1"
    ]
    (note,) = noted(loss={"lmbda": 0.1}, model={"n": 64}, data={"crop_size": 192})
    assert "differ in data.crop_size, loss.lmbda, model.n: not the same problem" in note
    assert noted(train={"conflict_lag": 5})


def test_means_are_over_the_probes_of_a_phase(tmp_path):
    values = [0.4, -0.2, -0.4, None, -0.6, 0.0]
    rows = [row(10 * (i + 1), intra_pre=v) for i, v in enumerate(values)]
    for r, v in zip(rows, values, strict=True):
        r["layers"]["g_a.0.weight"]["intra_pre"] = v
        r["layers"]["g_a.0.bias"]["intra_pre"] = 0.5
    (run,) = load_conflict_runs([write_run(tmp_path / "a", rows)])
    first, second, third = (m for m in phase_means([run], 3) if m.score == "intra_pre")
    assert [(m.first, m.last) for m in (first, second, third)] == [(0, 20), (20, 40), (40, 60)]
    assert (first.num_probes, second.num_probes, third.num_probes) == (2, 1, 2)
    assert first.mean == pytest.approx(0.1)
    assert second.mean == pytest.approx(-0.4)
    assert [m.conflict_rate for m in (first, second, third)] == [0.5, 1.0, 0.5]
    assert first.layer_mean == pytest.approx((0.4 - 0.2 + 1) / 4)
    assert first.layer_conflict_rate == 0.25
    assert [m.score for m in phase_means([run], 1)] == list(SCORES)[:6]


def test_phases_are_those_of_the_longest_run_for_all(tmp_path):
    short = write_run(tmp_path / "short", [row(10), row(20)])
    long = write_run(tmp_path / "long", [row(step) for step in range(10, 90, 10)])
    means = phase_means(load_conflict_runs([short, long]), 2)
    own = [m for m in means if m.score == "inter_raw" and m.run == "short"]
    assert [(m.first, m.last, m.num_probes) for m in own] == [(0, 40, 2), (40, 80, 0)]
    assert math.isnan(own[1].mean)
    assert math.isnan(own[1].conflict_rate)


def test_files_hold_the_means_and_no_nan(tmp_path):
    short = write_run(tmp_path / "short, quoted", [row(10), row(20)])
    long = write_run(tmp_path / "long", [row(step, lag=True) for step in range(10, 90, 10)])
    runs = load_conflict_runs([short, long])
    means = phase_means(runs, 2)
    tree = json.loads(means_to_json(runs, means), parse_constant=pytest.fail)
    table = list(csv.DictReader(io.StringIO(means_to_csv(means))))
    assert len(tree["means"]) == len(table) == len(means) == 2 * (6 + 8)
    for mean, entry, line in zip(means, tree["means"], table, strict=True):
        assert (entry["run"], line["run"]) == (mean.run, mean.run)
        if math.isnan(mean.mean):
            assert (entry["mean"], line["mean"]) == (None, "")
        else:
            assert entry["mean"] == pytest.approx(mean.mean, abs=1e-6)
            assert float(line["mean"]) == entry["mean"]
    assert tree["runs"][0] == {
        "name": "short, quoted", "num_probes": 2, "layers": ["g_a.0.weight", "g_a.0.bias"]
    }  # fmt: skip


# ------------------------------------------------------------------------------------ charts


def test_smoothing_has_no_value_where_a_probe_of_its_window_is_missing():
    nan = math.nan
    np.testing.assert_array_equal(running_mean([1, 2, 3, 5], 3), [nan, 2, 10 / 3, nan])
    np.testing.assert_array_equal(running_mean([1, 2, 3, 5], 2), [nan, 1.5, 2.5, 4])
    np.testing.assert_array_equal(running_mean([1, nan, 3, 5, 7], 3), [nan, nan, nan, 5, nan])
    np.testing.assert_array_equal(running_mean([1, 2], 5), [nan, nan])
    np.testing.assert_array_equal(running_mean([1, 2], 1), [1, 2])


def many_runs(tmp_path: Path, *counts: int, lag: bool = False):
    return load_conflict_runs(
        [
            write_run(tmp_path / f"run {i} $x^2$", [row(10 * k, lag=lag) for k in range(1, n + 1)])
            for i, n in enumerate(counts)
        ]
    )


def test_every_probe_is_drawn_and_the_line_is_their_running_mean(tmp_path):
    runs = many_runs(tmp_path, 9, 4)
    figure = _score_figure(runs, 5)
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title().split("\n")[0] for axes in panels] == list(SCORES)[:6]
    dots, line, short_dots, short_line, zero = panels[1].lines
    np.testing.assert_allclose(dots.get_ydata(), runs[0].scores["intra_pre"])
    np.testing.assert_allclose(line.get_ydata(), running_mean(runs[0].scores["intra_pre"], 5))
    np.testing.assert_allclose(short_dots.get_ydata(), runs[1].scores["intra_pre"])
    assert np.isnan(short_line.get_ydata()).all()  # too few probes for a mean of five
    assert short_dots.get_alpha() > dots.get_alpha()
    assert list(zero.get_ydata()) == [0, 0]
    low, high = panels[0].get_ylim()
    assert low <= -1
    assert high >= 1
    assert "mean of 5 probes" in figure.get_supxlabel()
    assert "mean of" not in _score_figure(runs, 1).get_supxlabel()


def test_no_score_is_outside_its_panel(tmp_path):
    folder = write_run(tmp_path / "a", [row(10, inter_upd=-0.9), row(20, inter_upd=-1.0)])
    figure = _score_figure(load_conflict_runs([folder]), 1)
    for axes in figure.axes:
        low, high = axes.get_ylim()
        for line in axes.lines:
            drawn = np.asarray(line.get_ydata(), float)
            drawn = drawn[~np.isnan(drawn)]
            assert (drawn >= low).all()
            assert (drawn <= high).all()


def test_the_heat_map_has_a_row_for_each_layer_and_grey_where_nothing_is_known(tmp_path):
    rows = [row(10), row(20), row(30)]
    rows[1]["layers"]["g_a.0.bias"]["intra_pre"] = None
    run = load_conflict_run(write_run(tmp_path / "a", rows))
    figure = _layer_figure([run])
    mesh = figure.axes[0].collections[0]
    drawn = mesh.get_array()
    assert drawn.shape == (2, 3)
    assert drawn[0, 0] == run.layers["g_a.0.weight"]["intra_pre"][0]
    assert bool(np.ma.getmaskarray(drawn)[1, 1])
    assert mesh.get_clim() == (-1, 1)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["g_a.0.weight", "g_a.0.bias"]
    assert _edges([25, 50, 75]) == [0, 25, 50, 75]
    assert _edges([100]) == [0, 100]


@pytest.mark.parametrize("lag", [False, True])
def test_charts_are_pictures_whatever_the_runs_are(tmp_path, lag):
    runs = many_runs(tmp_path, 1, 7, lag=lag)
    for number, (save, some) in enumerate(
        [(save_score_chart, runs), (save_layer_chart, runs), (save_layer_chart, runs[:1])]
    ):
        save(tmp_path / f"{number}.png", some)
        with Image.open(tmp_path / f"{number}.png") as image:
            assert image.format == "PNG"
            assert np.asarray(image.convert("L")).std() > 5


def test_many_layers_and_runs_with_different_ones_are_drawn(tmp_path):
    deep = [row(10, layers=130), row(20, layers=130)]
    folders = [write_run(tmp_path / "deep", deep), write_run(tmp_path / "flat", [row(10)])]
    figure = _layer_figure(load_conflict_runs(folders))
    assert len(figure.axes[0].get_yticklabels()) == 44
    assert len(figure.axes[1].get_yticklabels()) == 2
    assert figure.get_size_inches().max() < 25
