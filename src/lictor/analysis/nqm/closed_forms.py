"""The noisy quadratic model: what averaging and embedding do to the noise of gradient descent.

The loss of one step is `(x - c)^T A (x - c) / 2` with curvatures `A = diag(h)` and a target `c`
drawn anew from `N(0, diag(sigma^2))`; the optimum is 0. A step of size `gamma` multiplies an error
by `r = 1 - gamma h` and adds noise of variance `(gamma h sigma)^2`. Two numbers come of it: the
variance at steady state, and the excess risk `sum h (mean^2 + variance) / 2`, which is what is
above the floor `sum h sigma^2 / 2` that no weights avoid. The model is that of Wu et al., ICLR
2018. Averaging with feedback is Lookahead, and its variance is Proposition 2 of Zhang et al.,
NeurIPS 2019. Averaging without feedback is derived in docs/noisy-quadratic-model.md; embedding is
in `lictor.analysis.nqm.modes`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from lictor.errors import ConfigError

_GRID = 500  # stable steps that are tried: finer than the bends of risk over the step

Values = float | Float64[np.ndarray, "..."]


def _check_alpha(alpha: Values) -> None:
    if not np.all((np.asarray(alpha) > 0) & (np.asarray(alpha) <= 1)):
        raise ConfigError(f"alpha must be above 0 and at most 1, not {alpha}")


def _check_rho(rho: Values) -> None:
    if not np.all(np.abs(rho) <= 1):
        raise ConfigError(f"a correlation must be from -1 to 1, not {rho}")


def check_quadratic(curvatures: np.ndarray, variances: np.ndarray) -> None:
    """Raise `ConfigError` unless both are 1-D, equally long, positive and finite."""
    if curvatures.ndim != 1 or not curvatures.size or curvatures.shape != variances.shape:
        raise ConfigError("curvatures and variances must be one list each, equally long")
    for name, values in (("curvatures", curvatures), ("variances", variances)):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ConfigError(f"{name} must be positive and finite")


@dataclass(frozen=True)
class Quadratic:
    """Independent coordinates: curvatures `h` and variances `sigma^2` of the targets, positive."""

    curvatures: Float64[np.ndarray, " n"]
    variances: Float64[np.ndarray, " n"]

    def __post_init__(self) -> None:
        check_quadratic(self.curvatures, self.variances)

    def check(self, gamma: float) -> None:
        """Raise `ConfigError` if a step of this size diverges."""
        check_step(gamma, self.curvatures)

    def gradient(
        self, x: Float64[np.ndarray, "particles n"], generator: np.random.Generator
    ) -> Float64[np.ndarray, "particles n"]:
        """Return each particle's gradient of the loss of its own fresh target."""
        noise = generator.standard_normal(x.shape)
        noise *= np.sqrt(self.variances)
        np.subtract(x, noise, out=noise)
        noise *= self.curvatures
        return noise


def spectrum(num_coordinates: int) -> Quadratic:
    """Return curvatures `h = 1/i` with `sigma^2 = i`, so that each adds 1/2 to the floor.

    Raises `ConfigError` below 1.
    """
    if num_coordinates < 1:
        raise ConfigError(f"a spectrum needs at least 1 coordinate, not {num_coordinates}")
    numbers = np.arange(1, num_coordinates + 1, dtype=np.float64)
    return Quadratic(1 / numbers, numbers)


@dataclass(frozen=True)
class Averaging:
    """A sampled moving average: `slow += alpha * (fast - slow)` every `interval` steps.

    `alpha` is in (0, 1]; at 1 it is plain descent. With `feedback` descent goes on from the average
    (Lookahead), without it the average only looks on. Raises `ConfigError` out of these ranges.
    """

    alpha: float = 1.0
    interval: int = 1
    feedback: bool = False

    def __post_init__(self) -> None:
        _check_alpha(self.alpha)
        if self.interval < 1:
            raise ConfigError(f"the interval must be at least 1 step, not {self.interval}")

    def ratio(self, factors: Values) -> Values:
        """Return how much of descent's variance is left, for factors `r` of a step."""
        rho = factors**self.interval
        return (ratio_feedback if self.feedback else ratio_no_feedback)(self.alpha, rho)

    def contraction(self, factors: Values) -> Values:
        """Return by what an error shrinks from one average to the next, in the long run."""
        rho = factors**self.interval
        if self.feedback:
            return np.abs(1 - self.alpha + self.alpha * rho)
        return np.maximum(np.abs(rho), 1 - self.alpha)


PLAIN = Averaging()


