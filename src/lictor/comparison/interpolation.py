"""Curves through few points: their means and their values, for many curves at once.

Each row of an array is one curve of its own; the bootstrap has a thousand of them. Where SciPy has
the same interpolation, the results are its own to rounding: the tests hold them together.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from lictor.errors import ConfigError

# What a method needs of points, all at different `x`.
METHODS = {"pchip": 2, "akima": 2, "cubic": 4}
_POWERS = np.arange(4)

Rows = Float[np.ndarray, "curves points"]
Each = Float[np.ndarray, " curves"]


def mean_value(x: Rows, y: Rows, low: Each, high: Each, method: str = "pchip") -> Each:
    """Return the mean of each curve `y(x)` for `x` from `low` to `high`.

    `x` rises along each row and spans `low` to `high`. `pchip` (Fritsch and Butland 1984) and
    `akima` (Akima 1970) go through the points; `cubic` is one polynomial of degree three, of least
    squares, for all of them. Raises `ConfigError` for another method.
    """
    if method == "cubic":
        return _cubic_mean(x, y, low, high)
    return _hermite_integral(x, y, _slopes(x, y, method), low, high) / (high - low)


def value_at(x: Rows, y: Rows, at: Each, method: str = "pchip") -> Each:
    """Return each curve `y(x)` at one place, from its first `x` to its last.

    Arguments are those of `mean_value`. At a point, `pchip` and `akima` are exactly its `y`.
    """
    if method == "cubic":
        coefficients, scaled = _cubic(x, y)
        return (coefficients * scaled(at) ** _POWERS).sum(1)
    slope = _slopes(x, y, method)
    piece = np.clip((x <= at[:, None]).sum(1) - 1, 0, x.shape[1] - 2)
    curve = np.arange(len(x))
    step = x[curve, piece + 1] - x[curve, piece]
    t = (at - x[curve, piece]) / step
    end = t * t * (3 - 2 * t)
    value = y[curve, piece] * (1 - end) + y[curve, piece + 1] * end
    tilt = slope[curve, piece] * t * (1 - t) ** 2 - slope[curve, piece + 1] * t * t * (1 - t)
    return value + step * tilt


def _slopes(x: Rows, y: Rows, method: str) -> Rows:
    """Return the slope of a piecewise method at each point."""
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}, not one of {', '.join(METHODS)}")
    step = np.diff(x)
    chord = np.diff(y) / step
    return _pchip_slopes(step, chord) if method == "pchip" else _akima_slopes(chord)


def _hermite_integral(x: Rows, y: Rows, slope: Rows, low: Each, high: Each) -> Each:
    """Integrate the piecewise cubic with these values and slopes at `x`."""
    step = np.diff(x)

    def antiderivative(bound: Each) -> Float[np.ndarray, "curves pieces"]:
        t = np.clip((bound[:, None] - x[:, :-1]) / step, 0, 1)
        t2, t3, t4 = t**2, t**3, t**4
        value = y[:, :-1] * (t - t3 + t4 / 2) + y[:, 1:] * (t3 - t4 / 2)
        tilt = slope[:, :-1] * (t2 / 2 - 2 * t3 / 3 + t4 / 4) + slope[:, 1:] * (t4 / 4 - t3 / 3)
        return step * (value + step * tilt)

    return (antiderivative(high) - antiderivative(low)).sum(1)


def _pchip_slopes(
    step: Float[np.ndarray, "curves pieces"], chord: Float[np.ndarray, "curves pieces"]
) -> Rows:
    """Weighted harmonic means of neighbouring chords, zero where they differ in sign."""
    if step.shape[1] == 1:
        return np.repeat(chord, 2, axis=1)
    left, right = 2 * step[:, 1:] + step[:, :-1], step[:, 1:] + 2 * step[:, :-1]
    same = chord[:, 1:] * chord[:, :-1] > 0
    before, after = (np.where(same, c, 1) for c in (chord[:, :-1], chord[:, 1:]))
    inner = np.where(same, (left + right) / (left / before + right / after), 0)
    first = _pchip_end(step[:, 0], step[:, 1], chord[:, 0], chord[:, 1])
    last = _pchip_end(step[:, -1], step[:, -2], chord[:, -1], chord[:, -2])
    return np.concatenate([first[:, None], inner, last[:, None]], axis=1)


def _pchip_end(step: Each, next_step: Each, chord: Each, next_chord: Each) -> Each:
    """Slope of the parabola through the last three points, held back where it would overshoot."""
    slope = ((2 * step + next_step) * chord - step * next_chord) / (step + next_step)
    slope = np.where(slope * chord <= 0, 0, slope)
    turns = (chord * next_chord <= 0) & (np.abs(slope) > 3 * np.abs(chord))
    return np.where(turns, 3 * chord, slope)


def _akima_slopes(chord: Float[np.ndarray, "curves pieces"]) -> Rows:
    """Means of neighbouring chords, weighted by how little the chords beyond them bend."""
    if chord.shape[1] == 1:
        return np.repeat(chord, 2, axis=1)

    def beyond(near: Each, far: Each) -> list[Each]:
        return [2 * near - far, 3 * near - 2 * far]

    left, right = beyond(chord[:, 0], chord[:, 1]), beyond(chord[:, -1], chord[:, -2])
    m = np.column_stack([left[1], left[0], chord, right[0], right[1]])
    bend = np.abs(np.diff(m))
    before, after = bend[:, :-2], bend[:, 2:]
    total = before + after
    # A straight run on both sides leaves the weights open: then it is the plain mean.
    bent = total > 1e-9 * total.max(axis=1, keepdims=True)
    inner = (after * m[:, 1:-2] + before * m[:, 2:-1]) / np.where(bent, total, 1)
    return np.where(bent, inner, (m[:, 3:] + m[:, :-3]) / 2)


def _cubic(
    x: Rows, y: Rows
) -> tuple[Float[np.ndarray, "curves 4"], Callable[[Each], Float[np.ndarray, "curves 1"]]]:
    """Fit in a coordinate from -1 to 1, where the powers stay well apart; return it too."""
    middle, half = (x[:, -1] + x[:, 0]) / 2, (x[:, -1] - x[:, 0]) / 2
    scaled = ((x - middle[:, None]) / half[:, None])[:, :, None] ** _POWERS
    coefficients = (np.linalg.pinv(scaled) @ y[:, :, None])[:, :, 0]
    return coefficients, lambda at: (at - middle)[:, None] / half[:, None]


def _cubic_mean(x: Rows, y: Rows, low: Each, high: Each) -> Each:
    coefficients, scaled = _cubic(x, y)
    a, b = scaled(low), scaled(high)
    integrals = (b ** (_POWERS + 1) - a ** (_POWERS + 1)) / (_POWERS + 1)
    return (coefficients * integrals).sum(1) / (b - a)[:, 0]
