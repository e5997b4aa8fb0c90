"""Freezing latents: means, weights and table rows by the latents of training signals."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from lictor.codecs.signals import contexts as ctx
from lictor.codecs.signals import prediction as pre
from lictor.codecs.signals.latents import MAX_SYMBOL, StepLatents
from lictor.codecs.signals.order import Grid, Plan, groups, plan
from lictor.coding.tables import CdfTables
from lictor.errors import ConfigError, DataError
from lictor.priors.conditional import scale_table
from lictor.priors.families import Gaussian, Laplace, table_rows

# Qualities whose symbols tell how much the features of contexts weigh.
_FITTED_AT = 3
# What prediction must save for a dimension: part of its bits, and bits.
_LEAST_SAVED, _LEAST_BITS = 0.005, 16
_MOST_COUNTED = 1 << 12  # larger symbols count as this when rows are chosen


@functools.cache
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


EVERYTHING = Modelling()


def freeze_latents(
    latents: Float[np.ndarray, "n d"],
    grids: Sequence[Grid],
    *,
    steps: Float[np.ndarray, " d"],
    qualities: tuple[int, int],
    modelling: Modelling = EVERYTHING,
) -> StepLatents:
    """Choose means, weights and rows by training latents.

    Args:
        latents: of all patches of the grids, one grid after the other, each in C order.
        grids: patches along each axis, the items first.
        steps: at quality 0, positive; see `balanced_steps`.
        qualities: lowest and highest that files may have.
        modelling: what is used; everything if not told.

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
        most = int(min(max(np.abs(symbols).max(), np.abs(rest).max()), _MOST_COUNTED))
        costs = ctx.symbol_costs(self.blank.tables, most)
        zero = np.zeros(symbols.shape[1], np.int64)
        for i in range(len(symbols)):
            bits = [
                (ctx.histograms(np.abs(x[i]), zero, 1, most) @ costs.T).min()
                for x in (symbols, rest)
            ]
            self.blank.predicted[at, i] = bits[1] < (1 - _LEAST_SAVED) * bits[0] - _LEAST_BITS
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
        most = int(min(np.abs(rest).max(), _MOST_COUNTED))
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
