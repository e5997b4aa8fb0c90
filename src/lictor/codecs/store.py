"""A codec as a file: one safetensors file with the weights, the tables and what they are.

`docs/format.md` has the layout. A codec file is foreign input: what it claims is checked before
anything of that size is built.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lictor.coding.tables import CdfTables
from lictor.errors import CheckpointError
from lictor.files import write_file
from lictor.models.base import AbstractCodecModel
from lictor.models.zoo import build_model
from lictor.ptq.storage import loaded_state, rebuild

FORMAT = "lictor-codec-2"
# Without thresholds: which row a scale chose was computed anew by every decoder.
FORMER_FORMAT = "lictor-codec-1"
# Formats of codecs of signals begin so: see `codecs.signals.store`.
SIGNAL_FORMATS = "lictor-signal-codec-"

_WEIGHTS, _TABLES = "weights/", "tables/"
_PARTS = ("counts", "lengths", "offset")
_FINGERPRINT_BYTES, _MOST_REPLACED = 8, 64
# Begins what is hashed; it stays when formats of pictures move on, or no file would find its codec.
_FINGERPRINT_EPOCH = 1
# Packed integers have at least 2 bits, so a byte of a file is at most four weights.
_WEIGHTS_A_BYTE = 4


@dataclass(frozen=True)
class Stored:
    """What a codec file holds; `tensors` are all that the fingerprint covers beside `config`.

    `replaces` are the fingerprints of codecs whose files this one reads too.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    weight_dtype: torch.dtype
    notes: Mapping[str, Any]
    replaces: Sequence[bytes]

    @property
    def fingerprint(self) -> bytes:
        """Hash the configuration, the tables and the weights."""
        digest = hashlib.sha256(
            json.dumps([_FINGERPRINT_EPOCH, self.config], sort_keys=True).encode()
        )
        for key in sorted(self.tensors):
            tensor = self.tensors[key]
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.digest()[:_FINGERPRINT_BYTES]

    def tables(self, names: Sequence[str]) -> dict[str, CdfTables]:
        """Return the tables of latents by their names; raises `CheckpointError` on damaged ones."""
        return {name: _unpack_tables(self.tensors, name) for name in names}

    def model(self, models: Mapping[str, Callable[..., AbstractCodecModel]]) -> AbstractCodecModel:
        """Build the model with its weights, not frozen yet; `models` knows it by name.

        Raises `CheckpointError` when the weights are not those of such a model, `ConfigError` when
        there is no such model.
        """
        weights = {
            key.removeprefix(_WEIGHTS): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(_WEIGHTS)
        }
        name, hyperparameters = self.config["model"], self.config["hyperparameters"]
        with torch.device("meta"):  # names and shapes, but no numbers
            outline = build_model(name, hyperparameters, models)
        claimed = sum(p.numel() for p in outline.state_dict().values())
        most = _WEIGHTS_A_BYTE * sum(w.numel() * w.element_size() for w in weights.values())
        if claimed > most:
            raise CheckpointError(
                f"damaged codec file: its header says {name} {dict(hyperparameters)}, which has "
                f"{claimed} weights, but it holds {most} at most"
            )
        model = build_model(name, hyperparameters, models)
        if "quantization" in self.config:
            rebuild(model, self.config["quantization"])
        model.load_state_dict(loaded_state(model, weights))
        return model


def stored(
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    tables: Mapping[str, CdfTables],
    *,
    weight_dtype: torch.dtype,
    notes: Mapping[str, Any],
    replaces: Sequence[bytes] = (),
) -> Stored:
    """Put together what a codec's file holds."""
    tensors = {_WEIGHTS + key: tensor.cpu() for key, tensor in weights.items()}
    for name, table in tables.items():
        tensors |= _pack_tables(table, name)
    return Stored(config, tensors, weight_dtype, notes, replaces)


def write_codec(path: Path, content: Stored) -> None:
    """Write a codec file; raises `DataError` if it cannot be written."""
    metadata = {
        "format": FORMAT,
        "config": json.dumps(content.config, sort_keys=True),
        "weights": str(content.weight_dtype).removeprefix("torch."),
        "fingerprint": content.fingerprint.hex(),
        "replaces": json.dumps([former.hex() for former in content.replaces]),
        "notes": json.dumps(content.notes, sort_keys=True),
    }
    write_file(path, safetensors.torch.save(dict(content.tensors), metadata))


