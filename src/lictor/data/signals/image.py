"""Pictures as signals: items of rows and columns, with one or three channels."""

from pathlib import Path

import numpy as np
from PIL import Image

from lictor.data.images import load_image
from lictor.data.signals.signal import Signal, Wanted, filled, signal_of
from lictor.errors import DataError


def read_image(path: Path, wanted: Wanted) -> Signal:
    """Read a picture of 8 bits a channel, grey or RGB; raises `DataError` as `load_image` does."""
    del wanted
    return signal_of(load_image(path)[None], "image", {})


def write_image(path: Path, signal: Signal) -> None:
    """Write a picture without loss; raises `DataError` on several items and other dtypes.

    WebP knows no grey: it becomes three equal channels there.
    """
    samples = filled(signal)
    one = len(samples) == 1 and samples.ndim == 4 and signal.channels in (1, 3)
    if not one or samples.dtype != np.uint8:
        raise DataError(
            f"a picture file holds one item of 8 bits with 1 or 3 channels, not {samples.shape} "
            f"of {samples.dtype}; write .npy"
        )
    pixels = samples[0, :, :, 0] if signal.channels == 1 else samples[0]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if path.suffix.lower() == ".webp":
        image.save(path, lossless=True)
    else:
        image.save(path)
