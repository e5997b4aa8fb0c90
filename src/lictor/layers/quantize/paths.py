"""Paths: single ways to stand in for rounding while a model trains.

Rounding has zero gradient almost everywhere, so training needs a stand-in. A path takes the
residual of a latent, in steps of one, and perhaps some noise, and gives the stand-in's value; how
gradients go through it is what autograd makes of that. What a latent's two uses get, the synthesis
and the rate, is said by a pair of paths: `lictor.layers.quantize.surrogate`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from lictor.errors import ConfigError
from lictor.layers.quantize.noise import Draw
from lictor.ops import round_ste


@runtime_checkable
class Path(Protocol):
    """One way to stand in for rounding; equal paths get the same noise."""

    def noise(self, like: Float[Tensor, "*shape"], draw: Draw) -> Tensor | None:
        """Draw what the path needs for a residual of this shape; None where it needs nothing.

        `draw` gives U(-1/2, 1/2) noise.
        """
        ...

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the stand-in for the rounded residual, differentiable in the residual."""
        ...


@dataclass(frozen=True)
class AdditiveNoise:
    """Add U(-1/2, 1/2) noise to each element (Balle et al. 2017, section 3)."""

    def noise(self, like: Float[Tensor, "*shape"], draw: Draw) -> Float[Tensor, "*shape"]:
        """Draw the noise."""
        return draw(like)

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the noisy residual."""
        assert noise is not None
        return residual + noise


@dataclass(frozen=True)
class StraightThrough:
    """Round, and pretend in the backward pass that nothing was rounded (Theis et al. 2017)."""

    def noise(self, like: Float[Tensor, "*shape"], draw: Draw) -> None:
        """Draw nothing."""
        del like, draw

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the rounded residual."""
        del noise
        return round_ste(residual)


@dataclass(frozen=True)
class AnnealedDither:
    """Round after adding a dither of U(-t/2, t/2), and take the dither off again.

    At temperature `t = 1` this is universal quantization, whose error is uniform noise; at `t = 0`
    it is straight-through rounding. Our reading of the "stochastic uniform annealing" of Zhang, Li
    and Liu (arXiv:2309.17051): of that paper the abstract was seen, not the formula. Raises
    `ConfigError` when the temperature is not in [0, 1].
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 1:
            raise ConfigError(f"temperature = {self.temperature} must be from 0 to 1")

    def noise(self, like: Float[Tensor, "*shape"], draw: Draw) -> Float[Tensor, "*shape"]:
        """Draw the dither at temperature 1."""
        return draw(like)

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the residual, rounded with dither."""
        assert noise is not None
        dither = self.temperature * noise
        return round_ste(residual + dither) - dither
