"""The figures of a curve of signals as people read them: in its unit, beside a baseline."""

import math

from lictor.comparison.curve import Curve
from lictor.evaluation.signals.sweep import WITH_NETWORK


def point_figures(curve: Curve) -> list[dict[str, str]]:
    """Return a row of texts for each point: rate, PSNR, baseline, SNR, times."""
    unit = curve.unit
    rows = []
    for i, setting in enumerate(curve.settings):
        psnr, baseline = _at(curve, "psnr", i), _at(curve, "baseline-psnr", i)
        row = {
            "curve": curve.name,
            "setting": setting,
            "items": str(len(curve.at(setting))),
            unit.name: _text(_at(curve, "bpp", i) * unit.per_bpp, 3 if unit.per_bpp > 1 else 5),
            "with network": _text(_at(curve, WITH_NETWORK, i) * unit.per_bpp, 3),
            "PSNR": _text(psnr, 2),
            "of mean MSE": _text(_at(curve, "psnr-of-mean-mse", i), 2),
            "baseline": _text(baseline, 2),
            "SNR": _text(psnr - baseline if math.isfinite(baseline) else math.nan, 2),
            "cos-lat": _text(_at(curve, "psnr-lat", i), 2),
            "enc s": _text(_at(curve, "encoding_time", i), 4),
            "dec s": _text(_at(curve, "decoding_time", i), 4),
        }
        rows.append(row)
    return rows


def _at(curve: Curve, column: str, i: int) -> float:
    return float(curve.columns[column][i]) if column in curve.columns else math.nan


def _text(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
