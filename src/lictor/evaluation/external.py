"""A codec that is two commands: BPG, VTM, or a colleague's, described in one TOML file.

    name = "bpg"
    encode = "bpgenc -q {quality} -f 444 -o {output} {input}"
    decode = "bpgdec -o {output} {input}"
    qualities = [45, 40, 35, 30, 25, 20]

`encode` reads a picture file and writes a compressed one, `decode` the reverse. The commands run
without a shell, in an empty folder of their own, one per call; what counts is the compressed file's
size. Times include starting the program and writing and reading the picture file.
"""

import contextlib
import math
import os
import shlex
import signal
import subprocess
import tempfile
import threading
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lictor.data.images import load_image
from lictor.errors import BitstreamError, ConfigError, LictorError, TimeLimitError

PICTURE_SUFFIXES = (".png", ".ppm", ".bmp")
_SHOWN = 200


@dataclass(frozen=True)
class CommandConfig:
    """What the TOML file of a command codec says.

    `{input}`, `{output}` and `{quality}` in the commands are replaced; `suffix` is the compressed
    file's, `image_suffix` the picture's (.png, .ppm or .bmp); a call may take `timeout_s` seconds.
    """

    name: str
    encode: str
    decode: str
    qualities: tuple[float, ...]
    description: str = ""
    suffix: str = ".bin"
    image_suffix: str = ".png"
    timeout_s: float = 600.0


def load_command_config(path: Path | str) -> CommandConfig:
    """Read a command codec's TOML; raises `ConfigError`, naming file and key, when it is wrong."""
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such codec description") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a TOML file ({error})") from error
    try:
        return _command_config(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _command_config(content: Mapping[str, Any]) -> CommandConfig:
    known = {f.name for f in fields(CommandConfig)}
    for key in content:
        if key not in known:
            raise ConfigError(f"unknown key {key!r}; allowed are {', '.join(sorted(known))}")
    for key in ("name", "encode", "decode", "qualities"):
        if key not in content:
            raise ConfigError(f"{key} is missing")
    for key, value in content.items():
        if key not in ("qualities", "timeout_s") and not isinstance(value, str):
            raise ConfigError(f"{key} must be text, not {value!r}")
    qualities, timeout_s = content["qualities"], content.get("timeout_s", 600.0)
    if not isinstance(qualities, list) or not qualities or not all(map(_is_number, qualities)):
        raise ConfigError(f"qualities must be a list of numbers, not {qualities!r}")
    if not _is_number(timeout_s) or timeout_s <= 0:
        raise ConfigError(f"timeout_s must be a positive number of seconds, not {timeout_s!r}")
    for key in ("encode", "decode"):
        _check_command(key, content[key])
    if content.get("image_suffix", ".png") not in PICTURE_SUFFIXES:
        raise ConfigError(f"image_suffix must be one of {', '.join(PICTURE_SUFFIXES)}")
    return CommandConfig(**{**content, "qualities": tuple(qualities), "timeout_s": timeout_s})


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _check_command(key: str, command: str) -> None:
    for hole in ("{input}", "{output}"):
        if hole not in command:
            raise ConfigError(f"{key} does not say where {hole} goes: {command!r}")
    try:
        shlex.split(command)
        command.format(input="i", output="o", quality=0)
    except (ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"{key} is not a command with {{input}}, {{output}} and {{quality}} ({error}); "
            "write other braces twice"
        ) from error


@dataclass(frozen=True)
class CommandCodec:
    """An `ImageCodec` that runs the commands of a `CommandConfig` at one quality."""

    config: CommandConfig
    quality: float

    @property
    def name(self) -> str:
        """Name and quality."""
        return f"{self.config.name} q{self.quality:g}"

    def encode(self, image: UInt8[np.ndarray, "h w c"]) -> bytes:
        """Compress; raises `LictorError` when the command fails, hangs or writes nothing."""
        with tempfile.TemporaryDirectory(prefix="lictor-") as folder:
            picture = Path(folder) / f"picture{self.config.image_suffix}"
            compressed = Path(folder) / f"compressed{self.config.suffix}"
            Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(picture)
            self._run(self.config.encode, picture, compressed)
            return compressed.read_bytes()

    def decode(self, data: bytes) -> UInt8[np.ndarray, "h w c"]:
        """Restore; raises `BitstreamError` when the command fails, hangs or writes no picture."""
        with tempfile.TemporaryDirectory(prefix="lictor-") as folder:
            compressed = Path(folder) / f"compressed{self.config.suffix}"
            picture = Path(folder) / f"picture{self.config.image_suffix}"
            compressed.write_bytes(data)
            try:
                self._run(self.config.decode, compressed, picture)
                return load_image(picture)
            except TimeLimitError:
                raise
            except LictorError as error:
                raise BitstreamError(str(error)) from error

    def _run(self, template: str, source: Path, target: Path) -> None:
        """Run one command; what it started in its own process group is gone when this returns."""
        quality = int(self.quality) if self.quality == int(self.quality) else self.quality
        command = [
            word.format(input=source, output=target, quality=quality)
            for word in shlex.split(template)
        ]
        shown = shlex.join(command)[:_SHOWN]
        try:
            process = subprocess.Popen(
                command,
                cwd=source.parent,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise LictorError(
                f"{self.name}: cannot run {command[0]!r} ({error.strerror}); is it installed?"
            ) from error
        output = _Tail(process)
        try:
            code = process.wait(self.config.timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeLimitError(
                f"{self.name}: no result after {self.config.timeout_s:g} s, stopped: {shown}; "
                "raise timeout_s if it needs longer"
            ) from None
        finally:
            _kill(process)
        if code != 0:
            last = output.end().decode(errors="replace").strip().splitlines()[-1:]
            said = f" ({last[0][:_SHOWN]})" if last else ""
            raise LictorError(f"{self.name}: exit code {code} of: {shown}{said}")
        if not target.is_file() or target.stat().st_size == 0:
            raise LictorError(f"{self.name}: wrote no output file: {shown}")


class _Tail:
    """Reads all that a command prints and keeps the end, whoever else holds its pipe open."""

    def __init__(self, process: "subprocess.Popen[bytes]"):
        self._end = b""
        self._thread = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._thread.start()

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        with process.stdout as pipe:
            while chunk := pipe.read1(65536):  # pyright: ignore[reportAttributeAccessIssue]
                self._end = (self._end + chunk)[-4096:]

    def end(self) -> bytes:
        self._thread.join(1.0)
        return self._end


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End the command and what it started: a shell script's children outlive the script."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
