"""Latents of patches to symbols and back: steps, predictions, contexts, rows; integers throughout.

A symbol is `round((z - mu) / step)`; the step of a dimension is `step_0 * 2^(-q / 4)` at quality q.
Patches are coded in waves (`order`), dimension by dimension; what is coded is a symbol less its
prediction (`prediction`), under a row that its context names (`contexts`). Encoder and decoder
walk through the same function, so that they cannot differ. Only `dequantize` is floating point, and
nothing that is decoded depends on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from lictor.codecs.signals import contexts as ctx
from lictor.codecs.signals import prediction as pre
from lictor.codecs.signals.order import Grid, Plan, Wave, groups, plan
from lictor.coding.stream import SymbolDecoder, SymbolEncoder
from lictor.coding.tables import CdfTables
from lictor.errors import CheckpointError, ConfigError, CorruptError, DataError

STEPS_PER_OCTAVE = 4
MAX_SYMBOL = 1 << 20


@runtime_checkable
class SymbolCoder(Protocol):
    """Writes symbols, or reads them; gives them back either way."""

    def __call__(
        self,
        symbols: Int[np.ndarray, " m"] | None,
        indexes: Int[np.ndarray, " m"],
        tables: CdfTables,
    ) -> Int[np.ndarray, " m"]:
        """Code the next symbols under rows of tables; `symbols` are None when they are read."""
        ...


def writing(encoder: SymbolEncoder) -> SymbolCoder:
    """Return a coder that puts symbols into a stream."""

    def code(symbols: np.ndarray | None, indexes: np.ndarray, tables: CdfTables) -> np.ndarray:
        assert symbols is not None
        encoder.put(symbols, indexes, tables)
        return symbols

    return code


def reading(decoder: SymbolDecoder) -> SymbolCoder:
    """Return a coder that gets symbols out of a stream."""

    def code(symbols: np.ndarray | None, indexes: np.ndarray, tables: CdfTables) -> np.ndarray:
        del symbols
        return decoder.get(indexes, tables).astype(np.int64)

    return code


class Audit:
    """A coder that adds up what symbols cost; in front of a stream's reader if it has one."""

    def __init__(self, inner: SymbolCoder | None = None):
        self.bits = 0.0
        self._inner = inner

    def __call__(
        self, symbols: np.ndarray | None, indexes: np.ndarray, tables: CdfTables
    ) -> np.ndarray:
        """Count the bits of the next symbols."""
        if self._inner is not None:
            symbols = self._inner(symbols, indexes, tables)
        assert symbols is not None
        self.bits += float(tables.bits(symbols, indexes).sum())
        return symbols


@runtime_checkable
class LatentCoding(Protocol):
    """A quantizer with the probabilities of its symbols."""

    @property
    def dimensions(self) -> int:
        """Count of latents of a patch."""
        ...

    @property
    def qualities(self) -> tuple[int, int]:
        """Lowest and highest quality; more is finer."""
        ...

    def quantize(self, z: Float[np.ndarray, "n d"], q: int) -> Int[np.ndarray, "n d"]:
        """Return the symbols nearest to latents."""
        ...

    def dequantize(self, symbols: Int[np.ndarray, "n d"], q: int) -> Float[np.ndarray, "n d"]:
        """Return the latents, float32, that symbols stand for."""
        ...

    def code(
        self,
        coder: SymbolCoder,
        grids: Sequence[Grid],
        q: int,
        symbols: Int[np.ndarray, "n d"] | None = None,
        coded: Bool[np.ndarray, " n"] | None = None,
    ) -> Int[np.ndarray, "n d"]:
        """Code the symbols of all patches of grids, or read them where they are None.

        Patches that are not `coded` have symbols 0 and take no bits; None: all are.
        """
        ...


def estimate_bits(
    latents: LatentCoding,
    symbols: Int[np.ndarray, "n d"],
    grids: Sequence[Grid],
    q: int,
    coded: Bool[np.ndarray, " n"] | None = None,
) -> float:
    """Return what the symbols of grids cost, in bits, by the tables."""
    audit = Audit()
    latents.code(audit, grids, q, symbols, coded)
    return audit.bits


def check_quality(latents: LatentCoding, q: int) -> None:
    """Raise `ConfigError` for a quality that a codec has no tables for."""
    first, last = latents.qualities
    if not first <= q <= last:
        raise ConfigError(f"quality {q} is not one of this codec's, {first} to {last}")


