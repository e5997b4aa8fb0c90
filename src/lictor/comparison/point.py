"""One point against a curve: what a codec of a single rate is worth against an anchor.

There is no BD-rate of a point, as that is a mean over a range. What there is: its bits against the
anchor's at equal quality, and its quality against the anchor's at equal bits, where the anchor is
read between its points, as for BD-rates: log-rate over quality, and quality over log-rate.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from lictor.comparison.bd import Numbers, Pair, check_names, checked_curve
from lictor.comparison.curve import Curve
from lictor.comparison.findings import (
    MIN_POINTS,
    Finding,
    Points,
    as_warning,
    check_about,
    choose_basis,
    unique,
    usable_points,
)
from lictor.comparison.interpolation import METHODS, value_at
from lictor.errors import DataError


def point_rate(
    anchor_bpp: Numbers,
    anchor_quality: Numbers,
    bpp: float,
    quality: float,
    method: str = "pchip",
) -> float:
    """Return the rate that a point spends over an anchor at equal quality, in percent.

    Negative is fewer bits. The anchor's arguments are those of `bd_rate`. Raises `DataError` when
    they do not make a rising curve, the point is none, or its quality is outside of the curve's.
    """
    anchor = checked_curve("anchor", anchor_bpp, anchor_quality, method)
    return _existing(_rate_delta(anchor, _checked(bpp, quality), method), "quality")


def point_quality(
    anchor_bpp: Numbers,
    anchor_quality: Numbers,
    bpp: float,
    quality: float,
    method: str = "pchip",
) -> float:
    """Return the quality that a point has over an anchor at equal rate, in the quality's unit.

    Arguments are those of `point_rate`. Raises `DataError` when they do not make a rising curve,
    the point is none, or its rate is outside of the curve's.
    """
    anchor = checked_curve("anchor", anchor_bpp, anchor_quality, method)
    return _existing(_quality_delta(anchor, _checked(bpp, quality), method), "rate")


def _checked(bpp: float, quality: float) -> tuple[float, float]:
    if not (math.isfinite(bpp) and bpp > 0 and math.isfinite(quality)):
        raise DataError(f"a point needs a positive rate and a finite quality, not {bpp}, {quality}")
    return float(bpp), float(quality)


def _existing(delta: float, what: str) -> float:
    if math.isnan(delta):
        raise DataError(f"the point's {what} is outside of the anchor's range")
    return delta


def _rate_delta(anchor: Pair, point: tuple[float, float], method: str) -> float:
    bpp, quality = anchor
    # NumPy's logarithm on both sides, here and below: at a point of the curve, zero is zero.
    log_rate = float(np.log(point[0]))
    return 100 * math.expm1(log_rate - _read(quality, np.log(bpp), point[1], method))


def _quality_delta(anchor: Pair, point: tuple[float, float], method: str) -> float:
    bpp, quality = anchor
    return point[1] - _read(np.log(bpp), quality, float(np.log(point[0])), method)


def _read(x: np.ndarray, y: np.ndarray, at: float, method: str) -> float:
    """Return a curve's value at a place, NaN outside of its points."""
    order = np.argsort(x, axis=1)
    x, y = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
    if not x[0, 0] <= at <= x[0, -1]:
        return math.nan
    return float(value_at(x, y, np.array([at]), method)[0])


@dataclass(frozen=True)
class PointComparison:
    """What a single point is worth against an anchor's curve; no BD-rate.

    `point_rate` is in percent at equal quality, negative for fewer bits; `point_quality` in the
    unit of the metric at equal rate, test minus anchor. Both are NaN for a comparison that is
    refused: one with an error among `findings`. `bpp` and `quality` are the point, `num_points` the
    anchor's.
    """

    anchor: str
    test: str
    metric: str
    aggregation: str
    method: str
    findings: tuple[Finding, ...] = ()
    num_points: int = 0
    bpp: float = math.nan
    quality: float = math.nan
    point_rate: float = math.nan
    point_quality: float = math.nan

    @property
    def refused(self) -> bool:
        """Whether something is so wrong that there is no number."""
        return any(finding.level == "error" for finding in self.findings)


