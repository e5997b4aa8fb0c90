"""Stochastic Gumbel annealing: a soft choice between the two integers around, by chance."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lictor.layers.quantize.noise import Draw
from lictor.layers.quantize.paths import COLDEST, atanh_logit, check_temperature

# How near to 0 and 1 a uniform number may come before its logit is taken, in float32.
_NEAREST = 2.0**-24


def logistic(uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Turn U(-1/2, 1/2) noise into logistic noise: the difference of two Gumbel variables."""
    return (uniform + 0.5).logit(_NEAREST)


@dataclass(frozen=True)
class GumbelAnnealing:
    """Choose the upper or the lower integer by chance, softly; the nearer one more often.

    The temperature counts twice: it divides the logits, and the relaxed choice has it too. Source:
    Yang et al., NeurIPS 2020 (arXiv:2006.04240), section 3.2, as in its public code.
    """

    temperature: float = 0.5

    resolves_bins = True

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def noise(self, like: Float[Tensor, "*shape"], draw: Draw) -> Float[Tensor, "*shape"]:
        """Draw the uniform numbers that become logistic noise."""
        return draw(like)

    def __call__(
        self, residual: Float[Tensor, "*shape"], noise: Tensor | None
    ) -> Float[Tensor, "*shape"]:
        """Return a value between the two integers around."""
        assert noise is not None
        cold = max(self.temperature, COLDEST)
        below = residual.detach().floor()
        logit = atanh_logit(residual - below) / cold
        return below + ((logit + logistic(noise)) / cold).sigmoid()