@dataclass(frozen=True, eq=False)
class StepLatents:
    """Latents in uniform steps under rows chosen by context.

    Args:
        means: float32 `[d]`, what symbol 0 stands for.
        steps: float32 `[d]`, positive, the steps at quality 0.
        qualities: lowest and highest quality that there are rows for.
        tables: rows that are symmetrical about 0.
        rows: uint8 `[qualities, 2, d, contexts]`, the table row; second axis: with neighbours.
        factors: int32 `[qualities, d]`, positive, what turns symbols into sizes.
        features: int16 `[2, d, 5]`, non-negative, the weights of sizes in a context.
        prediction: weights of neighbours and earlier symbols.
        predicted: bool `[qualities, d]`, which dimensions are predicted.
    """

    means: np.ndarray
    steps: np.ndarray
    qualities: tuple[int, int]
    tables: CdfTables
    rows: np.ndarray
    factors: np.ndarray
    features: np.ndarray
    prediction: pre.Prediction
    predicted: np.ndarray

    def __post_init__(self) -> None:
        count, d = self.qualities[1] - self.qualities[0] + 1, len(self.means)
        shapes = {
            "means": (np.float32, (d,)),
            "steps": (np.float32, (d,)),
            "rows": (np.uint8, (count, 2, d, ctx.NUM_CONTEXTS)),
            "factors": (np.int32, (count, d)),
            "features": (np.int16, (2, d, ctx.NUM_FEATURES)),
            "predicted": (np.bool_, (count, d)),
        }
        for name, (dtype, shape) in shapes.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape or not d or count < 1:
                raise CheckpointError(
                    f"latents: {name} must be {np.dtype(dtype)} {shape}, "
                    f"not {array.dtype} {array.shape}"
                )
        if not (np.isfinite(self.means).all() and np.isfinite(self.steps).all()):
            raise CheckpointError("latents: means and steps must be finite")
        if self.steps.min() <= 0 or self.factors.min() < 1 or self.features.min() < 0:
            raise CheckpointError(
                "latents: steps and factors must be positive, features not below 0"
            )
        if self.rows.max() >= len(self.tables.lengths):
            raise CheckpointError("latents: a row is not in the tables")
        self.prediction.check(d)

    @property
    def dimensions(self) -> int:
        """Count of latents of a patch."""
        return len(self.means)

    def steps_at(self, q: int) -> Float[np.ndarray, " d"]:
        """Return the steps of a quality."""
        return self.steps.astype(np.float64) * 2.0 ** (-q / STEPS_PER_OCTAVE)

    def quantize(self, z: Float[np.ndarray, "n d"], q: int) -> Int[np.ndarray, "n d"]:
        """Return the symbols nearest to latents; raises `DataError` if one is not finite."""
        check_quality(self, q)
        if not np.isfinite(z).all():
            raise DataError("a latent is not finite: its fit diverged")
        scaled = (z.astype(np.float64) - self.means) / self.steps_at(q)
        return np.clip(np.rint(scaled), -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)

    def dequantize(self, symbols: Int[np.ndarray, "n d"], q: int) -> Float[np.ndarray, "n d"]:
        """Return the latents, float32, that symbols stand for."""
        check_quality(self, q)
        return (symbols * self.steps_at(q) + self.means).astype(np.float32)

    def code(
        self,
        coder: SymbolCoder,
        grids: Sequence[Grid],
        q: int,
        symbols: Int[np.ndarray, "n d"] | None = None,
        coded: Bool[np.ndarray, " n"] | None = None,
    ) -> Int[np.ndarray, "n d"]:
        """Code the symbols of all patches of grids, or read them where they are None.

        Args:
            coder: what writes or reads.
            grids: of the same number of axes, the items first.
            q: quality.
            symbols: those of the patches of all grids one after the other, each in C order.
            coded: patches that are not have symbols 0 and take no bits; None: all are.

        Raises:
            CorruptError: a symbol that is read is impossible.
        """
        check_quality(self, q)
        walk, parts, at = _Walk(self, coder, q), [], 0
        for chosen in groups(grids):
            order = plan(grids[chosen])
            here = slice(at, at + len(order.places))
            known = None if symbols is None else symbols[here][order.places].T
            live = None if coded is None else coded[here][order.places]
            parts.append(_unsorted(walk.group(order, known, live), order))
            at = here.stop
        return np.concatenate(parts) if parts else np.zeros((0, self.dimensions), np.int32)

    def circumstances(
        self, symbols: Int[np.ndarray, "n d"], grids: Sequence[Grid], q: int
    ) -> tuple[Int[np.ndarray, "n d"], Int[np.ndarray, "n d"]]:
        """Return the prediction of each symbol and the table row of what is left, as coded."""
        walk = _Walk(self, Audit(), q)
        guesses, rows, at = [], [], 0
        for chosen in groups(grids):
            order = plan(grids[chosen])
            here = slice(at, at + len(order.places))
            walk.trace = np.zeros((2, self.dimensions, len(order.places)), np.int64)
            walk.group(order, symbols[here][order.places].T, None)
            guesses.append(_unsorted(walk.trace[0], order))
            rows.append(_unsorted(walk.trace[1], order))
            at = here.stop
        return np.concatenate(guesses), np.concatenate(rows)