def read_codec(path: Path, *, former: bool = False) -> Stored:
    """Read a codec file, or with `former` one of the former format; nothing is built yet.

    Raises `CheckpointError` if the file is missing, damaged, or of another format.
    """
    if path.is_dir():
        raise CheckpointError(
            f"{path}: is a folder; make a codec file of a run with: lictor freeze {path} -o FILE"
        )
    metadata, tensors = read_tensors(path)
    _check_format(metadata.get("format"), path, former=former)
    try:
        content = Stored(
            config=json.loads(metadata["config"]),
            tensors=tensors,
            weight_dtype={"float32": torch.float32, "float16": torch.float16}[metadata["weights"]],
            notes=json.loads(metadata["notes"]),
            replaces=() if former else _replaced(json.loads(metadata["replaces"])),
        )
        fingerprint = content.fingerprint.hex()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged codec file ({error})") from error
    if fingerprint != metadata.get("fingerprint"):
        raise CheckpointError(f"{path}: damaged codec file (its fingerprint does not match)")
    return content


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return what is written in a codec file's header, and its tensors.

    Raises `CheckpointError` if the file is missing, or no codec file of any kind.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return metadata, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the codec file ({error})") from error
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: not a codec file, or damaged ({error})") from error


def _check_format(found: str | None, path: Path, *, former: bool) -> None:
    if found == (FORMER_FORMAT if former else FORMAT):
        return
    if found == FORMER_FORMAT:
        raise CheckpointError(
            f"{path}: a codec file of the former format {FORMER_FORMAT!r}; convert it, once, with: "
            f"lictor convert {path} -o NEW.lcodec (it reads what the old one wrote)"
        )
    if str(found).startswith(SIGNAL_FORMATS):
        raise CheckpointError(f"{path}: is a codec of signals; this is for codecs of pictures")
    if found == FORMAT:
        raise CheckpointError(f"{path}: is of the present format {FORMAT!r} already")
    raise CheckpointError(
        f"{path}: not a codec file of this release (format {found!r}, expected {FORMAT!r}); "
        f"make one with: lictor freeze RUN -o {path.name}"
    )


def _replaced(values: Any) -> tuple[bytes, ...]:
    if not isinstance(values, list) or len(values) > _MOST_REPLACED:
        raise CheckpointError(
            f"damaged codec file: `replaces` must be a list of up to {_MOST_REPLACED} fingerprints"
        )
    for value in values:
        if not isinstance(value, str) or len(value) != 2 * _FINGERPRINT_BYTES:
            raise CheckpointError(f"damaged codec file: {value!r} in `replaces` is no fingerprint")
    return tuple(map(bytes.fromhex, values))


def _pack_tables(tables: CdfTables, name: str) -> dict[str, Tensor]:
    """Store the counts of the rows one after the other: they fit 16 bits, a CDF does not."""
    counts = [np.diff(row[: n + 1]) for row, n in zip(tables.cdf, tables.lengths, strict=True)]
    arrays = {
        "counts": np.concatenate(counts).astype(np.uint16),
        "lengths": tables.lengths.copy(),
        "offset": tables.offset.copy(),
    }
    if tables.thresholds is not None:
        arrays["thresholds"] = tables.thresholds.copy()
    return {f"{_TABLES}{name}/{part}": torch.from_numpy(a) for part, a in arrays.items()}


def _unpack_tables(tensors: Mapping[str, Tensor], name: str) -> CdfTables:
    counts, lengths, offset = (tensors[f"{_TABLES}{name}/{part}"].numpy() for part in _PARTS)
    thresholds = tensors.get(f"{_TABLES}{name}/thresholds")
    if counts.ndim != 1 or counts.dtype != np.uint16 or lengths.ndim != 1 or lengths.size < 1:
        raise CheckpointError(f"tables of {name}: counts and lengths must be lists of integers")
    if int(lengths.sum()) != counts.size or lengths.min() < 1:
        raise CheckpointError(f"tables of {name}: the lengths do not add up")
    try:
        cdf = np.full((lengths.size, int(lengths.max()) + 1), 2**16, np.int32)
        for row, part in zip(cdf, np.split(counts, np.cumsum(lengths)[:-1]), strict=True):
            row[0] = 0
            row[1 : part.size + 1] = np.cumsum(part, dtype=np.int64)
        return CdfTables(cdf, lengths, offset, None if thresholds is None else thresholds.numpy())
    except CheckpointError as error:
        raise CheckpointError(f"tables of {name}: {error}") from error
