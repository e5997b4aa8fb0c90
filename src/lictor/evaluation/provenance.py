"""What made a result: command, versions, machine. Kept beside every number that is published."""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("lictor", "torch", "numpy", "numba", "pillow", "scipy", "imagecodecs", "lpips"),
    *("soundfile", "nibabel", "xarray"),
)


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed and matter."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command_line(arguments: Sequence[str] | None = None) -> str:
    """Return the command that is running, as a shell would take it, the program by its name."""
    program, *rest = sys.argv if arguments is None else arguments
    name = Path(program).name
    return shlex.join(["lictor" if name == "__main__.py" else name, *rest])


def provenance(*, images: int, images_sha256: str) -> dict[str, Any]:
    """Return everything that a reader needs to make a result again, as plain values."""
    return {
        "command": command_line(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
        },
        "images": images,
        "images_sha256": images_sha256,
    }
