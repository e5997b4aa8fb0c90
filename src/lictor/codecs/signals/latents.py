"""Latents of patches to symbols and back: steps, predictions, contexts, rows; integers throughout.

A symbol is `round((z - mu) / step)`; the step of a dimension is `step_0 * 2^(-q / 4)` at quality q.
Patches are coded in waves (`order`), dimension by dimension; what is coded is a symbol less its
prediction (`prediction`), under a row that its context names (`contexts`). Encoder and decoder
walk through the same function, so that they cannot differ. Only `dequantize` is floating point, and
nothing that is decoded depends on it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from lictor.codecs.signals import contexts as ctx
from lictor.codecs.signals import prediction as pre
from lictor.codecs.signals.order import Grid, Plan, Wave, groups, plan
from lictor.coding.stream import SymbolDecoder, SymbolEncoder
from lictor.coding.tables import CdfTables
from lictor.errors import ConfigError, CorruptError, DataError
from lictor.priors.conditional import scale_table
from lictor.priors.families import Gaussian, Laplace, table_rows

STEPS_PER_OCTAVE = 4
MAX_SYMBOL = 1 << 20
# Qualities whose symbols tell how much the features of contexts weigh.
_FITTED_AT = 3


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

    @property
    def dimensions(self) -> int:
        """Count of latents of a patch."""
        return len(self.means)

    def check_quality(self, q: int) -> None:
        """Raise `ConfigError` for a quality that there are no rows for."""
        first, last = self.qualities
        if not first <= q <= last:
            raise ConfigError(f"quality {q} is not one of this codec's, {first} to {last}")

    def _steps(self, q: int) -> Float[np.ndarray, " d"]:
        return self.steps.astype(np.float64) * 2.0 ** (-q / STEPS_PER_OCTAVE)

    def quantize(self, z: Float[np.ndarray, "n d"], q: int) -> Int[np.ndarray, "n d"]:
        """Return the symbols nearest to latents; raises `DataError` if one is not finite."""
        self.check_quality(q)
        if not np.isfinite(z).all():
            raise DataError("a latent is not finite: the fit diverged; try less effort")
        scaled = (z.astype(np.float64) - self.means) / self._steps(q)
        return np.clip(np.rint(scaled), -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)

    def dequantize(self, symbols: Int[np.ndarray, "n d"], q: int) -> Float[np.ndarray, "n d"]:
        """Return the latents, float32, that symbols stand for."""
        self.check_quality(q)
        return (symbols * self._steps(q) + self.means).astype(np.float32)

    def code(
        self,
        coder: SymbolCoder,
        grids: Sequence[Grid],
        q: int,
        symbols: Int[np.ndarray, "n d"] | None = None,
    ) -> Int[np.ndarray, "n d"]:
        """Code the symbols of all patches of grids, or read them where they are None.

        Args:
            coder: what writes or reads.
            grids: of the same number of axes, the items first.
            q: quality.
            symbols: those of the patches of all grids one after the other, each in C order.

        Raises:
            CorruptError: a symbol that is read is impossible.
        """
        self.check_quality(q)
        walk, parts, at = _Walk(self, coder, q), [], 0
        for chosen in groups(grids):
            order = plan(grids[chosen])
            count = len(order.places)
            here = None if symbols is None else symbols[at : at + count]
            parts.append(walk.group(order, here))
            at += count
        return np.concatenate(parts) if parts else np.zeros((0, self.dimensions), np.int32)

    def estimate_bits(
        self, symbols: Int[np.ndarray, "n d"], grids: Sequence[Grid], q: int
    ) -> float:
        """Return what the symbols of grids cost, in bits, by the tables."""
        audit = Audit()
        self.code(audit, grids, q, symbols)
        return audit.bits


class _Walk:
    """One pass over patches at one quality."""

    def __init__(self, latents: StepLatents, coder: SymbolCoder, q: int):
        at = q - latents.qualities[0]
        self._rows, self._factors = latents.rows[at].astype(np.int32), latents.factors[at]
        self._features, self._tables = latents.features, latents.tables
        self._prediction, self._predicted = latents.prediction, latents.predicted[at]
        self._coder = coder

    def group(self, order: Plan, symbols: Int[np.ndarray, "n d"] | None) -> np.ndarray:
        """Code one group of patches."""
        d, n = self._rows.shape[1], len(order.places)
        known = None if symbols is None else symbols[order.places].T.astype(np.int64)
        found, sizes = np.zeros((d, n), np.int64), np.zeros((d, n), np.int64)
        for wave in order.waves:
            self._wave(wave, order.neighbours, known, found, sizes)
        result = np.empty((n, d), np.int32)
        result[order.places] = found.T
        return result

    def _wave(
        self,
        wave: Sequence[Wave],
        neighbours: np.ndarray,
        known: np.ndarray | None,
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
            rest = self._coder(rest, self._rows[level, i, context], self._tables)
            found[i, here] = rest + guess
            sizes[i, here] = ctx.sizes_of(rest, self._factors[i])
            energy.add(sizes[i, here])
        if np.abs(found[:, here]).max(initial=0) > MAX_SYMBOL:
            raise CorruptError("a symbol is larger than any that an encoder writes")

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


def all_rows() -> CdfTables:
    """Return the rows that freezing chooses from: 64 Laplace scales, then 64 Gaussian ones."""
    parts = [table_rows(f, scale_table(family=f).tolist()) for f in (Laplace(), Gaussian())]
    width = max(part.cdf.shape[1] for part in parts)
    cdf = [np.pad(p.cdf, ((0, 0), (0, width - p.cdf.shape[1])), mode="edge") for p in parts]
    return CdfTables(
        np.concatenate(cdf),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate([part.offset for part in parts]),
    )


def _used(tables: CdfTables, rows: np.ndarray) -> tuple[CdfTables, np.ndarray]:
    """Return the rows that are used, and their new numbers."""
    kept, numbers = np.unique(rows, return_inverse=True)
    width = int(tables.lengths[kept].max()) + 1
    fewer = CdfTables(tables.cdf[kept, :width].copy(), tables.lengths[kept], tables.offset[kept])
    return fewer, numbers.reshape(rows.shape).astype(np.uint8)


@dataclass(frozen=True)
class Modelling:
    """What freezing may use: contexts, and predictions from neighbours; both by default."""

    contexts: bool = True
    prediction: bool = True


def freeze_latents(
    latents: Float[np.ndarray, "n d"],
    grids: Sequence[Grid],
    *,
    steps: Float[np.ndarray, " d"],
    qualities: tuple[int, int],
    modelling: Modelling = Modelling(),  # noqa: B008 - frozen, and holds two flags
) -> StepLatents:
    """Choose means, weights and rows by training latents.

    Args:
        latents: of all patches of the grids, one grid after the other, each in C order.
        grids: patches along each axis, the items first.
        steps: at quality 0, positive; see `balanced_steps`.
        qualities: lowest and highest that files may have.

    Raises:
        DataError: there are no latents, not as many as the grids say, or not finite ones.
        ConfigError: a step is not positive, or there is no quality.
    """
    if not len(latents) or len(latents) != sum(map(math.prod, grids)):
        raise DataError(f"{len(latents)} latents do not fill grids {list(grids)[:4]}")
    if not np.isfinite(latents).all():
        raise DataError("the training latents are not all finite")
    if not (np.isfinite(steps) & (steps > 0)).all() or qualities[0] > qualities[1]:
        raise ConfigError(f"steps must be positive and qualities ascend, not {qualities}")
    order = _joined([plan(grids[chosen]) for chosen in groups(grids)])
    means = latents.mean(0, dtype=np.float64).astype(np.float32)
    exact = steps.astype(np.float32)
    centred = ((latents[order.places].astype(np.float64) - means) / exact).T
    chosen = pre.fit_prediction(centred, order) if modelling.prediction else pre.no_prediction()
    return _Freezer(means, exact, qualities, order, chosen, modelling).freeze(latents)


def _joined(plans: Sequence[Plan]) -> Plan:
    """Return plans one after the other as one."""
    places, neighbours, waves, total = [], [], [], 0
    for one in plans:
        places.append(one.places + total)
        neighbours.append(np.where(one.neighbours >= 0, one.neighbours + total, -1))
        waves += [
            [replace(w, start=w.start + total, stop=w.stop + total) for w in wave]
            for wave in one.waves
        ]
        total += len(one.places)
    return Plan(np.concatenate(places), np.concatenate(neighbours, 1), waves)


class _Freezer:
    """Chooses rows for all qualities, with what does not depend on quality chosen before."""

    def __init__(
        self,
        means: np.ndarray,
        steps: np.ndarray,
        qualities: tuple[int, int],
        order: Plan,
        prediction: pre.Prediction,
        modelling: Modelling,
    ):
        d, count = len(means), qualities[1] - qualities[0] + 1
        self.order, self.modelling = order, modelling
        self.blank = StepLatents(
            means, steps, qualities, all_rows(),
            rows=np.zeros((count, 2, d, ctx.NUM_CONTEXTS), np.uint8),
            factors=np.ones((count, d), np.int32),
            features=np.zeros((2, d, ctx.NUM_FEATURES), np.int16),
            prediction=prediction,
            predicted=np.zeros((count, d), bool),
        )  # fmt: skip

    def freeze(self, latents: np.ndarray) -> StepLatents:
        first, last = self.blank.qualities
        rests = {}
        fit = ctx.FeatureFit.empty(self.blank.dimensions)
        for q in range(first, last + 1):
            rests[q] = self._rest(latents, q)
        for q in np.unique(np.linspace(first, last, _FITTED_AT + 2)[1:-1].astype(int)).tolist():
            sizes = ctx.sizes_of(rests[q], self.blank.factors[q - first][:, None])
            fit.add(sizes, *ctx.features_of(sizes, self.order))
        if self.modelling.contexts:
            self.blank.features[:] = fit.weights()
        for q in range(first, last + 1):
            self._rows(rests[q], q - first)
        tables, rows = _used(self.blank.tables, self.blank.rows)
        return replace(self.blank, tables=tables, rows=rows)

    def _rest(self, latents: np.ndarray, q: int) -> np.ndarray:
        """Return what is left of the symbols of a quality once they are predicted, int32 `d n`."""
        symbols = self.blank.quantize(latents, q)[self.order.places].T.astype(np.int64)
        at = q - self.blank.qualities[0]
        rest = symbols - self._guesses(symbols)
        # Where prediction does not shorten the code, it is left out.
        most = int(min(max(np.abs(symbols).max(), np.abs(rest).max()), 1 << 12))
        costs = ctx.symbol_costs(self.blank.tables, most)
        zero = np.zeros(symbols.shape[1], np.int64)
        for i in range(len(symbols)):
            bits = [
                (ctx.histograms(np.abs(x[i]), zero, 1, most) @ costs.T).min()
                for x in (symbols, rest)
            ]
            self.blank.predicted[at, i] = bits[1] < bits[0] - 16
        rest = np.where(self.blank.predicted[at][:, None], rest, symbols)
        self.blank.factors[at] = ctx.factors_of(np.abs(rest).mean(1))
        return rest.astype(np.int32)

    def _guesses(self, symbols: np.ndarray) -> np.ndarray:
        guesses = np.zeros_like(symbols)
        prediction = self.blank.prediction
        for wave in self.order.waves:
            for part in wave:
                key = prediction.chosen(part.present)
                near = prediction.near(symbols, part, self.order.neighbours)
                if key is not None and near is not None:
                    own = prediction.weights[key].own.astype(np.int64)
                    here = slice(part.start, part.stop)
                    guesses[:, here] = pre.rounded(near + own @ symbols[:, here], MAX_SYMBOL)
        return guesses

    def _rows(self, rest: np.ndarray, at: int) -> None:
        """Choose the rows of one quality."""
        sizes = ctx.sizes_of(rest, self.blank.factors[at][:, None])
        features, near = ctx.features_of(sizes, self.order)
        most = int(min(np.abs(rest).max(), 1 << 12))
        costs = ctx.symbol_costs(self.blank.tables, most)
        levels = [~near, near]
        for i in range(len(rest)):
            found = []
            for level, here in enumerate(levels):
                if not self.modelling.contexts:
                    here = np.ones_like(here)
                if here.any():
                    weights = self.blank.features[level, i]
                    label = ctx.contexts_of(tuple(features[:, i, here]), weights)
                    counts = ctx.histograms(
                        np.abs(rest[i, here]), np.broadcast_to(label, here.sum()),
                        ctx.NUM_CONTEXTS, most,
                    )  # fmt: skip
                    found.append((level, ctx.choose_rows(counts, costs)))
            for level, rows in found:
                self.blank.rows[at, level, i] = rows
            if len(found) == 1:
                self.blank.rows[at, :, i] = found[0][1]


def balanced_steps(gains: Float[np.ndarray, " d"], scale: float) -> Float[np.ndarray, " d"]:
    """Return steps that all cost the same error: `scale / sqrt(gain)`.

    Args:
        gains: squared error of a reconstruction for a squared error of 1 of each latent.
        scale: root of the squared error that a step at quality 0 stands for.

    High-rate theory: the best uniform steps all contribute the same distortion.
    """
    floor = max(float(gains.max()) * 1e-6, 1e-30)
    return scale / np.sqrt(np.maximum(gains, floor))
