"""Paths: single ways to stand in for rounding while a model trains.

Rounding has zero gradient almost everywhere, so training needs a stand-in. A path takes the
residual of a latent, in steps of one, and perhaps some noise, and gives the stand-in's value; how
gradients go through it is what autograd makes of that. What a latent's two uses get, the synthesis
and the rate, is said by a pair of paths: `lictor.layers.quantize.surrogate`.

Here are those whose gradient is that of the identity. The soft ones, whose gradient says where in
its bin a value lies, are in `lictor.layers.quantize.soft` and `lictor.layers.quantize.gumbel`; all
of them by name in `lictor.layers.quantize.catalogue`.
"""

from collections.abc import Callable
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


class OneDraw:
    """What most paths with noise have in common: a number for each element."""

    def noise(self, like: Float[Tensor, "*shape"], draw: Draw) -> Float[Tensor, "*shape"]:
        """Draw U(-1/2, 1/2) noise of this shape."""
        return draw(like)


class NoDraw:
    """What paths without noise have in common."""

    def noise(self, like: Float[Tensor, "*shape"], draw: Draw) -> None:
        """Draw nothing."""
        del like, draw


@runtime_checkable
class ResolvingPath(Protocol):
    """A path whose value or gradient may tell where in its bin a residual lies.

    A synthesis that sees it, beside a rate whose noise is another, learns to read what nobody is
    charged for.
    """

    @property
    def resolves_bins(self) -> bool:
        """Whether it does, at its temperature."""
        ...


@runtime_checkable
class ChargingPath(Protocol):
    """A path for the rate that has a gradient of the cost of its own."""

    def charge(
        self,
        residual: Float[Tensor, "*shape"],
        noise: Tensor | None,
        bits: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "*shape"]:
        """Return what each residual costs; `bits` says what a value costs."""
        ...


def check_temperature(temperature: float, least: float = 0.0, most: float = 1.0) -> None:
    """Raise `ConfigError` when a temperature is out of its range."""
    if not least <= temperature <= most:
        raise ConfigError(f"temperature = {temperature} must be from {least:g} to {most:g}")


# Below this a temperature counts as this one: a division by zero would give NaN at half-integers.
COLDEST = 1e-8
# The closest that a fraction comes to 1 before its atanh is taken.
_CLOSEST = 1 - 1e-5
# From here on a sigmoid is 0 or 1 to the last bit of float64.
_DECIDED = 37.0


