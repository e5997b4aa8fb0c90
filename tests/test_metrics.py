"""Metrics agree with their definitions and with scikit-image."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from conftest import photo
from lictor import metrics
from lictor.metrics import MS_SSIM_MIN_SIDE, ms_ssim, mse, psnr
from lictor.rates import bpp


@given(seed=st.integers(0, 1000), channels=st.sampled_from([1, 3]))
def test_psnr_is_scikit_images(seed, channels):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (2, 9, 7, channels), dtype=np.uint8)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b))


def test_psnr_of_equal_pictures_is_infinite_and_mse_zero():
    image = photo(8, 8)
    assert psnr(image, image) == math.inf
    assert mse(image, image) == 0


def test_mse_does_not_wrap_around():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert mse(black, white) == mse(white, black) == 255**2


def test_bpp_counts_bits():
    assert bpp(100, 10, 20) == 4


def test_ms_ssim_with_one_scale_is_scikit_images_ssim(monkeypatch):
    monkeypatch.setattr(metrics, "_WEIGHTS", (1.0,))
    a = photo(200, 180)
    b = np.clip(a + np.random.default_rng(0).normal(0, 12, a.shape), 0, 255).astype(np.uint8)
    _, full = structural_similarity(
        a,
        b,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2,
        full=True,
    )
    assert ms_ssim(a, b) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)


def test_ms_ssim_is_one_for_equal_symmetric_and_falls_with_noise():
    a = photo(200, 220)
    rng = np.random.default_rng(1)
    noisy = [
        np.clip(a + rng.normal(0, sigma, a.shape), 0, 255).astype(np.uint8) for sigma in (3, 10, 30)
    ]
    values = [ms_ssim(a, b) for b in noisy]
    assert ms_ssim(a, a) == pytest.approx(1)
    assert values == sorted(values, reverse=True)
    assert ms_ssim(a, noisy[1]) == pytest.approx(ms_ssim(noisy[1], a))


def test_ms_ssim_of_pictures_too_small_for_five_scales_is_nan():
    side = MS_SSIM_MIN_SIDE
    assert math.isnan(ms_ssim(photo(side - 1, 300), photo(side - 1, 300, seed=1)))
    assert 0 <= ms_ssim(photo(side, side), photo(side, side, seed=1)) <= 1
