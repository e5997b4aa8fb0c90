"""`lictor verify` and `lictor info --margins`: without torch, and with a line for what is wrong."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import lively_model
from lictor.cli.main import main
from lictor.codecs.learned import Codec

BLOCKED = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch was asked for")

sys.meta_path.insert(0, NoTorch())
from lictor.cli.main import main
main(sys.argv[1:])
"""


def without_torch(*args) -> tuple[int, str, str]:
    command = [sys.executable, "-c", BLOCKED, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A codec's file and two pictures of it."""
    folder = tmp_path_factory.mktemp("verify")
    codec = Codec.freeze(lively_model("checkerboard"))
    codec.save(folder / "small.lcodec")
    rng = np.random.default_rng(0)
    for number in range(2):
        image = rng.integers(0, 256, (70, 130, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
        (folder / f"{number}.lic").write_bytes(codec.encode(image))
    return folder, codec


def test_whole_files_are_told_so_without_torch(made):
    folder, _ = made
    files = [folder / "0.lic", folder / "1.lic"]
    code, out, err = without_torch("verify", *files, "--codec", folder / "small.lcodec")
    assert (code, err) == (0, "")
    assert out.count("as written") == 2
    assert out.count("130x70") == 2


def test_info_and_margins_need_no_torch(made):
    folder, codec = made
    code, out, err = without_torch("info", folder / "small.lcodec", "--margins")
    assert (code, err) == (0, "")
    for name, margins in codec.margins.items():
        for number, margin in enumerate(margins):
            assert f"{name} {number + 1} {margin.op}" in out
            assert f"{margin.spare_bits:.1f} bits to spare" in out
    for file in ("small.lcodec", "0.lic"):
        code, out, err = without_torch("info", folder / file)
        assert (code, err) == (0, "")
        assert codec.fingerprint.hex() in out


def test_every_damaged_file_has_a_line_and_the_rest_is_checked(made, tmp_path):
    folder, _ = made
    data = (folder / "0.lic").read_bytes()
    bad = {
        "empty.lic": b"",
        "short.lic": data[: len(data) // 2],
        "flipped.lic": data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
        "text.lic": b"hello",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    names = [*(tmp_path / name for name in bad), tmp_path / "missing.lic", tmp_path]
    code, out, err = without_torch(
        "verify", *names, folder / "1.lic", "--codec", folder / "small.lcodec"
    )
    assert code == 1
    assert "1.lic" in out
    assert out.count("\n") == 1
    lines = err.splitlines()
    assert len(lines) == len(names)
    for name, line in zip(names, lines, strict=True):
        assert line.count(str(name)) == 1


def test_another_codec_or_a_former_one_is_refused(made, tmp_path):
    folder, _ = made
    code, _, err = without_torch("verify", folder / "0.lic")
    assert code == 1
    assert "made by the codec" in err
    (tmp_path / "no.lcodec").write_bytes(b"{}")
    code, _, err = without_torch("verify", folder / "0.lic", "--codec", tmp_path / "no.lcodec")
    assert code == 1
    assert err.count("\n") == 1
    assert "not a codec file" in err


def test_without_a_file_it_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["verify"])
    assert ended.value.code == 2
    assert "at least one .lic file" in capsys.readouterr().err


def test_standard_input_is_verified(made):
    folder, _ = made
    command = [sys.executable, "-c", BLOCKED, "verify", "-", "--codec", folder / "small.lcodec"]
    data = (folder / "0.lic").read_bytes()
    done = subprocess.run(command, input=data, capture_output=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"as written" in done.stdout
