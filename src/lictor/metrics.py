"""Distortion and rate of a decoded picture.

Pictures are compared as users get them: 8-bit arrays of equal shape.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

# Weights of the five scales and the constants: Wang, Simoncelli, Bovik, Asilomar 2003, section 3.
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
MS_SSIM_MIN_SIDE = (_WINDOW - 1) * 2 ** (len(_WEIGHTS) - 1) + 1


def bpp(num_bytes: int, height: int, width: int) -> float:
    """Return bits per pixel of a whole file."""
    return 8 * num_bytes / (height * width)


def mse(a: UInt8[np.ndarray, "h w c"], b: UInt8[np.ndarray, "h w c"]) -> float:
    """Return the mean squared difference of two 8-bit pictures, in squared grey levels."""
    difference = a.astype(np.float64) - b
    return float(np.mean(difference * difference))


def psnr(a: UInt8[np.ndarray, "h w c"], b: UInt8[np.ndarray, "h w c"]) -> float:
    """Return the PSNR of two 8-bit pictures in dB; infinite when they are equal."""
    error = mse(a, b)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _blur(
    x: Float[Tensor, "c one h w"], kernel: Float[Tensor, " k"]
) -> Float[Tensor, "c one hk wk"]:
    return F.conv2d(F.conv2d(x, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))


def ms_ssim(a: UInt8[np.ndarray, "h w c"], b: UInt8[np.ndarray, "h w c"]) -> float:
    """Return the multi-scale structural similarity, averaged over channels, at most 1.

    NaN when a side is under 161 pixels: five scales do not fit. Source: Wang, Simoncelli, Bovik,
    Asilomar 2003; Gaussian windows of 11 pixels without padding, 2x2 averages between scales.
    """
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        return math.nan
    x, y = (torch.from_numpy(p.astype(np.float64)).permute(2, 0, 1)[:, None] for p in (a, b))
    grid = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    kernel = torch.exp(-(grid**2) / (2 * _SIGMA**2))
    kernel /= kernel.sum()
    result = torch.ones(x.shape[0], dtype=torch.float64)
    for scale, weight in enumerate(_WEIGHTS):
        if scale > 0:
            padding = [side % 2 for side in x.shape[-2:]]
            x, y = (F.avg_pool2d(p, 2, padding=padding) for p in (x, y))
        mean_x, mean_y = _blur(x, kernel), _blur(y, kernel)
        var_x = _blur(x * x, kernel) - mean_x**2
        var_y = _blur(y * y, kernel) - mean_y**2
        covariance = _blur(x * y, kernel) - mean_x * mean_y
        similarity = (2 * covariance + _C2) / (var_x + var_y + _C2)
        if scale == len(_WEIGHTS) - 1:
            luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
            similarity = similarity * luminance
        result *= similarity.mean((1, 2, 3)).clamp_min(0) ** weight
    return float(result.mean())
