"""A sweep measures what single calls measure, in any order, goes on where it was, and survives."""

import json
import os
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import photo
from lictor.comparison.curve import load_curve
from lictor.data.images import load_image
from lictor.errors import DataError, LictorError, TimeLimitError
from lictor.evaluation.contenders import Contender, Setting, parse_contenders
from lictor.evaluation.cost import with_speed
from lictor.evaluation.journal import save_curve
from lictor.evaluation.pictures import original_path, picture_path
from lictor.evaluation.rd import evaluate_image
from lictor.evaluation.sweep import evaluate, finish, read_pictures, set_hash

TIMES = {"encode_s": 0.0, "decode_s": 0.0, "jobs": 0}


@pytest.fixture
def pictures(picture_folder):
    return read_pictures(picture_folder, limit=4)[0]


def without_times(outcomes):
    return {
        (o.task.contender, o.row.setting, o.row.image): replace(
            o.row, **TIMES, ms_ssim=0.0, lpips=0.0, estimated_bpp=0.0
        )
        for o in outcomes
    }


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_rows_are_those_of_single_calls(pictures, jobs):
    contenders = parse_contenders(["jpeg:20,80", "webp:50"])
    outcomes = list(evaluate(contenders, pictures, jobs=jobs))
    assert len(outcomes) == 3 * len(pictures)
    for outcome in outcomes:
        assert outcome.row is not None, outcome.error
        alone, _ = evaluate_image(
            outcome.task.setting.make(),
            load_image(outcome.task.picture.path),
            outcome.task.picture.name,
            setting=outcome.task.setting.label,
        )
        same = replace(outcome.row, **TIMES), replace(alone, **TIMES)
        np.testing.assert_equal(*map(vars, same))


def test_an_interrupted_sweep_goes_on_where_it_was(pictures, tmp_path):
    contenders, out = parse_contenders(["jpeg:20,80"]), tmp_path / "out"
    whole = list(evaluate(contenders, pictures))
    sweep = evaluate(contenders, pictures, out=out)
    first = [next(sweep) for _ in range(3)]
    sweep.close()
    with (out / "jpeg.partial.jsonl").open("a") as file:
        file.write('{"config": "cut sh')  # the power went
    sweep = evaluate(contenders, pictures, out=out)
    assert [next(sweep).reused for _ in range(5)] == [True] * 3 + [False] * 2
    sweep.close()
    second = list(evaluate(contenders, pictures, out=out))
    assert sum(o.reused for o in second) == 5
    assert {id(o) for o in first}.isdisjoint(map(id, second))
    assert without_times(second) == without_times(whole)
    kept = {(o.row.setting, o.row.image): o.row.encode_s for o in first if o.row}
    for outcome in second:
        if (outcome.row.setting, outcome.row.image) in kept:
            assert outcome.row.encode_s == kept[outcome.row.setting, outcome.row.image]
    finish(contenders, second, out=out)
    assert [p.name for p in out.iterdir()] == ["jpeg.json"]


def test_a_finished_sweep_is_taken_as_it_is_and_a_new_quality_added(pictures, tmp_path):
    two, three = parse_contenders(["jpeg:20,80"]), parse_contenders(["jpeg:20,50,80"])
    finish(two, list(evaluate(two, pictures, out=tmp_path)), out=tmp_path)
    assert all(o.reused for o in evaluate(two, pictures, out=tmp_path))
    outcomes = list(evaluate(three, pictures, out=tmp_path))
    assert sum(o.reused for o in outcomes) == 2 * len(pictures)
    (curve,) = finish(three, outcomes, out=tmp_path)
    assert curve.settings == ("q20", "q50", "q80")
    assert curve.provenance["jobs"] == 1


@pytest.mark.slow
def test_times_say_how_many_were_measured_beside_each_other(pictures, tmp_path):
    one, both = parse_contenders(["jpeg:20"]), parse_contenders(["jpeg:20,80"])
    (curve,) = finish(one, list(evaluate(one, pictures, out=tmp_path, jobs=2)), out=tmp_path)
    assert {row.jobs for row in curve.rows} == {2}
    (curve,) = finish(both, list(evaluate(both, pictures, out=tmp_path, jobs=1)))
    assert {row.setting: row.jobs for row in curve.rows} == {"q20": 2, "q80": 1}
    assert curve.provenance["jobs"] == 2  # what was reused did not become clean


@pytest.mark.slow
def test_nothing_that_was_measured_is_lost_to_a_smaller_evaluation(pictures, tmp_path):
    two, one = parse_contenders(["jpeg:20,80"]), parse_contenders(["jpeg:80"])
    (curve,) = finish(two, list(evaluate(two, pictures, out=tmp_path)), out=tmp_path)
    save_curve(
        with_speed(curve, two[0], pictures, num_pictures=1, repeats=1), tmp_path / "jpeg.json"
    )
    (curve,) = finish(one, list(evaluate(one, pictures[:2], out=tmp_path)), out=tmp_path)
    assert curve.settings == ("q80",)
    assert len(curve.rows) == 2
    assert set(curve.codec["speed"]) == {"q80"}
    outcomes = list(evaluate(two, pictures, out=tmp_path))
    assert all(o.reused for o in outcomes)
    finish(two, outcomes, out=tmp_path)
    assert [p.name for p in tmp_path.glob("jpeg*")] == ["jpeg.json"]


