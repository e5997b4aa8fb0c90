"""Which table row a symbol has: the energy of what is decoded already tells its scale, in integers.

What large latents have in common is their patch: it is bright, loud, full of detail. So the sizes
of a patch's earlier symbols and of its neighbours' tell the size of the next. Each size is divided
by the mean size of its dimension (fixed point, ONE is the mean); four averages of such sizes, added
up with weights of the dimension, make an estimate, and its range is the context.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.optimize import nnls

from lictor.codecs.signals.order import Plan, Wave
from lictor.coding.tables import CdfTables

ONE = 1 << 8
_MOST_SIZE = ONE << 6  # a size counts as 64 times the mean at most
_FACTOR_BITS = 8
_MOST_FACTOR = (1 << 31) - 1
_MOST_SYMBOL = 1 << 20
# Upper ends of the contexts but the last, in units of 1 / ONE.
EDGES = np.array([26, 46, 72, 108, 154, 218, 307, 435, 614, 896, 1408])  # 0.1 to 5.5 times ONE
NUM_CONTEXTS = len(EDGES) + 1
NUM_FEATURES = 5  # one, all earlier symbols, the latest ones, neighbours at this dimension, all
_FAST = 2  # the latest symbols count by 3/4, 9/16, ...

# Freezing: how many symbols of the whole dimension count into each context's choice of a row, and
# how many bits a row of its own must save.
_PSEUDO_SYMBOLS = 8.0
_ROW_BITS = 6.0
_PRIOR_SHARE = 24.0


def factors_of(mean_sizes: Float[np.ndarray, " d"]) -> Int[np.ndarray, " d"]:
    """Return what turns symbols into sizes of mean ONE, in units of 2^-8."""
    wanted = ONE * 2.0**_FACTOR_BITS / np.maximum(mean_sizes, 1e-4)
    return np.clip(np.rint(wanted), 1, _MOST_FACTOR).astype(np.int32)


def sizes_of(symbols: np.ndarray, factors: np.ndarray) -> Int[np.ndarray, "*shape"]:
    """Return the sizes of symbols of the dimensions that the factors are of."""
    size = np.minimum(np.abs(symbols), _MOST_SYMBOL).astype(np.int64) * factors
    return np.minimum(size >> _FACTOR_BITS, _MOST_SIZE)


def around(
    sizes: Int[np.ndarray, "d n"], wave: Wave, neighbours: Int[np.ndarray, "axes n"]
) -> tuple[Int[np.ndarray, "d m"], Int[np.ndarray, " m"]]:
    """Return the mean sizes of the neighbours of a range: about each dimension, and of all."""
    there = [
        sizes[:, neighbours[axis, wave.start : wave.stop]]
        for axis, used in enumerate(wave.present)
        if used
    ]
    total = there[0].copy()
    for one in there[1:]:
        total += one
    smooth = 2 * total
    smooth[1:] += total[:-1]
    smooth[0] += total[0]
    smooth[:-1] += total[1:]
    smooth[-1] += total[-1]
    return smooth // (4 * len(there)), total.sum(0) // (len(there) * len(total))


class Energy:
    """The averages over a patch's earlier symbols, for a range of patches; grows by dimensions."""

    def __init__(self, patches: int):
        self._sum = np.zeros(patches, np.int64)
        self._count = 0
        self.fast = np.full(patches, ONE, np.int64)

    @property
    def slow(self) -> Int[np.ndarray, " m"]:
        """Return the mean size of all earlier symbols; ONE where there is none."""
        return self._sum // self._count if self._count else np.full_like(self._sum, ONE)

    def add(self, sizes: Int[np.ndarray, " m"]) -> None:
        """Take in the sizes of the next dimension."""
        self._sum += sizes
        self._count += 1
        self.fast += (sizes - self.fast) >> _FAST


def contexts_of(
    features: tuple[np.ndarray | int, ...], weights: Int[np.ndarray, " f"]
) -> Int[np.ndarray, " m"]:
    """Return the context of each patch: `features` times `weights` in units of 2^-8."""
    total = np.int64(weights[0]) * ONE
    for feature, weight in zip(features, weights[1:].tolist(), strict=True):
        total = total + feature * np.int64(weight)
    return np.searchsorted(EDGES, np.asarray(total) >> _FACTOR_BITS, side="right")


