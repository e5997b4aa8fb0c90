"""Training crops: a pure function of seed, step and position in the batch.

A resumed run therefore sees the same data without any saved state.
"""

from collections.abc import Sequence
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
    positions: Sequence[int],
    size: int,
    min_scale: float,
) -> UInt8[np.ndarray, "b size size 3"]:
    """Return crops of one step at some positions: a pure function of the arguments."""
    batch = np.empty((len(positions), size, size, 3), np.uint8)
    for number, position in enumerate(positions):
        rng = np.random.default_rng([seed, step, position])
        image = folder.load(int(rng.integers(len(folder))))
        batch[number] = random_crop(image, size, min_scale, rng)
    return batch


@dataclass(frozen=True)
class Crops:
    """The training crops of a folder: how they are cut, and the batch of every step.

    `size` in pixels; `min_scale` as for `random_crop`; `batch_size` crops in a step, of all
    processes together.
    """

    folder: ImageFolder
    size: int
    batch_size: int
    min_scale: float = 0.5
    seed: int = 0

    def batch(
        self, step: int, positions: Sequence[int] | None = None
    ) -> UInt8[np.ndarray, "b size size 3"]:
        """Return the crops of a step, or those at some positions: a function of the numbers."""
        return make_batch(
            self.folder,
            step=step,
            seed=self.seed,
            positions=range(self.batch_size) if positions is None else positions,
            size=self.size,
            min_scale=self.min_scale,
        )


def batch_to_tensor(batch: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Turn crops into a float32 tensor in [0, 1], channels last in memory."""
    return to_unit_range(torch.from_numpy(batch))


def to_unit_range(crops: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Turn crops into float32 in [0, 1], channels last in memory, where they are."""
    return crops.permute(0, 3, 1, 2).float().div_(255)