def test_one_file_that_cannot_be_written_costs_only_itself(pictures, tmp_path):
    contenders = parse_contenders(["jpeg:20", "webp:20"])
    outcomes = list(evaluate(contenders, pictures, out=tmp_path / "out"))
    (tmp_path / "out" / "jpeg.json").mkdir()
    with pytest.raises(DataError, match=r"jpeg\.json"):
        finish(contenders, outcomes, out=tmp_path / "out")
    assert load_curve(tmp_path / "out" / "webp.json").settings == ("q20",)


def test_results_kept_among_the_pictures_are_no_pictures(picture_folder):
    out = picture_folder / "results"
    pictures, _ = read_pictures(picture_folder, exclude=out)
    contenders = parse_contenders(["jpeg:20"])
    list(evaluate(contenders, pictures, out=out, keep=2))
    assert read_pictures(picture_folder, exclude=out) == (pictures, [])
    assert len(read_pictures(picture_folder)[0]) > len(pictures)


def test_rows_whose_company_is_unknown_do_not_become_clean(pictures, tmp_path):
    contenders = parse_contenders(["jpeg:20"])
    (curve,) = finish(contenders, list(evaluate(contenders, pictures, out=tmp_path)), out=tmp_path)
    content = json.loads((tmp_path / "jpeg.json").read_text())
    for row in content["images"]:
        del row["jobs"]
    (tmp_path / "jpeg.json").write_text(json.dumps(content))
    (curve,) = finish(contenders, list(evaluate(contenders, pictures, out=tmp_path)))
    assert curve.provenance["jobs"] == 0


@dataclass(frozen=True)
class Slow:
    """A program that takes too long, and says so."""

    tries: list
    name: str = "slow"

    def encode(self, image):
        self.tries.append(image.shape)
        raise TimeLimitError("no result after 600 s")

    def decode(self, data):
        raise AssertionError


def test_a_setting_that_takes_too_long_is_not_tried_on_every_picture(pictures):
    tries: list = []
    contender = Contender("slow", (Setting("s", partial(Slow, tries), {}),))
    outcomes = list(evaluate([contender], pictures))
    assert len(tries) == 1
    assert all("time limit" in o.error or "600 s" in o.error for o in outcomes)


def test_rows_of_another_picture_or_configuration_are_measured_again(pictures, tmp_path):
    contenders = parse_contenders(["jpeg:20,80"])
    finish(contenders, list(evaluate(contenders, pictures, out=tmp_path)), out=tmp_path)
    changed = load_image(pictures[0].path)[:, ::-1]
    Image.fromarray(changed.squeeze()).save(pictures[0].path)
    again = read_pictures(pictures[0].path.parent)[0]
    again = [p for p in again if p.path == pictures[0].path] + pictures[1:]
    outcomes = list(evaluate(contenders, again, out=tmp_path))
    measured = {o.task.picture.path for o in outcomes if not o.reused}
    assert measured == {pictures[0].path}
    (other,) = parse_contenders(["jpeg=jpeg-444:20"])
    assert not any(o.reused for o in evaluate([other], pictures, out=tmp_path))


def test_a_missing_kept_picture_is_made_again(pictures, tmp_path):
    contenders = parse_contenders(["jpeg:20"])
    finish(contenders, list(evaluate(contenders, pictures, out=tmp_path)), out=tmp_path)
    outcomes = list(evaluate(contenders, pictures, out=tmp_path, keep=2))
    assert [o.reused for o in outcomes].count(False) == 2
    for picture in pictures[:2]:
        image = load_image(picture.path)
        kept = load_image(picture_path(tmp_path, "jpeg", "q20", picture.name))
        codec = contenders[0].settings[0].make()
        np.testing.assert_array_equal(kept, codec.decode(codec.encode(image)))
        np.testing.assert_array_equal(load_image(original_path(tmp_path, picture.name)), image)
    assert not picture_path(tmp_path, "jpeg", "q20", pictures[2].name).exists()
    assert all(o.reused for o in evaluate(contenders, pictures, out=tmp_path, keep=2))


@dataclass(frozen=True)
class Troubled:
    """A codec that behaves but for pictures 70 pixels high."""

    trouble: str
    name: str = "troubled"

    def encode(self, image):
        if image.shape[0] == 70:
            if self.trouble == "dies":
                os._exit(1)
            if self.trouble == "foreign":
                raise ZeroDivisionError("division by zero")
            raise LictorError("too high")
        return b"%d %d" % image.shape[:2]

    def decode(self, data):
        return np.full((*map(int, data.split()), 3), 128, np.uint8)


def troubled(trouble: str) -> Contender:
    settings = [
        Setting("bad", partial(Troubled, trouble), {"trouble": trouble}),
        Setting("good", partial(Troubled, ""), {"trouble": ""}),
    ]
    if trouble:
        settings[1] = Setting("good", Fine, {})
    return Contender("troubled", tuple(settings))


