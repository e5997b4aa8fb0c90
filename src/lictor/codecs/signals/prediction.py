"""Prediction of a latent's symbols from those of neighbours and its own earlier ones, in integers.

The weights come from one covariance of training latents: the best linear prediction of a variable
from those before it, for all variables at once, is in the inverse of its Cholesky factor. They
are rounded to multiples of 2^-12 and applied to symbols, so that decoding has no rounding of its
own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular

from lictor.codecs.signals.order import Plan, Wave
from lictor.errors import CheckpointError

SHIFT = 12
_HALF = 1 << (SHIFT - 1)
_MOST = (1 << 15) - 1
# Dimensions of a neighbour that are looked at: the later ones have little to say.
MAX_SEEN = 64
# Regularization, relative to the mean variance of what is predicted from.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_LEAST_SHARE = 0.01  # of patches with such neighbours, for them to have weights of their own
_LEAST_VARIANCE = 1e-12  # in squared steps: what is added to the variances where all are zero
_LEAST_GAIN = 0.01  # bits per symbol, on latents that the weights were not made from

Present = tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights for patches that have certain neighbours.

    Args:
        near: of the first symbols of each neighbour that is there, one after the other; int16.
        own: of the patch's own earlier symbols: zero on and right of the diagonal; int16.
    """

    near: Int[np.ndarray, "d seen"]
    own: Int[np.ndarray, "d d"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """Weights by which neighbours are there; patches with others use a part of theirs, or none."""

    weights: Mapping[Present, Weights]

    def check(self, d: int) -> None:
        """Raise `CheckpointError` unless all weights are for latents of `d` dimensions."""
        for key, weights in self.weights.items():
            near, own = weights.near, weights.own
            if near.shape != (d, sum(key) * min(d, MAX_SEEN)) or own.shape != (d, d):
                raise CheckpointError(f"prediction: weights {near.shape}, {own.shape} do not fit")
            if near.dtype != np.int16 or own.dtype != np.int16 or np.triu(own).any():
                raise CheckpointError(
                    "prediction: weights must be int16, own ones below a diagonal"
                )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the weights by name; a name ends in a digit for each axis, 1 where it is used."""
        arrays = {}
        for key, weights in self.weights.items():
            digits = "".join(str(int(used)) for used in key)
            arrays[f"near/{digits}"], arrays[f"own/{digits}"] = weights.near, weights.own
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Prediction":
        """Undo `arrays`; raises `KeyError` where one of a pair is missing."""
        digits = sorted(name.removeprefix("near/") for name in arrays if name.startswith("near/"))
        return cls(
            {
                tuple(digit == "1" for digit in name): Weights(
                    arrays[f"near/{name}"], arrays[f"own/{name}"]
                )
                for name in digits
            }
        )

    def chosen(self, present: Present) -> Present | None:
        """Return the key of the weights for patches with these neighbours: those that use most."""
        fitting = [
            key
            for key in self.weights
            if len(key) == len(present)
            and all(there or not used for used, there in zip(key, present, strict=True))
        ]
        return max(fitting, key=lambda key: (sum(key), key), default=None)

    def near(
        self, symbols: Int[np.ndarray, "d n"], wave: Wave, neighbours: Int[np.ndarray, "axes n"]
    ) -> Int[np.ndarray, "d m"] | None:
        """Return what neighbours say of each symbol of a range, in units of 2^-12, or None."""
        key = self.chosen(wave.present)
        if key is None:
            return None
        return self.weights[key].near.astype(np.int64) @ seen_symbols(
            symbols, neighbours[:, wave.start : wave.stop], key
        )


def seen_symbols(
    symbols: np.ndarray, neighbours: Int[np.ndarray, "axes m"], key: Present
) -> np.ndarray:
    """Return the first symbols of the neighbours that a key names: `seen m`."""
    seen = symbols[:MAX_SEEN]
    parts = [seen[:, neighbours[axis]] for axis, used in enumerate(key) if used]
    return np.concatenate(parts) if parts else seen[:0, : neighbours.shape[1]]


def rounded(total: np.ndarray, most: int) -> np.ndarray:
    """Return the integers nearest to multiples of 2^-12, within plus and minus `most`."""
    return np.clip((total + _HALF) >> SHIFT, -most, most)


def fit_prediction(latents: Float[np.ndarray, "d n"], order: Plan) -> Prediction:
    """Fit weights to centred training latents, in steps and in coding order.

    The regularization is chosen, and every dimension's prediction kept or dropped, by patches that
    the weights of the trial were not made from.
    """
    present = order.neighbours >= 0
    d, n = latents.shape
    weights: dict[Present, Weights] = {}
    kinds, counts = np.unique(present, axis=1, return_counts=True)
    for kind, count in zip(kinds.T.tolist(), counts.tolist(), strict=True):
        key = tuple(kind)
        if count < max(_LEAST_SHARE * n, 16):
            continue
        # All patches that have these neighbours, those with more of them too.
        there = np.flatnonzero(present[np.array(kind, bool)].all(0))
        near = seen_symbols(latents, order.neighbours[:, there], key)
        found = _fit(np.concatenate([near, latents[:, there]]), d)
        if found is not None:
            weights[key] = found
    return Prediction(weights)


def _fit(joint: Float[np.ndarray, "v n"], d: int) -> Weights | None:
    """Return weights for the last `d` variables, or None if nothing can be told from the others."""
    n = joint.shape[1]
    # Runs of patches, not single ones: neighbours are too alike to test each other.
    test = np.arange(n) * 8 // max(n, 1) % 2 == 1
    if test.sum() < 8:
        return None
    energy = np.square(joint[-d:, test]).mean(1)
    trials = []
    for ridge in _RIDGES:
        trial = _regression(joint[:, ~test], d, ridge)
        left = np.square(joint[-d:, test] - trial @ joint[:, test]).mean(1)
        gains = np.log2((energy + 1e-12) / (left + 1e-12)) / 2
        trials.append(gains)
    gains = np.array(trials)
    best = int(np.maximum(gains, 0).sum(1).argmax())
    keep = gains[best] > _LEAST_GAIN
    if not keep.any():
        return None
    whole = _regression(joint, d, _RIDGES[best]) * keep[:, None]
    fixed = np.clip(np.rint(whole * 2**SHIFT), -_MOST, _MOST).astype(np.int16)
    seen = joint.shape[0] - d
    return Weights(fixed[:, :seen], fixed[:, seen:])


def _regression(joint: Float[np.ndarray, "v n"], d: int, ridge: float) -> Float[np.ndarray, "d v"]:
    """Return the weights of all variables before it, for each of the last `d`."""
    v, n = joint.shape
    covariance = joint @ joint.T / n
    # Where all are zero, as latents of silence are, so are the weights.
    floor = max(ridge * np.trace(covariance) / v, _LEAST_VARIANCE)
    factor = np.linalg.cholesky(covariance + floor * np.eye(v))
    # Row i of the inverse has 1 / sigma_i at i, and minus the weights over sigma_i before it.
    inverse = solve_triangular(factor, np.eye(v), lower=True)[-d:]
    own = np.arange(v - d, v)
    result = -inverse / inverse[np.arange(d), own][:, None]
    result[np.arange(d), own] = 0
    return result


def no_prediction() -> Prediction:
    """Return what predicts nothing."""
    return Prediction({})