class _Walk:
    """One pass over patches at one quality."""

    def __init__(self, latents: StepLatents, coder: SymbolCoder, q: int):
        at = q - latents.qualities[0]
        self._rows, self._factors = latents.rows[at].astype(np.int32), latents.factors[at]
        self._features, self._tables = latents.features, latents.tables
        self._prediction, self._predicted = latents.prediction, latents.predicted[at]
        self._coder = coder
        self.trace: np.ndarray | None = None  # predictions and rows, if somebody wants to know

    def group(
        self, order: Plan, known: np.ndarray | None, live: np.ndarray | None
    ) -> Int[np.ndarray, "d n"]:
        """Code one group of patches; all arrays are in coding order."""
        d, n = self._rows.shape[1], len(order.places)
        # int32 for all that is as large as the signal; a wave's sums are int64.
        found, sizes = np.zeros((d, n), np.int32), np.zeros((d, n), np.int32)
        for wave in order.waves:
            self._wave(wave, order.neighbours, known, live, found, sizes)
        return found

    def _wave(
        self,
        wave: Sequence[Wave],
        neighbours: np.ndarray,
        known: np.ndarray | None,
        live: np.ndarray | None,
        found: np.ndarray,
        sizes: np.ndarray,
    ) -> None:
        start, stop = wave[0].start, wave[-1].stop
        here = slice(start, stop)
        count, d = stop - start, len(found)
        level = np.zeros(count, np.intp)
        about, overall = np.zeros((d, count), np.int64), np.zeros(count, np.int64)
        for part in wave:
            if any(part.present):
                inner = slice(part.start - start, part.stop - start)
                level[inner] = 1
                about[:, inner], overall[inner] = ctx.around(sizes, part, neighbours)
        predictions = [self._near(part, neighbours, found) for part in wave]
        energy = ctx.Energy(count)
        for i in range(d):
            guess = self._guess(wave, predictions, found, i)
            context = self._contexts(i, level, (energy.slow, energy.fast, about[i], overall))
            rest = None if known is None else known[i, here] - guess
            rows = self._rows[level, i, context]
            if self.trace is not None:
                self.trace[:, i, here] = guess, rows
            if live is None:
                rest = self._coder(rest, rows, self._tables)
            else:
                rest = self._sparse(rest, rows, guess, live[here])
            found[i, here] = rest + guess
            sizes[i, here] = ctx.sizes_of(rest, self._factors[i : i + 1])
            energy.add(sizes[i, here])
        if np.abs(found[:, here]).max(initial=0) > MAX_SYMBOL:
            raise CorruptError("a symbol is larger than any that an encoder writes")

    def _sparse(
        self, rest: np.ndarray | None, rows: np.ndarray, guess: np.ndarray, live: np.ndarray
    ) -> np.ndarray:
        """Code the patches that are coded; the others have symbol 0."""
        told = self._coder(None if rest is None else rest[live], rows[live], self._tables)
        result = -guess
        result[live] = told
        return result

    def _near(
        self, part: Wave, neighbours: np.ndarray, found: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return what neighbours say of a range, and the weights of its own symbols."""
        key = self._prediction.chosen(part.present) if self._predicted.any() else None
        near = self._prediction.near(found, part, neighbours)
        if key is None or near is None:
            return None
        return near, self._prediction.weights[key].own.astype(np.int64)

    def _guess(
        self,
        wave: Sequence[Wave],
        predictions: Sequence[tuple[np.ndarray, np.ndarray] | None],
        found: np.ndarray,
        i: int,
    ) -> np.ndarray:
        start = wave[0].start
        guess = np.zeros(wave[-1].stop - start, np.int64)
        if not self._predicted[i]:
            return guess
        for part, told in zip(wave, predictions, strict=True):
            if told is not None:
                near, own = told
                total = near[i] + own[i, :i] @ found[:i, part.start : part.stop]
                guess[part.start - start : part.stop - start] = pre.rounded(total, MAX_SYMBOL)
        return guess

    def _contexts(self, i: int, level: np.ndarray, features: tuple[np.ndarray, ...]) -> np.ndarray:
        weights = self._features[:, i]
        if not level.any():
            return ctx.contexts_of(features, weights[0])
        near = ctx.contexts_of(features, weights[1])
        if level.all():
            return near
        return np.where(level, near, ctx.contexts_of(features, weights[0]))


def _unsorted(found: Int[np.ndarray, "d n"], order: Plan) -> Int[np.ndarray, "n d"]:
    """Return what is in coding order in the order of the grids."""
    result = np.empty(found.shape[::-1], found.dtype)
    result[order.places] = found.T
    return result
