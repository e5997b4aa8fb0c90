"""Rates of a quantized residual under a Gaussian, as training counts them and as a codec pays.

Training with uniform noise charges `R_noise = E -log2 P(y + u; sigma)`, a codec pays
`R_round = E -log2 P(round(y); sigma)`. The scale that is best for the first is not the best for the
second: for residuals with heavy tails it is far too narrow, and a lower bound on the scale mends a
part of that. Nothing here is simulated: all rates are quadratures or sums.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from scipy import stats
from torch import Tensor

from lictor.errors import ConfigError

_Array = Float64[np.ndarray, "..."]
# The customary floor of a likelihood, at most 29.9 bits a symbol.
FLOOR = 1e-9
_LOG2 = float(np.log(2.0))
# Scales among which the best is looked for; neighbours are 2 % apart.
_SCALES = np.geomspace(0.004, 4.0, 350)
# Integers that are summed over; beyond, no source here has mass that counts.
_MOST_SYMBOL = 400


def gaussian_log_bits(residual: Tensor, scale: Tensor | float) -> Tensor:
    """Return `-log2` of a Gaussian's mass on the unit interval around `residual`, without a floor.

    In logarithms throughout, so that no surprise is too great: what charges a codec's symbols,
    `lictor.priors.families.interval_bits`, ends at 24 bits. Differentiable in the residual.
    """
    distance = residual.abs()
    upper = torch.special.log_ndtr((0.5 - distance) / scale)
    lower = torch.special.log_ndtr((-0.5 - distance) / scale)
    return -(upper + torch.log1p(-torch.exp(lower - upper))) / _LOG2


@dataclass(frozen=True)
class Source:
    """A symmetric distribution of residuals with standard deviation 1, by its survival function."""

    name: str
    survival: Callable[[_Array], _Array]

    def mass(self, values: _Array, spread: float) -> _Array:
        """Return the mass on the unit interval around each value, for a standard deviation."""
        distance = np.abs(values)
        upper = self.survival((distance - 0.5) / spread)
        return upper - self.survival((distance + 0.5) / spread)


def _outliers(values: _Array) -> _Array:
    """Return the survival function of many small values with a few large ones among them."""
    small, large = (stats.norm.sf(values, scale=scale) for scale in (0.05, 4.46))
    return 0.95 * small + 0.05 * large


SOURCES: Mapping[str, Source] = {
    "gaussian": Source("gaussian", stats.norm.sf),
    "laplace": Source("laplace", lambda v: stats.laplace.sf(v, scale=np.sqrt(0.5))),
    "student": Source("student", lambda v: stats.t.sf(v * np.sqrt(3.0), df=3)),
    "outliers": Source("outliers", _outliers),
}


def _bits(values: _Array, scale: _Array | float, floor: float) -> _Array:
    scales = torch.as_tensor(scale, dtype=torch.float64)
    bits = gaussian_log_bits(torch.from_numpy(values), scales).numpy()
    return np.minimum(bits, -np.log2(floor)) if floor > 0 else bits


def _quadrature() -> tuple[_Array, _Array]:
    """Return positive points and their weights: fine where noise meets the next symbol."""
    edges = np.concatenate(
        [np.arange(0, 4, 1e-3), np.arange(4, 40, 0.02), np.geomspace(40, 1e5, 2000)]
    )
    steps = np.diff(edges)
    weights = np.zeros_like(edges)
    weights[:-1] += steps / 2
    weights[1:] += steps / 2
    return edges, weights


def noise_rate(source: Source, spread: float, scale: float, *, floor: float = 0.0) -> float:
    """Return the bits that training with uniform noise charges a residual.

    `spread` is the residual's standard deviation, `scale` that of the Gaussian which codes it, both
    positive; no likelihood counts as less than `floor`, 0 for none.
    """
    points, weights = _quadrature()
    return float(2 * (weights * source.mass(points, spread)) @ _bits(points, scale, floor))


def round_rate(source: Source, spread: float, scale: float, *, floor: float = 0.0) -> float:
    """Return the bits that a codec pays for a rounded residual; arguments as for `noise_rate`."""
    symbols = np.arange(-_MOST_SYMBOL, _MOST_SYMBOL + 1.0)
    return float(source.mass(symbols, spread) @ _bits(symbols, scale, floor))


@dataclass(frozen=True)
class BestScales:
    """For each standard deviation of a source the scales that code it in the fewest bits.

    `noise` is best for the rate that training with noise charges, `rounding` for what is paid.
    """

    spreads: Float64[np.ndarray, " n"]
    noise: Float64[np.ndarray, " n"]
    rounding: Float64[np.ndarray, " n"]


def best_scales(source: Source, spreads: _Array, *, floor: float = FLOOR) -> BestScales:
    """Find the best scales by trying out 350, from 0.004 to 4, and a parabola between neighbours.

    Raises `ConfigError` when a spread is not from 0.01 to 2, beyond which the best may be outside.
    """
    if not ((spreads >= 0.01) & (spreads <= 2)).all():
        raise ConfigError("best scales are known for standard deviations from 0.01 to 2")
    points, weights = _quadrature()
    symbols = np.arange(0, _MOST_SYMBOL + 1.0)
    counts = np.where(symbols == 0, 1.0, 2.0)
    noise_bits = np.stack([_bits(points, scale, floor) for scale in _SCALES])
    round_bits = np.stack([_bits(symbols, scale, floor) for scale in _SCALES])
    noisy, rounded = list[float](), list[float]()
    for spread in spreads:
        noisy.append(_lowest(noise_bits @ (weights * source.mass(points, float(spread)))))
        rounded.append(_lowest(round_bits @ (counts * source.mass(symbols, float(spread)))))
    return BestScales(np.asarray(spreads, dtype=np.float64), np.array(noisy), np.array(rounded))


def _lowest(rates: _Array) -> float:
    """Return the scale of the lowest rate, the largest where many are as low as that."""
    place = int(np.flatnonzero(rates <= rates.min() + 1e-12)[-1])
    if not 0 < place < len(rates) - 1:
        return float(_SCALES[place])
    left, middle, right = rates[place - 1 : place + 2]
    curvature = left - 2 * middle + right
    shift = 0.5 * (left - right) / curvature if curvature > 0 else 0.0
    step = np.log(_SCALES[1] / _SCALES[0])
    return float(_SCALES[place] * np.exp(step * np.clip(shift, -0.5, 0.5)))


# Standard deviations of a latent's residuals, from those that are nearly always 0 to busy ones.
SPREADS = np.geomspace(0.01, 1.5, 26)


def bounded_rates(
    source: Source, best: BestScales, bounds: _Array, *, floor: float = FLOOR
) -> Float64[np.ndarray, " m"]:
    """Return the mean rate of rounding for each bound of the scale.

    The scales are those that training with noise finds, raised to the bound. The mean is over the
    spreads of `best`. What a bound lowers is this rate; the gap between it and the rate that is
    charged in training becomes larger.
    """
    rates = [
        [
            round_rate(source, float(spread), max(float(scale), float(bound)), floor=floor)
            for spread, scale in zip(best.spreads, best.noise, strict=True)
        ]
        for bound in bounds
    ]
    return np.mean(np.array(rates), axis=1)
