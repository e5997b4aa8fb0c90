"""Runs of signals: recipes, folders, resuming, what a run keeps, and who refuses it."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lictor.errors import CheckpointError, ConfigError, DataError
from lictor.implicit.model import IMPLICIT
from lictor.implicit.pca import fit_pca
from lictor.optim.factory import OPTIMIZERS
from lictor.training.implicit.learner import Learner
from lictor.training.implicit.signals import Signals, open_signals, value_range
from lictor.training.phases import Phase
from lictor.training.recipe import (
    RunConfig,
    SignalRunConfig,
    config_from_dict,
    config_to_dict,
    load_recipe,
    may_change,
)
from lictor.training.run import METRICS, load_run, load_signal_run, run
from lictor.training.sections import OptimConfig, SmaConfig, TrainConfig
from lictor.training.signal_sections import (
    FitConfig,
    ImplicitModelConfig,
    RateConfig,
    SignalConfig,
    SignalDataConfig,
)

CONFIG = SignalRunConfig(
    model=ImplicitModelConfig("linear-coinpp", {"latent": 4, "width": 8, "layers": 3}),
    signal=SignalConfig(kind="array", patch=(8,), channels=2),
    fit=FitConfig(steps=1, points=6),
    rate=RateConfig(lowest=0, highest=4),
    optim=OptimConfig(lr=1e-3),
    data=SignalDataConfig(held_out=0.25),
    train=TrainConfig(steps=8, batch_size=4, log_every=2, eval_every=4, checkpoint_every=4),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eight arrays of smooth noise, of different lengths."""
    place = tmp_path_factory.mktemp("signals")
    rng = np.random.default_rng(0)
    for number in range(8):
        steps = rng.normal(size=(20 + 9 * number, 2)).cumsum(0)
        np.save(place / f"{number}.npy", steps.astype(np.float32))
    return place


def finish(config: SignalRunConfig, data: Path, out: Path, **options) -> Path:
    for _ in run(config, data, out, **options):
        pass
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_signal_run(out)[0].state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ------------------------------------------------------------------------------------- recipes


def test_a_recipe_with_signals_is_one_of_signals_and_comes_back():
    tree = json.loads(json.dumps(config_to_dict(CONFIG)))
    assert config_from_dict(tree, source="tree") == CONFIG
    assert isinstance(config_from_dict({}, source="none"), RunConfig)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "recipes/signals").glob("*.toml"))
)
def test_every_recipe_of_signals_can_be_read_and_built(path):
    config = load_recipe(path)
    assert isinstance(config, SignalRunConfig)
    assert Signals().build(config).net.latent == config.model.settings.latent


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"signal": {}}, r"signal\.patch: say the sides"),
        (
            {"signal": {"patch": [8], "kind": "picture"}},
            r"signal\.kind = 'picture' must be image, audio",
        ),
        ({"signal": {"patch": [0]}}, r"sides of 1 or more"),
        ({"signal": {"patch": [8], "low": 3.0}}, "give both or neither"),
        ({"signal": {"patch": [8], "low": 3.0, "high": 1.0}}, "must be below"),
        ({"signal": {"patch": [8]}, "surrogate": {}}, r"\[surrogate\] is a section .* of pictures"),
        ({"fit": {}}, r"\[fit\] is a section .* of signals"),
        ({"signal": {"patch": [8]}, "fitt": {}}, r"did you mean 'fit'"),
        ({"signal": {"patch": [8]}, "model": {"name": "coin"}}, "coinpp"),
        ({"signal": {"patch": [8]}, "rate": {"lowest": 5, "highest": 4}}, r"rate\.highest = 4"),
        ({"signal": {"patch": [8]}, "train": {"mismatch": True}}, r"train\.mismatch is for codecs"),
        (
            {"signal": {"patch": [8]}, "phase": [{"share": 1.0, "surrogate": "noise"}]},
            "surrogate is for codecs of pictures",
        ),
    ],
)
def test_what_is_wrong_with_a_recipe_is_told_in_one_line(tree, message):
    with pytest.raises(ConfigError, match=message) as error:
        config_from_dict(tree, source="recipe.toml")
    assert "\n" not in str(error.value)


