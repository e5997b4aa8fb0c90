"""What a latent says to a network of sines: a shift, and perhaps a scale, for each sine."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Modulation(nn.Module):
    """An affine map from a latent to shifts, or to scales and shifts.

    With scales, the first half of the vector is what the scales exceed 1 by, the second half is
    the shifts. A latent of 0 gives the map's bias, not 0. Weights begin as those of any
    `nn.Linear`.

    Args:
        latent: entries of a latent.
        num_modulations: sines of the network.
        scales: whether there are scales too.

    Source: COIN++ (arXiv:2201.12904) in its official code; its experiments have no scales.
    """

    def __init__(self, latent: int, num_modulations: int, scales: bool = False):
        super().__init__()
        self.scales = scales
        self.map = nn.Linear(latent, num_modulations * (2 if scales else 1))

    def forward(
        self, z: Float[Tensor, "b latent"]
    ) -> tuple[Float[Tensor, "b m"], Float[Tensor, "b m"] | None]:
        """Return shifts and scales; the scales are None where the map has none."""
        said = self.map(z)
        if not self.scales:
            return said, None
        excess, shifts = torch.chunk(said, 2, 1)
        return shifts, 1 + excess
