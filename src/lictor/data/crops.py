"""Training crops: a pure function of seed, step and position in the batch.

A resumed run therefore sees the same data without any saved state.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lictor.data.folder import ImageFolder


def random_crop(
    image: UInt8[np.ndarray, "h w 3"], size: int, min_scale: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    """Cut a random square, scaled down by a random factor from `min_scale` to 1, maybe mirrored.

    A picture smaller than the square is scaled up to it.
    """
    scale = rng.uniform(min_scale, 1.0)
    edge = min(round(size / scale), *image.shape[:2])
    top = int(rng.integers(image.shape[0] - edge + 1))
    left = int(rng.integers(image.shape[1] - edge + 1))
    patch = np.ascontiguousarray(image[top : top + edge, left : left + edge])
    if edge != size:
        patch = np.asarray(Image.fromarray(patch).resize((size, size), Image.Resampling.BICUBIC))
    return patch[:, ::-1] if rng.random() < 0.5 else patch


def make_batch(
    folder: ImageFolder,
    *,
    step: int,
    seed: int,
    batch_size: int,
    size: int,
    min_scale: float,
    first: int = 0,
) -> UInt8[np.ndarray, "b size size 3"]:
    """Return crops of one step, from position `first` on: a pure function of the arguments."""
    batch = np.empty((batch_size, size, size, 3), np.uint8)
    for position in range(batch_size):
        rng = np.random.default_rng([seed, step, first + position])
        image = folder.load(int(rng.integers(len(folder))))
        batch[position] = random_crop(image, size, min_scale, rng)
    return batch


@dataclass(frozen=True)
class Crops:
    """The training crops of a folder: how they are cut, and the batch of every step.

    `size` in pixels; `min_scale` as for `random_crop`; `batch_size` crops in a step of one process,
    and those of another `rank` are others.
    """

    folder: ImageFolder
    size: int
    batch_size: int
    min_scale: float = 0.5
    seed: int = 0
    rank: int = 0

    def batch(self, step: int) -> UInt8[np.ndarray, "b size size 3"]:
        """Return the crops of a step: a pure function of its number."""
        return make_batch(
            self.folder,
            step=step,
            seed=self.seed,
            batch_size=self.batch_size,
            size=self.size,
            min_scale=self.min_scale,
            first=self.rank * self.batch_size,
        )


def batch_to_tensor(batch: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Turn crops into a float32 tensor in [0, 1], channels last in memory."""
    return torch.from_numpy(batch).permute(0, 3, 1, 2).float().div_(255)
