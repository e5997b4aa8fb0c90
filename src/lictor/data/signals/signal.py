"""A signal: samples on a grid, with what its file needs beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Signal:
    """Samples of a picture, a sound, a volume, a field or an array.

    Args:
        samples: "items *grid c", of the file's dtype.
        mask: bool "items *grid", True where there is a value; None: everywhere.
        kind: "image", "audio", "volume", "field" or "array".
        form: plain JSON, what a file of this kind needs beside the samples.
    """

    samples: np.ndarray
    mask: np.ndarray | None
    kind: str
    form: Mapping[str, Any]
