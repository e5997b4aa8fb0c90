"""The folder of a demo, and the other process that decodes what lies in it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lictor.errors import DataError, LictorError

# Demos of signals lie in folders of these names, beside what the demo of pictures leaves.
MODALITIES = ("audio", "volume", "field", "thumbnails")


def demo_folder(out: Path, former: Sequence[Path], *, force: bool) -> None:
    """Make a demo's folder, and remove the files `former` of an earlier one that are in the way.

    Raises `DataError` when there is something in it, unless with `force`, or it cannot be made.
    """
    if not force and out.exists() and (not out.is_dir() or _in_the_way(out)):
        raise DataError(f"{out}: exists already; add --force, or choose another folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for old in former:
            (out / old).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot make the folder ({error.strerror})") from error


def _in_the_way(out: Path) -> bool:
    return any(path.name not in MODALITIES for path in out.iterdir())


def decode_elsewhere(files: Sequence[Path], codec_file: Path, folder: Path) -> None:
    """Decode in a new process, as another machine would: it gets the files and the codec only."""
    command = [sys.executable, "-m", "lictor", "decompress", *map(str, files)]
    command += ["--codec", str(codec_file), "-o", str(folder), "--force"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LictorError(f"decoding in another process failed: {done.stderr.strip()}")
