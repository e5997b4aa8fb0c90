"""How a path lies in a codec file: a JSON object, and arrays beside the weights.

Weights are not stored twice: an operation names a tensor of the file, and says how its numbers
become integers: by powers of two and rounding (`exponents`), or by unpacking (`bits`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from lictor.coding.packing import unpack_codes
from lictor.coding.path import STEPS, Get, Path, Step
from lictor.coding.program import (
    Deconvolve,
    Integers,
    Op,
    Rescale,
    check,
    make_op,
    name_of,
    settings,
)
from lictor.errors import CheckpointError

PATH, WEIGHTS = "path/", "weights/"
_MOST_STEPS, _MOST_OPS, _MOST_CHANNELS = 1000, 1000, 1 << 16
_MOST_SIDE = 1 << 10
_NAMES = {kind: name for name, kind in STEPS.items()}
_ARRAYS = ("multiplier", "offset", "shift", "low", "high", "table")


@dataclass(frozen=True, eq=False)
class Source:
    """Where an operation's integer weights come from.

    Args:
        name: of the tensor in the file.
        shape: of the integers.
        exponents: `round(weight * 2^exponents)`, one for each output channel; None: packed.
        bits: of packed integers; None: not packed.
    """

    name: str
    shape: tuple[int, ...]
    exponents: Integers | None = None
    bits: int | None = None


def packed(
    path: Path, sources: Mapping[str, Mapping[int, Source]], means: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return a path as plain values and arrays by name.

    Args:
        path: the whole.
        sources: of the weights of each network, by the operation's number.
        means: name of the tensor of the channels' means, by latent; its numbers are in units of
            one, multiples of 2^-10.
    """
    arrays: dict[str, np.ndarray] = {}
    networks = {}
    for network, ops in path.networks.items():
        entries = []
        for number, op in enumerate(ops):
            numbers, found = settings(op)
            entry: dict[str, Any] = {"op": name_of(op), **numbers}
            if isinstance(op, Rescale):
                entry["channels"] = len(op.shift)
            source = sources[network].get(number)
            if source is not None:
                del found["weight"]
                entry |= {"weight": source.name, "shape": list(source.shape)}
                if source.bits is not None:
                    entry["bits"] = source.bits
                if source.exponents is not None:
                    found["exponents"] = source.exponents
            entries.append(entry)
            arrays |= {f"{PATH}{network}/{number}/{name}": _short(a) for name, a in found.items()}
        networks[network] = {"channels": path.channels[network], "ops": entries}
    steps = [_plain(step, means) for step in path.steps]
    entry = {"networks": networks, "steps": steps, "results": dict(path.results)}
    return {**entry, "stride": path.stride}, arrays


def _short(values: Integers) -> np.ndarray:
    """Return integers in the least type that holds them; one of them if all are the same."""
    if (values == values[0]).all():
        values = values[:1]
    for dtype in (np.int8, np.int16, np.int32):
        info = np.iinfo(dtype)
        if info.min <= values.min() and values.max() <= info.max:
            return values.astype(dtype)
    return values.copy()


