"""Where and how a run computes: device, processes, precision.

Nothing else asks torch which device there is or how many processes take part.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lictor.errors import ConfigError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Runtime:
    """One process of a run, and what it computes with.

    `rank` counts from 0 to `world_size - 1`; `precision` is a name of `PRECISIONS`, of the
    transforms alone: whatever a rate or a table is made of stays float32 or better. Raises
    `ConfigError` on another precision or an impossible rank.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision = {self.precision!r} must be one of {', '.join(PRECISIONS)}"
            )
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank {self.rank} of {self.world_size} processes")

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the transforms run."""
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def put(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the device."""
        return tensor.to(self.device, non_blocking=True)
