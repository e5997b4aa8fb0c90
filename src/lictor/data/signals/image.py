"""Pictures as signals: items of rows and columns, with one or three channels."""

from pathlib import Path

import numpy as np
from PIL import Image

from lictor.data.images import load_image
from lictor.data.signals.signal import Signal
from lictor.errors import DataError


def read_image(path: Path, axes: int, variable: str | None) -> Signal:
    """Read a picture of 8 bits a channel, grey or RGB."""
    del axes, variable
    return Signal(load_image(path)[None], kind="image")


def write_image(path: Path, signal: Signal) -> None:
    """Write a picture without loss; raises `DataError` on several items and other dtypes."""
    samples = signal.samples
    if len(samples) != 1 or samples.ndim != 4 or samples.dtype != np.uint8:
        raise DataError(
            f"a picture file holds one item of 8 bits, not {samples.shape} of {samples.dtype}; "
            "use .npy"
        )
    pixels = samples[0, :, :, 0] if signal.channels == 1 else samples[0]
    options = {"lossless": True} if path.suffix.lower() == ".webp" else {}
    Image.fromarray(pixels).save(path, **options)
