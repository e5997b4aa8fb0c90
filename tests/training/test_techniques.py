"""Recipes with STDET and SMA: real models, real run folders, the same laws."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import lictor.training.stdet.history as history_module
from conftest import photo_tensor, tiny_model
from lictor.data.folder import ImageFolder
from lictor.errors import CheckpointError, ConfigError, DataError
from lictor.optim.factory import OPTIMIZERS
from lictor.training.checkpoint import RunState, read_checkpoint, restore
from lictor.training.hooks import evaluates_others, evaluation_weights
from lictor.training.loop import train_step
from lictor.training.loss import rate_distortion
from lictor.training.recipe import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SmaConfig,
    StdetConfig,
    TrainConfig,
    config_from_dict,
    config_to_dict,
    load_recipe,
)
from lictor.training.run import (
    BEST,
    CHECKPOINT,
    METRICS,
    MODES,
    TRAJECTORIES,
    Evaluation,
    load_run,
    run,
)
from lictor.training.sma import SMA
from lictor.training.stdet.hook import STDET, Choices
from lictor.training.stdet.selection import Schedule
from lictor.training.techniques import build_techniques, snapshot_interval

from training_fixtures import Given, Poison, facts, go, identical, new_run  # isort: skip

STEPS = 22
OFF, UNAVERAGED = StdetConfig(), SmaConfig()
ON = StdetConfig(
    snapshot_every=1,
    warmup=9,
    window=2,
    share=0.25,
    cap=0.98,
    modes=3,
    samples=80,
    selection="random",
    release_share=0.3,
)


def recipe(
    optimizer: str = "adam",
    stdet: StdetConfig = OFF,
    sma: SmaConfig = UNAVERAGED,
    **settings,
) -> RunConfig:
    return RunConfig(
        model=ModelConfig("bmshj2018-factorized", {"n": 4, "m": 4}),
        optim=OptimConfig(optimizer, lr=2e-3, settings={"beta2": 0.99}),
        stdet=stdet,
        sma=sma,
        data=DataConfig(crop_size=64),
        train=TrainConfig(
            **{"steps": STEPS, "batch_size": 1, "eval_every": 8, "checkpoint_every": 4} | settings
        ),
    )


def finish(config: RunConfig, data: Path, out: Path, **options) -> list:
    return list(run(config, data, out, **options))


def story(out: Path, name: str = MODES) -> list[dict]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def test_recipes_and_classes_have_the_same_defaults():
    """They are written twice, since classes never see a recipe; they must not drift apart."""
    told = dataclasses.asdict(StdetConfig())
    for cls in (Schedule, Choices):
        for field in dataclasses.fields(cls):
            if field.name in told:
                assert field.default == told[field.name], field.name


def test_the_recipes_of_training_differ_in_how_they_train_alone():
    folder = Path(__file__).parents[2] / "recipes" / "training"
    recipes = {path.stem: config_to_dict(load_recipe(path)) for path in folder.glob("*.toml")}
    for name, tree in recipes.items():
        optimizer, *techniques = name.split("+")
        assert tree["optim"]["name"] == optimizer
        assert bool(tree["stdet"]["snapshot_every"]) == ("stdet" in techniques)
        assert bool(tree["sma"]["interval"]) == ("sma" in techniques)
    same = [
        {key: table for key, table in tree.items() if key not in ("optim", "stdet", "sma")}
        for tree in recipes.values()
    ]
    assert len(recipes) == 7
    assert all(tree == same[0] for tree in same)


@pytest.fixture
def few_pictures(picture_folder) -> Path:
    """Two to train on and one held out are enough."""
    for path in sorted(picture_folder.rglob("*.*"))[4:]:
        path.unlink()
    return picture_folder


@pytest.mark.parametrize(
    ("optimizer", "averaged"),
    [
        pytest.param("soap", SmaConfig(interval=3, feedback=True), marks=pytest.mark.slow),
        pytest.param("soap", SmaConfig(), marks=pytest.mark.slow),
        pytest.param("adam", SmaConfig(interval=3, feedback=True), marks=pytest.mark.slow),
        ("adam", SmaConfig()),
    ],
)
def test_a_run_stopped_anywhere_is_the_whole_run(tmp_path, few_pictures, optimizer, averaged):
    """While snapshots are taken, after modes are found, inside a window, right after an event."""
    config = recipe(optimizer, ON, averaged)
    finish(config, few_pictures, tmp_path / "whole")
    out = tmp_path / "stopped"
    for stop in (1, 5, 10, 11, 12, 13, 14, 17, 20):
        done = load_run(out)[2] if out.exists() else 0
        _stop_at(config, few_pictures, out, stop, resume=done > 0)
        assert load_run(out)[2] == stop
        assert (out / TRAJECTORIES).exists() or stop > 10
    finish(config, few_pictures, out, resume=True)
    whole, stopped = (read_checkpoint(tmp_path / n / CHECKPOINT) for n in ("whole", "stopped"))
    assert identical(whole, stopped)
    assert story(tmp_path / "whole") == story(out)
    shares = story(out)[-1]["shares"]
    assert 1 in shares  # a tensor that is wholly embedded
    assert any(0.3 < share < 1 for share in shares)  # one with released state
    assert not (out / TRAJECTORIES).exists()


def _stop_at(
    config: RunConfig, data: Path, out: Path, step: int, *, resume: bool, **options
) -> None:
    done = load_run(out)[2] if resume else 0
    left = iter(range(step - done - 1, -1, -1))
    finish(config, data, out, resume=resume, should_stop=lambda: next(left) == 0, **options)


@pytest.mark.slow
def test_a_killed_run_goes_back_to_its_checkpoint_and_its_trajectories(tmp_path, few_pictures):
    config = recipe("adam", ON, SmaConfig(interval=2))
    finish(config, few_pictures, tmp_path / "whole")
    out = tmp_path / "killed"
    for last in (6, 11, 15):  # checkpoints are of steps 4, 8 and 12
        reports = run(config, few_pictures, out, resume=out.exists())
        for report in reports:
            if not isinstance(report, Evaluation) and report.step == last:
                break
        reports.close()
        assert load_run(out)[2] == last // 4 * 4
    finish(config, few_pictures, out, resume=True)
    assert identical(*(read_checkpoint(tmp_path / n / CHECKPOINT) for n in ("whole", "killed")))
    assert story(tmp_path / "whole") == story(out)


def test_a_run_whose_trajectories_are_gone_says_so(tmp_path, few_pictures):
    out = tmp_path / "run"
    config = recipe("adam", ON)
    _stop_at(config, few_pictures, out, 5, resume=False)
    (out / TRAJECTORIES).unlink()
    with pytest.raises(CheckpointError, match=r"trajectories\.f32: .*missing; start the run anew"):
        finish(config, few_pictures, out, resume=True)


def test_trajectories_that_do_not_fit_on_the_disk_are_a_data_error(
    tmp_path, few_pictures, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(history_module.os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"trajectories\.f32: cannot keep .*stdet\.warmup"):
        finish(recipe("adam", ON), few_pictures, tmp_path / "run")


def test_without_a_section_there_is_no_hook():
    model, state = new_run()
    assert build_techniques(RunConfig(), model, state.optimizer, items=9) == {}
    assert not evaluates_others({})


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_a_share_of_zero_is_plain_training_bit_for_bit(folder, optimizer):
    nothing = dataclasses.replace(ON, share=0.0, selection="both")
    runs = []
    for stdet in (StdetConfig(), nothing):
        config = recipe(optimizer, stdet)
        model, state = new_run(optimizer=optimizer)
        rows: list[dict] = []
        hooks = build_techniques(config, model, state.optimizer, items=3, record=rows.append)
        assert len(hooks) == len(rows) + (stdet is nothing)
        reports = [facts(r) for r in go(config, model, state, folder, hooks=hooks)]
        runs.append((reports, model.state_dict(), state.optimizer.state_dict()))
    assert [row["kind"] for row in rows].count("event") == 5
    assert rows[-1]["embedded"] == 0
    assert identical(*runs)


@pytest.mark.slow
def test_a_step_by_hand_with_hooks_that_do_nothing_is_one_without():
    results = []
    for hooks_of in (
        lambda *_: {},
        lambda m, o: build_techniques(
            recipe("adam", dataclasses.replace(ON, share=0.0)), m, o, items=3
        ),
    ):
        model = tiny_model("mbt2018-mean")
        optimizer = OPTIMIZERS["adam"](model, 1e-3)
        hooks = hooks_of(model, optimizer)
        for step in range(STEPS):
            task = Given(model, seed=0)
            train_step(task, task.batch(step), step=step, optimizer=optimizer, hooks=hooks)
        results.append(model.state_dict())
    assert identical(*results)


@pytest.mark.parametrize("optimizer", ["adam", "soap", "muon"])
def test_skipped_steps_leave_weights_finite_and_on_their_lines(folder, optimizer):
    config = recipe(optimizer, dataclasses.replace(ON, selection="both"), SmaConfig(interval=2))
    model, state = new_run(optimizer=optimizer)
    techniques = build_techniques(config, model, state.optimizer, items=3)
    hooks = {"poison": Poison(model, (4, 9, 11, 12, 19)), **techniques}
    reports = list(go(config, model, state, folder, hooks=hooks))
    assert [r.step for r in reports if r.skipped] == [4, 9, 11, 12, 19]
    stdet = techniques["stdet"]
    assert isinstance(stdet, STDET)
    assert stdet.modes is not None
    assert stdet.embedded > 0.4 * stdet.total
    values, embedding = stdet.parameters.gather(), stdet.modes.embedding
    level = values[embedding.references][stdet.modes.stats.mode.long()]
    line = torch.addcmul(embedding.offset, embedding.slope, level)
    assert torch.equal(values[embedding.embedded], line[embedding.embedded])
    assert values.isfinite().all()


def test_an_epoch_is_a_pass_over_the_pictures():
    assert snapshot_interval(StdetConfig(), 100) == 0
    assert snapshot_interval(StdetConfig(snapshot_every=7), 100) == 7
    assert snapshot_interval(StdetConfig(snapshot_epochs=0.5), 100) == 50
    assert snapshot_interval(StdetConfig(snapshot_epochs=1e-6), 100) == 1
    assert snapshot_interval(StdetConfig(snapshot_epochs=1e308), 100) > 2**60


def test_the_order_is_stdet_then_the_average_and_feedback_projects_again():
    model, state = new_run()
    config = recipe("adam", ON, SmaConfig(interval=2, feedback=True, start=0.2))
    techniques = build_techniques(config, model, state.optimizer, items=3)
    assert list(techniques) == ["stdet", "sma"]
    stdet, sma = techniques.values()
    assert isinstance(stdet, STDET)
    assert isinstance(sma, SMA)
    assert stdet.sma is sma
    assert sma.after_feedback == stdet.project
    assert sma.start == math.ceil(0.2 * STEPS)
    assert stdet.choices.seed == config.train.seed


WRONG = [
    ({"snapshot_epochs": 1.0}, {}, r"snapshot_every and stdet\.snapshot_epochs: give one"),
    ({"warmup": 30}, {}, r"leave none to embed at.*snapshot_every"),
    ({"modes": 90}, {}, r"stdet\.modes = 90 must be from 1 to stdet\.samples = 80"),
    ({"samples": 20_000}, {}, r"stdet\.samples = 20000, but only \d+ weights"),
    ({}, {"conflict_every": 2}, r"train\.conflict_every .*turn one of them off"),
]


@pytest.mark.parametrize(("stdet", "settings", "message"), WRONG)
def test_what_a_run_cannot_have_is_an_error_before_anything_is_written(
    tmp_path, few_pictures, stdet, settings, message
):
    config = recipe("soap", dataclasses.replace(ON, **stdet), **settings)
    with pytest.raises(ConfigError, match=message):
        finish(config, few_pictures, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("stdet", "warmup", 8, "stdet.warmup = 8 must be at least 9"),
        ("stdet", "cap", 1.0, "stdet.cap = 1.0 must be above 0 and below 1"),
        ("stdet", "share", 1.5, "stdet.share = 1.5 must be from 0 to 1"),
        ("stdet", "modes", 0, "stdet.modes = 0 must be at least 1"),
        ("stdet", "samples", 1, "stdet.samples = 1 must be from 2 to 20000"),
        ("stdet", "sensitivity", "grad", "stdet.sensitivity = 'grad' must be grad2"),
        ("stdet", "selection", "x", "stdet.selection = 'x' must be both"),
        ("stdet", "dummy", "x", "stdet.dummy = 'x' must be none"),
        ("stdet", "reference", "x", "stdet.reference = 'x' must be own or chain"),
        ("stdet", "anchor", 1, "stdet.anchor = 1 must be true or false"),
        ("stdet", "mode", 3, "unknown key 'mode' in [stdet]; did you mean 'modes'?"),
        ("sma", "alpha", 1.5, "sma.alpha = 1.5 must be from 0 to 1"),
        ("sma", "start", 1.0, "sma.start = 1.0 must be from 0 to below 1"),
        ("sma", "interval", -1, "sma.interval = -1 must be at least 0"),
        ("sma", "feedback", "yes", "sma.feedback = 'yes' must be true or false"),
    ],
)
def test_a_recipe_with_bad_values_is_named(section, key, value, message):
    with pytest.raises(ConfigError) as raised:
        config_from_dict({section: {key: value}}, source="some.toml")
    assert str(raised.value).startswith("some.toml: ")
    assert message in str(raised.value)


def test_a_plain_mean_without_debias_is_an_error_of_the_run(tmp_path, few_pictures):
    config = recipe("adam", sma=SmaConfig(interval=1, alpha=0.0, debias=False))
    with pytest.raises(ConfigError, match="sma: alpha"):
        finish(config, few_pictures, tmp_path / "run")


@pytest.mark.parametrize(("interval", "start"), [(STEPS + 1, 0.0), (STEPS, 0.01), (3, 0.95)])
def test_an_average_that_would_take_no_sample_is_an_error_of_the_run(
    tmp_path, few_pictures, interval, start
):
    """What would be evaluated and frozen are the weights as they were at the start."""
    config = recipe("adam", sma=SmaConfig(interval=interval, start=start))
    with pytest.raises(ConfigError, match=rf"sma\.interval = {interval} .*no sample"):
        finish(config, few_pictures, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_sample_is_enough_of_an_average():
    model, state = new_run()
    config = recipe("adam", sma=SmaConfig(interval=STEPS, start=0.0))
    sma = build_techniques(config, model, state.optimizer, items=3)["sma"]
    assert isinstance(sma, SMA)
    for step in range(STEPS):
        sma.after_step(step)
    assert sma.samples == 1


def test_a_run_is_not_resumed_with_other_techniques_or_another_model(tmp_path, few_pictures):
    out = tmp_path / "run"
    config = recipe("adam", ON, SmaConfig(interval=2))
    _stop_at(config, few_pictures, out, 12, resume=False)
    for other, key in [
        (dataclasses.replace(config, stdet=dataclasses.replace(ON, modes=4)), r"stdet\.modes"),
        (dataclasses.replace(config, sma=SmaConfig()), r"sma\.interval"),
        (dataclasses.replace(config, model=ModelConfig("bmshj2018-factorized", {"n": 8})), "model"),
    ]:
        with pytest.raises(ConfigError, match=f"started with another .*{key}"):
            finish(other, few_pictures, out, resume=True)
    model = tiny_model("mbt2018-mean")
    state = RunState(OPTIMIZERS["adam"](model, config.optim.lr))
    hooks = build_techniques(config, model, state.optimizer, items=3)
    content = read_checkpoint(out / CHECKPOINT)
    with pytest.raises(CheckpointError, match="does not fit this run"):
        restore(content, out / CHECKPOINT, model, state, hooks)
    bare, bare_state = new_run("mbt2018-mean")
    content |= {"model": bare.state_dict(), "optimizer": bare_state.optimizer.state_dict()}
    with pytest.raises(CheckpointError, match="stdet: the checkpoint is of another model"):
        restore(content, out / CHECKPOINT, model, state, hooks)


class Spy:
    """Remembers the model; spoils its weights after some step."""

    def __init__(self, model, spoiled_from: float = math.inf):
        self.model, self.spoiled_from = model, spoiled_from

    def before_step(self, step: int) -> None:
        pass

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        if step >= self.spoiled_from:
            for p in self.model.parameters():
                p.mul_(0.8)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


@pytest.mark.slow
def test_evaluations_checkpoints_and_load_run_have_the_averaged_weights(tmp_path, few_pictures):
    out = tmp_path / "run"
    config = recipe("adam", ON, SmaConfig(interval=2, alpha=0.1))
    spies: list[Spy] = []

    def spy(model) -> dict[str, Spy]:
        spies.append(Spy(model))
        return {"spy": spies[0]}

    finish(config, few_pictures, out, make_hooks=spy)
    content = read_checkpoint(out / CHECKPOINT)
    phi = content["hooks"]["sma"]["phi"]
    loaded = load_run(out)[0]
    assert all(torch.equal(p, phi[name]) for name, p in loaded.named_parameters())
    trained = spies[0].model.state_dict()
    assert identical(content["model"], trained)  # after all evaluations: training's own weights
    assert any(not torch.equal(trained[name], value) for name, value in phi.items())


@pytest.mark.slow
def test_dummies_are_on_their_lines_among_the_averages_that_are_evaluated():
    config = recipe(
        "adam", dataclasses.replace(ON, dummy="averaged", share=0.1, cap=0.5), SmaConfig(interval=2)
    )
    model, state = new_run()
    hooks = build_techniques(config, model, state.optimizer, items=3)
    stdet, sma = hooks["stdet"], hooks["sma"]
    assert isinstance(stdet, STDET)
    images = [
        (photo_tensor(1, 80, 90, seed=s)[0].permute(1, 2, 0) * 255).byte().numpy() for s in range(3)
    ]
    list(go(config, model, state, ImageFolder(tuple("abc"), images.__getitem__), hooks=hooks))
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    modes = stdet.modes
    assert modes is not None
    with evaluation_weights(hooks):
        values = stdet.parameters.gather()
    assert identical(dict(model.state_dict()), trained)
    assert isinstance(sma, SMA)
    phi = stdet.parameters.gather(sma.average)
    level = phi[modes.stats.references][modes.stats.mode.long()]
    line = torch.addcmul(modes.offset, modes.slope, level)
    assert modes.dummies.any()
    assert torch.equal(values[modes.dummies], line[modes.dummies])
    assert torch.equal(values[~modes.dummies], phi[~modes.dummies])


def test_best_pt_is_the_best_evaluation_also_after_a_resumption(tmp_path, few_pictures):
    out = tmp_path / "run"
    config = recipe("adam", sma=SmaConfig(interval=2), eval_every=2, checkpoint_every=100)
    options = {"make_hooks": lambda model: {"spy": Spy(model, spoiled_from=9)}}
    _stop_at(config, few_pictures, out, 11, resume=False, **options)
    finish(config, few_pictures, out, resume=True, **options)
    rows = [row for row in story(out, METRICS) if row["kind"] == "evaluation"]
    best = min(rows, key=lambda row: row["loss"])
    assert best["step"] < rows[-1]["step"]
    model, loaded_config, step = load_run(out, best=True)
    assert (step, loaded_config) == (best["step"], config)
    again = tmp_path / "again"  # a run that ends there has these averages as its latest
    _stop_at(config, few_pictures, again, step, resume=False, **options)
    assert identical(model.state_dict(), load_run(again)[0].state_dict())
    (out / BEST).unlink()
    with pytest.raises(CheckpointError, match=r"best\.pt: .*no evaluation.*latest checkpoint"):
        load_run(out, best=True)


@pytest.mark.slow
def test_a_lost_best_pt_is_written_again(tmp_path, few_pictures):
    out = tmp_path / "run"
    config = recipe("adam", eval_every=2, checkpoint_every=100)
    _stop_at(config, few_pictures, out, 5, resume=False)
    (out / BEST).unlink()
    metrics = out / METRICS
    metrics.write_text(
        '{"kind": "evaluation", "step": 1, "loss": NaN}\n'
        '{"kind": "evaluation", "step": 2, "loss": -1.0}\n'
    )
    finish(config, few_pictures, out, resume=True)
    assert load_run(out, best=True)[2] > 5


@pytest.mark.slow
def test_a_hopeless_evaluation_does_not_hide_the_best(tmp_path, few_pictures):
    out = tmp_path / "run"
    config = recipe("adam", eval_every=2, checkpoint_every=100)
    _stop_at(config, few_pictures, out, 5, resume=False)
    rows = '{"kind": "evaluation", "step": 1, "loss": NaN}\n' + (out / METRICS).read_text()
    (out / METRICS).write_text(rows)
    finish(config, few_pictures, out, resume=True)
    losses = {r["step"]: r["loss"] for r in story(out, METRICS) if r["kind"] == "evaluation"}
    del losses[1]
    assert load_run(out, best=True)[2] == min(losses, key=losses.__getitem__)


SMALL = RunConfig(
    optim=OptimConfig(lr=2e-3, schedule="constant", warmup=0.0),
    data=DataConfig(crop_size=64),
    train=TrainConfig(steps=160, batch_size=1),
)
EVERY_FOUR = StdetConfig(
    snapshot_every=4, warmup=19, window=3, share=0.1, cap=0.5, modes=8, samples=600
)


@pytest.fixture(scope="module")
def small_runs():
    """A tiny hyperprior on single crops: noise rules. Held-out losses of the last tenth."""
    images = [
        (photo_tensor(1, 96, 96, seed=s)[0].permute(1, 2, 0) * 255).byte().numpy() for s in range(8)
    ]
    folder = ImageFolder(tuple("abcdefgh"), images.__getitem__)
    held_out = photo_tensor(2, 64, 64, seed=100)
    average = SmaConfig(interval=2, alpha=0.05)
    results = {}
    for name, stdet, sma in [
        ("plain", OFF, UNAVERAGED),
        ("sma", OFF, average),
        ("both", EVERY_FOUR, average),
    ]:
        config = dataclasses.replace(SMALL, stdet=stdet, sma=sma)
        model, state = new_run("bmshj2018-hyperprior")
        rows: list[dict] = []
        hooks = build_techniques(config, model, state.optimizer, items=8, record=rows.append)
        losses = []
        for report in go(config, model, state, folder, hooks=hooks):
            if report.step >= 0.9 * SMALL.train.steps:
                with torch.no_grad(), evaluation_weights(hooks):
                    losses.append(float(rate_distortion(held_out, model(held_out), 0.01).total))
        results[name] = np.array(losses), rows
    return results


@pytest.mark.slow
def test_averaging_calms_the_loss_of_the_last_tenth(small_runs):
    plain, averaged = small_runs["plain"][0], small_runs["sma"][0]
    assert averaged.std() < plain.std()


@pytest.mark.slow
def test_embedding_under_the_average_costs_little(small_runs):
    assert small_runs["both"][0].mean() < 1.05 * small_runs["sma"][0].mean()


@pytest.mark.slow
def test_the_trainable_count_falls_as_scheduled(small_runs):
    rows = [row for row in small_runs["both"][1] if row["kind"] != "modes"]
    assert [row["step"] for row in rows] == list(range(4, 161, 4))
    trainable = [row["trainable"] for row in rows]
    assert trainable == sorted(trainable, reverse=True)
    eligible = sum(next(r for r in small_runs["both"][1] if r["kind"] == "modes")["sizes"])
    embedded = [row["embedded"] / eligible for row in rows]
    events = [row["step"] for row in rows if row["kind"] == "event"]
    assert events == [92, 104, 116, 128, 140, 152]
    for row, share in zip(rows, embedded, strict=True):
        assert share == pytest.approx(
            min(0.5, 0.1 * sum(e <= row["step"] for e in events)), abs=1e-3
        )
