"""A codec of signals as a file: one safetensors file with weights, latents and what they are.

As in `codecs.store`, a codec file is foreign input: what it claims is checked before anything of
that size is built.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lictor.codecs.signals.domain import Domain
from lictor.codecs.signals.latents import LatentCoding, StepLatents
from lictor.codecs.signals.pooled import PooledLatents
from lictor.codecs.signals.prediction import Prediction
from lictor.codecs.signals.weights import DTYPES, packed, unpacked
from lictor.codecs.store import Stored, read_tensors, stored
from lictor.coding.codec_file import FORMAT as PICTURE_FORMAT
from lictor.coding.codec_file import SIGNAL_FORMATS
from lictor.errors import CheckpointError
from lictor.files import write_file
from lictor.implicit.coordinates import COORDINATES
from lictor.implicit.model import ImplicitModel

FORMAT = SIGNAL_FORMATS + "1"
_WEIGHTS, _LATENTS = "weights/", "latents/"
_STEP, _POOLED = "step", "pooled"
_STEP_ARRAYS = ("means", "steps", "rows", "factors", "features", "predicted")


def latents_config(latents: LatentCoding) -> dict[str, Any]:
    """Return what a configuration says of latents; raises `CheckpointError` for unknown ones."""
    if isinstance(latents, StepLatents):
        return {"type": _STEP, "qualities": list(latents.qualities)}
    if isinstance(latents, PooledLatents):
        return {
            "type": _POOLED,
            "qualities": list(latents.qualities),
            "mean": latents.mean,
            "deviation": latents.deviation,
            "radius": latents.radius,
            "dimensions": latents.dimensions,
        }
    raise CheckpointError(f"latents of type {type(latents).__name__} cannot be stored")


def content_of(
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    latents: LatentCoding,
    weight_dtype: torch.dtype,
    notes: Mapping[str, Any],
) -> Stored:
    """Put together what a codec's file holds."""
    assert isinstance(latents, StepLatents | PooledLatents)
    content = stored(
        config,
        packed(weights, weight_dtype),
        {"latents": latents.tables},
        weight_dtype=weight_dtype,
        notes=notes,
    )
    extra: dict[str, np.ndarray] = {}
    if isinstance(latents, StepLatents):
        extra = {name: getattr(latents, name) for name in _STEP_ARRAYS}
        extra |= latents.prediction.arrays()
    tensors = {_LATENTS + name: torch.from_numpy(array.copy()) for name, array in extra.items()}
    return dataclasses.replace(content, tensors={**content.tensors, **tensors})


def write_signal_codec(path: Path, content: Stored) -> None:
    """Write a codec file; raises `DataError` if it cannot be written."""
    metadata = {
        "format": FORMAT,
        "config": json.dumps(content.config, sort_keys=True),
        "weights": str(content.weight_dtype).removeprefix("torch."),
        "fingerprint": content.fingerprint.hex(),
        "notes": json.dumps(content.notes, sort_keys=True),
    }
    write_file(path, safetensors.torch.save(dict(content.tensors), metadata))


def read_signal_codec(path: Path) -> Stored:
    """Read a codec file; nothing is built yet.

    Raises `CheckpointError` if the file is missing, damaged, or of another format.
    """
    metadata, tensors = read_tensors(path)
    if metadata.get("format") == PICTURE_FORMAT:
        raise CheckpointError(f"{path}: is a codec of pictures; this is for codecs of signals")
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a codec of signals of this release (format "
            f"{metadata.get('format')!r}, expected {FORMAT!r})"
        )
    try:
        config, notes = json.loads(metadata["config"]), json.loads(metadata["notes"])
        content = Stored(config, tensors, DTYPES[metadata["weights"]], notes, ())
        fingerprint = content.fingerprint.hex()
    except (KeyError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged codec file ({error})") from error
    if fingerprint != metadata.get("fingerprint"):
        raise CheckpointError(f"{path}: damaged codec file (its fingerprint does not match)")
    return content


def domain_of(config: Mapping[str, Any]) -> Domain:
    """Return the domain that a configuration tells; raises `CheckpointError` and `KeyError`."""
    values = dict(config["domain"])
    clip = values["clip"]
    values["grid"] = tuple(int(n) for n in values["grid"])
    values["clip"] = None if clip is None else (float(clip[0]), float(clip[1]))
    return Domain(**values)


def model_of(
    content: Stored, domain: Domain, models: Mapping[str, Callable[..., ImplicitModel]]
) -> ImplicitModel:
    """Build the network with its weights; `models` knows it by name.

    Raises `CheckpointError` when there is no such network, or the weights are not its.
    """
    name, settings = content.config["model"], content.config["hyperparameters"]
    if name not in models or domain.coordinates not in COORDINATES:
        raise CheckpointError(
            f"no network {name!r} on coordinates {domain.coordinates!r} is known; "
            f"there are {', '.join(models)} on {', '.join(COORDINATES)}"
        )
    weights = unpacked(
        {
            key.removeprefix(_WEIGHTS): tensor
            for key, tensor in content.tensors.items()
            if key.startswith(_WEIGHTS)
        }
    )
    points = COORDINATES[domain.coordinates](domain.grid)
    with torch.device("meta"):  # names and shapes, but no numbers
        outline = models[name](points.to("meta"), domain.channels, **settings)
    claimed = {key: tuple(tensor.shape) for key, tensor in outline.state_dict().items()}
    if claimed != {key: tuple(tensor.shape) for key, tensor in weights.items()}:
        raise CheckpointError(f"the weights are not those of {name} {settings}")
    model = models[name](points, domain.channels, **settings)
    model.load_state_dict(weights)
    return model


def latents_of(content: Stored) -> StepLatents | PooledLatents:
    """Build the latents; raises `CheckpointError` and `KeyError` when they are damaged."""
    about = content.config["latents"]
    tables = content.tables(["latents"])["latents"]
    first, last = about["qualities"]
    if about["type"] == _POOLED:
        mean, deviation, radius = (float(about[k]) for k in ("mean", "deviation", "radius"))
        dimensions = int(about["dimensions"])
        return PooledLatents(mean, deviation, radius, dimensions, (int(first), int(last)), tables)
    if about["type"] != _STEP:
        raise CheckpointError(f"latents of type {about['type']!r} are unknown")
    arrays = {
        key.removeprefix(_LATENTS): tensor.numpy()
        for key, tensor in content.tensors.items()
        if key.startswith(_LATENTS)
    }
    fields = {name: arrays[name] for name in _STEP_ARRAYS}
    return StepLatents(
        **fields,
        qualities=(int(first), int(last)),
        tables=tables,
        prediction=Prediction.from_arrays(arrays),
    )
