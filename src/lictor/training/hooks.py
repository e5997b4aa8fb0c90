"""Where training techniques plug in: before and after the optimizer's update."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class TrainHook(Protocol):
    """Takes part in every step; has a state that a checkpoint keeps."""

    def before_step(self, step: int) -> None:
        """Run with final gradients and old weights."""
        ...

    def after_step(self, step: int) -> None:
        """Run with new weights; has the last word on them."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values that `load_state_dict` restores exactly."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...
