"""What a codec is to everything above: two methods and a name; what else some can do."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from lictor.models.base import AbstractCodecModel


@runtime_checkable
class ImageCodec(Protocol):
    """Anything that turns 8-bit pictures into bytes and back."""

    @property
    def name(self) -> str:
        """Say which codec, at which setting, in a table."""
        ...

    def encode(self, image: UInt8[np.ndarray, "h w c"]) -> bytes:
        """Compress a grey or RGB picture."""
        ...

    def decode(self, data: bytes) -> UInt8[np.ndarray, "h w c"]:
        """Restore the picture that `encode` compressed."""
        ...


@runtime_checkable
class RateEstimate(Protocol):
    """A codec that can tell what its model thinks a file costs."""

    def estimate_bytes(self, data: bytes) -> float:
        """Return the size that the model's rate predicts for a whole file made by this codec."""
        ...


@runtime_checkable
class NetworkCodec(ImageCodec, Protocol):
    """A codec whose work is that of a model's layers, so that it can be counted."""

    @property
    def model(self) -> AbstractCodecModel:
        """The model whose layers run when the codec encodes or decodes."""
        ...

    @property
    def num_parameters(self) -> int:
        """Count of the model's weights."""
        ...


@runtime_checkable
class WarmUp(Protocol):
    """A codec whose first use takes longer than later ones, and that can get it over with."""

    def warm_up(self) -> None:
        """Do what is done once in a process: compile, load, allocate."""
        ...
