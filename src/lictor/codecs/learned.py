"""The frozen codec: the only thing that makes and reads files.

A model learns; `Codec.freeze` turns it into integer tables, a reproducible entropy path and a
fingerprint. A file carries the fingerprint of the codec that made it, and no other codec reads it.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from lictor.codecs.exact import StoredPath, exact_path, settle_means, stored_path
from lictor.codecs.refinement import Networks, Refinement, Watch, go_on
from lictor.codecs.shipped import DEFAULT, shipped_codec
from lictor.codecs.store import Stored, read_codec, stored, write_codec
from lictor.codecs.tile_refinement import refine_tiles
from lictor.codecs.tiles import (
    TileCoder,
    area_of,
    choose_side,
    mark,
    synthesis_margin,
)
from lictor.coders import AuditCoder
from lictor.coding.container import MAX_PIXELS, Container, Tile
from lictor.coding.grid import Grid, Rectangle
from lictor.coding.program import Margin
from lictor.coding.stream import choose_lanes, expected_overhead_bytes
from lictor.coding.tables import CdfTables
from lictor.errors import (
    BitstreamError,
    CheckpointError,
    ConfigError,
    DataError,
    LictorError,
    ModelMismatchError,
)
from lictor.layers.entropy_network import EntropyNetwork
from lictor.models.base import AbstractCodecModel, Latents
from lictor.models.zoo import MODELS
from lictor.ptq.integer import margins
from lictor.ptq.storage import exact_names, quantization_entry, stored_state
from lictor.runtime import Runtime


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
def _own_torch_state(device_type: str = "cpu") -> Iterator[None]:
    """Shield the codec from the caller's autocast, default dtype and device, and translate errors.

    Under a caller's autocast the same file would decode to another picture.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.autocast("cpu", enabled=False),
            torch.autocast(device_type, enabled=False),
            torch.device("cpu"),
        ):
            yield
    except (MemoryError, RuntimeError) as error:
        # torch reports that memory ran out as a RuntimeError from its allocator.
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if known or "allocate memory" in str(error):
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
        replaces: Sequence[bytes] = (),
        path: StoredPath | None = None,
    ):
        self._model, self._path = model, path
        self._former: AbstractCodecModel | None = None
        self._device = torch.device("cpu")
        self._tables = dict(tables)
        self._weight_dtype = weight_dtype
        self.notes = dict(notes or {})
        self.replaces = tuple(replaces)
        self.fingerprint = self._stored().fingerprint

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
        `LictorError` when the model cannot be frozen: weights not finite, a prior without tails, an
        entropy network that has no exact form in integers.
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
        settle_means(frozen)
        path = exact_path(frozen)
        tables = {name: prior.tables() for name, prior in frozen.priors().items()}
        return cls(frozen, tables, weight_dtype=weight_dtype, notes=notes, path=path)

    @property
    def name(self) -> str:
        """Name of the model inside."""
        return f"lictor {self._model.name}"

    @property
    def device(self) -> torch.device:
        """Where the transforms run."""
        return self._device

    def to(self, device: torch.device | str) -> "Codec":
        """Run the transforms on a device from now on; returns the codec itself.

        Whatever decides a probability stays on the CPU: files hold the same, whoever reads them.
        Only the pixels of a picture may differ by a grey level, as another sum's order makes them.
        Raises `ConfigError` when the device has no room for the transforms.
        """
        self._device = torch.device(device)
        for part in self._model.transforms():
            Runtime(self._device).place(part)
        return self

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
        if self.replaces:
            config["replaces"] = [former.hex() for former in self.replaces]
        return {
            **config,
            "fingerprint": self.fingerprint.hex(),
            "parameters": self.num_parameters,
            "weights": str(self._weight_dtype).removeprefix("torch."),
            "notes": self.notes,
        }

    def check_refinable(self) -> None:
        """Raise `ConfigError` when no picture can be refined with this codec: it is quantized."""
        if self._model.quantization is not None:
            raise ConfigError(
                f"the codec is quantized ({self._model.quantization}): no gradient passes its "
                "integers, and a search for better latents needs one; compress with effort 0"
            )

    def warm_up(self) -> None:
        """Code a small picture: the first one of a process compiles the coder."""
        self.decode(self.encode(np.zeros((64, 64, 3), np.uint8)))

    @property
    def lmbda(self) -> float | None:
        """The trade-off that the codec was trained for, where its notes tell it."""
        value: Any = self.notes
        for key in ("recipe", "loss", "lmbda"):
            value = value.get(key) if isinstance(value, Mapping) else None
        known = isinstance(value, int | float) and 0 < value < math.inf
        return float(value) if known else None

    def encode(
        self,
        image: UInt8[np.ndarray, "h w c"],
        *,
        refinement: Refinement | None = None,
        watch: Watch = go_on,
        tile_side: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> bytes:
        """Compress a grey or RGB picture of any size into the bytes of a `.lic` file.

        A `refinement` takes more time for a file that costs less, bits and error together; any
        decoder of the codec reads it. `watch` is told of every step and may stop it: the best so
        far is kept. Pictures of more than 2 megapixels are cut into tiles; `tile_side` is the most
        pixels of their sides, a multiple of 64, or 0 for one tile. Tiles are coded by as many
        threads as torch has. Raises `DataError` when `image` is not an 8-bit array `h w c` with 1
        or 3 channels, or has more than `max_pixels`, `ConfigError` for a refinement by a quantized
        codec or an impossible side.
        """
        _check_image(image, max_pixels)
        return self._encode(image, refinement, watch, tile_side).to_bytes()

    def encode_verbose(
        self,
        image: UInt8[np.ndarray, "h w c"],
        *,
        refinement: Refinement | None = None,
        watch: Watch = go_on,
        tile_side: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Encoded:
        """Compress a picture and tell what decoding will give and what the size should be."""
        _check_image(image, max_pixels)
        quantized: dict[int, Latents] = {}
        file = self._encode(image, refinement, watch, tile_side, quantized)
        tiles, area = self._tiles(file.grid), area_of(file.grid, None)
        with self._own_state():
            reconstruction = tiles.picture(quantized, area, file.channels)
        data = file.to_bytes()
        return Encoded(data, reconstruction, file.symbol_crc, self._estimate(file, len(data)))

    def estimate_bytes(self, data: bytes | bytearray | memoryview) -> float:
        """Return the size that the model's rate predicts for a whole file made by this codec.

        It reads the symbols again and runs the entropy networks, but neither transform. Raises a
        `BitstreamError` as `decode` does.
        """
        return self._estimate(self._open(data, MAX_PIXELS), len(data))

    def _estimate(self, file: Container, num_bytes: int) -> float:
        tiles = self._tiles(file.grid, file.fingerprint)

        def estimate(index: int) -> float:
            tile = file.tiles[index]
            coder = AuditCoder(tile.payload, self._tables)
            tiles.read(coder, tile, index)
            payload = float(torch.stack(list(coder.bits.values())).sum()) / 8
            return payload + expected_overhead_bytes(choose_lanes(int(payload)))

        with self._own_state():
            estimated = sum(tiles.each(estimate, range(file.grid.count)))
        return estimated + num_bytes - file.payload_bytes

    def _tiles(self, grid: Grid, fingerprint: bytes | None = None) -> TileCoder:
        """Return what takes tiles through the model, of a file's codec if one is named."""
        margin = 0 if grid.count == 1 else self._margin
        model = self._model if fingerprint in (None, self.fingerprint) else self._replaced()
        return TileCoder(model, self._tables, self._device, grid, margin)

    @contextmanager
    def _own_state(self) -> Iterator[None]:
        with _own_torch_state(self._device.type), torch.inference_mode():
            yield

    @cached_property
    def _margin(self) -> int:
        with self._own_state():
            return synthesis_margin(self._model, self._device)

    def _encode(
        self,
        image: UInt8[np.ndarray, "h w c"],
        refinement: Refinement | None,
        watch: Watch,
        tile_side: int | None,
        quantized: dict[int, Latents] | None = None,
    ) -> Container:
        """Return what a picture's file holds; `quantized` gets the latents of its tiles."""
        height, width, channels = image.shape
        grid = Grid(width, height, choose_side(width, height, self._model.stride, tile_side))
        tiles = self._tiles(grid)

        def code(index: int, latents: Latents) -> Tile:
            tile, decoded = tiles.encode(latents, index)
            if quantized is not None:
                quantized[index] = decoded
            return tile

        def encode(index: int) -> Tile:
            return code(index, tiles.analyse(image, index))

        with self._own_state():
            if refinement is None:
                coded = tiles.each(encode, range(grid.count))
            else:
                networks = self._networks(refinement)
                refined = refine_tiles(tiles, networks, image, refinement, self.lmbda, watch)
                coded = [code(index, latents) for index, latents in enumerate(refined)]
        return Container(self.fingerprint, width, height, channels, coded, grid.side)

    def _networks(self, refinement: Refinement) -> Networks:
        self.check_refinable()
        free = None
        if refinement.steps:
            with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
                # A model is built with numbers at random.
                free = self.thaw().requires_grad_(False).to(self._device)
        return Networks(self._model, free, self._device)

    def decode(
        self,
        data: bytes | bytearray | memoryview,
        *,
        region: tuple[int, int, int, int] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> UInt8[np.ndarray, "h w c"]:
        """Restore the picture, or a region of it, from the bytes of a `.lic` file.

        A region `(x, y, width, height)` is the same part of the whole picture to the bit, and only
        the tiles in it and around it are decoded. Raises a `BitstreamError`: `ModelMismatchError`
        for another codec's file, `DesyncError` when this machine computes other probabilities than
        the encoder's did, else what is damaged; `ConfigError` for a region outside of the picture.
        """
        file = self._open(data, max_pixels)
        tiles, area = self._tiles(file.grid, file.fingerprint), area_of(file.grid, region)

        def read(index: int) -> Latents:
            return tiles.decode(file.tiles[index], index)

        with self._own_state():
            return tiles.restore(read, area, file.channels)[0]

    def salvage(
        self, data: bytes | bytearray | memoryview, *, max_pixels: int = MAX_PIXELS
    ) -> tuple[UInt8[np.ndarray, "h w c"], list[Rectangle]]:
        """Restore what is left of a damaged or truncated file, and tell where tiles are lost.

        Those are grey with a cross from corner to corner. Raises a `BitstreamError` where header
        or index are damaged.
        """
        _check_bytes(data)
        saved = Container.salvage(bytes(data), max_pixels=max_pixels)
        file, lost = self._checked(saved.container), set(saved.damaged)
        tiles, area = self._tiles(file.grid, file.fingerprint), area_of(file.grid, None)

        def read(index: int) -> Latents | None:
            try:
                return None if index in lost else tiles.decode(file.tiles[index], index)
            except BitstreamError:
                return None

        with self._own_state():
            image, missing = tiles.restore(read, area, file.channels)
        damaged = [file.grid.tile(index) for index in missing]
        for area in damaged:
            mark(image, area)
        return image, damaged

    def _open(self, data: bytes | bytearray | memoryview, max_pixels: int) -> Container:
        _check_bytes(data)
        return self._checked(Container.from_bytes(bytes(data), max_pixels=max_pixels))

    def _checked(self, file: Container) -> Container:
        """Return the content of a file that this codec reads."""
        if file.fingerprint not in (self.fingerprint, *self.replaces):
            raise ModelMismatchError(
                f"made by the codec {file.fingerprint.hex()}, but this codec is "
                f"{self.fingerprint.hex()}; pass the .lcodec file it was made with"
            )
        return file

    def _replaced(self) -> AbstractCodecModel:
        """Return the model as codecs of former formats ran it: entropy networks in float64."""
        if self._former is None:
            former = copy.deepcopy(self._model)
            for module in former.modules():
                if isinstance(module, EntropyNetwork):
                    module.integers = None
            self._former = former
        return self._former

    @property
    def margins(self) -> Mapping[str, Sequence[Margin]]:
        """How large the sums of each exact network can become, by name; empty if none is exact."""
        return margins(self._model)

    def save(self, path: Path | str) -> None:
        """Write the codec to one safetensors file; raises `DataError` if it cannot."""
        write_codec(Path(path), self._stored())

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
        return cls._from(path, read_codec(path), models)

    @classmethod
    def convert(
        cls,
        path: Path | str,
        *,
        models: Mapping[str, Callable[..., AbstractCodecModel]] = MODELS,
    ) -> "Codec":
        """Read a codec file of a former format; the codec decodes the files that it wrote.

        What is new in the present one, exact entropy networks above all, is made; files of the old
        codec are decoded as the former release decoded them. Raises `CheckpointError` as `load`
        does, also for a file that needs no conversion.
        """
        path = Path(path)
        return cls._from(path, read_codec(path, former=True), models, former=True)

    @classmethod
    def default(cls) -> "Codec":
        """Return the codec that ships with lictor."""
        return cls.load(shipped_codec(DEFAULT))

    @classmethod
    def _from(
        cls,
        path: Path,
        content: Stored,
        models: Mapping[str, Callable[..., AbstractCodecModel]],
        *,
        former: bool = False,
    ) -> "Codec":
        """Build what a file holds; one of a former format is made exact and gets another name."""
        try:
            with _own_torch_state():
                model = content.model(models)
                model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
                model.freeze()
                tables = content.tables(list(model.priors()))
                for name, prior in model.priors().items():
                    if former and tables[name].thresholds is None:
                        thresholds = prior.tables().thresholds
                        tables[name] = dataclasses.replace(tables[name], thresholds=thresholds)
                    prior.check_tables(tables[name])
                codec = cls(
                    model,
                    tables,
                    weight_dtype=content.weight_dtype,
                    notes=content.notes,
                    replaces=(content.fingerprint,) * former + tuple(content.replaces),
                    path=exact_path(model) if former else stored_path(content, model),
                )
        except LictorError as error:
            raise CheckpointError(f"{path}: {error}") from error
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise CheckpointError(f"{path}: damaged codec file ({error})") from error
        if not former and codec.fingerprint != content.fingerprint:
            raise CheckpointError(f"{path}: damaged codec file (its fingerprint does not match)")
        return codec

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "model": self._model.name,
            "hyperparameters": self._model.hyperparameters(),
        }
        entry = quantization_entry(self._model)
        return config if entry is None else {**config, "quantization": entry}

    def _stored(self) -> Stored:
        """Return everything that the codec's file holds."""
        config = self._config()
        if self._path is not None:
            config["path"] = self._path.entry
        return stored(
            config,
            stored_state(self._model, self._weight_dtype),
            self._tables,
            weight_dtype=self._weight_dtype,
            notes=self.notes,
            replaces=self.replaces,
            path_arrays=None if self._path is None else self._path.arrays,
        )


def _check_bytes(data: object) -> None:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DataError(f"data must be bytes, not {type(data).__name__}; read the file first")


def _check_image(image: object, max_pixels: int = MAX_PIXELS) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(f"image must be a uint8 array, not {kind}; scale to 0..255 and round first")
    if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise DataError(
            f"image has shape {image.shape}; it must be (height, width, 1) or (height, width, 3)"
        )
    if image.shape[0] * image.shape[1] > max_pixels:
        raise DataError(
            f"image has {image.shape[1]} x {image.shape[0]} pixels, more than max_pixels = "
            f"{max_pixels}"
        )
