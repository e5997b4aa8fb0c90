"""Training a network of signals, as a run sees it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lictor.data.signals.drawn import AllPatches, DrawnPatches, joined
from lictor.data.signals.folder import SignalFolder
from lictor.data.signals.folder import open_signals as open_folder
from lictor.data.sources import Source, source_of
from lictor.errors import ConfigError, DataError
from lictor.implicit.coordinates import COORDINATES
from lictor.implicit.model import IMPLICIT
from lictor.implicit.pca import Pca, fit_pca
from lictor.runtime import Runtime
from lictor.training.checkpoint import RunState
from lictor.training.hooks import TrainHook
from lictor.training.implicit.learner import Learner
from lictor.training.implicit.task import SignalTask
from lictor.training.kind import Record
from lictor.training.recipe import SignalRunConfig
from lictor.training.signal_sections import SignalConfig

# The seed of what is drawn for the evaluation, and for the first components: the same in all runs.
_FIXED_SEED = 0


@dataclass(frozen=True)
class Signals:
    """A `Kind` of training: networks of signals."""

    optional_hooks: tuple[str, ...] = ()

    def build(self, config: SignalRunConfig) -> Learner:
        """Build the network; raises `ConfigError` when its grid has no such coordinates."""
        signal = config.signal
        coordinates = COORDINATES[signal.points](signal.sides)
        net = IMPLICIT[config.model.name].make(config.model.settings, coordinates, signal.channels)
        return Learner(net)

    def open_data(
        self,
        config: SignalRunConfig,
        sources: Sequence[Source | str | Path],
        on_decode: Callable[[int, int], None],
        runtime: Runtime,
    ) -> SignalFolder:
        """Read files of signals into memory."""
        del runtime
        return open_signals(config, sources, on_decode)

    def make_task(
        self,
        config: SignalRunConfig,
        model: Learner,
        data: SignalFolder,
        runtime: Runtime,
        *,
        begins: bool,
    ) -> SignalTask:
        """Build the task; at the beginning the range of values and first components are found."""
        signal, settings = config.signal, config.train
        training, held_out = data.split(config.data.held_out)
        if begins:
            self._start(config, model, training, runtime)
        low, high = float(model.low), float(model.high)
        drawn = DrawnPatches(
            training,
            signal.sides,
            seed=settings.seed,
            batch_size=settings.batch_size,
            low=low,
            high=high,
            mirrored=config.data.mirrored,
        )
        kept = AllPatches(
            held_out, signal.sides, low, high, at_most=config.data.evaluated, seed=_FIXED_SEED
        )
        return SignalTask(
            model,
            drawn,
            joined(list(kept)),
            batch_size=settings.batch_size,
            fit=config.fit,
            rate=config.rate,
            seed=settings.seed,
            runtime=runtime,
            pieces=settings.accumulate,
        )

    def probes(
        self,
        config: SignalRunConfig,
        task: SignalTask,
        state: RunState,
        record: Callable[[str], Record],
    ) -> Mapping[str, TrainHook]:
        """Return none: there are no probes of signals."""
        del config, task, state, record
        return {}

    def _start(
        self, config: SignalRunConfig, model: Learner, training: SignalFolder, runtime: Runtime
    ) -> None:
        low, high = value_range(config.signal, training)
        with torch.no_grad():
            model.low.fill_(low)
            model.high.fill_(high)
        if model.net.linear is None:
            return
        patches = AllPatches(
            training, config.signal.sides, low, high, at_most=config.data.started, seed=_FIXED_SEED
        )
        # Found in one process: others might round otherwise.
        found = fit_pca(patches, model.net.latent) if runtime.is_first else None
        pca: Pca = runtime.from_first(found)
        model.net.start_from(pca)
        model.start_rates(torch.from_numpy(pca.variances / pca.mean.size).float())


def open_signals(
    config: SignalRunConfig,
    sources: Sequence[Source | str | Path],
    on_decode: Callable[[int, int], None] = lambda *_: None,
) -> SignalFolder:
    """Read the files of signals that `lictor train --data` names.

    Raises `DataError` when there are none of the recipe's kind, or not enough memory for them.
    """
    given = [source_of(source) for source in sources]
    weighed = [source.place for source in given if source.share is not None]
    if weighed:
        raise ConfigError(f"{weighed[0]}: weights are for pictures; leave it out")
    places = [source.place for source in given]
    signal = config.signal
    return open_folder(
        places,
        kind=signal.kind,
        channels=signal.channels,
        axes=len(signal.sides),
        item_shape=signal.item_shape,
        variable=signal.variable,
        most_bytes=config.data.cache_mib * 2**20,
        on_progress=on_decode,
    )


def value_range(signal: SignalConfig, training: SignalFolder) -> tuple[float, float]:
    """Return what becomes 0 and 1: the recipe's, the kind's, or the ends of the data's values."""
    if signal.low is not None and signal.high is not None:
        return signal.low, signal.high
    if signal.kind == "image":
        return 0.0, 1.0
    if signal.kind == "audio":
        return -1.0, 1.0
    low, high = np.inf, -np.inf
    for values, mask in (training.item(i) for i in range(len(training))):
        there = values if mask is None else values[mask]
        if there.size:
            low, high = min(low, float(there.min())), max(high, float(there.max()))
    if not low < high:
        raise DataError("all values of the training data are equal: give signal.low and high")
    return low, high
