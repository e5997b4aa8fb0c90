"""Command codecs: real programs in, real files out, and every way in which a program can fail."""

import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import photo
from lictor.errors import BitstreamError, ConfigError, LictorError
from lictor.evaluation.external import CommandCodec, CommandConfig, load_command_config

# A codec as a stranger would bring it: a script that shells out to nothing but Python.
_ENCODE = (
    "from PIL import Image; import sys;"
    "Image.open(sys.argv[1]).save(sys.argv[2], 'JPEG', quality=int(sys.argv[3]))"
)
_DECODE = "from PIL import Image; import sys; Image.open(sys.argv[1]).save(sys.argv[2])"


def command(code: str, *words: str) -> str:
    return f'{sys.executable} -c "{code}" {" ".join(words)}'


CONFIG = CommandConfig(
    "pyjpeg",
    command(_ENCODE, "{input}", "{output}", "{quality}"),
    command(_DECODE, "{input}", "{output}"),
    (30, 80),
    suffix=".jpg",
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_suffix", [".png", ".ppm", ".bmp"])
def test_a_command_codec_is_a_codec(channels, image_suffix):
    from dataclasses import replace

    image = photo(40, 50)[:, :, :channels]
    codec = CommandCodec(replace(CONFIG, image_suffix=image_suffix), 80)
    data = codec.encode(image)
    assert data[:2] == b"\xff\xd8"
    decoded = codec.decode(data)
    assert decoded.shape == image.shape
    assert np.abs(decoded.astype(int) - image).mean() < 10
    assert len(CommandCodec(CONFIG, 30).encode(image)) < len(data)


def failing(code: str, **other) -> CommandCodec:
    from dataclasses import replace

    both = command(code, "{input}", "{output}")
    return CommandCodec(replace(CONFIG, encode=both, decode=both, **other), 5)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; print('bad weather'); sys.exit(3)", r"exit code 3 of: .*bad weather"),
        ("import sys; print('on stderr', file=sys.stderr); sys.exit(1)", "on stderr"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
        ("pass", "wrote no output file"),
        ("import sys; open(sys.argv[2], 'w')", "wrote no output file"),
        ("import sys; [print('x' * 10**6) for _ in range(30)]; sys.exit(1)", "exit code 1"),
    ],
)
def test_a_command_that_fails_says_how(code, message):
    codec = failing(code)
    with pytest.raises(LictorError, match=message) as error:
        codec.encode(photo(8, 8))
    assert len(str(error.value)) < 1000
    with pytest.raises(BitstreamError, match=message):
        codec.decode(b"data")


def test_a_decoder_that_writes_no_picture_is_an_error():
    codec = failing("import sys; open(sys.argv[2], 'w').write('text')")
    with pytest.raises(BitstreamError, match="not a readable picture"):
        codec.decode(b"data")


def test_a_program_that_is_not_there_is_named():
    codec = CommandCodec(CommandConfig("x", "no-such-program {input} {output}", "x", (1,)), 1)
    with pytest.raises(LictorError, match=r"no-such-program.*is it installed"):
        codec.encode(photo(8, 8))


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX")
def test_a_command_that_hangs_is_stopped_with_all_it_started(tmp_path):
    # The child would outlive a kill of its parent alone.
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(1.5); open({str(alive)!r}, 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    script = tmp_path / "script.py"
    script.write_text(code)
    config = CommandConfig(
        "hangs", f"{sys.executable} {script} {{input}} {{output}}", "x", (1,), timeout_s=0.7
    )
    start = time.monotonic()
    with pytest.raises(LictorError, match=r"no result after 0\.7 s"):
        CommandCodec(config, 1).encode(photo(8, 8))
    assert time.monotonic() - start < 1.4
    time.sleep(1.5)
    assert not alive.exists()


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    codec = CommandCodec(CONFIG, 50)
    codec.decode(codec.encode(photo(8, 8)))
    with pytest.raises(LictorError):
        failing("import sys; sys.exit(1)").encode(photo(8, 8))
    assert list(tmp_path.iterdir()) == []


GOOD = """
name = "cp"
encode = "cp {input} {output}"
decode = "cp {input} {output}"
qualities = [1, 2.5]
"""


def test_a_description_is_read(tmp_path):
    path = tmp_path / "cp.toml"
    path.write_text(GOOD + 'suffix = ".cp"\ntimeout_s = 5\n')
    config = load_command_config(path)
    assert config.qualities == (1, 2.5)
    assert (config.suffix, config.image_suffix, config.timeout_s) == (".cp", ".png", 5)
    if shutil.which("cp"):
        image = photo(9, 7)
        codec = CommandCodec(config, 1)
        np.testing.assert_array_equal(codec.decode(codec.encode(image)), image)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not a TOML file"),
        (GOOD + "colour = 1", "unknown key 'colour'"),
        (GOOD.replace('name = "cp"', ""), "name is missing"),
        (GOOD.replace('name = "cp"', "name = 5"), "name must be text"),
        (GOOD.replace("[1, 2.5]", "[]"), "qualities must be a list of numbers"),
        (GOOD.replace("[1, 2.5]", '["a"]'), "qualities must be a list of numbers"),
        (GOOD.replace("[1, 2.5]", "[true]"), "qualities must be a list of numbers"),
        (GOOD.replace("cp {input} {output}", "cp {input}", 1), r"encode does not say.*\{output\}"),
        (GOOD.replace("cp {input}", "cp {what} {input}", 1), "encode is not a command"),
        (GOOD.replace("cp {input}", "cp ' {input}", 1), "encode is not a command"),
        (GOOD + "timeout_s = 0", "timeout_s must be a positive"),
        (GOOD + 'timeout_s = "x"', "timeout_s must be a positive"),
        (GOOD + 'image_suffix = ".jpg"', "image_suffix must be one of"),
    ],
)
def test_what_is_wrong_in_a_description_is_named(text, message, tmp_path):
    path = tmp_path / "codec.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_command_config(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("value", ["inf", "nan", "-inf"])
def test_numbers_are_finite(value, tmp_path):
    path = tmp_path / "codec.toml"
    for text in (GOOD + f"timeout_s = {value}", GOOD.replace("[1, 2.5]", f"[1, {value}]")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"codec\.toml"):
            load_command_config(path)


def test_a_description_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such codec description"):
        load_command_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_command_config(Path(tmp_path))