def features_of(
    sizes: Int[np.ndarray, "d n"], order: Plan
) -> tuple[Int[np.ndarray, "4 d n"], np.ndarray]:
    """Return all features of all symbols, and which patches have neighbours: for freezing."""
    d, n = sizes.shape
    features = np.zeros((NUM_FEATURES - 1, d, n), np.int64)
    energy = Energy(n)
    for i in range(d):
        features[0, i], features[1, i] = energy.slow, energy.fast
        energy.add(sizes[i])
    near = np.asarray((order.neighbours >= 0).any(0))
    for wave in order.waves:
        for part in wave:
            if any(part.present):
                here = slice(part.start, part.stop)
                features[2, :, here], features[3, :, here] = around(sizes, part, order.neighbours)
    return features, near


@dataclass
class FeatureFit:
    """Sums over training symbols, from which the weights of the features follow."""

    products: np.ndarray
    targets: np.ndarray

    @classmethod
    def empty(cls, d: int) -> "FeatureFit":
        """Return sums of nothing, for patches without and with neighbours."""
        return cls(np.zeros((2, d, NUM_FEATURES, NUM_FEATURES)), np.zeros((2, d, NUM_FEATURES)))

    def add(self, sizes: np.ndarray, features: np.ndarray, near: np.ndarray) -> None:
        """Take in the symbols of one quality."""
        for level in range(2):
            here = near == bool(level)
            if not here.any():
                continue
            y = sizes[:, here] / ONE
            x = np.concatenate([np.ones((1, *y.shape)), features[:, :, here] / ONE])
            if not level:
                x[3:] = 0
            self.products[level] += np.einsum("fdn,gdn->dfg", x, x)
            self.targets[level] += np.einsum("fdn,dn->df", x, y)

    def weights(self) -> Int[np.ndarray, "2 d f"]:
        """Return non-negative weights, in units of 2^-8, drawn to a constant where data are few."""
        weights = np.zeros((2, *self.targets.shape[1:]), np.int16)
        for level in range(2):
            for i in range(self.targets.shape[1]):
                a = self.products[level, i] + np.eye(NUM_FEATURES) * _PRIOR_SHARE
                b = self.targets[level, i] + np.eye(NUM_FEATURES)[0] * _PRIOR_SHARE
                root = np.linalg.cholesky(a)
                found, _ = nnls(root.T, np.linalg.solve(root, b))
                weights[level, i] = np.clip(np.rint(found * 2**_FACTOR_BITS), 0, 1 << 13)
        return weights


def symbol_costs(tables: CdfTables, most: int) -> Float[np.ndarray, "rows most"]:
    """Return the bits of 0, 1, ... `most` under each row; rows are symmetrical."""
    rows, symbols = np.indices((len(tables.lengths), most + 1))
    return tables.bits(symbols, rows)


def histograms(
    sizes: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], num_labels: int, most: int
) -> Int[np.ndarray, "labels most"]:
    """Count absolute symbols 0 to `most` by label."""
    flat = labels * (most + 1) + np.minimum(sizes, most)
    return np.bincount(flat, minlength=num_labels * (most + 1)).reshape(num_labels, most + 1)


def choose_rows(
    counts: Int[np.ndarray, "contexts most"], costs: Float[np.ndarray, "rows most"]
) -> UInt8[np.ndarray, " contexts"]:
    """Return the row of each context of one dimension: the cheapest for its training symbols.

    Contexts with few symbols are drawn to the row of all; one row serves all of them unless more
    save what they cost.
    """
    bits = counts @ costs.T
    total = bits.sum(0)
    symbols = max(int(counts.sum()), 1)
    single = int(total.argmin())
    drawn = bits + total * (_PSEUDO_SYMBOLS / symbols)
    rows = drawn.argmin(1)
    own = bits[np.arange(len(rows)), rows].sum()
    if total[single] - own < _ROW_BITS * (len(np.unique(rows)) - 1):
        rows[:] = single
    return rows.astype(np.uint8)
