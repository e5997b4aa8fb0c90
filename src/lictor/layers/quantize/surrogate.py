"""Quantization surrogates: what stands for rounding while a model trains.

A surrogate maps the residual `y - means` to two tensors: the one that the synthesis (and the
context model) sees, and the one whose rate is charged. Rounding has zero gradient almost
everywhere, so training needs a stand-in; which one matters, and differs between networks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lictor.errors import ConfigError
from lictor.ops import round_ste


@runtime_checkable
class Surrogate(Protocol):
    """A stand-in for rounding during training."""

    def __call__(
        self, residual: Float[Tensor, "*shape"], generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return `(for_synthesis, for_rate)`, both of the residual's shape."""
        ...


def _noise(residual: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.empty_like(residual).uniform_(-0.5, 0.5, generator=generator)


@dataclass(frozen=True)
class AdditiveNoise:
    """Add U(-1/2, 1/2) noise; both paths share one draw (Balle et al. 2017, section 3)."""

    def __call__(
        self, residual: Float[Tensor, "*shape"], generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return the same noisy residual twice."""
        noisy = residual + _noise(residual, generator)
        return noisy, noisy


@dataclass(frozen=True)
class StraightThrough:
    """Round, and pretend in the backward pass that nothing was rounded (Theis et al. 2017)."""

    def __call__(
        self, residual: Float[Tensor, "*shape"], generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return the same rounded residual twice."""
        del generator
        rounded = round_ste(residual)
        return rounded, rounded


@dataclass(frozen=True)
class Mixed:
    """Round for the synthesis, add noise for the rate (Minnen & Singh 2020, section 3.3)."""

    def __call__(
        self, residual: Float[Tensor, "*shape"], generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return `(rounded, noisy)`."""
        return round_ste(residual), residual + _noise(residual, generator)


SURROGATES: dict[str, Callable[[], Surrogate]] = {
    "noise": AdditiveNoise,
    "straight-through": StraightThrough,
    "mixed": Mixed,
}


def build_surrogate(name: str) -> Surrogate:
    """Build a surrogate of `SURROGATES`; raises `ConfigError` on an unknown name."""
    if name not in SURROGATES:
        raise ConfigError(f"unknown surrogate {name!r}: choose one of {', '.join(SURROGATES)}")
    return SURROGATES[name]()
