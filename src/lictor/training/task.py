"""What a run trains, as the loop sees it: a model, batches, a loss, an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class TaskLoss:
    """What is minimised, a scalar with a gradient, and scalars to be told beside it, by name."""

    total: Float[Tensor, ""]
    metrics: Mapping[str, Float[Tensor, ""]]


@runtime_checkable
class Task(Protocol):
    """A thing to learn; `train` repeats its steps without knowing what they are about."""

    @property
    def model(self) -> nn.Module:
        """The network whose parameters learn."""
        ...

    @property
    def items(self) -> int:
        """How many batch items make an epoch."""
        ...

    def batch(self, step: int) -> Sequence[Any]:
        """Return what a step trains on: a pure function of its number, made in another thread.

        It comes in one piece or several; the mean of their losses is minimised.
        """
        ...

    def loss(self, piece: Any, *, step: int, progress: float) -> TaskLoss:
        """Return the loss of a piece at a step, `progress` of the way through the run (0 to 1)."""
        ...

    def evaluate(self, progress: float = 1.0) -> dict[str, float]:
        """Return averages over what was kept out of training, the `loss` among them.

        It stands `progress` of the way through the run (0 to 1). The processes of a run share the
        work, and all return the same.
        """
        ...
