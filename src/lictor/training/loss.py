"""The rate-distortion loss: the only place where lambda meets a distortion."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lictor.models.base import Output


@dataclass(frozen=True)
class Loss:
    """Scalars of one batch: `total = bpp + lmbda * 255^2 * distortion`; `distortion` is the MSE."""

    total: Float[Tensor, ""]
    bpp: Float[Tensor, ""]
    distortion: Float[Tensor, ""]


def rate_distortion(x: Float[Tensor, "b c h w"], out: Output, lmbda: float) -> Loss:
    """Return the rate-distortion loss of a batch in [0, 1], averaged over its images."""
    height, width = x.shape[-2:]
    bpp = out.total_bits.mean() / (height * width)
    distortion = (out.x_hat.float() - x).square().mean()
    return Loss(bpp + lmbda * 255**2 * distortion, bpp, distortion)
