"""What a recipe can train, as a run sees it: how a model is built, data opened, a task made."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

from lictor.data.sources import Source
from lictor.runtime import Runtime
from lictor.training.checkpoint import RunState
from lictor.training.hooks import TrainHook
from lictor.training.task import Task

Record = Callable[[dict[str, Any]], None]


@runtime_checkable
class Data(Protocol):
    """What a run trains on, opened."""

    @property
    def identity(self) -> str:
        """Tell these data from others."""
        ...


@runtime_checkable
class Kind(Protocol):
    """One kind of training; `config` is a recipe of the class that is its key in `run.KINDS`."""

    @property
    def optional_hooks(self) -> tuple[str, ...]:
        """Name the hooks that may come or go when a run is resumed: they touch nothing."""
        ...

    def build(self, config: Any) -> nn.Module:
        """Build the model, on the CPU, as it is before it has seen any data."""
        ...

    def open_data(
        self,
        config: Any,
        sources: Sequence[Source | str | Path],
        on_decode: Callable[[int, int], None],
        runtime: Runtime,
    ) -> Data:
        """Open what `lictor train --data` names."""
        ...

    def make_task(
        self, config: Any, model: Any, data: Any, runtime: Runtime, *, begins: bool
    ) -> Task:
        """Build the task; a model that `begins` may look at the data for its first weights."""
        ...

    def probes(
        self, config: Any, task: Any, state: RunState, record: Callable[[str], Record]
    ) -> Mapping[str, TrainHook]:
        """Build the hooks that look at a training of this kind."""
        ...
