"""Where an evaluation keeps decoded pictures, for a report to show.

`FOLDER/pictures/CURVE/SETTING/NAME.png` beside the results file `FOLDER/CURVE.json`; the originals
are the setting `original` of the curve `original`.
"""

import hashlib
import re
from pathlib import Path

PICTURES, ORIGINAL = "pictures", "original"


def safe_name(text: str) -> str:
    """Return text that can be a file's name: letters, digits, dot, dash, plus, underscore."""
    return re.sub(r"[^\w.+-]+", "_", text).strip(".") or "_"


def _unique_name(text: str) -> str:
    """Return a safe name that no other text has."""
    name = safe_name(text)
    if name == text:
        return name
    return f"{name}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def picture_path(folder: Path, curve: str, setting: str, image: str) -> Path:
    """Return where a decoded picture of a curve's setting is kept."""
    return (
        folder / PICTURES / safe_name(curve) / _unique_name(setting) / f"{_unique_name(image)}.png"
    )


def original_path(folder: Path, image: str) -> Path:
    """Return where the original picture is kept."""
    return picture_path(folder, ORIGINAL, ORIGINAL, image)
