"""Convolutional blocks: strided convolutions of the literature, and residual blocks."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def downsample(in_channels: int, out_channels: int, *, kernel_size: int = 5) -> nn.Conv2d:
    """Halve both sides with a strided convolution."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride=2, padding=kernel_size // 2)


def upsample(in_channels: int, out_channels: int, *, kernel_size: int = 5) -> nn.ConvTranspose2d:
    """Double both sides with a transposed convolution."""
    return nn.ConvTranspose2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=2,
        padding=kernel_size // 2,
        output_padding=1,
    )


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Keep the size; mix a 3x3 neighbourhood."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Mix channels at each pixel."""
    return nn.Conv2d(in_channels, out_channels, 1)


def damped(conv: nn.Conv2d) -> nn.Conv2d:
    """Shrink the initial weights tenfold, so that a branch starts as a small correction."""
    with torch.no_grad():
        conv.weight.mul_(0.1)
        if conv.bias is not None:
            conv.bias.zero_()
    return conv


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a rectifier, added to their input."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(channels, channels), nn.LeakyReLU(0.1), damped(conv3x3(channels, channels))
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Refine `x`; the shape stays."""
        return x + self.body(x)
