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

from lictor.errors import ConfigError
from lictor.layers.quantize.noise import Draw, draw_anew
from lictor.layers.quantize.paths import ChargingPath, Identity, Path, ResolvingPath

Params = tuple[Tensor, ...]
MEAN_GRADIENTS = ("none", "recon", "full")
# A schedule is looked at in so many places of a run before it begins; those of recipes go one way,
# so that their ends would do.
_MOMENTS = 16


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


@runtime_checkable
class Charging(Centered, Protocol):
    """What charging the rate asks of a prior besides."""

    def bits(self, residual: Tensor, params: Params) -> Tensor:
        """Return the cost in bits of each residual."""
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
        force: allow a pair that leaks.

    Raises `ConfigError` on another `mean_gradient`, on a temperature that no path has or that is
    out of its range, and on a pair that leaks: whose synthesis may see where in its bin a latent
    lies (`ResolvingPath`) while the rate, with noise of its own, is not charged for that. A network
    learns to hide information there, and the loss of training falls far below that of rounding.
    """

    synthesis: Path
    rate: Path
    mean_gradient: str = "none"
    temperature: Callable[[float], float] | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.mean_gradient not in MEAN_GRADIENTS:
            raise ConfigError(
                f"mean_gradient = {self.mean_gradient!r} must be one of {', '.join(MEAN_GRADIENTS)}"
            )
        if self.temperature is not None and not (
            _has_temperature(self.synthesis) or _has_temperature(self.rate)
        ):
            raise ConfigError("a surrogate without a path that has a temperature takes none")
        # The ends first: what is said of them is said of what a recipe gives.
        moments = (0, _MOMENTS, *range(1, _MOMENTS)) if self.temperature is not None else (0,)
        for moment in moments:
            # Paths refuse a temperature that they cannot have.
            pair = self._paths(moment / _MOMENTS)
            if not self.force:
                _check_leak(*pair)

    def _paths(self, progress: float) -> tuple[Path, Path]:
        if self.temperature is None:
            return self.synthesis, self.rate
        value = self.temperature(progress)
        return _tempered(self.synthesis, value), _tempered(self.rate, value)

    def at(self, progress: float) -> "Surrogate":
        """Return the surrogate for a point of the run: its paths have the temperature of then."""
        if self.temperature is None:
            return self
        synthesis, rate = self._paths(progress)
        # Checked before the run, in places of all of it.
        return Surrogate(synthesis, rate, self.mean_gradient, force=True)

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
        residual, noise, rate_noise = self._drawn(latent, prior, params, draw)
        for_rate = self.rate(residual, rate_noise)
        return self._for_synthesis(latent, prior, params, noise, for_rate), for_rate

    def charge(
        self,
        latent: Float[Tensor, "*shape"],
        prior: Charging,
        params: Params,
        draw: Draw = draw_anew,
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return the latent for the synthesis, and what each element costs in bits."""
        if not isinstance(self.rate, ChargingPath):
            quantized, for_rate = self(latent, prior, params, draw)
            return quantized, prior.bits(for_rate, params)
        residual, noise, rate_noise = self._drawn(latent, prior, params, draw)
        bits = self.rate.charge(residual, rate_noise, lambda values: prior.bits(values, params))
        for_rate = self.rate(residual, rate_noise)
        return self._for_synthesis(latent, prior, params, noise, for_rate), bits

    def _drawn(
        self, latent: Tensor, prior: Centered, params: Params, draw: Draw
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the residual, and the noise of both paths: one for both if they are equal."""
        residual = prior.residual(latent, params)
        noise = self.synthesis.noise(residual, draw)
        shared = self.rate == self.synthesis
        return residual, noise, noise if shared else self.rate.noise(residual, draw)

    def _for_synthesis(
        self,
        latent: Tensor,
        prior: Centered,
        params: Params,
        noise: Tensor | None,
        for_rate: Tensor,
    ) -> Tensor:
        """Return the latent for the synthesis, with the gradient that its mean gets."""
        if self.mean_gradient != "full":
            held = prior.held(params)
            quantized = self.synthesis(prior.residual(latent, held), noise)
            return prior.restore(quantized, held if self.mean_gradient == "none" else params)
        if self.rate == self.synthesis:
            return prior.restore(for_rate, params)
        return prior.restore(self.synthesis(prior.residual(latent, params), noise), params)


def _check_leak(synthesis: Path, rate: Path) -> None:
    """Raise `ConfigError` when the synthesis may see more than the rate is charged for."""
    pair = f"{type(synthesis).__name__} for the synthesis, {type(rate).__name__} for the rate"
    if isinstance(rate, Identity):
        raise ConfigError(
            f"{pair}: the rate of what is not quantized bounds nothing; "
            "force it to train with it all the same"
        )
    if rate != synthesis and isinstance(synthesis, ResolvingPath) and synthesis.resolves_bins:
        raise ConfigError(
            f"{pair}: this pair leaks: the synthesis sees where in its bin a latent lies, and the "
            "rate is charged for another sample; use one path for both, or for the synthesis one "
            "with the gradient of the identity (straight-through, sua), or force it"
        )


def _has_temperature(path: Path) -> bool:
    fields = dataclasses.fields(path) if dataclasses.is_dataclass(path) else ()
    return any(field.name == "temperature" for field in fields)


def _tempered(path: Path, temperature: float) -> Path:
    if not _has_temperature(path):
        return path
    assert dataclasses.is_dataclass(path)
    return dataclasses.replace(path, temperature=temperature)
