"""Where a run computes: devices by name, equal shares, one voice of several processes."""

import pytest
import torch

from lictor.errors import ConfigError
from lictor.runtime import Runtime, choose_device, devices, processes


def test_devices_are_found_by_name_and_a_missing_one_is_named_with_those_there():
    assert devices()[-1] == "cpu"
    assert choose_device("cpu") == torch.device("cpu")
    assert str(choose_device("auto")) == devices()[0]
    for name in ("cuda:77", "gpu", "mps:3", ""):
        with pytest.raises(ConfigError, match=r"there is .*cpu"):
            choose_device(name)


def test_shares_are_equal_and_whole():
    ranges = [Runtime(rank=rank, world_size=3).share(12) for rank in range(3)]
    assert [list(r) for r in ranges] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(ConfigError, match="13 is not a multiple of the 3"):
        Runtime(rank=0, world_size=3).share(13)


def test_a_process_by_itself_speaks_to_itself():
    runtime, values = Runtime(), [torch.rand(3), torch.rand(2, 2)]
    kept = [v.clone() for v in values]
    runtime.average_(values)
    runtime.broadcast_(values, 0)
    assert all(torch.equal(a, b) for a, b in zip(values, kept, strict=True))
    assert runtime.gather("x") == ["x"]
    assert runtime.from_first(3) == 3
    assert [runtime.any(flag) for flag in (True, False)] == [True, False]
    assert runtime.peak_bytes() > 2**20
    assert "cpu" in runtime.describe()


def test_a_lack_of_memory_is_not_taken_for_a_process_that_has_ended(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch, "cat", full)
    with pytest.raises(torch.OutOfMemoryError):
        Runtime(world_size=2).average_([torch.zeros(3)])


@pytest.mark.parametrize("wrong", [{"rank": 1}, {"rank": -1}, {"precision": "float8"}])
def test_an_impossible_runtime_is_refused(wrong):
    with pytest.raises(ConfigError):
        Runtime(**wrong)


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR"),
        ({"WORLD_SIZE": "two", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "two"),
    ],
)
def test_an_environment_that_is_not_torchruns_is_told_in_one_line(monkeypatch, environment, word):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"LOCAL_RANK": "0", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{word}.*torchrun"), processes("cpu"):
        pass
    monkeypatch.delenv("LOCAL_RANK")  # another launcher's WORLD_SIZE says nothing to us
    with processes("cpu") as runtime:
        assert runtime.world_size == 1
