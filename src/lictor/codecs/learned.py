"""The frozen codec: the only thing that makes and reads files.

A model learns; `Codec.freeze` turns it into integer tables, a reproducible entropy path and a
fingerprint. A file carries the fingerprint of the codec that made it, and no other codec reads it.
"""

import copy
import hashlib
import importlib.resources
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import UInt8
from torch import Tensor

from lictor.coders import AuditCoder, DecodeCoder, EncodeCoder
from lictor.coding.container import HEADER_BYTES, MAX_PIXELS, VERSION, Container
from lictor.coding.stream import choose_lanes, expected_overhead_bytes
from lictor.coding.tables import CdfTables
from lictor.data.images import image_to_tensor, tensor_to_image
from lictor.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DesyncError,
    LictorError,
    ModelMismatchError,
)
from lictor.files import write_file
from lictor.models.base import AbstractCodecModel, Latents
from lictor.models.zoo import MODELS, build_model
from lictor.ops import crop, pad_to_multiple
from lictor.ptq.storage import exact_names, loaded_state, quantization_entry, rebuild, stored_state

CODEC_FORMAT = "lictor-codec-1"
_WEIGHTS, _TABLES = "weights/", "tables/"


@dataclass(frozen=True)
class Encoded:
    """A compressed picture, with what the encoder knows about it.

    `reconstruction` is the picture that decoding will give, `symbol_crc` the checksum of the
    latents' symbols, `estimated_bytes` the size that the model's rate predicts for the whole file.
    """

    data: bytes
    reconstruction: UInt8[np.ndarray, "h w c"]
    symbol_crc: int
    estimated_bytes: float


