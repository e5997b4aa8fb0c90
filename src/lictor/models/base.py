"""What a model is: one statement of the data path, run with any of the three coders."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lictor.coders import LatentCoder, RateCoder, Shape
from lictor.config import between
from lictor.layers.entropy_network import EntropyNetwork
from lictor.layers.quantize.noise import NoiseSource
from lictor.layers.quantize.surrogate import Surrogate
from lictor.ops import crop, pad_to_multiple
from lictor.priors.base import AbstractPrior

# What may be a number of channels.
WIDTH = between(1, 4096)

# The latents of a batch by name, such as "y" and "z": before quantization or after it.
Latents = Mapping[str, Float[Tensor, "b _ _ _"]]


@dataclass(frozen=True)
class Output:
    """What a forward pass gives: everything a loss needs, so that DDP can wrap the model.

    `x_hat` has the shape and range of `x` (not clamped); `bits[latent]` has shape `b`.
    """

    x_hat: Float[Tensor, "b c h w"]
    bits: Mapping[str, Float[Tensor, " b"]]

    @property
    def total_bits(self) -> Float[Tensor, " b"]:
        """Bits of each image, all latents together."""
        return torch.stack(list(self.bits.values())).sum(0)


class AbstractCodecModel(nn.Module, ABC):
    """A learned image codec while it learns.

    A concrete model states `stride` (image sides are padded to a multiple of it), its `priors`, and
    the data path in three parts: `analyse`, `code`, `synthesise`. An encoder needs the first two, a
    decoder the last two. A model never pads, crops or sums bits itself.
    """

    name: str
    stride: int
    in_channels: int = 3
    # What `lictor.ptq` made of it, such as "W8A8 all"; None for a model that can learn.
    quantization: str | None = None

    @abstractmethod
    def hyperparameters(self) -> Mapping[str, int | float | str]:
        """Return the constructor's arguments, enough to build the same model again.

        An argument that came later and has its default is left out: the fingerprint covers this.
        """

    @abstractmethod
    def priors(self) -> Mapping[str, AbstractPrior]:
        """Return the prior of each latent, by the latent's name."""

    @abstractmethod
    def analyse(self, x: Float[Tensor, "b c hp wp"]) -> Latents:
        """Return the latents of a padded image, before quantization."""

    @abstractmethod
    def code(self, coder: LatentCoder, latents: Latents | None, shape: Shape) -> Latents:
        """Hand the latents (None when decoding) of a padded image of the given shape to a coder.

        Returns the quantized latents, the same for every coder.
        """

    @abstractmethod
    def synthesise(self, quantized: Latents) -> Float[Tensor, "b c hp wp"]:
        """Return the padded image that quantized latents stand for, not clamped."""

    def padded_shape(self, batch: int, height: int, width: int) -> Shape:
        """Return the shape that an image of the given size has after padding."""
        return (
            batch,
            self.in_channels,
            height + -height % self.stride,
            width + -width % self.stride,
        )

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        *,
        surrogate: Surrogate | None = None,
        noise: NoiseSource | None = None,
    ) -> Output:
        """Reconstruct `x` (RGB in [0, 1], any size from 1x1) and count the bits.

        Without a surrogate the latents are rounded, as a codec does. `noise` says which noise a
        surrogate draws; torch's own generator if not given.
        """
        height, width = x.shape[-2:]
        coder = RateCoder(surrogate, noise)
        padded = pad_to_multiple(x, self.stride).contiguous(memory_format=torch.channels_last)
        shape = self.padded_shape(x.shape[0], height, width)
        x_hat = self.synthesise(self.code(coder, self.analyse(padded), shape))
        return Output(crop(x_hat, height, width), dict(coder.bits))

    def transforms(self) -> list[nn.Module]:
        """Return the networks that decide no probability: they may compute anywhere."""
        exact = (EntropyNetwork, AbstractPrior)
        return [module for module in self.children() if not isinstance(module, exact)]

    def freeze(self) -> None:
        """Stop learning and switch every entropy network to its reproducible evaluation."""
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, EntropyNetwork):
                module.freeze()


def latent_shape(shape: Shape, channels: int, stride: int) -> Shape:
    """Return the shape of a latent with `channels` at 1/`stride` of the image's size."""
    batch, _, height, width = shape
    return batch, channels, height // stride, width // stride