def check_step(gamma: float, curvatures: Values, remedy: str = "") -> None:
    """Raise `ConfigError` unless `0 < gamma h < 2` for every curvature: only then descent settles.

    `remedy` is added to the advice.
    """
    largest = float(np.max(curvatures))
    if not (gamma > 0 and math.isfinite(gamma)):
        raise ConfigError(f"the step gamma must be positive, not {gamma}")
    if not gamma * largest < 2:
        raise ConfigError(
            f"the step {gamma:g} times the curvature {largest:g} is {gamma * largest:g}: from 2 "
            f"on, descent diverges; take a step below {2 / largest:g}{remedy}"
        )


def step_factor(gamma: float, curvatures: Values) -> Values:
    """Return `r = 1 - gamma h`, by which a step multiplies an error, in (-1, 1].

    Raises `ConfigError` when the step diverges.
    """
    check_step(gamma, curvatures)
    return 1 - gamma * curvatures


def v_sgd(gamma: float, curvatures: Values, variances: Values) -> Values:
    """Return the steady variance of plain descent, `gamma h sigma^2 / (2 - gamma h)`.

    Raises `ConfigError` when the step diverges.
    """
    check_step(gamma, curvatures)
    return gamma * curvatures * variances / (2 - gamma * curvatures)


def ratio_feedback(alpha: Values, rho: Values) -> Values:
    """Return the variance of Lookahead's average as a share of plain descent's, in [0, 1].

    `rho = r^interval` is in [-1, 1], the ends being limits. The average is taken right after the
    interpolation. Raises `ConfigError` out of range. Zhang et al., NeurIPS 2019, Proposition 2.
    """
    _check_alpha(alpha)
    _check_rho(rho)
    return alpha * (1 + rho) / (2 - alpha + alpha * rho)


def ratio_no_feedback(alpha: Values, rho: Values) -> Values:
    """Return the variance of an average that only looks on, as a share of plain descent's.

    `rho = r^interval` in [-1, 1] is the correlation of successive samples. Raises `ConfigError` out
    of range.
    """
    _check_alpha(alpha)
    _check_rho(rho)
    beta = 1 - alpha
    return alpha / (2 - alpha) * (1 + beta * rho) / (1 - beta * rho)


def steady_variance(
    gamma: float, quadratic: Quadratic, averaging: Averaging = PLAIN
) -> Float64[np.ndarray, " n"]:
    """Return each coordinate's variance at steady state.

    Raises `ConfigError` when the step diverges.
    """
    h = quadratic.curvatures
    share = averaging.ratio(step_factor(gamma, h))
    return np.asarray(share * v_sgd(gamma, h, quadratic.variances))


def excess_risk(gamma: float, quadratic: Quadratic, averaging: Averaging = PLAIN) -> float:
    """Return the risk above the floor at steady state, `sum h V / 2`.

    Raises `ConfigError` when the step diverges.
    """
    variances = steady_variance(gamma, quadratic, averaging)
    return float(quadratic.curvatures @ variances) / 2


@dataclass(frozen=True)
class Moments:
    """Means and variances of the average, at the start and after each of its updates."""

    means: Float64[np.ndarray, "times n"]
    variances: Float64[np.ndarray, "times n"]

    def risk(self, quadratic: Quadratic) -> Float64[np.ndarray, " times"]:
        """Return the excess risk at each time, `sum h (mean^2 + variance) / 2`."""
        return (self.means**2 + self.variances) @ quadratic.curvatures / 2


def moments_feedback(
    gamma: float,
    quadratic: Quadratic,
    averaging: Averaging,
    *,
    start: Float64[np.ndarray, " n"],
    num_updates: int,
) -> Moments:
    """Return the moments of Lookahead's average on its way from `start`, where the variance is 0.

    An update multiplies the mean by `q = 1 - alpha + alpha rho` and the variance by its square, and
    adds the noise of `interval` steps. Raises `ConfigError` when the step diverges.
    """
    rho = np.asarray(step_factor(gamma, quadratic.curvatures)) ** averaging.interval
    q = 1 - averaging.alpha + averaging.alpha * rho
    steady = ratio_feedback(averaging.alpha, rho) * v_sgd(
        gamma, quadratic.curvatures, quadratic.variances
    )
    powers = q ** np.arange(num_updates + 1)[:, None]
    return Moments(powers * start, (1 - powers**2) * steady)