def test_overrides_know_the_sections_of_signals(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('[model]\nname = "coinpp"\nwidth = 32\n[signal]\npatch = [8]\n')
    config = load_recipe(path, ("model.name=pca", "fit.steps=0", "rate.weight=2"))
    assert config.model == ImplicitModelConfig("pca")
    assert (config.fit.steps, config.rate.weight) == (0, 2.0)
    assert {"fit.steps", "train.steps"} <= may_change(config)


# ---------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_stopped_and_resumed_is_the_whole_run(tmp_path, folder, name):
    config = dataclasses.replace(
        CONFIG, optim=OptimConfig(name, lr=1e-3), sma=SmaConfig(interval=2, start=0.0)
    )
    whole = finish(config, folder, tmp_path / "whole")
    calls = itertools.count()
    cut = finish(config, folder, tmp_path / "cut", should_stop=lambda: next(calls) == 2)
    assert load_signal_run(cut)[2] == 3
    finish(config, folder, cut, resume=True)
    assert equal(weights(cut), weights(whole))


def test_a_run_in_pieces_is_the_run(tmp_path, folder):
    pieces = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, accumulate=2))
    a, b = (finish(c, folder, tmp_path / n) for c, n in ((CONFIG, "whole"), (pieces, "pieces")))
    for name, value in weights(a).items():
        assert torch.allclose(value, weights(b)[name], atol=2e-3), name


def test_a_run_begins_as_principal_components_of_its_training_signals(tmp_path, folder):
    opened = open_signals(CONFIG, [folder])
    training, _ = opened.split(CONFIG.data.held_out)
    model = Signals().build(CONFIG)
    from lictor.runtime import Runtime

    task = Signals().make_task(CONFIG, model, opened, Runtime(), begins=True)
    low, high = value_range(CONFIG.signal, training)
    assert (float(model.low), float(model.high)) == pytest.approx((low, high), rel=1e-6)
    from lictor.data.signals.drawn import AllPatches

    pca = fit_pca(AllPatches(training, (8,), low, high), 4)
    values, mask = task.held_out
    full = values[mask.all(1)]
    centred = (full - pca.mean).reshape(len(full), -1)
    basis = pca.basis.reshape(-1, 4)
    expected = (centred @ basis @ basis.T).reshape(full.shape) + pca.mean
    with torch.no_grad():
        y_hat = model.net.decode(model.net.first(torch.from_numpy(full)))
    assert np.abs(y_hat.numpy() - expected).max() < 1e-4


def test_a_run_writes_what_its_evaluations_found(tmp_path, folder):
    out = finish(CONFIG, folder, tmp_path / "run")
    rows = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    assert [row["step"] for row in evaluations] == [4, 8]
    assert all({"loss", "psnr", "psnr_0", "psnr_4", "bits_0"} <= set(row) for row in evaluations)


def test_runs_of_signals_and_of_pictures_are_told_apart(tmp_path, folder):
    out = finish(CONFIG, folder, tmp_path / "run")
    with pytest.raises(CheckpointError, match="is a run of signals"):
        load_run(out)
    learner, config, step = load_signal_run(out, best=True)
    assert isinstance(learner, Learner)
    assert (config, step) == (CONFIG, 8) or step == 4


def test_it_says_what_is_wrong_with_the_data(tmp_path, folder):
    with pytest.raises(ConfigError, match="weights are for pictures"):
        finish(CONFIG, f"{folder}=2", tmp_path / "a")
    with pytest.raises(DataError, match="no such file or folder"):
        finish(CONFIG, tmp_path / "nothing", tmp_path / "b")
    three = dataclasses.replace(CONFIG, signal=SignalConfig(kind="array", patch=(8,), channels=3))
    with pytest.raises(DataError, match="none of its 8 files can be read"):
        finish(three, folder, tmp_path / "c")
    one = tmp_path / "one.npy"
    np.save(one, np.zeros((30, 2), np.float32))
    with pytest.raises(DataError, match="at least 2 signals"):
        finish(CONFIG, one, tmp_path / "d")


@pytest.mark.parametrize("name", IMPLICIT)
def test_every_network_trains(tmp_path, folder, name):
    config = dataclasses.replace(
        CONFIG,
        model=ImplicitModelConfig(name, dict(IMPLICIT[name].tiny)),
        phases=(Phase(share=0.5), Phase(share=0.5, lr=1e-4)),
    )
    finish(config, folder, tmp_path / name)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / name).values())
