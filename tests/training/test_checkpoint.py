"""Checkpoints: a resumed run is the same run, and a bad file never half-loads."""

import copy
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from conftest import combined
from lictor.errors import CheckpointError, DataError
from lictor.models.zoo import MODELS
from lictor.optim.factory import OPTIMIZERS
from lictor.training.checkpoint import (
    checkpoint_config,
    read_checkpoint,
    restore,
    save_checkpoint,
)

from training_fixtures import Averaging, facts, go, identical, new_run, small_config  # isort: skip


@pytest.mark.parametrize(
    ("name", "optimizer", "precision"), combined(MODELS, OPTIMIZERS, ["float32", "bfloat16"])
)
def test_ten_steps_are_five_and_save_and_load_and_five(
    name, optimizer, precision, folder, tmp_path
):
    config = small_config(precision=precision)
    path = tmp_path / "checkpoint.pt"
    model, state = new_run(name, optimizer)
    hook = Averaging(model)
    reports = []
    for report in go(config, model, state, folder, hooks={"hook": hook}):
        reports.append(facts(report))
        if state.step == 5:
            save_checkpoint(path, config, model, state, {"hook": hook})

    again, again_state = new_run(name, optimizer, seed=99)
    again_hook = Averaging(again)
    content = read_checkpoint(path)
    assert checkpoint_config(content, path) == config
    restore(content, path, again, again_state, {"hook": again_hook})
    assert again_state.step == 5
    resumed = [facts(r) for r in go(config, again, again_state, folder, hooks={"hook": again_hook})]
    assert resumed == reports[5:]
    assert identical(again.state_dict(), model.state_dict())
    assert identical(again_state.optimizer.state_dict(), state.optimizer.state_dict())
    assert identical(again_hook.mean, hook.mean)


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a run that has taken a step's worth of state."""
    model, state = new_run()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    state.optimizer.step()
    state.step, state.skipped = 3, 2
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, small_config(), model, state)
    return path


def test_a_checkpoint_restores_counts_and_holds_no_pickled_code(saved):
    model, state = new_run(seed=5)
    restore(read_checkpoint(saved), saved, model, state)
    assert (state.step, state.skipped) == (3, 2)
    torch.load(saved, weights_only=True)


def test_missing_empty_foreign_and_truncated_files_are_checkpoint_errors(saved, tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pt")
    whole = saved.read_bytes()
    bad = tmp_path / "bad.pt"
    for content in (
        b"",
        b"text",
        b"PK\x03\x04",
        whole[:1000],
        whole[: len(whole) // 2],
        whole[:-1],
    ):
        bad.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"bad\.pt: damaged checkpoint"):
            read_checkpoint(bad)
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(tmp_path)
    for foreign in ([1, 2], torch.zeros(3), {"weights": torch.zeros(3)}):
        torch.save(foreign, bad)
        with pytest.raises(CheckpointError, match="damaged checkpoint"):
            read_checkpoint(bad)
    torch.save({"format": 3}, bad)
    with pytest.raises(CheckpointError, match="checkpoint format 3, this release reads 1 and 2"):
        read_checkpoint(bad)


def test_a_flipped_byte_is_noticed_or_harmless(saved):
    whole, content = saved.read_bytes(), read_checkpoint(saved)
    rng = np.random.default_rng(0)
    noticed = 0
    for place in rng.integers(0, len(whole), 60):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(flipped)
        try:
            assert identical(read_checkpoint(saved), content)
        except CheckpointError:
            noticed += 1
    assert noticed > 20  # the rest fell into padding


def test_another_models_checkpoint_is_an_error(saved):
    for other in ("mbt2018-mean", "checkerboard"):
        model, state = new_run(other)
        with pytest.raises(CheckpointError, match="does not fit this run"):
            restore(read_checkpoint(saved), saved, model, state)


def test_another_optimizers_checkpoint_is_an_error_that_names_the_file(saved):
    model, state = new_run(optimizer="soap")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: does not fit this run.*SOAP"):
        restore(read_checkpoint(saved), saved, model, state)


def test_a_checkpoint_with_parts_missing_or_of_other_hooks_is_an_error(saved):
    content = read_checkpoint(saved)
    model, state = new_run()
    with pytest.raises(CheckpointError, match="the hook 'average' is only here"):
        restore(content, saved, model, state, {"average": Averaging(model)})
    for key in ("model", "optimizer", "data", "step", "skipped", "hooks"):
        partial = {k: v for k, v in content.items() if k != key}
        with pytest.raises(CheckpointError, match=f"does not fit this run.*{key}"):
            restore(partial, saved, model, state)
    unknown = copy.deepcopy(content)
    unknown["config"]["optim"]["momentum"] = 0.9
    for wrong in ({"format": 1}, {"config": 3}, unknown):
        with pytest.raises(CheckpointError, match="not a checkpoint of this release"):
            checkpoint_config(wrong, saved)


@contextmanager
def room_for(size: int):
    """Let no file grow beyond `size` bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 5000, 40_000])
def test_a_full_disk_leaves_the_old_checkpoint_and_no_stray_file(saved, size):
    before = saved.read_bytes()
    assert len(before) > 50_000
    model, state = new_run()
    with room_for(size), pytest.raises(DataError, match=r"checkpoint\.pt: cannot write"):
        save_checkpoint(saved, small_config(), model, state)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_folder_that_is_not_there_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot write"):
        save_checkpoint(tmp_path / "absent" / "c.pt", small_config(), *new_run())


def test_saving_replaces_the_old_checkpoint_whole(saved):
    model, state = new_run(seed=8)
    state.step = 9
    save_checkpoint(saved, small_config(), model, state)
    content = read_checkpoint(saved)
    assert content["step"] == 9
    assert identical(content["model"], model.state_dict())
    assert list(saved.parent.iterdir()) == [saved]
