"""NumPy arrays as signals: the last axes are an item's, and channels if there is one more."""

from pathlib import Path

import numpy as np

from lictor.data.signals.signal import Signal, Wanted, filled, signal_of
from lictor.errors import DataError

# An axis that may be items or channels is channels up to this length, when nothing else tells.
_FEW = 4


def read_array(path: Path, wanted: Wanted) -> Signal:
    """Read an array: "items *grid c", "items *grid", "*grid c" or "*grid", by the axes wanted.

    An array of one axis more than an item has channels last if that axis is as long as there are
    to be channels, items first otherwise; without such a number, if it is at most 4 long. Without
    axes wanted, all are an item's. Raises `DataError` when there are fewer axes, or too many.
    """
    array = np.load(path, allow_pickle=False, mmap_mode="r")
    if not isinstance(array, np.ndarray):
        raise DataError("is an archive of arrays, not one array; give a .npy file")
    shape = array.shape
    axes = array.ndim if wanted.axes is None else wanted.axes
    if array.ndim == axes and axes:
        array = array[None, ..., None]
    elif array.ndim == axes + 1 and axes:
        few = shape[-1] <= _FEW if wanted.channels is None else shape[-1] == wanted.channels
        array = array[None] if few else array[..., None]
    elif array.ndim != axes + 2 or not axes:
        raise DataError(f"an array of shape {shape} is no signal of {axes} axes; reshape it")
    return signal_of(array.view(np.ndarray), "array", {"array_shape": list(shape)})


def write_array(path: Path, signal: Signal) -> None:
    """Write the samples, in the shape that they were read with, NaN where there is none."""
    samples = filled(signal)
    shape = signal.form.get("array_shape")
    if shape is not None:
        samples = samples.reshape(shape)
    with path.open("wb") as file:
        np.save(file, samples, allow_pickle=False)
