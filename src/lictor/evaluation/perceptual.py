"""LPIPS, an optional measure of perceived difference; needs the extra `lpips` and its weights."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from lictor.errors import ConfigError

# The file name that torch.hub gives the ImageNet weights of AlexNet, LPIPS' usual backbone.
BACKBONE_FILE = "alexnet-owt-7be5be79.pth"


def backbone_path() -> Path:
    """Return where torch keeps the weights of the backbone."""
    return Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE_FILE


class Lpips:
    """LPIPS version 0.1 with AlexNet (Zhang et al., CVPR 2018), lower is better.

    Raises `ConfigError` when the package or the backbone's weights are missing: nothing is
    downloaded behind the caller's back.
    """

    def __init__(self) -> None:
        try:
            lpips = import_module("lpips")
        except Exception as error:  # a torchvision that does not fit torch raises anything
            raise ConfigError(
                f'LPIPS cannot be imported ({error}): pip install "lictor[lpips]", '
                "with the torchvision that belongs to your torch"
            ) from error
        if not backbone_path().is_file():
            raise ConfigError(
                f"{backbone_path()}: the weights of LPIPS' backbone are not there; "
                f"download https://download.pytorch.org/models/{BACKBONE_FILE} to that place, "
                "or leave --lpips out"
            )
        self._model: Any = lpips.LPIPS(net="alex", verbose=False).eval()

    @torch.inference_mode()
    def __call__(self, a: UInt8[np.ndarray, "h w c"], b: UInt8[np.ndarray, "h w c"]) -> float:
        """Return the distance of two pictures of equal shape, from 0."""
        return float(self._model(_to_signed(a), _to_signed(b)))


def _to_signed(image: UInt8[np.ndarray, "h w c"]) -> torch.Tensor:
    """LPIPS takes RGB in [-1, 1]."""
    rgb = np.array(np.broadcast_to(image, (*image.shape[:2], 3)))
    return torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 127.5 - 1
