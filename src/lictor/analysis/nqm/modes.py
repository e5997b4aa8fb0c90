"""Embedded coordinates in the noisy quadratic model: one reference moves, the others follow it.

A coordinate that is tied to a reference by a line, `x_k = a_k x_r + b_k`, has `a_k^2` times the
reference's variance. A reference sees one coordinate of the model, whatever its mode: `reduced`
says which. So every formula of `lictor.analysis.nqm.closed_forms` holds for it. The derivations are
in docs/noisy-quadratic-model.md.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from lictor.analysis.nqm.closed_forms import (
    PLAIN,
    Averaging,
    Quadratic,
    check_quadratic,
    check_step,
    steady_variance,
)
from lictor.errors import ConfigError


@dataclass(frozen=True)
class Mode:
    """A reference, entry 0, and coordinates embedded on lines over it: `x_k = a_k x_r + b_k`.

    `slopes` are the `a_k`, 1 for the reference; `curvatures` and `variances` are as in `Quadratic`.
    `misses` say how far each line misses its coordinate's optimum while the reference is at its
    own, 0 for the reference. Raises `ConfigError` if the reference's entries are others.
    """

    slopes: Float64[np.ndarray, " n"]
    curvatures: Float64[np.ndarray, " n"]
    variances: Float64[np.ndarray, " n"]
    misses: Float64[np.ndarray, " n"]

    def __post_init__(self) -> None:
        check_quadratic(self.curvatures, self.variances)
        if not self.slopes.shape == self.misses.shape == self.curvatures.shape:
            raise ConfigError("slopes and misses must be one list each, as long as the curvatures")
        if self.slopes[0] != 1 or self.misses[0] != 0:
            raise ConfigError("entry 0 is the reference: its slope must be 1, its miss 0")

    @property
    def divisor(self) -> float:
        """What divides the step of a chained reference so that it is as stable as its members."""
        return float(self.slopes @ self.slopes)

    def errors(
        self, reference: Float64[np.ndarray, "particles 1"]
    ) -> Float64[np.ndarray, "particles n"]:
        """Return how far every coordinate is from its optimum, for errors of the reference."""
        return reference * self.slopes + self.misses


def equal_mode(size: int) -> Mode:
    """Return a mode of alike coordinates: slope, curvature and variance 1, no misses."""
    if size < 1:
        raise ConfigError(f"a mode has at least 1 coordinate, not {size}")
    ones = np.ones(size)
    return Mode(ones, ones, ones, np.zeros(size))


@dataclass(frozen=True)
class OwnGradient:
    """The reference of `mode` follows its own gradient; what is embedded has no say."""

    mode: Mode

    @property
    def reduced(self) -> Quadratic:
        """The one coordinate whose noise is the reference's."""
        return Quadratic(self.mode.curvatures[:1], self.mode.variances[:1])

    @property
    def center(self) -> float:
        """Where the reference settles, on average: its own optimum."""
        return 0.0

    def check(self, gamma: float) -> None:
        """Raise `ConfigError` if a step of this size diverges."""
        check_step(gamma, self.mode.curvatures[0])

    def gradient(
        self, x: Float64[np.ndarray, "particles 1"], generator: np.random.Generator
    ) -> Float64[np.ndarray, "particles 1"]:
        """Return the gradient of the reference's own loss."""
        return self.reduced.gradient(x, generator)


@dataclass(frozen=True)
class ChainGradient:
    """The reference of `mode` follows the whole mode's loss, by the chain rule through the lines.

    Its curvature is `H = sum a^2 h`, so that a step that suited each coordinate may diverge.
    """

    mode: Mode

    @property
    def reduced(self) -> Quadratic:
        """The one coordinate whose noise is the reference's."""
        a, h = self.mode.slopes, self.mode.curvatures
        curvature = a**2 @ h
        noise = a**2 @ (h**2 * self.mode.variances)
        return Quadratic(np.array([curvature]), np.array([noise / curvature**2]))

    @property
    def center(self) -> float:
        """Where the reference settles, on average: where the mode's loss is least."""
        a, h = self.mode.slopes, self.mode.curvatures
        return float(-(a * h) @ self.mode.misses / (a**2 @ h))

    def check(self, gamma: float) -> None:
        """Raise `ConfigError` if a step of this size diverges."""
        curvature = self.reduced.curvatures[0]
        remedy = (
            f", or divide it by {self.mode.divisor:g}, the sum of squared slopes "
            f"(this is the curvature along a mode of {self.mode.slopes.size})"
        )
        check_step(gamma, curvature, remedy)

    def gradient(
        self, x: Float64[np.ndarray, "particles 1"], generator: np.random.Generator
    ) -> Float64[np.ndarray, "particles 1"]:
        """Return the gradient of the mode's loss, each coordinate with a target of its own."""
        members = Quadratic(self.mode.curvatures, self.mode.variances)
        own = members.gradient(self.mode.errors(x), generator)
        return (own * self.mode.slopes).sum(axis=1, keepdims=True)


def v_embedded(
    gamma: float, reference: OwnGradient | ChainGradient, averaging: Averaging = PLAIN
) -> Float64[np.ndarray, " n"]:
    """Return the steady variance of a mode's coordinates, `a^2` times that of the reference.

    For a divided step pass `gamma / mode.divisor`. Raises `ConfigError` when the step diverges.
    """
    reference.check(gamma)
    return reference.mode.slopes**2 * steady_variance(gamma, reference.reduced, averaging)


def bias_price(reference: OwnGradient | ChainGradient) -> Float64[np.ndarray, " n"]:
    """Return the excess risk of each coordinate that no step size and no averaging removes.

    It is `h / 2` times the squared distance of the line from the optimum, where the reference
    settles.
    """
    errors = reference.mode.errors(np.array([[reference.center]]))[0]
    return reference.mode.curvatures * errors**2 / 2


def embedded_risk(
    gamma: float, reference: OwnGradient | ChainGradient, averaging: Averaging = PLAIN
) -> float:
    """Return the excess risk of a mode at steady state: its noise and the price of its misses.

    Raises `ConfigError` when the step diverges.
    """
    noise = reference.mode.curvatures @ v_embedded(gamma, reference, averaging) / 2
    return float(noise + bias_price(reference).sum())