@contextmanager
def _own_torch_state() -> Iterator[None]:
    """Shield the codec from the caller's autocast, default dtype and device, and translate errors.

    Under a caller's autocast the same file would decode to another picture.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast("cpu", enabled=False), torch.device("cpu"):
            yield
    except (MemoryError, RuntimeError) as error:
        # torch reports that memory ran out as a RuntimeError from its allocator.
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise DataError("the picture needs more memory than there is; split it") from error
        raise
    finally:
        torch.set_default_dtype(dtype)


class Codec:
    """A frozen model with its integer tables; made by `freeze`, `load` or `default`."""

    def __init__(
        self,
        model: AbstractCodecModel,
        tables: Mapping[str, CdfTables],
        *,
        weight_dtype: torch.dtype = torch.float32,
        notes: Mapping[str, Any] | None = None,
    ):
        self._model = model
        self._tables = dict(tables)
        self._weight_dtype = weight_dtype
        self.notes = dict(notes or {})
        self.fingerprint = _fingerprint(self._config(), self._tensors())

    @classmethod
    def freeze(
        cls,
        model: AbstractCodecModel,
        *,
        weight_dtype: torch.dtype = torch.float32,
        notes: Mapping[str, Any] | None = None,
    ) -> "Codec":
        """Freeze a copy of a trained model.

        `weight_dtype` is float32, or float16 for a codec file of half the size (the weights are
        rounded before anything is derived from them). `notes` travel in the codec file. Raises
        `LictorError` when the model cannot be frozen: weights not finite, a prior without tails.
        """
        if weight_dtype not in (torch.float32, torch.float16):
            raise ConfigError(f"weights are kept as float32 or float16, not {weight_dtype}")
        with _own_torch_state():
            return cls._freeze(model, weight_dtype, notes)

    @classmethod
    def _freeze(
        cls,
        model: AbstractCodecModel,
        weight_dtype: torch.dtype,
        notes: Mapping[str, Any] | None,
    ) -> "Codec":
        frozen = copy.deepcopy(model).cpu()
        exact = exact_names(frozen)
        with torch.no_grad():
            for name, tensor in frozen.state_dict().items():
                if name not in exact:
                    tensor.copy_(tensor.to(weight_dtype))
                if not bool(torch.isfinite(tensor).all()):
                    raise LictorError(f"{name} is not finite in {weight_dtype}; cannot freeze")
        # The layout that `load` gives: a saved codec decodes to the same bits as this one.
        frozen.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        frozen.freeze()
        tables = {name: prior.tables() for name, prior in frozen.priors().items()}
        return cls(frozen, tables, weight_dtype=weight_dtype, notes=notes)

    @property
    def name(self) -> str:
        """Name of the model inside."""
        return f"lictor {self._model.name}"

    @property
    def model(self) -> AbstractCodecModel:
        """The frozen model inside, to look at: training it would make the fingerprint a lie."""
        return self._model

    @property
    def weight_dtype(self) -> torch.dtype:
        """How weights that are not quantized are kept: float32 or float16."""
        return self._weight_dtype

    def thaw(self) -> AbstractCodecModel:
        """Return a float32 copy of the model as it was before it was frozen, to change it.

        Raises `ConfigError` when the codec is quantized: its integers cannot learn.
        """
        if self._model.quantization is not None:
            raise ConfigError(
                f"the codec is quantized already ({self._model.quantization}); take the original"
            )
        with _own_torch_state():
            model = type(self._model)(**self._model.hyperparameters())
            model.load_state_dict(self._model.state_dict())
        return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def tables(self) -> Mapping[str, CdfTables]:
        """The integer tables of each latent's prior, to look at."""
        return self._tables

    @property
    def num_parameters(self) -> int:
        """Count of the model's weights."""
        return sum(p.numel() for p in self._model.parameters())

    def describe(self) -> dict[str, Any]:
        """Return what the codec is, as plain values: model, widths, fingerprint, notes."""
        config = self._config()
        if self._model.quantization is not None:
            config["quantization"] = self._model.quantization
        return {
            **config,
            "fingerprint": self.fingerprint.hex(),
            "parameters": self.num_parameters,
            "weights": str(self._weight_dtype).removeprefix("torch."),
            "notes": self.notes,
        }

    def encode(self, image: UInt8[np.ndarray, "h w c"]) -> bytes:
        """Compress a grey or RGB picture of any size into the bytes of a `.lic` file.

        Raises `DataError` when `image` is not an 8-bit array `h w c` with 1 or 3 channels.
        """
        return self._encode(image)[0]

    def encode_verbose(self, image: UInt8[np.ndarray, "h w c"]) -> Encoded:
        """Compress a picture and tell what decoding will give and what the size should be."""
        data, quantized, symbol_crc = self._encode(image)
        reconstruction = self._picture(quantized, *image.shape)
        return Encoded(data, reconstruction, symbol_crc, self.estimate_bytes(data))

    @torch.inference_mode()
    def estimate_bytes(self, data: bytes | bytearray | memoryview) -> float:
        """Return the size that the model's rate predicts for a whole file made by this codec.

        It reads the symbols again and runs the entropy networks, but neither transform. Raises a
        `BitstreamError` as `decode` does.
        """
        file = self._open(data, MAX_PIXELS)
        coder = AuditCoder(file.payload, self._tables)
        self._read(coder, file)
        payload = float(torch.stack(list(coder.bits.values())).sum()) / 8
        return payload + expected_overhead_bytes(choose_lanes(int(payload))) + HEADER_BYTES

    @torch.inference_mode()
    def _encode(self, image: UInt8[np.ndarray, "h w c"]) -> tuple[bytes, Latents, int]:
        _check_image(image)
        height, width, channels = image.shape
        coder = EncodeCoder(self._tables)
        with _own_torch_state():
            x = pad_to_multiple(image_to_tensor(image), self._model.stride)
            x = x.contiguous(memory_format=torch.channels_last)
            shape = self._model.padded_shape(1, height, width)
            quantized = self._model.code(coder, self._model.analyse(x), shape)
        payload, symbol_crc = coder.finish()
        file = Container(self.fingerprint, width, height, channels, payload, symbol_crc)
        return file.to_bytes(), quantized, symbol_crc

    @torch.inference_mode()
    def _picture(
        self, quantized: Latents, height: int, width: int, channels: int
    ) -> UInt8[np.ndarray, "h w c"]:
        with _own_torch_state():
            x_hat = crop(self._model.synthesise(quantized), height, width)
        return tensor_to_image(x_hat, channels=channels)

    @torch.inference_mode()
    def decode(
        self, data: bytes | bytearray | memoryview, *, max_pixels: int = MAX_PIXELS
    ) -> UInt8[np.ndarray, "h w c"]:
        """Restore the picture from the bytes of a `.lic` file.

        Raises a `BitstreamError`: `ModelMismatchError` for another codec's file, `DesyncError` when
        this machine computes other probabilities than the encoder's did, else what is damaged.
        """
        file = self._open(data, max_pixels)
        quantized = self._read(DecodeCoder(file.payload, self._tables), file)
        return self._picture(quantized, file.height, file.width, file.channels)

    def _open(self, data: bytes | bytearray | memoryview, max_pixels: int) -> Container:
        _check_bytes(data)
        file = Container.from_bytes(bytes(data), max_pixels=max_pixels)
        if file.fingerprint != self.fingerprint:
            raise ModelMismatchError(
                f"made by the codec {file.fingerprint.hex()}, but this codec is "
                f"{self.fingerprint.hex()}; pass the .lcodec file it was made with"
            )
        return file

    def _read(self, coder: DecodeCoder | AuditCoder, file: Container) -> Latents:
        """Decode the quantized latents, checked against the encoder's before they are used."""
        with _own_torch_state():
            shape = self._model.padded_shape(1, file.height, file.width)
            quantized = self._model.code(coder, None, shape)
        if coder.finish() != file.symbol_crc:
            raise DesyncError(
                "the decoded symbols differ from the encoder's: this machine computes other "
                "probabilities; decode with the version and kind of machine that encoded"
            )
        return quantized

    def save(self, path: Path | str) -> None:
        """Write the codec to one safetensors file; raises `DataError` if it cannot."""
        metadata = {
            "format": CODEC_FORMAT,
            "config": json.dumps(self._config(), sort_keys=True),
            "weights": str(self._weight_dtype).removeprefix("torch."),
            "fingerprint": self.fingerprint.hex(),
            "notes": json.dumps(self.notes, sort_keys=True),
        }
        write_file(Path(path), safetensors.torch.save(self._tensors(), metadata))

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        models: Mapping[str, Callable[..., AbstractCodecModel]] = MODELS,
    ) -> "Codec":
        """Read a codec file; `models` is the table that knows its model, by name.

        Raises `CheckpointError` if the file is missing, damaged, or of a model not in the table.
        """
        path = Path(path)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except OSError as error:
            raise CheckpointError(f"{path}: cannot read the codec file ({error})") from error
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"{path}: not a codec file, or damaged ({error})") from error
        if metadata.get("format") != CODEC_FORMAT:
            raise CheckpointError(
                f"{path}: not a codec file of this release (format {metadata.get('format')!r}, "
                f"expected {CODEC_FORMAT!r}); make one with: lictor freeze RUN -o {path.name}"
            )
        try:
            with _own_torch_state():
                codec = cls._from_tensors(tensors, metadata, models)
        except LictorError as error:
            raise CheckpointError(f"{path}: {error}") from error
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise CheckpointError(f"{path}: damaged codec file ({error})") from error
        if codec.fingerprint.hex() != metadata.get("fingerprint"):
            raise CheckpointError(f"{path}: damaged codec file (its fingerprint does not match)")
        return codec

    @classmethod
    def default(cls) -> "Codec":
        """Return the codec that ships with lictor."""
        with importlib.resources.as_file(
            importlib.resources.files("lictor") / "assets" / "default.lcodec"
        ) as path:
            return cls.load(path)

    @classmethod
    def _from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, str],
        models: Mapping[str, Callable[..., AbstractCodecModel]],
    ) -> "Codec":
        config = json.loads(metadata["config"])
        model = build_model(config["model"], config["hyperparameters"], models)
        if "quantization" in config:
            rebuild(model, config["quantization"])
        weights = {
            key.removeprefix(_WEIGHTS): tensor
            for key, tensor in tensors.items()
            if key.startswith(_WEIGHTS)
        }
        model.load_state_dict(loaded_state(model, weights))
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        model.freeze()
        tables = {name: _unpack_tables(tensors, name) for name in model.priors()}
        dtype = {"float32": torch.float32, "float16": torch.float16}[metadata["weights"]]
        return cls(model, tables, weight_dtype=dtype, notes=json.loads(metadata["notes"]))

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "model": self._model.name,
            "hyperparameters": self._model.hyperparameters(),
        }
        entry = quantization_entry(self._model)
        return config if entry is None else {**config, "quantization": entry}

    def _tensors(self) -> dict[str, Tensor]:
        """Return everything that defines the codec, as it is stored."""
        stored = stored_state(self._model, self._weight_dtype)
        tensors = {_WEIGHTS + key: tensor for key, tensor in stored.items()}
        for name, tables in self._tables.items():
            tensors |= _pack_tables(tables, name)
        return tensors