def _plain(step: Step, means: Mapping[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"step": _NAMES[type(step)]}
    for field in fields(step):
        value = getattr(step, field.name)
        if field.name != "means":
            entry[field.name] = list(value) if isinstance(value, tuple) else value
        elif value is not None and isinstance(step, Get):
            entry["means"] = means[step.latent]
    return entry


def unpacked(entry: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Path:
    """Return the path of a codec file.

    Args:
        entry: the JSON object.
        tensors: arrays and weights of the file, by name.

    Raises:
        CheckpointError: something is missing, unknown, of another size or not exact.
    """
    try:
        networks, channels = {}, {}
        if len(entry["networks"]) > _MOST_STEPS or len(entry["steps"]) > _MOST_STEPS:
            raise CheckpointError(f"a path has at most {_MOST_STEPS} networks and steps")
        for name, network in entry["networks"].items():
            if len(network["ops"]) > _MOST_OPS or not 0 < network["channels"] <= _MOST_CHANNELS:
                raise CheckpointError(f"{name}: too many operations or channels")
            ops = tuple(
                _op(dict(op), f"{PATH}{name}/{number}/", tensors)
                for number, op in enumerate(network["ops"])
            )
            check(ops, network["channels"])
            networks[name], channels[name] = ops, network["channels"]
        steps = [_step(dict(step), tensors) for step in entry["steps"]]
        results = {str(name): int(value) for name, value in entry["results"].items()}
        return Path(networks, channels, steps, results, int(entry["stride"]))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(f"damaged codec file: its path has no {error}") from error


def _op(entry: dict[str, Any], place: str, tensors: Mapping[str, np.ndarray]) -> Op:
    name = str(entry.pop("op"))
    arrays = {
        key: tensors[place + key].astype(np.int64) for key in _ARRAYS if place + key in tensors
    }
    if name == "rescale":
        channels = int(entry.pop("channels"))
        if not 0 < channels <= _MOST_CHANNELS:
            raise CheckpointError(f"{place}: {channels} channels")
        arrays = {key: np.broadcast_to(a, channels) for key, a in arrays.items()}
    if "weight" in entry:
        exponents = tensors.get(f"{place}exponents")
        source = Source(
            str(entry.pop("weight")),
            tuple(int(n) for n in entry.pop("shape")),
            None if exponents is None else exponents.astype(np.int64),
            entry.pop("bits", None),
        )
        axis = 1 if name == "deconvolve" else 0
        arrays["weight"] = _weights(source, axis, tensors)
    for key, number in entry.items():
        if type(number) is not int or (key != "first" and not 0 <= number <= 1 << 16):
            raise CheckpointError(f"{place}{key} is {number!r}")
    if entry.get("stride", 1) < 1 or max(entry.get("padding", 0), entry.get("extra", 0)) > (
        _MOST_SIDE
    ):
        raise CheckpointError(f"{place}: impossible stride or padding in {entry}")
    op = make_op(name, entry, arrays)
    if isinstance(op, Deconvolve) and op.extra >= op.stride:
        raise CheckpointError(f"{place}: {op.extra} extra rows at stride {op.stride}")
    return op


def _weights(source: Source, axis: int, tensors: Mapping[str, np.ndarray]) -> Integers:
    stored, shape = tensors[WEIGHTS + source.name], source.shape
    if len(shape) != 4 or min(shape) < 1 or max(shape[2:]) > _MOST_SIDE or shape[2] != shape[3]:
        raise CheckpointError(f"{source.name}: weights of shape {shape}")
    count = int(np.prod(shape, dtype=object))
    if source.bits is not None:
        return unpack_codes(stored, source.bits, count).astype(np.int64).reshape(shape)
    exponents = source.exponents
    if exponents is not None and exponents.size == 1:
        exponents = np.broadcast_to(exponents, shape[axis])
    if exponents is None or exponents.shape != (shape[axis],) or np.abs(exponents).max() > 64:
        raise CheckpointError(f"{source.name}: its exponents do not fit {shape}")
    if stored.size != count or stored.dtype.kind != "f" or not np.isfinite(stored).all():
        raise CheckpointError(f"{source.name}: it has not {count} finite weights")
    view = [-1 if i == axis else 1 for i in range(4)]
    scaled = np.ldexp(stored.astype(np.float64).reshape(shape), exponents.reshape(view))
    if np.abs(scaled).max() > 1 << 40:
        raise CheckpointError(f"{source.name}: its exponents make weights too large")
    return np.rint(scaled).astype(np.int64)


def _step(entry: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Step:
    name = str(entry.pop("step"))
    if name not in STEPS:
        raise CheckpointError(f"there is no step {name!r}; this release knows {list(STEPS)}")
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
    means = values.pop("means", None)
    if means is not None:
        stored = tensors[WEIGHTS + str(means)].astype(np.float64)
        if not (np.abs(stored) < 1 << 20).all():
            raise CheckpointError(f"{means}: means must be finite and below 2^20")
        values["means"] = np.rint(np.ldexp(stored, 10)).astype(np.int64)
    made: Any = STEPS[name]
    return made(**values)
