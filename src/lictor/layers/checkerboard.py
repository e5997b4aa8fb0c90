"""Splitting a latent into the two colours of a checkerboard, and joining them again.

Each half is packed into a dense tensor of half the width, so that a coder sees an ordinary latent
and no network wastes work on positions that are not there.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import (
    handle_torch_function,
    has_torch_function,
    has_torch_function_unary,
)


def checkerboard_split(
    x: Float[Tensor, "b c h w"],
) -> tuple[Float[Tensor, "b c h v"], Float[Tensor, "b c h v"]]:
    """Return the even (`row + column` even) and the odd elements, `v = w / 2`.

    Both sides must be even.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(checkerboard_split, (x,), x)
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
    even = torch.stack([cells[:, :, :, 0, :, 0], cells[:, :, :, 1, :, 1]], dim=3)
    odd = torch.stack([cells[:, :, :, 0, :, 1], cells[:, :, :, 1, :, 0]], dim=3)
    half = (batch, channels, height, width // 2)
    return even.reshape(half), odd.reshape(half)


def checkerboard_join(
    even: Float[Tensor, "b c h v"], odd: Float[Tensor, "b c h v"]
) -> Float[Tensor, "b c h w"]:
    """Put the two halves back in place; undoes `checkerboard_split`."""
    if has_torch_function((even, odd)):
        return handle_torch_function(checkerboard_join, (even, odd), even, odd)
    batch, channels, height, half = even.shape
    even = even.reshape(batch, channels, height // 2, 2, half)
    odd = odd.reshape(batch, channels, height // 2, 2, half)
    first = torch.stack([even[:, :, :, 0], odd[:, :, :, 0]], dim=-1)
    second = torch.stack([odd[:, :, :, 1], even[:, :, :, 1]], dim=-1)
    return torch.stack([first, second], dim=3).reshape(batch, channels, height, 2 * half)


class CheckerboardConv(nn.Module):
    """A convolution that sees the even elements alone and tells of the odd ones, both packed.

    The same as `Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)` on a
    picture whose odd elements are zero, of which the odd elements are taken; its weights are that
    layer's. But only taps that fall on even elements are computed, and only where they are asked
    for: 0.3 of the work at a side of 5. The other taps, of even `row + column`, never count.

    Args:
        in_channels: of the even elements.
        out_channels: of the result.
        kernel_size: odd side of the kernel.

    Source: He et al., CVPR 2021 (arXiv:2103.15306), section 3, of which we know the idea.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        plain = nn.Conv2d(in_channels, out_channels, kernel_size)
        assert plain.bias is not None
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = kernel_size
        self.weight = nn.Parameter(plain.weight.detach().clone())
        self.bias = nn.Parameter(plain.bias.detach().clone())
        self.places: Tensor
        self.register_buffer("places", torch.tensor(_packed_taps(kernel_size)), persistent=False)

    def forward(self, even: Float[Tensor, "b c h v"]) -> Float[Tensor, "b d h v"]:
        """Return what the even half, `h` even, says of each element of the odd half."""
        kernels = packed_kernels(self.weight, self.places)
        return half_convolution(even, kernels.unbind(), self.bias)


def packed_kernels(
    weight: Float[Tensor, "d c k k"], places: Int[Tensor, " n"] | None = None
) -> Float[Tensor, "2 d c k p"]:
    """Return what a kernel of odd side is on packed rows: for even rows, and for odd ones.

    `places` are those of the taps, made anew if not given.
    """
    side = weight.shape[-1]
    # One more tap, a zero, for the places of a packed kernel that no tap falls on.
    taps = F.pad(weight.flatten(2), (0, 1))
    if places is None:
        places = torch.tensor(_packed_taps(side), device=weight.device)
    return taps[:, :, places].unflatten(-1, (2, side, -1)).movedim(2, 0)


def half_convolution(
    even: Float[Tensor, "b c h v"],
    kernels: Sequence[Float[Tensor, "d c k p"]],
    bias: Float[Tensor, " d"] | None,
) -> Float[Tensor, "b d h v"]:
    """Return `CheckerboardConv` with these `packed_kernels`; `h` is even."""
    batch, _, height, width = even.shape
    side, places = kernels[0].shape[-2:]
    padded = F.pad(even, (places // 2, places // 2, side // 2, side // 2))
    rows = [
        F.conv2d(padded[:, :, parity:], kernel, bias, stride=(2, 1))
        for parity, kernel in enumerate(kernels)
    ]
    return torch.stack(rows, 3).reshape(batch, len(kernels[0]), height, width)


@functools.cache
def _packed_taps(side: int) -> tuple[int, ...]:
    """Return which tap of a kernel is at each place of the packed ones, for even and odd rows.

    A packed row holds every second element: in even rows those of even columns, in odd rows those
    of odd ones. Where no tap falls, the number is that of taps.
    """
    half = side // 2
    reach = (half + 1) // 2
    taps = np.full((2, side, 2 * reach + 1), side * side)
    for parity in range(2):
        for row in range(-half, half + 1):
            for column in range(-half, half + 1):
                if (row + column) % 2 == 0:
                    continue
                # The column of an odd element is 2 j + 1 in even rows, 2 j in odd ones; that of an
                # even element is 2 j + 1 where its row is odd.
                distance = (1 - parity) + column - (parity + row) % 2
                taps[parity, row + half, distance // 2 + reach] = (
                    (row + half) * side + column + half
                )
    return tuple(taps.ravel().tolist())