def _check_bytes(data: object) -> None:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DataError(f"data must be bytes, not {type(data).__name__}; read the file first")


def _check_image(image: object) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(f"image must be a uint8 array, not {kind}; scale to 0..255 and round first")
    if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise DataError(
            f"image has shape {image.shape}; it must be (height, width, 1) or (height, width, 3)"
        )
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise DataError(f"image has more than {MAX_PIXELS} pixels; split it first")


def _fingerprint(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Hash the file format's version, the configuration, the tables and the weights."""
    digest = hashlib.sha256(json.dumps([VERSION, config], sort_keys=True).encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.digest()[:8]


def _pack_tables(tables: CdfTables, name: str) -> dict[str, Tensor]:
    """Store the counts of the rows one after the other: they fit 16 bits, a CDF does not."""
    counts = [np.diff(row[: n + 1]) for row, n in zip(tables.cdf, tables.lengths, strict=True)]
    return {
        f"{_TABLES}{name}/counts": torch.from_numpy(np.concatenate(counts).astype(np.uint16)),
        f"{_TABLES}{name}/lengths": torch.from_numpy(tables.lengths.copy()),
        f"{_TABLES}{name}/offset": torch.from_numpy(tables.offset.copy()),
    }


def _unpack_tables(tensors: Mapping[str, Tensor], name: str) -> CdfTables:
    counts, lengths, offset = (
        tensors[f"{_TABLES}{name}/{part}"].numpy() for part in ("counts", "lengths", "offset")
    )
    if int(lengths.sum()) != counts.size or lengths.min() < 1:
        raise CheckpointError(f"tables of {name}: the lengths do not add up")
    cdf = np.full((lengths.size, int(lengths.max()) + 1), 2**16, np.int32)
    for row, part in zip(cdf, np.split(counts, np.cumsum(lengths)[:-1]), strict=True):
        row[0] = 0
        row[1 : part.size + 1] = np.cumsum(part, dtype=np.int64)
    return CdfTables(cdf, lengths, offset)
