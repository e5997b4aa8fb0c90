"""What fuzzing found, and what it begins with, is read without a crash for ever."""

from pathlib import Path

import pytest
import targets

FOUND = Path(__file__).parent / "found"


@pytest.mark.parametrize("name", targets.TARGETS)
def test_what_was_found_is_refused_or_read(name, tmp_path):
    target = targets.TARGETS[name](tmp_path)
    found = sorted(FOUND.glob(f"{name}-*"))
    for data in (b"", b"\0", *(path.read_bytes() for path in found), *targets.seeds(name)):
        target(data)
        target(data[: len(data) // 2])


def test_mended_files_have_right_checksums():
    from lictor.coding.container import Container

    for data in targets.pictures():
        assert targets.mended(data) == data
        spoilt = bytearray(data)
        spoilt[-1] ^= 1
        assert Container.from_bytes(targets.mended(bytes(spoilt))).tiles
