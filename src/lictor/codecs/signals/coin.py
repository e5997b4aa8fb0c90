"""COIN as a codec: a network of its own for each item, whose weights are the file.

It knows nothing but the sizes of its networks and the length of a fit, so it needs no codec file.
Weights are rounded to one step; each tensor's integers are coded under the Laplace row that is the
shortest for them, and which row that is goes before them.

Source: Dupont et al., "COIN" (arXiv:2103.03123), whose official code rounds weights to 16 bits and
writes no file; steps and coding are ours.
"""

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lictor.codecs.signals.contexts import symbol_costs
from lictor.codecs.signals.domain import Domain
from lictor.codecs.signals.network import own_torch_state
from lictor.coding.archive import FINGERPRINT_BYTES, MAX_SAMPLES, Archive, Entry
from lictor.coding.stream import SymbolDecoder, SymbolEncoder
from lictor.coding.tables import CdfTables, build_tables
from lictor.config import write
from lictor.data.signals.signal import Signal
from lictor.errors import ConfigError, CorruptError, DataError, DesyncError, ModelMismatchError
from lictor.implicit.coin import CoinFit, CoinSettings, coin_network, decode_coin, fit_coin
from lictor.implicit.coordinates import COORDINATES
from lictor.priors.conditional import scale_table
from lictor.priors.families import Laplace, table_rows

QUALITIES = (0, 72)
_STEPS_PER_OCTAVE = 4
_MOST_COUNTED = 1 << 12
_MOST_SYMBOL = 1 << 24
# Activations of all items that are fitted at once.
_FITTED_AT_ONCE = 1 << 24

Weights = Mapping[str, Tensor]


@functools.cache
def _rows() -> CdfTables:
    return table_rows(Laplace(), scale_table(family=Laplace()).tolist())


@functools.cache
def _row_numbers(count: int) -> CdfTables:
    """Return the table of a row's number: each is as likely."""
    return build_tables([np.ones(count)], np.zeros(1), np.zeros(1, np.int64))