def atanh_score(fraction: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return `atanh(r) - atanh(1 - r)` of a fraction in [0, 1]: how much nearer 1 is than 0."""
    return fraction.clamp_max(_CLOSEST).atanh() - (1 - fraction).clamp_max(_CLOSEST).atanh()


def choice(logit: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the sigmoid, flat where it is 0 or 1 to the last bit.

    Its slope there would be a number too small for float32 to hold well, and a convolution takes
    many times as long with such numbers.
    """
    return logit.clamp(-_DECIDED, _DECIDED).sigmoid()


@dataclass(frozen=True)
class Identity(NoDraw):
    """Quantize nothing: for analyses, and as a baseline that no file can reach."""

    resolves_bins = True

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the residual."""
        del noise
        return residual


@dataclass(frozen=True)
class AdditiveNoise(OneDraw):
    """Add U(-1/2, 1/2) noise to each element (Balle et al. 2017, section 3)."""

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the noisy residual."""
        assert noise is not None
        return residual + noise


@dataclass(frozen=True)
class ExpectedGradientNoise(OneDraw):
    """Add noise as `AdditiveNoise` does, with the gradient of the rate that it has on average.

    The mean of `f'(y + u)` over the noise is `f(y + 1/2) - f(y - 1/2)`: for the rate, a function of
    one element each, that is two more evaluations and no noise from `u` in the gradient of the
    latent. The gradient of what the rate depends on besides stays that of the sample. In the manner
    of `perturb_and_apply` of TensorFlow Compression. It is for the rate alone: elsewhere it is
    additive noise.
    """

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the noisy residual."""
        assert noise is not None
        return residual + noise

    def charge(
        self,
        residual: Float[Tensor, "*shape"],
        noise: Tensor | None,
        bits: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "*shape"]:
        """Return the cost of the noisy residual, with the mean gradient."""
        assert noise is not None
        held = residual.detach()
        slope = (bits(held + 0.5) - bits(held - 0.5)).detach()
        return bits(held + noise) + slope * (residual - held)


@dataclass(frozen=True)
class StraightThrough(NoDraw):
    """Round, and pretend in the backward pass that nothing was rounded (Theis et al. 2017)."""

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the rounded residual."""
        del noise
        return round_ste(residual)


@dataclass(frozen=True)
class AnnealedDither(OneDraw):
    """Round after adding a dither of U(-t/2, t/2), and take the dither off again.

    At temperature `t = 1` this is universal quantization, whose error is uniform noise; at `t = 0`
    it is straight-through rounding. Our reading of the "stochastic uniform annealing" of Zhang, Li
    and Liu (arXiv:2309.17051): of that paper the abstract was seen, not the formula. Raises
    `ConfigError` when the temperature is not in [0, 1].
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the residual, rounded with dither."""
        assert noise is not None
        dither = self.temperature * noise
        return round_ste(residual + dither) - dither


@dataclass(frozen=True)
class UniversalQuantization:
    """Round after adding one dither for all of a picture, and take the dither off again.

    The error of each element has the law of additive noise, those of a picture depend on each
    other. Source: Choi et al., ICCV 2019 (arXiv:1909.04802); one dither a picture as in Tsubota and
    Aizawa's comparison. A dither for each element is `AnnealedDither` at temperature 1.
    """

    def noise(self, like: Float[Tensor, "b *shape"], draw: Draw) -> Tensor:
        """Draw the dither of each picture."""
        first = slice(0, 1)
        return draw(like.detach()[(slice(None), *(first for _ in like.shape[1:]))])

    def __call__(
        self, residual: Float[Tensor, "b *shape"], noise: Tensor | None
    ) -> Float[Tensor, "b *shape"]:
        """Return the residual, rounded with dither."""
        assert noise is not None
        return round_ste(residual + noise) - noise


@dataclass(frozen=True)
class ShrinkingNoise(OneDraw):
    """Let the value go from the residual to its rounding, with noise of U(-t/2, t/2) around it.

    Variant A of our reading of stochastic uniform annealing (see `AnnealedDither`, variant B):
    additive noise at `t = 1`, rounding at `t = 0`. Between them it makes the distortion look
    smaller than any quantizer's, and what it tells the synthesis lies inside the bin.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    @property
    def resolves_bins(self) -> bool:
        """Between the ends, the value is nearer to the residual than noise or rounding leave it."""
        return 0 < self.temperature < 1

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return the shrunk residual with shrunk noise; its gradient is the identity's."""
        assert noise is not None
        shrink = 1 - self.temperature
        return residual + shrink * (residual.round() - residual).detach() + self.temperature * noise


@dataclass(frozen=True)
class DitheredRounding(OneDraw):
    """Round after adding a dither of U(-t/2, t/2), which stays: always an integer.

    Variant D of our reading of stochastic uniform annealing: stochastic rounding at `t = 1`,
    rounding at `t = 0`. It makes the distortion look larger than it is.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return an integer near the residual; its gradient is the identity's."""
        assert noise is not None
        rounded = (residual + self.temperature * noise).round()
        return residual + (rounded - residual).detach()


@dataclass(frozen=True)
class StochasticRounding(OneDraw):
    """Round up or down by chance, the nearer integer more often; surer as it cools.

    With `r` the part above the integer below, up has the odds `((1 + r) r / ((2 - r)(1 - r)))` to
    the power `1 / (2 t)`. As in Tsubota and Aizawa's comparison of uniform quantizers. Without
    annealing, up with probability `r`, it is `DitheredRounding` at temperature 1.
    """

    temperature: float = 0.5

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return an integer next to the residual; its gradient is the identity's."""
        assert noise is not None
        held = residual.detach()
        up = choice(atanh_score(held - held.floor()) / max(self.temperature, COLDEST))
        rounded = held.floor() + (noise + 0.5 < up)
        return residual + (rounded - held)
