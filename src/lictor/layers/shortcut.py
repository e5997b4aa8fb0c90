"""Linear block transforms that run beside a network, and start as a discrete cosine transform.

A deep transform spends its first thousands of steps on finding what a block DCT already does. Given
a linear shortcut from the pixels to the latent and back, initialised with the DCT, training starts
from a working (if blocky) codec and the network learns the rest. That linear shortcuts speed up
training is the finding of Li et al., ICLR 2025 (arXiv:2501.13751), of which we know the abstract;
theirs are made of wavelets, the DCT and the scaling here are our own.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Chroma frequencies wait behind luma frequencies that are this many times higher.
_CHROMA_PENALTY = 2.5
# Latent units per orthonormal coefficient of a picture in [0, 1]: a step of 85 grey levels.
_GAIN = 3.0


def color_dct_basis(num_functions: int, size: int) -> Float[Tensor, "m 3 size size"]:
    """Return the `num_functions` lowest orthonormal DCT functions of RGB blocks, low ones first.

    Luma and two chroma axes are the orthonormalised rows of the YCbCr matrix (Rec. 601).
    """
    k = torch.arange(size, dtype=torch.float64)
    cosines = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / size) * math.sqrt(2 / size)
    cosines[0] /= math.sqrt(2)
    ycbcr = torch.tensor(
        [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]],
        dtype=torch.float64,
    )
    rotated, _ = torch.linalg.qr(ycbcr.T)
    axes = rotated.T * torch.sign((rotated.T * ycbcr).sum(1, keepdim=True))
    order = sorted(
        ((u + v + 1) * (_CHROMA_PENALTY if axis else 1.0), abs(u - v), axis, u, v)
        for axis in range(3)
        for u in range(size)
        for v in range(size)
    )
    functions = [
        torch.einsum("c,u,v->cuv", axes[axis], cosines[u], cosines[v])
        for _, _, axis, u, v in order[:num_functions]
    ]
    return torch.stack(functions).float()


class LinearAnalysis(nn.Module):
    """Add a linear transform of `size` x `size` blocks to what `body` makes of the image."""

    def __init__(self, body: nn.Module, num_functions: int, size: int):
        super().__init__()
        self.body = body
        self.linear = nn.Conv2d(3, num_functions, size, stride=size)
        with torch.no_grad():
            self.linear.weight.copy_(_GAIN * color_dct_basis(num_functions, size))
            assert self.linear.bias is not None
            self.linear.bias.copy_(-0.5 * self.linear.weight.sum((1, 2, 3)))  # grey becomes 0

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m hl wl"]:
        """Map an image to a latent of 1/`size` of its sides."""
        return self.body(x) + self.linear(x)


class LinearSynthesis(nn.Module):
    """Add a linear transform back to `size` x `size` blocks to what `body` makes of the latent."""

    def __init__(self, body: nn.Module, num_functions: int, size: int):
        super().__init__()
        self.body = body
        self.linear = nn.ConvTranspose2d(num_functions, 3, size, stride=size)
        # The weights are kept as large as the analysis' own: an adaptive optimizer moves all
        # weights by the same amount, which would shake small ones to pieces.
        self.scale = 1 / _GAIN**2
        with torch.no_grad():
            self.linear.weight.copy_(_GAIN * color_dct_basis(num_functions, size))
            assert self.linear.bias is not None
            self.linear.bias.fill_(0.5)

    def forward(self, y_hat: Float[Tensor, "b m hl wl"]) -> Float[Tensor, "b c h w"]:
        """Map a latent to an image of `size` times its sides."""
        return self.body(y_hat) + self.linear(y_hat * self.scale)
