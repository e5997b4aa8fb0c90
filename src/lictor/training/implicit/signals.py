"""Training a network of signals, as a run sees it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lictor.data.sources import Source
from lictor.runtime import Runtime
from lictor.training.checkpoint import RunState
from lictor.training.hooks import TrainHook
from lictor.training.implicit.learner import Learner
from lictor.training.implicit.task import SignalTask
from lictor.training.kind import Record


@dataclass(frozen=True)
class Signals:
    """A `Kind` of training: networks of signals."""

    optional_hooks: tuple[str, ...] = ()

    def build(self, config: Any) -> Learner:
        """Build the network."""
        raise NotImplementedError

    def open_data(
        self,
        config: Any,
        sources: Sequence[Source | str | Path],
        on_decode: Callable[[int, int], None],
        runtime: Runtime,
    ) -> Any:
        """Open files of signals."""
        raise NotImplementedError

    def make_task(
        self, config: Any, model: Learner, data: Any, runtime: Runtime, *, begins: bool
    ) -> SignalTask:
        """Build the task."""
        raise NotImplementedError

    def probes(
        self, config: Any, task: SignalTask, state: RunState, record: Callable[[str], Record]
    ) -> Mapping[str, TrainHook]:
        """Return none: there are no probes of signals."""
        del config, task, state, record
        return {}
