"""What a codec file says about probabilities, read without torch.

`docs/format.md` has the layout. A codec file is foreign input: what it claims is checked before
anything of that size is built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from lictor.coding.path import Path
from lictor.coding.path_file import PATH, WEIGHTS, unpacked
from lictor.coding.tables import CdfTables
from lictor.errors import CheckpointError

FORMAT = "lictor-codec-3"
# Entropy networks in float64, rounded: files of such codecs are read as they were written.
FLOAT_FORMAT = "lictor-codec-2"
# Nor thresholds: which row a scale chose was computed anew by every decoder.
FIRST_FORMAT = "lictor-codec-1"
# Formats of codecs of signals begin so: see `codecs.signals.store`.
SIGNAL_FORMATS = "lictor-signal-codec-"

TABLES = "tables/"
FINGERPRINT_BYTES, _MOST_REPLACED = 8, 64
_PARTS = ("counts", "lengths", "offset")
# Begins what is hashed; it stays when formats of pictures move on, or no file would find its codec.
_EPOCH = 1


@dataclass(frozen=True, eq=False)
class CodecFile:
    """A codec file without its transforms.

    Args:
        fingerprint: of the codec; checked.
        replaces: codecs whose files this one reads too.
        config: model, hyperparameters and what else is in the header.
        notes: of whoever made it.
        weight_dtype: float32 or float16.
        tables: of each latent.
        path: None for a codec of a former format, which has none.
        weights: how many numbers there are; packed ones count as their bytes.
    """

    fingerprint: bytes
    replaces: Sequence[bytes]
    config: Mapping[str, Any]
    notes: Mapping[str, Any]
    weight_dtype: str
    tables: Mapping[str, CdfTables]
    path: Path | None
    weights: int


def fingerprint_of(config: Mapping[str, Any], tensors: Iterable[tuple[str, str, Any]]) -> bytes:
    """Hash the configuration, the tables and the weights.

    Args:
        config: the header's.
        tensors: name, type as torch calls it, and array of each, in order of names.
    """
    digest = hashlib.sha256(json.dumps([_EPOCH, config], sort_keys=True).encode())
    for key, dtype, array in tensors:
        digest.update(f"{key} {dtype} {tuple(array.shape)}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()[:FINGERPRINT_BYTES]


def read_codec_file(path: FilePath) -> CodecFile:
    """Read the part of a codec file that decides symbols; raises `CheckpointError`."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the codec file ({error})") from error
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a codec file, or damaged ({error})") from error
    check_format(metadata.get("format"), path)
    try:
        config = json.loads(metadata["config"])
        names = [(key, f"torch.{arrays[key].dtype}", arrays[key]) for key in sorted(arrays)]
        fingerprint = fingerprint_of(config, names)
        if fingerprint.hex() != metadata["fingerprint"]:
            raise CheckpointError("damaged codec file (its fingerprint does not match)")
        latents = sorted({key.split("/")[1] for key in arrays if key.startswith(TABLES)})
        return CodecFile(
            fingerprint,
            replaced(json.loads(metadata["replaces"])),
            config,
            json.loads(metadata["notes"]),
            metadata["weights"],
            {name: unpack_tables(arrays, name) for name in latents},
            unpacked(config["path"], arrays) if "path" in config else None,
            sum(array.size for key, array in arrays.items() if key.startswith(WEIGHTS)),
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path}: damaged codec file ({error})") from error


def check_format(found: str | None, path: FilePath) -> None:
    """Raise `CheckpointError` unless a codec file of pictures has a format that is read."""
    if found in (FORMAT, FLOAT_FORMAT):
        return
    if found == FIRST_FORMAT:
        raise CheckpointError(
            f"{path}: a codec file of the former format {FIRST_FORMAT!r}; convert it, once, with: "
            f"lictor convert {path} -o NEW.lcodec (it reads what the old one wrote)"
        )
    if str(found).startswith(SIGNAL_FORMATS):
        raise CheckpointError(f"{path}: is a codec of signals; this is for codecs of pictures")
    raise CheckpointError(
        f"{path}: not a codec file of this release (format {found!r}, expected {FORMAT!r}); "
        f"make one with: lictor freeze RUN -o {path.name}"
    )


def replaced(values: Any) -> tuple[bytes, ...]:
    """Return the fingerprints of a JSON list; raises `CheckpointError`."""
    if not isinstance(values, list) or len(values) > _MOST_REPLACED:
        raise CheckpointError(
            f"damaged codec file: `replaces` must be a list of up to {_MOST_REPLACED} fingerprints"
        )
    for value in values:
        if not isinstance(value, str) or len(value) != 2 * FINGERPRINT_BYTES:
            raise CheckpointError(f"damaged codec file: {value!r} in `replaces` is no fingerprint")
    return tuple(map(bytes.fromhex, values))


def is_signal_codec(path: FilePath | str) -> bool:
    """Tell whether a file is a codec of signals, of any release, by its header alone.

    A file that is missing, unreadable or something else is none: whoever loads it says what is
    wrong.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return str((file.metadata() or {}).get("format")).startswith(SIGNAL_FORMATS)
    except (OSError, safetensors.SafetensorError):
        return False


def pack_tables(tables: CdfTables, name: str) -> dict[str, np.ndarray]:
    """Return the counts of the rows one after the other: they fit 16 bits, a CDF does not."""
    counts = [np.diff(row[: n + 1]) for row, n in zip(tables.cdf, tables.lengths, strict=True)]
    arrays = {
        "counts": np.concatenate(counts).astype(np.uint16),
        "lengths": tables.lengths.copy(),
        "offset": tables.offset.copy(),
    }
    if tables.thresholds is not None:
        arrays["thresholds"] = tables.thresholds.copy()
    return {f"{TABLES}{name}/{part}": array for part, array in arrays.items()}


def unpack_tables(arrays: Mapping[str, np.ndarray], name: str) -> CdfTables:
    """Undo `pack_tables`; raises `CheckpointError`, `KeyError` where a part is missing."""
    counts, lengths, offset = (arrays[f"{TABLES}{name}/{part}"] for part in _PARTS)
    thresholds = arrays.get(f"{TABLES}{name}/thresholds")
    if counts.ndim != 1 or counts.dtype != np.uint16 or lengths.ndim != 1 or lengths.size < 1:
        raise CheckpointError(f"tables of {name}: counts and lengths must be lists of integers")
    if int(lengths.sum(dtype=np.int64)) != counts.size or lengths.min() < 1:
        raise CheckpointError(f"tables of {name}: the lengths do not add up")
    try:
        cdf = np.full((lengths.size, int(lengths.max()) + 1), 2**16, np.int32)
        for row, part in zip(cdf, np.split(counts, np.cumsum(lengths)[:-1]), strict=True):
            row[0] = 0
            row[1 : part.size + 1] = np.cumsum(part, dtype=np.int64)
        return CdfTables(cdf, lengths, offset, thresholds)
    except CheckpointError as error:
        raise CheckpointError(f"tables of {name}: {error}") from error


def is_path_array(key: str) -> bool:
    """Return whether a tensor of a codec file belongs to its path."""
    return key.startswith(PATH)
