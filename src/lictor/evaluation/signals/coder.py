"""What the evaluation of signals knows of a codec: files of signals, and arrays out of them."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from lictor.data.signals.signal import Signal


@runtime_checkable
class SignalCoder(Protocol):
    """Anything that turns signals into one file and back."""

    @property
    def name(self) -> str:
        """Say which codec, at which setting, in a table."""
        ...

    @property
    def delays(self) -> bool:
        """Tell whether what comes back may be early or late, or of another length."""
        ...

    @property
    def scaled(self) -> bool:
        """Tell whether what comes back is in the unit of its kind, whatever the original was."""
        ...

    def encode(self, signals: Sequence[Signal]) -> bytes:
        """Compress signals into one file; most codecs take one signal, of any count of items."""
        ...

    def decode(self, data: bytes) -> list[np.ndarray]:
        """Restore the samples "items *grid c" of each signal, of each signal."""
        ...
