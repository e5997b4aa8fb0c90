"""A file that holds many items as one: sheets of small pictures, recordings end to end."""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Shaped

from lictor.data.signals.signal import Signal
from lictor.errors import DataError

# Where a form keeps the items and grid that the file has by itself.
_STORED = "stored"


def in_items(signal: Signal, shape: tuple[int, ...]) -> Signal:
    """Return a signal as items of a shape that lie one after the other in the file's array.

    So a picture of 1000 rows and 1024 columns is 1000 of `(32, 32)` if each row holds one. The form
    remembers what the file has, for `as_stored`. Raises `DataError` when they do not come out even.
    """
    samples, mask = signal.samples, signal.mask
    size, count = math.prod(shape), samples[..., 0].size
    if size < 1 or count % size:
        raise DataError(f"{count} samples are no whole number of items of {shape}")
    return Signal(
        samples.reshape(-1, *shape, signal.channels),
        None if mask is None else mask.reshape(-1, *shape),
        signal.kind,
        {**signal.form, _STORED: list(samples.shape[:-1])},
    )


def as_stored(signal: Signal) -> Signal:
    """Undo `in_items`, if it was done; raises `DataError` when samples are missing."""
    if _STORED not in signal.form:
        return signal
    form = dict(signal.form)
    shape = tuple(form.pop(_STORED))
    if math.prod(shape) != signal.samples[..., 0].size:
        raise DataError(f"{len(signal)} items of {signal.grid} do not make the {shape} of the file")
    mask = None if signal.mask is None else signal.mask.reshape(shape)
    samples = signal.samples.reshape(*shape, signal.channels)
    return replace(signal, samples=samples, mask=mask, form=form)


def in_colour(samples: Shaped[np.ndarray, "*shape 1"]) -> Shaped[np.ndarray, "*shape 3"]:
    """Return grey samples as three equal channels; what is returned is a view."""
    return np.broadcast_to(samples, (*samples.shape[:-1], 3))