def is_point(curve: Curve) -> bool:
    """Tell whether a curve is of one point, which `compare_point` is for."""
    return len(curve.bpp) == 1


def compare_point(
    anchor: Curve,
    test: Curve,
    *,
    metric: str = "psnr",
    aggregation: str | None = None,
    method: str = "pchip",
    force: bool = False,
) -> PointComparison:
    """Compare a curve of one point with an anchor in a metric of `METRICS`; see `PointComparison`.

    Arguments, and what is refused, are as for `compare`; a point whose quality is outside of the
    anchor's is refused too. With `force`, errors become warnings where there is still a number.
    Raises `ConfigError` for a metric, average or method that does not exist.
    """
    check_names(metric, aggregation, method)
    anchor, test, ways, findings = choose_basis(anchor, test, metric, aggregation)
    result = PointComparison(anchor.name, test.name, metric, aggregation or "", method)
    if ways is None or is_point(anchor) or not is_point(test):
        return replace(result, findings=unique([*findings, *_check_roles(anchor, test)]))
    ours, found_ours = usable_points(anchor, metric, ways[0])
    theirs, found_theirs = usable_points(test, metric, ways[1])
    # That a point is too few for a curve is why it is compared here.
    findings += [*found_ours, *(finding for finding in found_theirs if finding.code != "points")]
    if len(theirs):
        quality = float(theirs.sign * theirs.quality[0])
        result = replace(result, bpp=float(theirs.bpp[0]), quality=quality)
    if len(theirs) and len(ours) > 1:
        findings += _check_range(ours, result)
    findings += check_about(anchor, test, metric)
    result = replace(
        result,
        aggregation=" and ".join(dict.fromkeys(ways)),
        num_points=len(ours),
        findings=unique(findings),
    )
    if (result.refused and not force) or len(ours) < METHODS[method] or not len(theirs):
        return result
    return _with_numbers(result, ours, theirs)


def _with_numbers(result: PointComparison, anchor: Points, test: Points) -> PointComparison:
    curve, point = (anchor.bpp[None], anchor.quality[None]), (test.bpp[0], test.quality[0])
    rate = _rate_delta(curve, point, result.method)
    quality = anchor.sign * _quality_delta(curve, point, result.method)
    if math.isnan(rate) and math.isnan(quality):
        return result
    return replace(
        result,
        findings=tuple(map(as_warning, result.findings)),
        point_rate=rate,
        point_quality=quality,
    )


def _check_roles(anchor: Curve, test: Curve) -> list[Finding]:
    """Find whether the anchor is the curve and the test the point."""
    if is_point(anchor) and is_point(test):
        reason = f"{anchor.name} and {test.name}: are one point each"
        remedy = f"the anchor must be a curve: measure it at {MIN_POINTS} settings or more"
        return [Finding("error", "anchor", reason, remedy)]
    if is_point(anchor):
        reason = f"{anchor.name}: is one point, which nothing can be read between"
        return [Finding("error", "anchor", reason, f"take the curve, {test.name}, as the anchor")]
    if not is_point(test):
        reason = f"{test.name}: has {len(test.bpp)} points, not one"
        return [Finding("error", "points", reason, "compare it as a curve")]
    return []


def _check_range(anchor: Points, point: PointComparison) -> list[Finding]:
    """Find whether the anchor has the point's quality, and its rate."""
    found = []
    low, high = sorted(anchor.sign * anchor.quality[[0, -1]])
    if not low <= point.quality <= high:
        reason = (
            f"{point.test}: its {point.metric} of {point.quality:.4g} is outside of "
            f"{point.anchor}'s range, {low:.4g} to {high:.4g}"
        )
        remedy = "measure settings of the anchor that reach it"
        found.append(Finding("error", "range", reason, remedy))
    low, high = anchor.bpp[[0, -1]]
    if not low <= point.bpp <= high:
        reason = (
            f"{point.test}: its {point.bpp:.4g} bpp are outside of {point.anchor}'s range, "
            f"{low:.4g} to {high:.4g}"
        )
        remedy = "there is no quality at equal bits"
        found.append(Finding("warning", "range", reason, remedy))
    return found