def moments_no_feedback(
    gamma: float,
    quadratic: Quadratic,
    averaging: Averaging,
    *,
    start: Float64[np.ndarray, " n"],
    num_updates: int,
) -> Moments:
    """Return the moments of an average that only looks on, on its way from `start`.

    Weights and average are correlated, so that three moments of second order go on together.
    Raises `ConfigError` when the step diverges.
    """
    alpha, beta = averaging.alpha, 1 - averaging.alpha
    rho = np.asarray(step_factor(gamma, quadratic.curvatures)) ** averaging.interval
    steady = v_sgd(gamma, quadratic.curvatures, quadratic.variances)
    mean_fast = mean_slow = start
    var_fast = var_slow = covariance = np.zeros_like(start)
    means, variances = [mean_slow], [var_slow]
    for _ in range(num_updates):
        mean_fast = rho * mean_fast
        mean_slow = beta * mean_slow + alpha * mean_fast
        var_fast = rho**2 * var_fast + (1 - rho**2) * steady
        lagged = rho * covariance  # of the new weights with the old average
        var_slow = beta**2 * var_slow + alpha**2 * var_fast + 2 * alpha * beta * lagged
        covariance = beta * lagged + alpha * var_fast
        means.append(mean_slow)
        variances.append(var_slow)
    return Moments(np.stack(means), np.stack(variances))


def risk_curve(
    gamma: float,
    quadratic: Quadratic,
    averaging: Averaging,
    *,
    start: Float64[np.ndarray, " n"],
    num_updates: int,
) -> Float64[np.ndarray, " times"]:
    """Return the excess risk of the average at the start and after each of its updates.

    Raises `ConfigError` when the step diverges.
    """
    moments = moments_feedback if averaging.feedback else moments_no_feedback
    way = moments(gamma, quadratic, averaging, start=start, num_updates=num_updates)
    return way.risk(quadratic)


def equal_risk_step(risk: float, quadratic: Quadratic, averaging: Averaging = PLAIN) -> float:
    """Return the smallest step whose steady excess risk is `risk`.

    Raises `ConfigError` when no stable step has that much.
    """
    cell = 2 / float(quadratic.curvatures.max()) / _GRID
    steps = (cell * number for number in range(1, _GRID))
    high = next((step for step in steps if excess_risk(step, quadratic, averaging) >= risk), None)
    if high is None or not risk > 0:
        raise ConfigError(f"no step has a steady excess risk of {risk:g}; ask for another")
    low = high - cell
    for _ in range(60):
        middle = (low + high) / 2
        if excess_risk(middle, quadratic, averaging) >= risk:
            high = middle
        else:
            low = middle
    return high


@runtime_checkable
class NoisyGradient(Protocol):
    """What can be simulated: it refuses steps that diverge, and draws gradients."""

    def check(self, gamma: float) -> None:
        """Raise `ConfigError` if a step of this size diverges."""
        ...

    def gradient(
        self, x: Float64[np.ndarray, "particles n"], generator: np.random.Generator
    ) -> Float64[np.ndarray, "particles n"]:
        """Return each particle's gradient."""
        ...


def simulate(
    gamma: float,
    problem: NoisyGradient,
    averaging: Averaging = PLAIN,
    *,
    start: Float64[np.ndarray, "particles n"],
    generator: np.random.Generator,
) -> Iterator[Float64[np.ndarray, "particles n"]]:
    """Run descent itself, step by step, and yield the average after each update, for ever.

    Raises `ConfigError` when the step diverges.
    """
    problem.check(gamma)
    return _descend(gamma, problem, averaging, start, generator)


def _descend(
    gamma: float,
    problem: NoisyGradient,
    averaging: Averaging,
    start: np.ndarray,
    generator: np.random.Generator,
) -> Iterator[np.ndarray]:
    fast, slow = start, start
    while True:
        for _ in range(averaging.interval):
            fast = fast - gamma * problem.gradient(fast, generator)
        slow = slow + averaging.alpha * (fast - slow)
        if averaging.feedback:
            fast = slow
        yield slow


def settling_updates(
    gamma: float, curvatures: Values, averaging: Averaging = PLAIN, tolerance: float = 1e-4
) -> int:
    """Return after how many updates less than `tolerance` of a starting variance is left.

    Raises `ConfigError` when the step diverges.
    """
    factor = float(np.max(averaging.contraction(step_factor(gamma, curvatures))))
    return math.ceil(math.log(tolerance) / (2 * math.log(factor))) if factor > 0 else 1


def simulated_variance(
    states: Iterator[Float64[np.ndarray, "particles n"]], *, skip: int, num_updates: int
) -> Float64[np.ndarray, " n"]:
    """Return each coordinate's variance over particles and `num_updates` updates after `skip`."""
    for _ in range(skip):
        next(states)
    total = squares = np.zeros(1)
    for _ in range(num_updates):
        state = next(states)
        total = total + state.mean(axis=0)
        squares = squares + (state**2).mean(axis=0)
    return squares / num_updates - (total / num_updates) ** 2
