"""What learns when a network of signals is trained: the network, and what training needs beside."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lictor.implicit.model import ImplicitModel

_LEAST_PROBABILITY = 1e-9
# Scales of latents begin here, in units of the range of values.
_FIRST_SCALE = 0.05


class Learner(nn.Module):
    """A network of signals with a model of the rate of its latents, and the range of values.

    The rate is that of a Laplace distribution for each entry of a latent. It is there for training:
    a codec has integer tables in its place.

    Args:
        net: the network; it sees `(value - low) / (high - low)`.
        low: value that becomes 0.
        high: value that becomes 1.
    """

    low: Float[Tensor, ""]
    high: Float[Tensor, ""]

    def __init__(self, net: ImplicitModel, low: float = 0.0, high: float = 1.0):
        super().__init__()
        self.net = net
        self.log_scales = nn.Parameter(torch.full((net.latent,), math.log(_FIRST_SCALE)))
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))

    @property
    def name(self) -> str:
        """Name of the network in the table of networks."""
        return self.net.name

    def start_rates(self, variances: Float[Tensor, " latent"]) -> None:
        """Begin with the scales of latents of such variances."""
        with torch.no_grad():
            self.log_scales.copy_((variances / 2).clamp(min=1e-12).sqrt().log())

    def bits(self, z: Float[Tensor, "b latent"], step: Float[Tensor, "b 1"]) -> Float[Tensor, " b"]:
        """Return what each item's latent costs in bits.

        Args:
            z: latents, rounded to steps or with noise as wide as a step.
            step: width of the steps of each item.
        """
        scales = self.log_scales.exp()
        away = z.abs()
        # The mass of a bin that lies on one side is e^-|z|/scale times that of one at its side.
        upper, lower = (away + step / 2) / scales, (away - step / 2) / scales
        inside = 1 - ((-upper).exp() + lower.clamp(max=0).exp()) / 2
        outside = ((-lower.clamp(min=0)).exp() - (-upper).exp()) / 2
        mass = torch.where(lower < 0, inside, outside)
        return -mass.clamp(min=_LEAST_PROBABILITY).log2().sum(1)
