"""Training crops: a pure function of seed, step and position in the batch.

A resumed run therefore sees the same data without any saved state.
"""

import functools
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from lictor.data.folder import ImageFolder
from lictor.data.order import Order


def draws(*key: int) -> tuple[float, float, float, float]:
    """Return four numbers from 0 to below 1 that are a function of the key, and look random.

    A hash, since numpy's generators take as long to be made as a crop takes to be copied.
    """
    packed = struct.pack(f"<{len(key)}q", *key)
    words = struct.unpack("<4Q", hashlib.blake2b(packed, digest_size=32).digest())
    first, second, third, fourth = ((word >> 11) * 2.0**-53 for word in words)
    return first, second, third, fourth


def random_crop(
    image: UInt8[np.ndarray, "h w 3"],
    size: int,
    min_scale: float,
    chance: tuple[float, float, float, float],
) -> UInt8[np.ndarray, "size size 3"]:
    """Cut a random square, scaled down by a random factor from `min_scale` to 1, maybe mirrored.

    `chance` has numbers from 0 to below 1: for the factor, the place (down, right), mirroring. A
    picture smaller than the square is scaled up to it. What is returned may be a view.
    """
    height, width, _ = image.shape
    scale = min_scale + chance[0] * (1 - min_scale)
    edge = min(round(size / scale), height, width)
    top, left = int(chance[1] * (height - edge + 1)), int(chance[2] * (width - edge + 1))
    if edge == size:
        patch = image[top : top + size, left : left + size]
    else:
        patch = _rescaled(image, top, left, edge, size)
    return patch[:, ::-1] if chance[3] < 0.5 else patch


def _rescaled(
    image: UInt8[np.ndarray, "h w 3"], top: int, left: int, edge: int, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Rescale a square of a picture by an antialiased bicubic filter, in integers, as Pillow does.

    torch takes a fifth of Pillow's time for it, but only with four channels: a pixel is read
    together with the first byte of the next one, and what comes of that byte is left out again.
    """
    last = (top + edge, left + edge) == image.shape[:2]
    if last or not image.flags.c_contiguous:  # nothing may follow the last pixel
        image = np.pad(image[top : top + edge, left : left + edge], ((0, 1), (0, 0), (0, 0)))
        top = left = 0
    width = image.shape[1]
    pixels = np.ndarray(
        (edge, edge),
        np.uint32,
        image.reshape(-1),  # pyright: ignore[reportArgumentType]
        offset=(top * width + left) * 3,
        strides=(width * 3, 3),
    )
    wide = torch.from_numpy(np.ascontiguousarray(pixels).view(np.uint8).reshape(1, edge, edge, 4))
    planes = wide.permute(0, 3, 1, 2)
    planes = interpolate(planes, (size, size), mode="bicubic", antialias=True)
    return planes[0].permute(1, 2, 0).numpy()[:, :, :3]


def _put(crop: UInt8[np.ndarray, "size size 3"], place: UInt8[np.ndarray, "size size 3"]) -> None:
    """Copy a crop: by channels where pixels do not follow each other, or it would take longer."""
    if crop.strides[1:] == (3, 1):
        place[:] = crop
        return
    for channel in range(3):
        place[:, :, channel] = crop[:, :, channel]


@dataclass(frozen=True)
class Crops:
    """The training crops of a folder: how they are cut, and the batch of every step.

    `size` in pixels; `min_scale` as for `random_crop`; `batch_size` crops in a step, of all
    processes together; `crops_per_decode` crops of a picture in an epoch (see `Order`).
    """

    folder: ImageFolder
    size: int
    batch_size: int
    min_scale: float = 0.5
    seed: int = 0
    crops_per_decode: int = 1

    @functools.cached_property
    def order(self) -> Order:
        """Which picture comes when."""
        groups = self.folder.groups or ((len(self.folder), 1.0),)
        return Order(groups, self.batch_size, self.seed, self.crops_per_decode)

    def batch(
        self, step: int, positions: Sequence[int] | None = None
    ) -> UInt8[np.ndarray, "b size size 3"]:
        """Return the crops of a step, or those at some positions: a function of the numbers."""
        positions = range(self.batch_size) if positions is None else positions
        batch = np.empty((len(positions), self.size, self.size, 3), np.uint8)
        for place, position in zip(batch, positions, strict=True):
            image = self.folder.load(self.order.picture(step, position))
            chance = draws(self.seed, step, position)
            _put(random_crop(image, self.size, self.min_scale, chance), place)
        return batch


def batch_to_tensor(batch: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Turn crops into a float32 tensor in [0, 1], channels last in memory."""
    return to_unit_range(torch.from_numpy(batch))


def to_unit_range(crops: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Turn crops into float32 in [0, 1], channels last in memory, where they are."""
    return crops.permute(0, 3, 1, 2).float().div_(255)
