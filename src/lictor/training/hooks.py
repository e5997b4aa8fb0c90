"""Where training techniques plug in: before and after the optimizer's update.

Hooks of a run have names; they act in the order of the mapping.
"""

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
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


NO_HOOKS: Mapping[str, TrainHook] = MappingProxyType({})


@runtime_checkable
class EvaluatedHook(Protocol):
    """A hook that evaluates other weights than it trains."""

    def evaluated(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which the model has them."""
        ...


@contextlib.contextmanager
def evaluation_weights(hooks: Mapping[str, TrainHook]) -> Iterator[None]:
    """Give the model the weights to evaluate, freeze and choose by, and then its own again."""
    with contextlib.ExitStack() as stack:
        for hook in reversed(
            list(hooks.values())
        ):  # averages first, then what is put on lines among them
            if isinstance(hook, EvaluatedHook):
                stack.enter_context(hook.evaluated())
        yield


def evaluates_others(hooks: Mapping[str, TrainHook]) -> bool:
    """Return whether `evaluation_weights` may change anything."""
    return any(isinstance(hook, EvaluatedHook) for hook in hooks.values())
