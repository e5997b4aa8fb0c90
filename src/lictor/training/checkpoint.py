"""The state of a run: everything needed to go on as if nothing had happened."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor, nn

from lictor.errors import CheckpointError, ConfigError, DataError
from lictor.files import atomic_file
from lictor.training.hooks import NO_HOOKS, TrainHook, evaluates_others, evaluation_weights
from lictor.training.recipe import AnyRunConfig, config_from_dict, config_to_dict

FORMAT = 2
# Format 1 drew its noise otherwise: its weights can be had, the run cannot go on.
_READABLE = (1, FORMAT)


@dataclass
class RunState:
    """What changes during a run, beside the model's weights and the hooks' own state.

    Neither the place in the data nor a random generator is among it: the crops and the noise of a
    step are functions of its number. `data` is the identity of what the run is trained on.
    """

    optimizer: torch.optim.Optimizer
    step: int = 0
    skipped: int = 0
    data: str = ""


def save_checkpoint(
    path: Path,
    config: AnyRunConfig,
    model: nn.Module,
    state: RunState,
    hooks: Mapping[str, TrainHook] = NO_HOOKS,
) -> None:
    """Write a checkpoint: to a temporary file, synced, then renamed over `path`.

    Raises `DataError` when the disk is full or the folder cannot be written.
    """
    content = {
        "format": FORMAT,
        "config": config_to_dict(config),
        "model": model.state_dict(),
        "evaluated": evaluated_state(model, hooks),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "skipped": state.skipped,
        "data": state.data,
        "hooks": {name: hook.state_dict() for name, hook in hooks.items()},
    }
    _write(path, content)


def save_weights(path: Path, config: AnyRunConfig, model: nn.Module, step: int) -> None:
    """Write a model's present weights, with what is needed to build it, likewise."""
    content = {
        "format": FORMAT,
        "config": config_to_dict(config),
        "model": model.state_dict(),
        "step": step,
    }
    _write(path, content)


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        with atomic_file(path) as file:
            torch.save(content, file)
    except RuntimeError as error:  # torch reports a failed write as one
        raise DataError(f"{path}: cannot write the checkpoint ({error})") from error


def evaluated_state(model: nn.Module, hooks: Mapping[str, TrainHook]) -> dict[str, Tensor] | None:
    """Return a copy of the weights that the model is evaluated with; None for those it trains."""
    if not evaluates_others(hooks):
        return None
    with evaluation_weights(hooks):
        return {name: value.clone() for name, value in model.state_dict().items()}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint's content; raises `CheckpointError` if it is missing or damaged."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint; start the run without --resume")
    try:
        with ZipFile(path) as file:  # torch does not look at the checksums that it writes
            damaged = file.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path}: damaged checkpoint (checksum of {damaged})")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] not in _READABLE:
            raise CheckpointError(
                f"{path}: checkpoint format {content['format']}, this release reads "
                f"{_READABLE[0]} and {FORMAT}"
            )
    except CheckpointError:
        raise
    except Exception as error:  # a damaged zip or pickle stream raises anything
        raise CheckpointError(f"{path}: damaged checkpoint ({type(error).__name__})") from error
    return content


def checkpoint_config(content: dict[str, Any], path: Path) -> AnyRunConfig:
    """Return the configuration that a checkpoint was written with.

    Raises `CheckpointError` when this release cannot use it.
    """
    try:
        return config_from_dict(content["config"], source=str(path), lenient=True)
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of this release ({error})") from error


def check_goes_on(content: dict[str, Any], path: Path) -> None:
    """Raise `CheckpointError` when a checkpoint has weights, but not all that a run needs."""
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: was begun by an earlier release; freeze it as it is, or train anew"
        )


def restore(
    content: dict[str, Any],
    path: Path,
    model: nn.Module,
    state: RunState,
    hooks: Mapping[str, TrainHook] = NO_HOOKS,
    *,
    optional: Collection[str] = (),
) -> None:
    """Put a checkpoint's content into a model, a state and hooks of the same names.

    `optional` hooks may come or go: one without a saved state begins anew. Raises `CheckpointError`
    when anything does not fit.
    """
    try:
        saved_hooks = content["hooks"]
        odd = sorted((set(saved_hooks) ^ set(hooks)) - set(optional))
        if odd:
            here = "here" if odd[0] in hooks else "in the checkpoint"
            raise CheckpointError(f"the hook {odd[0]!r} is only {here}")
        model.load_state_dict(content["model"])
        settings = [{**group} for group in state.optimizer.param_groups]
        state.optimizer.load_state_dict(content["optimizer"])
        for group, wanted in zip(state.optimizer.param_groups, settings, strict=True):
            # The moments come from the checkpoint, rates and decays from the configuration.
            group |= {key: value for key, value in wanted.items() if key != "params"}
        state.step, state.skipped = content["step"], content["skipped"]
        state.data = content["data"]
        for name, hook in hooks.items():
            if name in saved_hooks:
                hook.load_state_dict(saved_hooks[name])
    except (
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        CheckpointError,
    ) as error:
        raise CheckpointError(f"{path}: does not fit this run: {error}") from error
