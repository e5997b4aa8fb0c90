"""Codecs of signals at the command line: freezing a run of them, files to signals and back."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lictor.cli.messages import say
from lictor.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lictor.data.signals.folder import SignalFolder
    from lictor.data.signals.signal import Signal
    from lictor.training.signal_sections import SignalConfig

# Training signals that tell a codec's tables: so many samples at most.
_MOST_SAMPLES = 1 << 26
# Entries of a form that a codec keeps for all its files: so many characters of JSON at most.
_MOST_SHARED = 2048


def is_signal_run(run: Path) -> bool:
    """Tell whether a run folder is of signals, without loading weights."""
    import json

    from lictor.training.run import CONFIG

    try:
        tree = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever loads the run says what is wrong with it
    return isinstance(tree, dict) and "signal" in tree


def freeze_signals(run: Path, out: Path, data: Sequence[str], *, best: bool, weights: str) -> None:
    """Make a codec file of a run of signals; its tables are fitted to the signals of `data`."""
    from lictor.codecs.signals.codec import SignalCodec
    from lictor.codecs.signals.domain import Domain
    from lictor.codecs.signals.weights import DTYPES
    from lictor.training.implicit.signals import open_signals
    from lictor.training.recipe import config_to_dict
    from lictor.training.run import load_signal_run

    learner, config, step = load_signal_run(run, best=best)
    if not data:
        raise ConfigError(
            f"{run}: a codec of signals needs training signals for its tables: add --data DIR"
        )
    signal = config.signal
    folder = open_signals(config, data)
    domain = Domain(
        signal.kind,
        signal.channels,
        signal.sides,
        whole=not signal.patch,
        coordinates=signal.points,
        low=float(learner.low),
        high=float(learner.high),
        clip=(0.0, 1.0) if signal.kind in ("image", "audio") else None,
        form=_usual_form(config.signal, data),
    )
    codec = SignalCodec.freeze(
        learner.net,
        domain,
        _signals(folder, signal.kind),
        qualities=(config.rate.lowest, config.rate.highest),
        step=config.rate.step if config.rate.weight else None,
        steps=config.fit.steps,
        weight_dtype=DTYPES[weights],
        notes={"steps": step, "recipe": config_to_dict(config)},
    )
    codec.save(out)
    size = out.stat().st_size
    say(f"{run} -> {out}  {codec.name}  step {step}  {size} bytes  {codec.fingerprint.hex()}")


def _usual_form(signal: "SignalConfig", data: Sequence[str]) -> dict[str, Any]:
    """Return the form of the first file that can be read: files that have the same need not say it.

    What is long, such as the times of fields, is left to the files.
    """
    import json

    from lictor.data.signals.folder import list_signals
    from lictor.data.signals.formats import read_signal

    for path in (path for place in data for path in list_signals(place, signal.kind)):
        try:
            found = read_signal(
                path, kind=signal.kind, axes=len(signal.sides), variable=signal.variable
            )
        except DataError:
            continue
        return {k: v for k, v in found.form.items() if len(json.dumps(v)) <= _MOST_SHARED}
    return {}


def _signals(folder: "SignalFolder", kind: str) -> "list[Signal]":
    """Return the items of a folder as signals, a drawn part when there are very many samples.

    Items of one shape that follow each other make one signal, as fields of a file do.
    """
    import itertools

    import numpy as np

    from lictor.data.signals.signal import Signal

    sizes = np.array([values.size for values, _ in folder.items])
    order = np.random.default_rng(0).permutation(len(folder))
    kept = np.sort(order[np.cumsum(sizes[order]) <= max(_MOST_SAMPLES, int(sizes[order[0]]))])
    items = (folder.item(number) for number in kept.tolist())
    signals = []
    for _, group in itertools.groupby(items, key=lambda item: (item[0].shape, item[1] is None)):
        listed = list(group)
        masks = [mask for _, mask in listed if mask is not None]
        values = np.stack([value for value, _ in listed])
        signals.append(Signal(values, np.stack(masks) if masks else None, kind))
    return signals
