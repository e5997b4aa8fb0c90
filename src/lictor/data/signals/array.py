"""NumPy arrays as signals: the last axes are an item's, and channels if there is one more."""

from pathlib import Path

import numpy as np

from lictor.data.signals.signal import Signal, masked_where_nan
from lictor.errors import DataError


def read_array(path: Path, axes: int, variable: str | None) -> Signal:
    """Read an array: "items *grid c", "items *grid", "*grid c" or "*grid" of `axes` axes.

    An array of `axes + 1` axes has channels last if that axis is at most 4 long, items first
    otherwise. Raises `DataError` when it has fewer axes, or more than two beside them.
    """
    del variable
    array = np.load(path, allow_pickle=False, mmap_mode="r")
    if not isinstance(array, np.ndarray):
        raise DataError("is an archive of arrays, not one array; give a .npy file")
    if 0 in array.shape:
        raise DataError(f"an array of {array.shape} holds nothing to code")
    axes = axes or max(1, array.ndim)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    shape = array.shape
    if array.ndim == axes:
        array = array[None, ..., None]
    elif array.ndim == axes + 1:
        array = array[None] if shape[-1] <= 4 else array[..., None]
    elif array.ndim != axes + 2:
        raise DataError(f"an array of {shape} is no signal of {axes} axes; reshape it")
    return Signal(array, masked_where_nan(array), "array", {"shape": list(shape)})


def write_array(path: Path, signal: Signal) -> None:
    """Write the samples, in the shape that they were read with, NaN where there is none."""
    samples = signal.samples
    if signal.mask is not None and samples.dtype.kind == "f":
        samples = np.where(signal.mask[..., None], samples, np.nan).astype(samples.dtype)
    shape = signal.form.get("shape")
    if isinstance(shape, list) and np.prod(shape, dtype=np.int64) == samples.size:
        samples = samples.reshape(shape)
    with path.open("wb") as file:
        np.save(file, samples, allow_pickle=False)
