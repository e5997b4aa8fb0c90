"""Curves to compare, made up but with pictures behind them."""

import numpy as np

from lictor.evaluation.bd import Comparison
from lictor.evaluation.curve import Curve, ImageResult, curve_from_rows


def measured(
    name: str = "codec",
    *,
    gain: float = 0.0,
    images: int = 12,
    points: int = 5,
    spread: float = 0.1,
    **about,
) -> Curve:
    """A curve of pictures that differ in difficulty; `gain` is in dB, for all of them alike."""
    rng = np.random.default_rng(sum(map(ord, name)))
    hard = np.random.default_rng(0).uniform(0.5, 2, images)
    own = rng.normal(0, spread, images)
    rows = []
    for k in range(points):
        for i in range(images):
            bpp = 0.1 * 1.7**k * hard[i]
            psnr = 28 + 2.4 * k - 0.1 * k * k - 2 * np.log(hard[i]) + gain + own[i]
            mse = 255**2 / 10 ** (psnr / 10)
            rows.append(
                ImageResult(
                    setting=f"q={k}",
                    image=f"{i:02}.png",
                    sha256=f"hash{i}",
                    width=100,
                    height=100,
                    bytes=round(bpp * 1250),
                    bpp=bpp,
                    mse=mse,
                    mse_y=mse / 2,
                    psnr=psnr,
                    psnr_y=psnr + 3,
                    ms_ssim=1 - 0.05 * hard[i] ** 0.1 / (k + 1 + gain) ** 2,
                    encode_s=0.1,
                    decode_s=0.2,
                    lpips=0.3 / (k + 1 + gain + own[i]),
                )
            )
    return curve_from_rows(name, rows, **{"dataset": "made-up", **about})


def published(name: str, bpp: list[float], psnr: list[float], **about) -> Curve:
    """A curve that is numbers only."""
    about = {"dataset": "made-up", "aggregation": "mean-psnr", "counts_header": True, **about}
    columns = {"bpp": np.array(bpp, float), "psnr": np.array(psnr, float)}
    return Curve(name, tuple(str(i + 1) for i in range(len(bpp))), columns, **about)


def codes(result: Comparison, level: str = "warning") -> list[str]:
    return [finding.code for finding in result.findings if finding.level == level]