@dataclass(frozen=True)
class CoinCodec:
    """Turns signals into files of network weights and back.

    Args:
        settings: sizes of the networks.
        fit: how long each is fitted.
    """

    settings: CoinSettings = field(default_factory=CoinSettings)
    fit: CoinFit = field(default_factory=CoinFit)

    @property
    def name(self) -> str:
        """Say which sizes, in a table."""
        return f"coin {self.settings.layers - 1}x{self.settings.width}"

    @property
    def fingerprint(self) -> bytes:
        """Tell files of these sizes from others."""
        text = json.dumps(["coin 1", write(self.settings)], sort_keys=True)
        return hashlib.sha256(text.encode()).digest()[:8]

    def fitted(self, signals: Sequence[Signal]) -> list[Weights]:
        """Fit a network to each item of each signal: what takes the time of encoding.

        Raises `DataError` on signals that there is nothing to fit in.
        """
        found: list[Weights] = []
        for signal in signals:
            domain = _domain_of(signal)
            domain.outline(signal)
            limits = domain.range_of(signal)
            points = COORDINATES["pixels"](signal.grid)
            at_once = max(1, _FITTED_AT_ONCE // (len(points) * self.settings.width))
            for first in range(0, len(signal), at_once):
                here = slice(first, first + at_once)
                values = domain.normalised(signal.samples[here], limits)
                y = torch.from_numpy(values.reshape(len(values), len(points), -1))
                mask = None
                if signal.mask is not None:
                    mask = torch.from_numpy(signal.mask[here].reshape(len(values), -1))
                    y = torch.where(mask[..., None], y, 0.0)
                with own_torch_state():
                    weights = fit_coin(y, points, self.settings, self.fit, mask)
                found += [{k: w[i] for k, w in weights.items()} for i in range(len(values))]
        return found

    def encode(
        self,
        signals: Sequence[Signal],
        q: int,
        *,
        names: Sequence[str] | None = None,
        fitted: Sequence[Weights] | None = None,
    ) -> bytes:
        """Compress signals into one file.

        Args:
            signals: one; more, if they have names.
            q: weights are rounded to steps of `2^(-q / 4)`; 0 to 72.
            names: of the signals in an archive; None: a file of one signal.
            fitted: what `fitted` found for these signals, to use it at several qualities.

        Raises:
            DataError: a signal has nothing to fit in, or names are missing.
            ConfigError: another quality.
        """
        if not QUALITIES[0] <= q <= QUALITIES[1]:
            raise ConfigError(f"quality {q} is none of {QUALITIES[0]} to {QUALITIES[1]}")
        if not signals or len(signals) != (1 if names is None else len(names)):
            raise DataError(f"{len(signals)} signals: give one, or as many names for an archive")
        weights = self.fitted(signals) if fitted is None else fitted
        encoder, rows = SymbolEncoder(), _rows()
        costs, step = symbol_costs(rows, _MOST_COUNTED), _step(q)
        for item in weights:
            for tensor in item.values():
                symbols = np.rint(tensor.double().numpy().ravel() / step)
                symbols = np.clip(symbols, -_MOST_SYMBOL, _MOST_SYMBOL).astype(np.int32)
                counted = np.minimum(np.abs(symbols), _MOST_COUNTED)
                row = int(costs[:, counted].sum(1).argmin())
                zero = np.zeros(1, np.int32)
                encoder.put(np.array([row], np.int32), zero, _row_numbers(len(costs)))
                encoder.put(symbols, np.full(len(symbols), row, np.int32), rows)
        entries = [
            _entry(signal, "" if names is None else names[number])
            for number, signal in enumerate(signals)
        ]
        crc = encoder.symbol_crc
        payload = encoder.finish()
        return Archive(self.fingerprint, q, entries, payload, crc, names is not None).to_bytes()

    def decode(self, data: bytes, *, max_samples: int = MAX_SAMPLES) -> list[Signal]:
        """Restore the signals of a file.

        Raises a `BitstreamError`: `ModelMismatchError` for networks of other sizes, else what is
        damaged.
        """
        file = Archive.from_bytes(data, max_samples=max_samples)
        if file.fingerprint != self.fingerprint[:FINGERPRINT_BYTES]:
            raise ModelMismatchError(f"made by another codec than {self.name}")
        if not QUALITIES[0] <= file.quality <= QUALITIES[1]:
            raise CorruptError(f"the file claims quality {file.quality}")
        decoder = SymbolDecoder(file.payload)
        symbols = [
            [self._read(decoder, len(entry.outline.grid), entry.outline.channels)
             for _ in range(entry.outline.items)]
            for entry in file.entries
        ]  # fmt: skip
        decoder.finish()
        if decoder.symbol_crc & 0xFFFF != file.symbol_crc:
            raise DesyncError("the decoded symbols differ from the encoder's")
        step = _step(file.quality)
        return [
            self._restored(entry, list(_stacked(items, step)))
            for entry, items in zip(file.entries, symbols, strict=True)
        ]

    def _read(self, decoder: SymbolDecoder, axes: int, channels: int) -> dict[str, np.ndarray]:
        """Read the integers of one item's weights."""
        found, rows = {}, _rows()
        for name, shape in self._shapes(axes, channels).items():
            zero = np.zeros(1, np.int32)
            (row,) = decoder.get(zero, _row_numbers(len(rows.lengths))).tolist()
            if not 0 <= row < len(rows.lengths):
                raise CorruptError(f"the file names row {row} of {len(rows.lengths)}")
            count = math.prod(shape)
            found[name] = decoder.get(np.full(count, row, np.int32), rows).reshape(shape)
        return found

    def _shapes(self, axes: int, channels: int) -> dict[str, tuple[int, ...]]:
        with torch.device("meta"):
            network = coin_network(self.settings, axes, channels)
        return {name: tuple(w.shape) for name, w in network.named_parameters()}

    def _restored(self, entry: Entry, items: Sequence[Weights]) -> Signal:
        outline = entry.outline
        domain = _domain(outline.kind, outline.channels, outline.grid)
        try:
            form, limits = domain.form_and_range(entry.form)
        except DataError as error:
            raise CorruptError(str(error)) from None
        points = COORDINATES["pixels"](outline.grid)
        shape = (*outline.grid, outline.channels)
        out = np.empty((outline.items, *shape), outline.dtype)
        for number, weights in enumerate(items):
            with own_torch_state():
                values = decode_coin(
                    {k: w[None] for k, w in weights.items()}, points, self.settings
                )
            out[number] = domain.samples(values.numpy().reshape(shape), out.dtype, limits)
        if entry.mask is not None:
            out[~entry.mask] = np.nan if out.dtype.kind == "f" else 0
        return Signal(out, entry.mask, outline.kind, form)


def _domain(kind: str, channels: int, grid: tuple[int, ...]) -> Domain:
    """Return what there is to know of a signal; the range of its values is its own but for some."""
    low, high = (-1.0, 1.0) if kind == "audio" else (0.0, 1.0)
    own_range = kind not in ("image", "audio")
    return Domain(kind, channels, grid, whole=True, low=low, high=high, own_range=own_range)


def _domain_of(signal: Signal) -> Domain:
    return _domain(signal.kind, signal.channels, signal.grid)


def _entry(signal: Signal, name: str) -> Entry:
    domain = _domain_of(signal)
    form = domain.stored_form(signal.form, domain.range_of(signal))
    mask = None if signal.mask is None or signal.mask.all() else signal.mask
    return Entry(domain.outline(signal), form, mask, name)


def _step(q: int) -> float:
    return 2.0 ** (-q / _STEPS_PER_OCTAVE)


def _stacked(items: Sequence[Mapping[str, np.ndarray]], step: float) -> Iterator[Weights]:
    for item in items:
        yield {name: torch.from_numpy(s * step).float() for name, s in item.items()}
