"""A run folder: an interrupted run is the uninterrupted one, in weights and in its metrics."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch

from lictor.codecs.learned import Codec
from lictor.data.folder import open_image_folder
from lictor.data.images import image_to_tensor
from lictor.data.order import Order
from lictor.data.pack import Packing, pack
from lictor.errors import CheckpointError, ConfigError, DataError, LictorError
from lictor.training.loop import StepReport
from lictor.training.loss import rate_distortion
from lictor.training.phases import Phase
from lictor.training.rate_distortion import RateDistortionTask
from lictor.training.recipe import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SmaConfig,
    StdetConfig,
    SurrogateConfig,
    TrainConfig,
)
from lictor.training.run import CHECKPOINT, METRICS, Evaluation, load_run, run

CONFIG = RunConfig(
    model=ModelConfig("mbt2018-mean", {"n": 8, "m": 8}),
    optim=OptimConfig(lr=1e-3),
    data=DataConfig(crop_size=64),
    train=TrainConfig(steps=10, batch_size=2, log_every=2, eval_every=4, checkpoint_every=5),
)


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    timing = ("step_s", "wait_share", "peak_mib")
    return [{k: v for k, v in line.items() if k not in timing} for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_run(folder)[0].state_dict()


def finish(config: RunConfig, data: Path, out: Path, **options) -> None:
    for _ in run(config, data, out, **options):
        pass


@pytest.fixture
def whole(tmp_path, picture_folder) -> Path:
    finish(CONFIG, picture_folder, tmp_path / "whole")
    return tmp_path / "whole"


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_killed_between_checkpoints_goes_on_as_if_nothing_had_happened(
    tmp_path, picture_folder, whole
):
    out = tmp_path / "killed"
    reports = run(CONFIG, picture_folder, out)
    for report in reports:
        if isinstance(report, StepReport) and report.step == 7:
            break  # nothing is saved here: the checkpoint is of step 5
    reports.close()
    assert load_run(out)[2] == 5
    finish(CONFIG, picture_folder, out, resume=True)
    assert equal(weights(out), weights(whole))
    late = [line for line in metrics(out) if line["step"] > 6]
    assert late == [line for line in metrics(whole) if line["step"] > 6]
    steps = [line["step"] for line in metrics(out) if line["kind"] == "train"]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_a_run_asked_to_stop_saves_at_once_and_resumes_bitwise(tmp_path, picture_folder, whole):
    out = tmp_path / "stopped"
    calls = itertools.count()
    finish(CONFIG, picture_folder, out, should_stop=lambda: next(calls) == 2)
    assert load_run(out)[2] == 3
    finish(CONFIG, picture_folder, out, resume=True)
    assert equal(weights(out), weights(whole))


def test_a_finished_run_resumes_to_itself(picture_folder, whole):
    before = weights(whole)
    finish(CONFIG, picture_folder, whole, resume=True)
    assert equal(weights(whole), before)


def test_evaluations_come_at_their_steps_and_at_the_end(tmp_path, picture_folder):
    reports = list(run(CONFIG, picture_folder, tmp_path / "run"))
    assert [r.step for r in reports if isinstance(r, Evaluation)] == [4, 8, 10]
    assert [r.step for r in reports if isinstance(r, StepReport)] == list(range(10))


@pytest.mark.slow
def test_evaluation_does_not_disturb_training(tmp_path, picture_folder, whole):
    every = RunConfig(
        **vars(CONFIG) | {"train": TrainConfig(**vars(CONFIG.train) | {"eval_every": 1})}
    )
    finish(every, picture_folder, tmp_path / "often")
    assert equal(weights(tmp_path / "often"), weights(whole))


@pytest.mark.slow
def test_a_run_is_not_resumed_with_another_recipe(picture_folder, whole):
    other = RunConfig(**vars(CONFIG) | {"data": DataConfig(crop_size=128)})
    with pytest.raises(ConfigError, match=r"data\.crop_size"):
        finish(other, picture_folder, whole, resume=True)
    longer = RunConfig(
        **vars(CONFIG) | {"train": TrainConfig(**vars(CONFIG.train) | {"steps": 12})}
    )
    finish(longer, picture_folder, whole, resume=True)
    assert load_run(whole)[2] == 12


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_pictures_unasked(tmp_path, picture_folder, caplog):
    out, moved = tmp_path / "run", tmp_path / "moved"
    short = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=2))
    finish(short, picture_folder, out)
    shutil.copytree(picture_folder, moved)
    finish(dataclasses.replace(short, train=dataclasses.replace(short.train, steps=3)), moved, out,
           resume=True)  # fmt: skip
    pictures = sorted(path for path in moved.rglob("*") if path.suffix == ".png")
    pictures[0].rename(pictures[0].with_name("another.png"))
    before = (out / METRICS).read_bytes(), weights(out)
    with pytest.raises(ConfigError, match=r"other pictures than those given.*--other-data"):
        finish(CONFIG, moved, out, resume=True)
    assert (out / METRICS).read_bytes() == before[0]
    assert equal(weights(out), before[1])
    finish(CONFIG, moved, out, resume=True, other_data=True)
    told = [line for line in metrics(out) if line["kind"] == "data"]
    assert [line["step"] for line in told] == [3]
    assert "goes on with other pictures from step 3" in caplog.text
    finish(CONFIG, moved, out, resume=True)  # from now on these are its pictures


@pytest.mark.slow
def test_a_run_that_left_no_checkpoint_is_begun_anew_with_a_word(
    tmp_path, picture_folder, whole, caplog
):
    out = tmp_path / "run"
    first = run(CONFIG, picture_folder, out)
    list(itertools.islice(first, 4))
    first.close()
    assert not (out / CHECKPOINT).exists()
    finish(CONFIG, picture_folder, out)
    assert "without a checkpoint" in caplog.text
    assert metrics(out) == metrics(whole)


def test_a_checkpoint_of_an_earlier_release_gives_weights_but_does_not_go_on(
    tmp_path, picture_folder, whole
):
    out = tmp_path / "old"
    shutil.copytree(whole, out)
    content = torch.load(out / CHECKPOINT, weights_only=True)
    content |= {"format": 1, "generator": torch.Generator().get_state(), "hooks": []}
    torch.save({k: v for k, v in content.items() if k != "data"}, out / CHECKPOINT)
    assert equal(dict(load_run(out)[0].state_dict()), dict(load_run(whole)[0].state_dict()))
    with pytest.raises(CheckpointError, match=r"earlier release; freeze it"):
        finish(CONFIG, picture_folder, out, resume=True)


def test_a_run_folder_is_not_used_twice(picture_folder, whole):
    with pytest.raises(ConfigError, match="--resume"):
        finish(CONFIG, picture_folder, whole)


def test_two_runs_do_not_write_over_each_other(tmp_path, picture_folder, whole):
    first = run(CONFIG, picture_folder, tmp_path)
    next(first)
    for resume in (False, True):
        if resume:
            list(itertools.islice(first, 8))  # past a checkpoint
        with pytest.raises(ConfigError, match=r"another run|holds a run"):
            next(run(CONFIG, picture_folder, tmp_path, resume=resume))
    list(first)
    assert metrics(tmp_path) == metrics(whole)
    assert list(run(CONFIG, picture_folder, tmp_path, resume=True)) == []


@pytest.mark.parametrize(("size", "warned"), [(64, True), (128, False)])
def test_crops_too_small_for_the_models_stride_are_warned_of(
    tmp_path, picture_folder, caplog, size, warned
):
    config = dataclasses.replace(
        CONFIG, data=DataConfig(crop_size=size), train=TrainConfig(steps=1, batch_size=1)
    )
    list(run(config, picture_folder, tmp_path))
    assert ("take 128 or more" in caplog.text) is warned


def test_nothing_to_resume_is_a_checkpoint_error(tmp_path, picture_folder):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        finish(CONFIG, picture_folder, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_made_is_a_data_error(tmp_path, picture_folder):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="run folder"):
        finish(CONFIG, picture_folder, tmp_path / "file" / "run")


def test_what_was_trained_can_be_frozen_and_codes(picture_folder, whole):
    from lictor.data.images import list_images, load_image

    codec = Codec.freeze(load_run(whole)[0])
    image = load_image(list_images(picture_folder)[0])
    assert codec.decode(codec.encode(image)).shape == image.shape
    assert (whole / CHECKPOINT).exists()


# -------------------------------------------------------------------------------------- phases

PHASED = dataclasses.replace(
    CONFIG,
    surrogate=SurrogateConfig("noise"),
    phases=(
        Phase(share=0.5),
        Phase(share=0.5, lr=1e-2, surrogate="straight-through", freeze=("g_a", "h_a")),
    ),
)


@pytest.mark.slow
def test_in_a_phase_parts_rest_and_the_rate_is_another(tmp_path, picture_folder):
    rates, parts = [], []
    for report in run(PHASED, picture_folder, tmp_path / "run", make_hooks=_spy(parts)):
        if isinstance(report, StepReport):
            rates.append(report.lr)
    g_a, g_s = ([part[name] for part in parts] for name in ("g_a", "g_s"))
    assert not torch.equal(g_a[0], g_a[4])
    assert all(torch.equal(value, g_a[4]) for value in g_a[5:])
    assert not torch.equal(g_s[4], g_s[9])
    plain = [r.lr for r in run(CONFIG, picture_folder, tmp_path / "plain") if hasattr(r, "lr")]
    assert rates[:5] == plain[:5]
    assert rates[5:] == pytest.approx([10 * lr for lr in plain[5:]])


class _Spy:
    """Notes a weight of each transform after every step."""

    def __init__(self, model, notes: list):
        self.model, self.notes = model, notes

    def before_step(self, step: int) -> None:
        pass

    def after_step(self, step: int) -> None:
        self.notes.append({name: self.model.get_submodule(name)[0].weight.detach().clone()
                           for name in ("g_a", "g_s")})  # fmt: skip

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def _spy(notes: list):
    return lambda model: {"spy": _Spy(model, notes)}


@pytest.mark.parametrize("stopped", [4, 5, 7])
def test_a_run_with_phases_resumes_bitwise(tmp_path, picture_folder, stopped):
    finish(PHASED, picture_folder, tmp_path / "whole")
    calls = itertools.count(1)
    finish(PHASED, picture_folder, tmp_path / "cut", should_stop=lambda: next(calls) == stopped)
    finish(PHASED, picture_folder, tmp_path / "cut", resume=True)
    assert equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    with pytest.raises(ConfigError, match=r"another \[\[phase\]\]"):
        finish(CONFIG, picture_folder, tmp_path / "cut", resume=True)


def test_a_phase_that_freezes_what_is_not_there_is_refused_with_the_nearest(
    tmp_path, picture_folder
):
    for part in ("", "prior_y", "g_a.1.2"):  # nothing, something without weights, nothing
        config = dataclasses.replace(PHASED, phases=(Phase(share=1.0, freeze=(part,)),))
        with pytest.raises(ConfigError, match="has no part"):
            finish(config, picture_folder, tmp_path / "run")
    config = dataclasses.replace(PHASED, phases=(Phase(share=1.0, freeze=("g_aa",)),))
    with pytest.raises(ConfigError, match=r"no part 'g_aa' with weights; did you mean 'g_a'"):
        finish(config, picture_folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_evaluation_can_be_on_crops(tmp_path, picture_folder):
    small = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, eval_side=64))
    finish(CONFIG, picture_folder, tmp_path / "large")
    finish(small, picture_folder, tmp_path / "small")
    assert equal(weights(tmp_path / "large"), weights(tmp_path / "small"))
    held_out = open_image_folder(picture_folder, cache_bytes=2**24).split(16)[1]
    model = load_run(tmp_path / "small")[0]
    losses = []
    for number in range(len(held_out)):
        image = held_out.load(number)
        top, left = ((side - 64) // 2 for side in image.shape[:2])
        x = image_to_tensor(image[top : top + 64, left : left + 64])
        with torch.no_grad():
            losses.append(float(rate_distortion(x, model(x), small.loss.lmbda).total))
    told = [row for row in metrics(tmp_path / "small") if row["kind"] == "evaluation"][-1]
    assert told["loss"] == pytest.approx(sum(losses) / len(losses))


def test_the_rate_of_a_phase_may_change_when_a_run_is_resumed(tmp_path, picture_folder):
    calls = itertools.count(1)
    finish(PHASED, picture_folder, tmp_path / "run", should_stop=lambda: next(calls) == 7)
    calmer = dataclasses.replace(
        PHASED, phases=(PHASED.phases[0], dataclasses.replace(PHASED.phases[1], lr=1e-5))
    )
    reports = run(calmer, picture_folder, tmp_path / "run", resume=True)
    rates = [r.lr for r in reports if isinstance(r, StepReport)]
    assert len(rates) == 3
    assert max(rates) <= 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stdet": StdetConfig(snapshot_every=1)}, "freeze lets weights rest"),
        ({"sma": SmaConfig(interval=2, feedback=True)}, "freeze lets weights rest"),
        ({"train": dataclasses.replace(CONFIG.train, conflict_every=3)}, r"not with \[\[phase"),
    ],
)
def test_what_would_move_resting_weights_or_look_at_one_loss_is_refused(
    tmp_path, picture_folder, changes, message
):
    with pytest.raises(ConfigError, match=message):
        finish(dataclasses.replace(PHASED, **changes), picture_folder, tmp_path / "run")


def test_a_hook_of_ones_own_does_not_take_a_name_that_is_taken(tmp_path, picture_folder):
    averaged = dataclasses.replace(CONFIG, sma=SmaConfig(interval=2))
    for config, name in ((averaged, "sma"), (CONFIG, "conflict")):
        make = {"make_hooks": lambda model, name=name: {name: _Spy(model, [])}}
        with pytest.raises(ConfigError, match=f"a hook is called '{name}' already"):
            finish(config, picture_folder, tmp_path / "run", **make)


def test_after_a_change_of_pictures_the_best_is_the_best_on_these(tmp_path, picture_folder):
    out, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(picture_folder, other)
    for number, path in enumerate(sorted(p for p in other.rglob("*") if p.is_file())):
        path.rename(path.with_name(f"new{number}{path.suffix}"))
    half = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=5))
    finish(half, picture_folder, out)
    rows = [json.loads(row) for row in (out / METRICS).read_text().splitlines()]
    rows = [json.dumps(row | {"loss": 1e-9}) for row in rows]  # not to be beaten
    (out / METRICS).write_text("\n".join(rows) + "\n")
    finish(CONFIG, other, out, resume=True, other_data=True)
    assert load_run(out, best=True)[2] > 5


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("stops", [[4], [1, 5, 6]])
def test_a_run_on_shards_that_is_resumed_sees_every_picture_of_an_epoch(
    tmp_path, picture_folder, monkeypatch, k, stops
):
    pack([picture_folder], tmp_path / "shards", Packing(shard_bytes=40_000))
    data = dataclasses.replace(CONFIG.data, cache_mib=0, crops_per_decode=k, workers=2)
    config = dataclasses.replace(
        CONFIG, data=data, train=dataclasses.replace(CONFIG.train, steps=11, checkpoint_every=1)
    )
    seen: dict[tuple[int, int], int] = {}
    picture = Order.picture

    def watched(self: Order, step: int, position: int) -> int:
        seen[step, position] = picture(self, step, position)
        return seen[step, position]

    monkeypatch.setattr(Order, "picture", watched)
    finish(config, tmp_path / "shards", tmp_path / "whole")
    whole = {place: number for place, number in seen.items() if place[0] < 11}
    seen.clear()
    before = 0
    for stop in [*stops, 11]:
        calls = itertools.count(before + 1)
        finish(
            config,
            tmp_path / "shards",
            tmp_path / "cut",
            resume=before > 0,
            should_stop=lambda calls=calls, stop=stop: next(calls) == stop,
        )
        assert load_run(tmp_path / "cut")[2] == stop
        before = stop
    assert {place: number for place, number in seen.items() if place[0] < 11} == whole
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    if k == 1:  # 11 pictures to train on, 2 crops a step
        drawn = [whole[place] for place in sorted(whole)]
        assert sorted(drawn[:11]) == sorted(drawn[11:22]) == list(range(11))


def test_a_listener_is_told_each_row_of_the_metrics_once_it_is_there(tmp_path, picture_folder):
    out, told = tmp_path / "run", []

    def listen(row):
        last = (out / METRICS).read_text().splitlines()[-1]
        assert json.loads(last) == row
        told.append(dict(row))

    finish(CONFIG, picture_folder, out, on_row=listen)
    assert told == [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    assert {row["kind"] for row in told} == {"train", "evaluation"}
    longer = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=14))
    told.clear()
    finish(longer, picture_folder, out, resume=True, on_row=listen)
    assert [row["step"] for row in told] == [12, 12, 14, 14]


def test_an_evaluation_without_enough_memory_says_what_to_lower(
    tmp_path, picture_folder, monkeypatch
):
    def greedy(self, progress):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has")

    monkeypatch.setattr(RateDistortionTask, "evaluate", greedy)
    with pytest.raises(LictorError, match=r"3\.00 GiB more.*train\.eval_side"):
        list(run(CONFIG, picture_folder, tmp_path))


# ------------------------------------------------------------------------------------ rollback


class Ruin:
    """Makes the weights useless once."""

    def __init__(self, model: torch.nn.Module, at: int):
        self.model, self.at = model, at

    def before_step(self, step: int) -> None:
        pass

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        if step == self.at:
            for p in self.model.parameters():
                p.mul_(3)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def rolled(tmp_path: Path, data: Path, rollback: float, **options) -> Path:
    train = dataclasses.replace(CONFIG.train, rollback=rollback, eval_every=2, checkpoint_every=2)
    config = dataclasses.replace(CONFIG, train=train)
    out = tmp_path / f"rolled-{rollback}"
    finish(config, data, out, make_hooks=lambda model: {"ruin": Ruin(model, 5)}, **options)
    return out


def test_a_run_that_diverges_goes_back_to_its_best_and_on(tmp_path, picture_folder):
    out = rolled(tmp_path, picture_folder, 0.5)
    (back,) = [row for row in metrics(out) if row["kind"] == "rollback"]
    assert (back["step"], back["to"]) == (6, 4)
    losses = {row["step"]: row["loss"] for row in metrics(out) if row["kind"] == "evaluation"}
    assert losses[6] is None or losses[6] > 1.5 * losses[4]
    assert losses[10] < 1.5 * losses[4]
    steps = [row["step"] for row in metrics(out) if row["kind"] == "evaluation"]
    assert steps == [2, 4, 6, 8, 10]


def test_without_rollback_a_ruined_run_stays_ruined(tmp_path, picture_folder):
    out = rolled(tmp_path, picture_folder, 0.0)
    losses = {row["step"]: row["loss"] for row in metrics(out) if row["kind"] == "evaluation"}
    assert not losses[8] < 1.5 * losses[4]
    assert not (out / "good.pt").exists()


@pytest.mark.slow
def test_a_run_stopped_after_a_rollback_goes_on_bitwise(tmp_path, picture_folder):
    whole = rolled(tmp_path / "whole", picture_folder, 0.5)
    calls = itertools.count()
    rolled(tmp_path / "cut", picture_folder, 0.5, should_stop=lambda: next(calls) == 6)
    cut = rolled(tmp_path / "cut", picture_folder, 0.5, resume=True)
    assert equal(weights(cut), weights(whole))
