"""The frozen codec of signals: what makes and reads signal files.

A network learns; `SignalCodec.freeze` fits it to training signals and turns their latents into
steps, rows of tables and a fingerprint. A file carries the fingerprint of the codec that made it.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lictor.codecs.signals.domain import Domain, Range
from lictor.codecs.signals.encoding import Search, Task, find_symbols
from lictor.codecs.signals.freezing import balanced_steps, freeze_latents
from lictor.codecs.signals.latents import (
    Audit,
    LatentCoding,
    SymbolCoder,
    estimate_bits,
    reading,
    writing,
)
from lictor.codecs.signals.network import Network, grids_of, own_torch_state
from lictor.codecs.signals.pooled import freeze_pooled
from lictor.codecs.signals.store import (
    content_of,
    domain_of,
    latents_config,
    latents_of,
    model_of,
    read_signal_codec,
    write_signal_codec,
)
from lictor.codecs.signals.weights import rounded
from lictor.codecs.store import Stored
from lictor.coding.archive import FINGERPRINT_BYTES, MAX_SAMPLES, Archive, Entry
from lictor.coding.stream import SymbolDecoder, SymbolEncoder, choose_lanes, expected_overhead_bytes
from lictor.coding.tables import TOTAL
from lictor.data.signals.signal import Signal
from lictor.errors import (
    CheckpointError,
    ConfigError,
    CorruptError,
    DataError,
    DesyncError,
    LictorError,
    ModelMismatchError,
)
from lictor.implicit.model import IMPLICIT, ImplicitModel
from lictor.implicit.refine import Effort

Models = Mapping[str, Callable[..., ImplicitModel]]

# A symbol costs this at least: all but one of the counts of its row.
_LEAST_BITS = math.log2(TOTAL) - math.log2(TOTAL - 1)
_FINEST_START = 0.5  # of the latents' root mean square, the step at quality 0


@dataclass(frozen=True)
class EncodedSignals:
    """Compressed signals, with what the encoder knows about them.

    `reconstructions` are the signals that decoding will give, `symbol_crc` the checksum of their
    symbols, `estimated_bytes` the size that the tables predict for the whole file.
    """

    data: bytes
    reconstructions: list[Signal]
    symbol_crc: int
    estimated_bytes: float


class SignalCodec:
    """A frozen network with its latents' tables; made by `freeze` or `load`.

    Args:
        model: the network.
        domain: the signals that it is for.
        latents: quantizer and tables.
        steps: of the inner loop when encoding.
        lmbda: what a bit is worth at quality 0, in mean squared error of a patch.
        weight_dtype: of the weights in the codec file.
        notes: plain values that travel in the codec file.
    """

    def __init__(
        self,
        model: ImplicitModel,
        domain: Domain,
        latents: LatentCoding,
        *,
        steps: int,
        lmbda: float,
        weight_dtype: torch.dtype = torch.float32,
        notes: Mapping[str, Any] | None = None,
    ):
        if latents.dimensions != model.latent or model.channels != domain.channels:
            raise CheckpointError(
                f"a network of {model.latent} latents and {model.channels} channels does not go "
                f"with {latents.dimensions} and {domain.channels}"
            )
        if len(model.coordinates) != math.prod(domain.grid) or not 0 <= steps <= 1000:
            raise CheckpointError(f"the network's grid is not {domain.grid}, or steps are {steps}")
        self.domain, self.latents = domain, latents
        self._model, self._network = model, Network(model, domain)
        self._steps, self._lmbda = steps, lmbda
        self._weight_dtype, self.notes = weight_dtype, dict(notes or {})
        self.fingerprint = self._stored().fingerprint

    @classmethod
    def freeze(
        cls,
        model: ImplicitModel,
        domain: Domain,
        signals: Sequence[Signal],
        *,
        qualities: tuple[int, int] = (-12, 16),
        step: float | None = None,
        bits: tuple[int, int] | None = None,
        steps: int = 3,
        weight_dtype: torch.dtype = torch.float16,
        notes: Mapping[str, Any] | None = None,
    ) -> "SignalCodec":
        """Freeze a copy of a trained network with the latents of training signals.

        Args:
            model: trained.
            domain: the signals that it is for.
            signals: training signals; better such as the network was not fitted to.
            qualities: lowest and highest that files may have; four more halve the error's root.
            step: root of the squared error, with the range of values as 1, that a step at quality 0
                stands for; half the latents' root mean square if not given.
            bits: the paper's quantizer instead, with these fewest and most bits as qualities.
            steps: of the inner loop when encoding.
            weight_dtype: float32, float16 or int8 (see `codecs.signals.weights`); weights are
                rounded before anything follows from them.
            notes: plain values that travel in the codec file.

        Raises:
            LictorError: weights or latents are not finite, or signals do not fit the domain.
        """
        frozen = copy.deepcopy(model).cpu().requires_grad_(False)
        with torch.no_grad():
            state = frozen.state_dict()
            for name, tensor in rounded(state, weight_dtype).items():
                if not bool((state[name].isfinite() & tensor.isfinite()).all()):
                    raise LictorError(f"{name} is not finite in {weight_dtype}; cannot freeze")
                state[name].copy_(tensor)
        network = Network(frozen, domain)
        z, grids = _training_latents(network, domain, signals, steps)
        # A patch without any value has the mean latent.
        there: np.ndarray = np.asarray(np.isfinite(z).all(1))
        if not there.any():
            raise DataError("the training signals have no values, or their fits diverged")
        z = np.where(there[:, None], z, z[there].mean(0))
        gains = network.gains(z[there])
        scale = step or _FINEST_START * math.sqrt(float((gains * z.var(0)).mean()) or 1.0)
        if bits is None:
            latents: LatentCoding = freeze_latents(
                z, grids, steps=balanced_steps(gains, scale), qualities=qualities
            )
        else:
            latents = freeze_pooled(z, qualities=bits)
        # High-rate theory: a step's error scale^2 / 12 falls by 2 ln 2 of itself for each bit.
        lmbda = 2 * math.log(2) / 12 * scale**2
        return cls(
            frozen, domain, latents, steps=steps, lmbda=lmbda, weight_dtype=weight_dtype,
            notes=notes,
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Name of the network inside."""
        return f"lictor {self._model.name}"

    @property
    def num_parameters(self) -> int:
        """Count of the network's weights."""
        return sum(tensor.numel() for tensor in self._model.state_dict().values())

    def describe(self) -> dict[str, Any]:
        """Return what the codec is, as plain values."""
        return {
            **self._config(),
            "fingerprint": self.fingerprint.hex(),
            "parameters": self.num_parameters,
            "weights": str(self._weight_dtype).removeprefix("torch."),
            "notes": self.notes,
        }

    def encode(
        self,
        signals: Sequence[Signal],
        q: int,
        effort: Effort | None = None,
        *,
        names: Sequence[str] | None = None,
    ) -> bytes:
        """Compress signals into one file.

        Args:
            signals: one; more, if they have names.
            q: quality, within the codec's; four more halve the error's root.
            effort: steps of refinement beyond the inner loop.
            names: of the signals in an archive; None: a file of one signal.

        Raises:
            DataError: a signal is not such as the codec is for: kind, channels, grid, values that
                are not finite and not masked, nothing in it.
            ConfigError: the quality is not one of the codec's.
        """
        return self._encode(signals, q, effort, names)[0]

    def encode_verbose(
        self,
        signals: Sequence[Signal],
        q: int,
        effort: Effort | None = None,
        *,
        names: Sequence[str] | None = None,
    ) -> EncodedSignals:
        """Compress signals and tell what decoding will give and what the size should be."""
        data, crc, symbols = self._encode(signals, q, effort, names)
        file = Archive.from_bytes(data, max_samples=1 << 62)
        grids = self._grids(file)
        coded = self._network.coded([entry.mask for entry in file.entries], grids)
        bits = estimate_bits(self.latents, symbols, grids, q, coded)
        estimated = _file_bytes(bits, len(data) - _bytes_of_payload(file))
        return EncodedSignals(data, self._signals(file, symbols, grids), crc, estimated)

    def _encode(
        self,
        signals: Sequence[Signal],
        q: int,
        effort: Effort | None,
        names: Sequence[str] | None,
    ) -> tuple[bytes, int, np.ndarray]:
        first, last = self.latents.qualities
        if not first <= q <= last:
            raise ConfigError(f"quality {q} is not one of this codec's, {first} to {last}")
        if not signals or (names is None and len(signals) != 1):
            raise DataError(f"{len(signals)} signals: give one, or names for an archive")
        if names is not None and len(names) != len(signals):
            raise DataError(f"{len(names)} names for {len(signals)} signals")
        outlines = [self.domain.outline(signal) for signal in signals]
        ranges = [self.domain.range_of(signal) for signal in signals]
        grids = grids_of(self.domain, [signal.samples.shape for signal in signals])
        masks = [_needed(signal.mask) for signal in signals]
        coded = self._network.coded(masks, grids)
        search = None if effort is None else Search(effort, self._lmbda * 2.0 ** (-q / 2))
        with own_torch_state():
            task = Task(signals, ranges, grids, coded, q)
            symbols = find_symbols(self._network, self.latents, task, self._steps, search)
        encoder = SymbolEncoder()
        self.latents.code(writing(encoder), grids, q, symbols, coded)
        entries = [
            Entry(
                outline,
                self.domain.stored_form(signal.form, limits),
                masks[i],
                "" if names is None else names[i],
            )
            for i, (outline, signal, limits) in enumerate(
                zip(outlines, signals, ranges, strict=True)
            )
        ]
        crc = encoder.symbol_crc
        file = Archive(self.fingerprint, q, entries, encoder.finish(), crc, names is not None)
        return file.to_bytes(), crc, symbols

    def decode(self, data: bytes, *, max_samples: int = MAX_SAMPLES) -> list[Signal]:
        """Restore the signals of a file.

        Raises a `BitstreamError`: `ModelMismatchError` for another codec's file, else what is
        damaged.
        """
        return list(self.decode_named(data, max_samples=max_samples)[1])

    def decode_named(
        self, data: bytes, *, max_samples: int = MAX_SAMPLES
    ) -> tuple[list[str], list[Signal]]:
        """Restore the signals of a file with their names, which are empty in a file of one."""
        file = self.parse(data, max_samples=max_samples)
        grids = self._grids(file)
        symbols = self._read(file, grids)
        return [entry.name for entry in file.entries], self._signals(file, symbols, grids)

    def estimate_bytes(self, data: bytes) -> float:
        """Return the size that the tables predict for a whole file made by this codec."""
        file = self.parse(data, max_samples=1 << 62)
        audit: list[Audit] = []
        self._read(file, self._grids(file), audit)
        return _file_bytes(audit[0].bits, len(data) - _bytes_of_payload(file))

    def parse(self, data: bytes, *, max_samples: int = MAX_SAMPLES) -> Archive:
        """Check a file and take it apart, but decode nothing; raises as `decode` does."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise DataError(f"data must be bytes, not {type(data).__name__}; read the file first")
        file = Archive.from_bytes(bytes(data), max_samples=max_samples)
        if file.fingerprint != self.fingerprint[:FINGERPRINT_BYTES]:
            raise ModelMismatchError(
                f"made by the codec {file.fingerprint.hex()}..., but this codec is "
                f"{self.fingerprint.hex()}; pass the codec file it was made with"
            )
        return file

    def _grids(self, file: Archive) -> list[tuple[int, ...]]:
        """Return the patches of a file's signals, once they can be this codec's at all."""
        domain = self.domain
        for entry in file.entries:
            outline = entry.outline
            fits = outline.kind == domain.kind and outline.channels == domain.channels
            if domain.whole:
                fits = fits and outline.grid == domain.grid
            if not fits or len(outline.grid) != len(domain.grid):
                raise CorruptError(f"the file claims {outline}, which this codec cannot write")
        shapes = [(e.outline.items, *e.outline.grid, e.outline.channels) for e in file.entries]
        return grids_of(domain, shapes)

    def _read(
        self,
        file: Archive,
        grids: Sequence[tuple[int, ...]],
        audit: list[Audit] | None = None,
    ) -> np.ndarray:
        """Decode the symbols, checked against the encoder's before they are used."""
        coded = self._network.coded([entry.mask for entry in file.entries], grids)
        patches = sum(map(math.prod, grids)) if coded is None else int(coded.sum())
        count = patches * self.latents.dimensions
        if count * _LEAST_BITS > 8 * len(file.payload) + 64:
            raise CorruptError(f"a payload of {len(file.payload)} bytes has not {count} symbols")
        first, last = self.latents.qualities
        if not first <= file.quality <= last:
            raise CorruptError(f"the file claims quality {file.quality}, not {first} to {last}")
        decoder = SymbolDecoder(file.payload)
        coder: SymbolCoder = reading(decoder)
        if audit is not None:
            coder = Audit(coder)
            audit.append(coder)
        symbols = self.latents.code(coder, grids, file.quality, None, coded)
        decoder.finish()
        if decoder.symbol_crc & 0xFFFF != file.symbol_crc:
            raise DesyncError("the decoded symbols differ from the encoder's")
        return symbols

    def _signals(
        self, file: Archive, symbols: np.ndarray, grids: Sequence[tuple[int, ...]]
    ) -> list[Signal]:
        forms: list[dict[str, Any]] = []
        ranges: list[Range] = []
        outs: list[np.ndarray] = []
        for entry in file.entries:
            try:
                form, limits = self.domain.form_and_range(entry.form)
            except DataError as error:
                raise CorruptError(str(error)) from None
            forms.append(form)
            ranges.append(limits)
            outline = entry.outline
            shape = (outline.items, *outline.grid, outline.channels)
            outs.append(np.empty(shape, outline.dtype))
        at = 0
        with own_torch_state():
            for block in self._network.blocks(grids):
                count = sum(piece.stop - piece.start for piece in block)
                z = self.latents.dequantize(symbols[at : at + count], file.quality)
                self._network.restore(outs, ranges, z, block)
                at += count
        for entry, out in zip(file.entries, outs, strict=True):
            if entry.mask is not None:
                out[~entry.mask] = np.nan if out.dtype.kind == "f" else 0
        return [
            Signal(out, entry.mask, entry.outline.kind, form)
            for entry, out, form in zip(file.entries, outs, forms, strict=True)
        ]

    def save(self, path: Path | str) -> None:
        """Write the codec to one safetensors file; raises `DataError` if it cannot."""
        write_signal_codec(Path(path), self._stored())

    @classmethod
    def load(cls, path: Path | str, *, models: Models = IMPLICIT) -> "SignalCodec":
        """Read a codec file; `models` is the table that knows its network, by name.

        Raises `CheckpointError` if the file is missing, damaged, or of a network not in the table.
        """
        path = Path(path)
        content = read_signal_codec(path)
        try:
            config = content.config
            domain = domain_of(config)
            with own_torch_state():
                model = model_of(content, domain, models).requires_grad_(False)
            codec = cls(
                model,
                domain,
                latents_of(content),
                steps=int(config["steps"]),
                lmbda=float(config["lmbda"]),
                weight_dtype=content.weight_dtype,
                notes=content.notes,
            )
        except LictorError as error:
            raise CheckpointError(f"{path}: {error}") from error
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
            raise CheckpointError(f"{path}: damaged codec file ({error})") from error
        if codec.fingerprint != content.fingerprint:
            raise CheckpointError(f"{path}: damaged codec file (its fingerprint does not match)")
        return codec

    def _config(self) -> dict[str, Any]:
        domain = asdict(self.domain)
        domain["grid"], clip = list(self.domain.grid), self.domain.clip
        domain["clip"] = None if clip is None else list(clip)
        return {
            "model": self._model.name,
            "hyperparameters": self._model.hyperparameters,
            "domain": domain,
            "latents": latents_config(self.latents),
            "steps": self._steps,
            "lmbda": self._lmbda,
        }

    def _stored(self) -> Stored:
        weights = self._model.state_dict()
        return content_of(self._config(), weights, self.latents, self._weight_dtype, self.notes)


