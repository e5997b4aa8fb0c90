"""Train-test mismatch: how far what training minimises is from what a codec will do."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lictor.layers.quantize.noise import NoiseSource
from lictor.layers.quantize.surrogate import Surrogate
from lictor.models.base import AbstractCodecModel
from lictor.training.loss import rate_distortion


@dataclass(frozen=True)
class Mismatch:
    """What a surrogate makes of pictures less what rounding makes of them, weights being equal.

    A negative `total` is a training loss that flatters. Far below zero it is an alarm: the network
    hides in the stand-in what no rate was charged for, and rounding takes it away.

    Args:
        rate_bpp: bits per pixel, by the latent's name, averaged over the pictures.
        distortion: MSE.
        total: of the loss, `sum(rate_bpp) + lmbda * 255^2 * distortion`.
    """

    rate_bpp: Mapping[str, float]
    distortion: float
    total: float


@torch.no_grad()
def mismatch(
    model: AbstractCodecModel,
    surrogate: Surrogate,
    x: Float[Tensor, "b c h w"],
    lmbda: float,
    noise: NoiseSource,
) -> Mismatch:
    """Return the loss under a surrogate less the loss under rounding, split into its parts.

    Computed in float32 whatever the training runs in; weights, gradients, the model's mode and
    torch's own generator are left as they are. Our reading of the "train-test mismatch" of Zhang,
    Li and Liu (arXiv:2309.17051), of which only the abstract was seen.

    Args:
        model: not the compiled one, which would be compiled anew.
        surrogate: at a point of the run, as `Surrogate.at` gives it.
        x: pictures in [0, 1] on the model's device.
        lmbda: weight of the distortion.
        noise: gives the surrogate its noise.
    """
    pixels = x.shape[-2] * x.shape[-1]
    with torch.autocast(x.device.type, enabled=False):
        trained = model.forward(x, surrogate=surrogate, noise=noise)
        tested = model.forward(x)
    losses = [rate_distortion(x, out, lmbda) for out in (trained, tested)]
    rates = {
        name: float((bits - tested.bits[name]).double().mean()) / pixels
        for name, bits in trained.bits.items()
    }
    distortion = float(losses[0].distortion - losses[1].distortion)
    return Mismatch(rates, distortion, float(losses[0].total - losses[1].total))
