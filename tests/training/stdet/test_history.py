"""The trajectory on disk: what went in comes out, and no failure is silent or leaves a trap."""

import errno
import os

import numpy as np
import pytest
import torch

import lictor.training.stdet.history as history_module
from lictor.errors import CheckpointError, DataError
from lictor.training.stdet.history import History

SIZE, CAPACITY = 37, 6


@pytest.fixture(params=["memory", "file"])
def place(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "trajectories.f32"


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(0))


def filled(place, count: int) -> History:
    history = History(SIZE, CAPACITY, place)
    for row in rows(count):
        history.append(row)
    return history


def test_rows_columns_and_chunks_are_what_was_appended(place, monkeypatch):
    history = filled(place, 4)
    wanted = rows(4)
    assert torch.equal(torch.stack([history.row(k) for k in range(4)]), wanted)
    indices = np.array([0, 5, 36])
    assert torch.equal(history.of(indices), wanted[:, indices].T)
    assert torch.equal(torch.cat(list(history.chunks())), wanted.T)
    monkeypatch.setattr(history_module, "_CHUNK_BYTES", 4 * 4 * 10)
    chunks = list(history.chunks())
    assert [len(chunk) for chunk in chunks] == [10, 10, 10, 7]
    assert torch.equal(torch.cat(chunks), wanted.T)


def test_a_file_takes_its_whole_room_with_the_first_snapshot(tmp_path):
    history = filled(tmp_path / "t.f32", 1)
    status = (tmp_path / "t.f32").stat()
    assert status.st_size == history.size_bytes == 4 * SIZE * CAPACITY
    assert status.st_blocks * 512 >= status.st_size  # not a hole that fills up later


def test_a_restored_history_goes_on_from_its_count(place):
    history = filled(place, 3)
    state = history.state_dict()
    for _ in range(2):
        history.append(torch.zeros(SIZE))  # after the checkpoint: to be overwritten
    again = History(SIZE, CAPACITY, place)
    again.load_state_dict(state)
    assert again.count == 3
    again.append(torch.ones(SIZE))
    assert torch.equal(again.row(2), rows(3)[2])
    assert again.row(3).tolist() == [1] * SIZE
    assert (state["rows"] is None) == (place is not None)


def test_a_missing_or_cut_file_is_a_checkpoint_error_that_says_what_to_do(tmp_path):
    place = tmp_path / "t.f32"
    state = filled(place, 3).state_dict()
    os.truncate(place, 100)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"t\.f32: .*missing; start the run anew"):
            History(SIZE, CAPACITY, place).load_state_dict(state)
        place.unlink(missing_ok=True)


def test_a_full_disk_is_a_data_error_with_the_remedy_and_leaves_no_file(tmp_path, monkeypatch):
    place = tmp_path / "t.f32"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        for _ in range(2):  # what the first attempt left must not pass for reserved space
            with pytest.raises(DataError, match=r"t\.f32: cannot keep .*No space.*stdet\.warmup"):
                filled(place, 1)
            assert not place.exists()
    assert torch.equal(filled(place, 1).row(0), rows(1)[0])


def test_a_folder_that_is_not_there_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot keep .*free some space"):
        filled(tmp_path / "absent" / "t.f32", 1)


def test_the_file_outlives_every_checkpoint_that_needs_it(tmp_path):
    place = tmp_path / "t.f32"
    history = History(SIZE, CAPACITY, place)
    for _ in range(3):
        history.state_dict()  # checkpoints before the first snapshot need nothing yet
    for row in rows(CAPACITY):
        history.append(row)
    needed = history.state_dict()
    history.drop()
    history.state_dict()  # this one is not on disk yet: a crash now goes back to the one before
    History(SIZE, CAPACITY, place).load_state_dict(needed)
    history.state_dict()
    assert not place.exists()


def test_a_run_resumed_without_need_for_the_file_removes_it(tmp_path):
    place = tmp_path / "t.f32"
    history = filled(place, CAPACITY)
    history.drop()
    state = history.state_dict()
    again = History(SIZE, CAPACITY, place)
    again.load_state_dict(state)
    again.state_dict()
    assert not place.exists()


def test_dropped_rows_free_their_memory():
    history = filled(None, 2)
    history.drop()
    assert history.count == 0
    assert history.state_dict()["rows"] is None
