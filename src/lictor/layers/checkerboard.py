"""Splitting a latent into the two colours of a checkerboard, and joining them again.

Each half is packed into a dense tensor of half the width, so that a coder sees an ordinary latent
and no network wastes work on positions that are not there.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def checkerboard_split(
    x: Float[Tensor, "b c h w"],
) -> tuple[Float[Tensor, "b c h v"], Float[Tensor, "b c h v"]]:
    """Return the even (`row + column` even) and the odd elements, `v = w / 2`.

    Both sides must be even.
    """
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
    batch, channels, height, half = even.shape
    even = even.reshape(batch, channels, height // 2, 2, half)
    odd = odd.reshape(batch, channels, height // 2, 2, half)
    first = torch.stack([even[:, :, :, 0], odd[:, :, :, 0]], dim=-1)
    second = torch.stack([odd[:, :, :, 1], even[:, :, :, 1]], dim=-1)
    return torch.stack([first, second], dim=3).reshape(batch, channels, height, 2 * half)
