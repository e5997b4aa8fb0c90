"""Surrogates: what a latent's two uses get in place of its rounded values while a model trains.

The synthesis (and a context model) gets one stand-in for the rounded latent, the rate is charged
for another: a surrogate is a pair of paths. Which pair is best differs between networks.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from lictor.config import Choice, Settings, one_of, option
from lictor.errors import ConfigError
from lictor.layers.quantize.noise import Draw, draw_anew
from lictor.layers.quantize.paths import AdditiveNoise, Path, StraightThrough

Params = tuple[Tensor, ...]
MEAN_GRADIENTS = ("none", "recon", "full")


@runtime_checkable
class Centered(Protocol):
    """What quantizing asks of a prior: how a latent becomes steps around a center, and back."""

    def residual(self, latent: Tensor, params: Params) -> Tensor:
        """Return what is rounded: the latent around its center, in steps of one."""
        ...

    def restore(self, quantized: Tensor, params: Params) -> Tensor:
        """Return the latent whose residual is `quantized`."""
        ...

    def held(self, params: Params) -> Params:
        """Return the params in such a way that no gradient reaches the center through them."""
        ...


@dataclass(frozen=True)
class Surrogate:
    """A pair of stand-ins for rounding; equal paths share one draw of noise.

    Args:
        synthesis: makes what the synthesis and context models see.
        rate: makes what the rate is charged for.
        mean_gradient: what the distortion tells the means. `none`: nothing; `recon`: a mean is a
            level of reconstruction, so that `d y_hat / d mean = 1`; `full`: both its places in
            `quantize(y - mean) + mean` count, which cancel out where a path has the gradient of the
            identity. The rate always reaches the means. All three have the same values. Our reading
            of the "partial stop-gradient" of Zhang, Li and Liu (arXiv:2309.17051), of which only
            the abstract was seen.
        temperature: of both paths, as a function of progress in [0, 1]; None to leave them as they
            are. It is put into every path that has a field `temperature`.

    Raises `ConfigError` on another `mean_gradient`, and on a temperature that no path has.
    """

    synthesis: Path
    rate: Path
    mean_gradient: str = "none"
    temperature: Callable[[float], float] | None = None

    def __post_init__(self) -> None:
        if self.mean_gradient not in MEAN_GRADIENTS:
            raise ConfigError(
                f"mean_gradient = {self.mean_gradient!r} must be one of {', '.join(MEAN_GRADIENTS)}"
            )
        if self.temperature is not None and not (
            _has_temperature(self.synthesis) or _has_temperature(self.rate)
        ):
            raise ConfigError("a surrogate without a path that has a temperature takes none")

    def at(self, progress: float) -> "Surrogate":
        """Return the surrogate for a point of the run: its paths have the temperature of then."""
        if self.temperature is None:
            return self
        value = self.temperature(progress)
        return dataclasses.replace(
            self, synthesis=_tempered(self.synthesis, value), rate=_tempered(self.rate, value)
        )

    def __call__(
        self,
        latent: Float[Tensor, "*shape"],
        prior: Centered,
        params: Params,
        draw: Draw = draw_anew,
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return the latent for the synthesis, and the residual whose rate is charged.

        `draw` gives U(-1/2, 1/2) noise; from torch's own generator if not given.
        """
        residual = prior.residual(latent, params)
        noise = self.synthesis.noise(residual, draw)
        rate_noise = noise if self.rate == self.synthesis else self.rate.noise(residual, draw)
        for_rate = self.rate(residual, rate_noise)

        if self.mean_gradient != "full":
            held = prior.held(params)
            quantized = self.synthesis(prior.residual(latent, held), noise)
            return prior.restore(
                quantized, held if self.mean_gradient == "none" else params
            ), for_rate
        shared = self.rate == self.synthesis
        quantized = for_rate if shared else self.synthesis(residual, noise)
        return prior.restore(quantized, params), for_rate


def _has_temperature(path: Path) -> bool:
    fields = dataclasses.fields(path) if dataclasses.is_dataclass(path) else ()
    return any(field.name == "temperature" for field in fields)


def _tempered(path: Path, temperature: float) -> Path:
    if not _has_temperature(path):
        return path
    assert dataclasses.is_dataclass(path)
    return dataclasses.replace(path, temperature=temperature)


@dataclass(frozen=True)
class SurrogateSettings(Settings):
    """What all surrogates here have."""

    mean_gradient: str = option("none", one_of(*MEAN_GRADIENTS))
    """What the distortion tells the means: none, recon (a level of reconstruction), full."""


def noise(mean_gradient: str = SurrogateSettings.mean_gradient) -> Surrogate:
    """Add noise for both uses, one draw for both (Balle et al. 2017, section 3)."""
    return Surrogate(AdditiveNoise(), AdditiveNoise(), mean_gradient)


def straight_through(mean_gradient: str = SurrogateSettings.mean_gradient) -> Surrogate:
    """Round for both uses (Theis et al. 2017)."""
    return Surrogate(StraightThrough(), StraightThrough(), mean_gradient)


def mixed(mean_gradient: str = SurrogateSettings.mean_gradient) -> Surrogate:
    """Round for the synthesis, add noise for the rate (Minnen & Singh 2020, section 3.3)."""
    return Surrogate(StraightThrough(), AdditiveNoise(), mean_gradient)


SURROGATES: dict[str, Choice[Surrogate]] = {
    "noise": Choice(noise, SurrogateSettings),
    "straight-through": Choice(straight_through, SurrogateSettings),
    "mixed": Choice(mixed, SurrogateSettings),
}