@dataclass(frozen=True)
class Fine:
    """A codec without trouble."""

    name: str = "fine"

    def encode(self, image):
        return b"%d %d " % image.shape[:2] + b" " * 50

    def decode(self, data):
        return np.full((*map(int, data.split()), 3), 100, np.uint8)


@pytest.fixture
def one_high(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for height in (50, 60, 70, 80):
        Image.fromarray(photo(height, 90)).save(folder / f"{height}.png")
    return read_pictures(folder)[0]


@pytest.mark.parametrize(
    ("trouble", "jobs", "message"),
    [
        ("raises", 1, "70.png: too high"),
        pytest.param("raises", 2, "70.png: too high", marks=pytest.mark.slow),
        pytest.param(
            "foreign", 2, "70.png: ZeroDivisionError: division by zero", marks=pytest.mark.slow
        ),
        pytest.param("dies", 2, "its process died", marks=pytest.mark.slow),
    ],
)
def test_a_codec_that_fails_on_one_picture_costs_one_setting(
    one_high, tmp_path, trouble, jobs, message
):
    contenders = [troubled(trouble), *parse_contenders(["jpeg:50"])]
    out = tmp_path / "out"
    outcomes = list(evaluate(contenders, one_high, out=out, jobs=jobs))
    assert len(outcomes) == 3 * 4
    (failed,) = [o for o in outcomes if o.row is None]
    assert failed.task.picture.name == "70.png"
    assert message in failed.error
    curves = finish(contenders, outcomes, out=out)
    assert [c.settings for c in curves] == [("good",), ("q50",)]
    assert message in curves[0].errors[0]
    assert load_curve(out / "troubled.json").errors == curves[0].errors
    # What was measured is not lost: once the codec is mended, only the rest is measured.
    assert (out / "troubled.partial.jsonl").exists()
    if trouble == "dies":
        return  # it would take this process along
    again = list(evaluate(contenders, one_high, out=out))
    assert sum(o.reused for o in again) == 11


def test_a_codec_without_a_whole_setting_has_no_curve(one_high, tmp_path):
    contender = Contender("t", (Setting("bad", partial(Troubled, "raises"), {}),))
    outcomes = list(evaluate([contender], one_high, out=tmp_path / "out"))
    assert finish([contender], outcomes, out=tmp_path / "out") == []
    assert not (tmp_path / "out" / "t.json").exists()


def test_an_output_folder_that_cannot_be_made_is_named(pictures, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    contenders = parse_contenders(["jpeg:50"])
    with pytest.raises(DataError, match="cannot make the folder"):
        list(evaluate(contenders, pictures, out=tmp_path / "file" / "out"))


def test_the_hash_of_a_set_is_of_names_and_pixels(pictures):
    assert set_hash(pictures) == set_hash(pictures[::-1])
    assert set_hash(pictures) != set_hash(pictures[1:])
    renamed = [replace(pictures[0], name="other"), *pictures[1:]]
    assert set_hash(renamed) != set_hash(pictures)


def test_a_broken_picture_is_reported_and_left_out(picture_folder):
    (picture_folder / "broken.png").write_bytes(b"no picture")
    pictures, errors = read_pictures(picture_folder)
    assert len(pictures) == 12
    assert len(errors) == 1
    assert "broken.png" in errors[0]
    only = picture_folder / "only"
    only.mkdir()
    (only / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="no picture can be read"):
        read_pictures(only)


@pytest.mark.slow
def test_costs_go_with_the_curve(pictures, tmp_path):
    contenders = parse_contenders(["jpeg:20,80"])
    (curve,) = finish(contenders, list(evaluate(contenders, pictures)))
    curve = with_speed(curve, contenders[0], pictures, num_pictures=1, repeats=1)
    assert set(curve.codec["speed"]) == {"q20", "q80"}
    assert curve.codec["speed"]["q20"]["num_images"] == 1
    json.dumps(dict(curve.codec), allow_nan=False)


def test_a_lazy_consumer_holds_the_work_back(pictures):
    """The queue is bounded: what nobody has asked for is at most a few tasks ahead."""
    made: list[str] = []
    setting = Setting("s", partial(_Counts, made), {})
    sweep = evaluate([Contender("c", (setting,))], pictures, jobs=1)
    next(sweep)
    time.sleep(0.05)
    assert len(made) == 1


@dataclass(frozen=True)
class _Counts:
    made: list
    name: str = "counts"

    def encode(self, image):
        self.made.append("encode")
        return b"%d %d" % image.shape[:2]

    def decode(self, data):
        return np.zeros((*map(int, data.split()), 3), np.uint8)


def test_picture_paths_stay_inside():
    for name in ("../../x", "/etc/passwd", "a/b.png", "..", "", "a\0b"):
        path = picture_path(Path("out"), name, name, name)
        assert path.parts[:2] == ("out", "pictures")
        assert ".." not in path.parts
        assert len(path.parts) == 5
