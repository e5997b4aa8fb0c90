"""Files are written whole or not at all."""

import errno
import json
import math
import os
import subprocess
import sys

import pytest

from lictor.errors import ConfigError, DataError
from lictor.files import atomic_file, json_ready, locked_folder, write_file


def test_a_written_file_has_its_bytes_and_ordinary_permissions(tmp_path):
    target = tmp_path / "a.bin"
    write_file(target, b"one")
    write_file(target, b"two")
    assert target.read_bytes() == b"two"
    (tmp_path / "ordinary").write_bytes(b"")
    assert target.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "ordinary"]


def test_a_failure_while_writing_keeps_the_old_file_and_leaves_nothing(tmp_path):
    target = tmp_path / "a.bin"
    write_file(target, b"old")

    def fail_half_way() -> None:
        with atomic_file(target) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_a_data_error_and_leaves_nothing(tmp_path, monkeypatch):
    target = tmp_path / "a.bin"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"a\.bin.*No space left"):
        write_file(target, b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot write"):
        write_file(tmp_path / "no" / "a.bin", b"data")


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_what_is_no_regular_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path):
        with pytest.raises(DataError, match="not a regular file"):
            write_file(place, b"data")
    assert not (tmp_path / "pipe").is_file()


HOLD = """
import sys, time
from pathlib import Path
from lictor.files import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_locked_folder_is_refused_until_its_holder_is_killed(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(ConfigError, match="run: another run"), locked_folder(folder):
                pass
        finally:
            holder.kill()
    with locked_folder(folder), locked_folder(tmp_path / "other"):
        pass
    with locked_folder(folder):
        pass


def test_json_gets_null_for_what_it_has_no_number_for_at_any_depth():
    numbers = {"a": math.nan, "b": (1.5, -math.inf, [math.inf, 2]), "c": {"d": math.nan, "e": "x"}}
    text = json.dumps(json_ready(numbers), allow_nan=False)
    assert json.loads(text) == {
        "a": None,
        "b": [1.5, None, [None, 2]],
        "c": {"d": None, "e": "x"},
    }
