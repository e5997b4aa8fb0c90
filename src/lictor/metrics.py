"""Distortion and rate of a decoded picture.

Pictures are compared as users get them: 8-bit arrays of equal shape.
"""

import math

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

_Planes = NDArray[np.float64]  # c h w

# Weights of the five scales and the constants: Wang, Simoncelli, Bovik, Asilomar 2003, section 3.
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
MS_SSIM_MIN_SIDE = (_WINDOW - 1) * 2 ** (len(_WEIGHTS) - 1) + 1


def ms_ssim_db(similarity: float) -> float:
    """Return MS-SSIM on a logarithmic scale, -10 log10(1 - MS-SSIM) dB; infinite at 1."""
    return math.inf if similarity >= 1 else -10 * math.log10(1 - similarity)


def mse(
    a: UInt8[np.ndarray, "h w c"] | Float[np.ndarray, "h w c"],
    b: UInt8[np.ndarray, "h w c"] | Float[np.ndarray, "h w c"],
) -> float:
    """Return the mean squared difference of two pictures of range 0 to 255, in squared grey levels.

    Grey beside RGB counts as three equal channels.
    """
    difference = a.astype(np.float64) - b
    return float(np.mean(difference * difference))


def luma(image: UInt8[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w 1"]:
    """Return the luma of a grey or RGB picture, 0 to 255, not rounded: ITU-R BT.601, section 2.5.1.

    Full range: white is 255.
    """
    if image.shape[2] == 1:
        return image.astype(np.float64)
    return (image @ np.array([0.299, 0.587, 0.114]))[:, :, None]


def psnr(a: UInt8[np.ndarray, "h w c"], b: UInt8[np.ndarray, "h w c"]) -> float:
    """Return the PSNR of two 8-bit pictures in dB; infinite when they are equal."""
    return psnr_of_mse(mse(a, b))


def psnr_of_mse(error: float) -> float:
    """Return the PSNR in dB of a mean squared error in squared grey levels; infinite at 0."""
    return math.inf if error <= 0 else 10 * math.log10(255**2 / error)


def _blur(x: Float[np.ndarray, "c h w"], window: Float[np.ndarray, " k"]) -> _Planes:
    """Filter both axes where the window fits entirely."""
    margin = len(window) // 2
    for axis in (-1, -2):
        x = correlate1d(x, window, axis=axis, mode="constant")
    return x[:, margin:-margin, margin:-margin]


def _halve(x: Float[np.ndarray, "two c h w"]) -> Float[np.ndarray, "two c h2 w2"]:
    """Average squares of 2x2; an odd side gets a line of zeros in front."""
    odd = [(0, 0), (0, 0), *((side % 2, 0) for side in x.shape[-2:])]
    x = np.pad(x, odd)
    rows = x[..., ::2, :] + x[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


def ms_ssim(a: UInt8[np.ndarray, "h w c"], b: UInt8[np.ndarray, "h w c"]) -> float:
    """Return the multi-scale structural similarity, averaged over channels, at most 1.

    NaN when a side is under 161 pixels: five scales do not fit. Source: Wang, Simoncelli, Bovik,
    Asilomar 2003; Gaussian windows of 11 pixels without padding, 2x2 averages between scales.
    """
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        return math.nan
    planes = np.stack([a, b]).transpose(0, 3, 1, 2).astype(np.float64)
    grid = np.arange(_WINDOW) - _WINDOW // 2
    window = np.exp(-(grid**2) / (2 * _SIGMA**2))
    window /= window.sum()
    result = np.ones(a.shape[2])
    for scale, weight in enumerate(_WEIGHTS):
        if scale > 0:
            planes = _halve(planes)
        x, y = planes
        mean_x, mean_y = _blur(x, window), _blur(y, window)
        var_x = _blur(x * x, window) - mean_x**2
        var_y = _blur(y * y, window) - mean_y**2
        covariance = _blur(x * y, window) - mean_x * mean_y
        similarity = (2 * covariance + _C2) / (var_x + var_y + _C2)
        if scale == len(_WEIGHTS) - 1:
            luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
            similarity = similarity * luminance
        result *= np.maximum(similarity.mean((1, 2)), 0) ** weight
    return float(result.mean())
