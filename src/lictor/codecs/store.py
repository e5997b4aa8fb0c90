"""A codec as a file: one safetensors file with the weights, the tables and what they are.

`docs/format.md` has the layout. A codec file is foreign input: what it claims is checked before
anything of that size is built.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lictor.coding.codec_file import (
    FIRST_FORMAT,
    FLOAT_FORMAT,
    FORMAT,
    TABLES,
    check_format,
    fingerprint_of,
    is_path_array,
    pack_tables,
    replaced,
    unpack_tables,
)
from lictor.coding.path import Path as SymbolPath
from lictor.coding.path_file import WEIGHTS, unpacked
from lictor.coding.tables import CdfTables
from lictor.errors import CheckpointError
from lictor.files import write_file
from lictor.models.base import AbstractCodecModel
from lictor.models.zoo import build_model
from lictor.ptq.storage import loaded_state, rebuild

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
        keys = sorted(self.tensors)
        return fingerprint_of(
            self.config,
            ((key, str(self.tensors[key].dtype), self.tensors[key].numpy()) for key in keys),
        )

    def tables(self, names: Sequence[str]) -> dict[str, CdfTables]:
        """Return the tables of latents by their names; raises `CheckpointError` on damaged ones."""
        arrays = {k: t.numpy() for k, t in self.tensors.items() if k.startswith(TABLES)}
        return {name: unpack_tables(arrays, name) for name in names}

    def path(self) -> SymbolPath | None:
        """Return what decides the symbols, None in a file of a former format.

        Raises `CheckpointError` when it is damaged, or not exact.
        """
        if "path" not in self.config:
            return None
        return unpacked(self.config["path"], {k: t.numpy() for k, t in self.tensors.items()})

    @property
    def path_arrays(self) -> dict[str, Tensor]:
        """The arrays of the path, as they are in the file."""
        return {key: tensor for key, tensor in self.tensors.items() if is_path_array(key)}

    def model(self, models: Mapping[str, Callable[..., AbstractCodecModel]]) -> AbstractCodecModel:
        """Build the model with its weights, not frozen yet; `models` knows it by name.

        Raises `CheckpointError` when the weights are not those of such a model, `ConfigError` when
        there is no such model.
        """
        weights = {
            key.removeprefix(WEIGHTS): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(WEIGHTS)
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
    path_arrays: Mapping[str, Tensor] | None = None,
) -> Stored:
    """Put together what a codec's file holds."""
    tensors = {WEIGHTS + key: tensor.cpu() for key, tensor in weights.items()}
    for name, table in tables.items():
        tensors |= {k: torch.from_numpy(a) for k, a in pack_tables(table, name).items()}
    tensors |= path_arrays or {}
    return Stored(config, tensors, weight_dtype, notes, replaces)


def write_codec(path: Path, content: Stored) -> None:
    """Write a codec file; raises `DataError` if it cannot be written."""
    metadata = {
        "format": FORMAT if "path" in content.config else FLOAT_FORMAT,
        "config": json.dumps(content.config, sort_keys=True),
        "weights": str(content.weight_dtype).removeprefix("torch."),
        "fingerprint": content.fingerprint.hex(),
        "replaces": json.dumps([former.hex() for former in content.replaces]),
        "notes": json.dumps(content.notes, sort_keys=True),
    }
    write_file(path, safetensors.torch.save(dict(content.tensors), metadata))


def read_codec(path: Path, *, former: bool = False) -> Stored:
    """Read a codec file, or with `former` one of a former format; nothing is built yet.

    Raises `CheckpointError` if the file is missing, damaged, or of another format.
    """
    if path.is_dir():
        raise CheckpointError(
            f"{path}: is a folder; make a codec file of a run with: lictor freeze {path} -o FILE"
        )
    metadata, tensors = read_tensors(path)
    found = metadata.get("format")
    if former and found == FORMAT:
        raise CheckpointError(f"{path}: is of the present format {FORMAT!r} already")
    if not (former and found == FIRST_FORMAT):
        check_format(found, path)
    try:
        content = Stored(
            config=json.loads(metadata["config"]),
            tensors=tensors,
            weight_dtype={"float32": torch.float32, "float16": torch.float16}[metadata["weights"]],
            notes=json.loads(metadata["notes"]),
            replaces=() if found == FIRST_FORMAT else replaced(json.loads(metadata["replaces"])),
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