def _training_latents(
    network: Network, domain: Domain, signals: Sequence[Signal], steps: int
) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Return the latents of all patches of signals, and their grids."""
    if not signals:
        raise DataError("a codec is frozen with training signals, and there is none")
    for signal in signals:
        domain.outline(signal)
    ranges = [domain.range_of(signal) for signal in signals]
    grids = grids_of(domain, [signal.samples.shape for signal in signals])
    with own_torch_state():
        found = [
            network.latents(*network.cut(signals, ranges, block), steps).numpy()
            for block in network.blocks(grids)
        ]
    return np.concatenate(found).astype(np.float64), grids


def _needed(mask: np.ndarray | None) -> np.ndarray | None:
    """Return a mask, or None where there is a value everywhere."""
    return None if mask is None or mask.all() else mask


def _bytes_of_payload(file: Archive) -> int:
    """Return what a payload takes in a file, where its counts may be left out."""
    empty = len(Archive.to_bytes(_without_payload(file)))
    return len(file.to_bytes()) - empty


def _without_payload(file: Archive) -> Archive:
    return Archive(file.fingerprint, file.quality, file.entries, b"", file.symbol_crc, file.named)


def _file_bytes(bits: float, around: int) -> float:
    """Return the expected size of a file whose symbols cost `bits`, `around` bytes beside them."""
    payload = bits / 8
    return payload + expected_overhead_bytes(choose_lanes(int(payload))) + around
