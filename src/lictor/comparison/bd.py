"""Bjøntegaard's deltas: how many bits one codec saves on another, and how much quality it gains.

BD-rate is the mean of the difference of log-rates over the quality that two curves share, as a
percentage; BD-quality (BD-PSNR) is the mean difference of quality over the log-rates they share
(Bjøntegaard, VCEG-M33, 2001; with piecewise interpolation: VCEG-AI11, 2008). `compare` does it for
two curves, looks for reasons not to, and resamples the pictures for an interval of confidence.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from lictor.comparison.curve import AGGREGATIONS, MEAN_MSE, METRICS, Curve, ImageResult
from lictor.comparison.findings import (
    MEAN_MS_SSIM,
    Finding,
    Points,
    as_warning,
    check_about,
    check_overlap,
    choose_basis,
    overlap,
    picture_rows,
    unique,
    usable_points,
)
from lictor.comparison.interpolation import METHODS, mean_value
from lictor.errors import ConfigError, DataError

Numbers = Sequence[float] | np.ndarray
Rows = Float[np.ndarray, "curves _"]  # each curve of a pair has its own number of points
Each = Float[np.ndarray, " curves"]
Pair = tuple[Rows, Rows]
Range = tuple[float, float]

_NONE = (math.nan, math.nan)
MAX_RESAMPLES = 100_000
_AT_A_TIME = 1000  # resamples, so that memory does not grow with their number
# An interval needs this share of the resamples to give curves that rise and overlap.
_MIN_USABLE = 0.95


def bd_rate(
    anchor_bpp: Numbers,
    anchor_quality: Numbers,
    test_bpp: Numbers,
    test_quality: Numbers,
    method: str = "pchip",
) -> float:
    """Return the rate that a test spends over its anchor at equal quality, in percent.

    Negative is fewer bits. One number a point, in any order; rates are positive, in any unit, and
    of quality more is better (negate a distance). `method` is a key of `METHODS`. Raises
    `DataError` when the points do not make rising curves that share a range of quality.
    """
    anchor = checked_curve("anchor", anchor_bpp, anchor_quality, method)
    test = checked_curve("test", test_bpp, test_quality, method)
    return _existing(_rate_deltas(anchor, test, method), "quality")


def bd_quality(
    anchor_bpp: Numbers,
    anchor_quality: Numbers,
    test_bpp: Numbers,
    test_quality: Numbers,
    method: str = "pchip",
) -> float:
    """Return the quality that a test has over its anchor at equal rate, in the quality's unit.

    Arguments are those of `bd_rate`. Raises `DataError` when the points do not make rising curves
    that share a range of rates.
    """
    anchor = checked_curve("anchor", anchor_bpp, anchor_quality, method)
    test = checked_curve("test", test_bpp, test_quality, method)
    return _existing(_quality_deltas(anchor, test, method), "rates")


def _existing(delta: Each, shared: str) -> float:
    if math.isnan(delta[0]):
        raise DataError(f"the curves have no range of {shared} in common")
    return float(delta[0])


def checked_curve(name: str, bpp: Numbers, quality: Numbers, method: str) -> Pair:
    """Return rates and qualities as a batch of one curve.

    Raises `DataError`, with the name, when they do not make a rising curve.
    """
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}, not one of {', '.join(METHODS)}")
    x, y = np.asarray(bpp, np.float64), np.asarray(quality, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < METHODS[method]:
        raise DataError(
            f"{name}: {method} needs a list of rates and one of as many qualities, at least "
            f"{METHODS[method]}, not of shapes {x.shape} and {y.shape}"
        )
    if not (np.isfinite(x) & np.isfinite(y) & (x > 0)).all():
        raise DataError(f"{name}: rates must be positive, and all numbers finite")
    order = np.argsort(x)
    if (np.diff(x[order]) <= 0).any() or (np.diff(y[order]) <= 0).any():
        raise DataError(f"{name}: quality must rise with the rate")
    return x[None], y[None]


def _rate_deltas(anchor: Pair, test: Pair, method: str) -> Each:
    """BD-rate in percent of many pairs of curves (bpp, quality); NaN where there is none."""
    (anchor_bpp, anchor_quality), (test_bpp, test_quality) = anchor, test
    pair = (anchor_quality, np.log(anchor_bpp)), (test_quality, np.log(test_bpp))
    return 100 * np.expm1(_mean_differences(*pair, method))


def _quality_deltas(anchor: Pair, test: Pair, method: str) -> Each:
    """BD-quality of many pairs of curves (bpp, quality); NaN where there is none."""
    (anchor_bpp, anchor_quality), (test_bpp, test_quality) = anchor, test
    pair = (np.log(anchor_bpp), anchor_quality), (np.log(test_bpp), test_quality)
    return _mean_differences(*pair, method)


_DELTAS = (_rate_deltas, _quality_deltas)


def _mean_differences(anchor: Pair, test: Pair, method: str) -> Each:
    """Mean of test minus anchor over the common range; NaN where a curve does not rise."""
    curves, rising = [], True
    for x, y in (anchor, test):
        order = np.argsort(x, axis=1)
        x, y = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
        steps_up = (x[:, 1:] > x[:, :-1]) & (y[:, 1:] > y[:, :-1])
        rising = rising & steps_up.all(1) & np.isfinite(x).all(1) & np.isfinite(y).all(1)
        curves.append((x, y))
    low = np.maximum(*(x[:, 0] for x, _ in curves))
    high = np.minimum(*(x[:, -1] for x, _ in curves))
    good = rising & (low < high)
    result = np.full(len(good), math.nan)
    if good.any():
        means = [mean_value(x[good], y[good], low[good], high[good], method) for x, y in curves]
        result[good] = means[1] - means[0]
    return result


@dataclass(frozen=True)
class Bootstrap:
    """How to find an interval: resamples of the pictures, seed of the draws, confidence in 0..1."""

    resamples: int = 1000
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        fits = 1 <= self.resamples <= MAX_RESAMPLES and self.seed >= 0 and 0 < self.confidence < 1
        if not fits:
            raise ConfigError(
                f"a bootstrap needs 1 to {MAX_RESAMPLES} resamples, a seed of at least 0 and a "
                "confidence between 0 and 1, not "
                f"{self.resamples}, {self.seed} and {self.confidence}"
            )


@dataclass(frozen=True)
class Interval:
    """Where the deltas of resampled pictures lie (percentile bootstrap, Efron 1979)."""

    bootstrap: Bootstrap
    num_images: int
    bd_rate: Range
    bd_quality: Range


@dataclass(frozen=True)
class ImageDelta:
    """Both deltas of one picture's own two curves; NaN where these do not rise or not overlap."""

    image: str
    bd_rate: float
    bd_quality: float


@dataclass(frozen=True)
class Comparison:
    """What a test curve is worth against an anchor.

    `bd_rate` is in percent, negative for fewer bits; `bd_quality` in the unit of the metric, test
    minus anchor. Both are NaN for a comparison that is refused: one with an error among `findings`.
    `overlap` is the share that `quality_range` has of the anchor's and of the test's own range.
    `interval` and `per_image` are there when both curves have rows of the same pictures.
    """

    anchor: str
    test: str
    metric: str
    aggregation: str
    method: str
    findings: tuple[Finding, ...] = ()
    num_points: tuple[int, int] = (0, 0)
    bd_rate: float = math.nan
    bd_quality: float = math.nan
    quality_range: Range = _NONE
    bpp_range: Range = _NONE
    overlap: Range = _NONE
    interval: Interval | None = None
    per_image: tuple[ImageDelta, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether something is so wrong that there is no number."""
        return any(finding.level == "error" for finding in self.findings)


def compare(
    anchor: Curve,
    test: Curve,
    *,
    metric: str = "psnr",
    aggregation: str | None = None,
    method: str = "pchip",
    bootstrap: Bootstrap | None = Bootstrap(),
    force: bool = False,
) -> Comparison:
    """Compare two curves in a metric of `METRICS`; see `Comparison`.

    `aggregation` is a key of `AGGREGATIONS`, or None for the first that both curves have. With
    `force`, errors become warnings, and points at fault are left out, where that gives a number.
    Raises `ConfigError` for a metric, average or method that does not exist.
    """
    check_names(metric, aggregation, method)
    anchor, test, ways, findings = choose_basis(anchor, test, metric, aggregation)
    result = Comparison(anchor.name, test.name, metric, aggregation or "", method)
    if ways is None:
        return replace(result, findings=unique(findings))
    ours, found_ours = usable_points(anchor, metric, ways[0])
    theirs, found_theirs = usable_points(test, metric, ways[1])
    findings += [*found_ours, *found_theirs, *check_overlap(ours, theirs, anchor.name, test.name)]
    findings += check_about(anchor, test, metric)
    result = replace(
        result,
        aggregation=" and ".join(dict.fromkeys(ways)),
        num_points=(len(ours), len(theirs)),
        findings=unique(findings),
    )
    if (result.refused and not force) or min(result.num_points) < METHODS[method]:
        return result
    result = _with_numbers(result, ours, theirs)
    if math.isnan(result.bd_rate):
        return result
    result = replace(result, findings=tuple(map(as_warning, result.findings)))
    pictures = picture_rows(anchor), picture_rows(test)
    if not pictures[0] or pictures[0].keys() != pictures[1].keys() or ways[0] != ways[1]:
        return result
    return _with_images(result, (ours, theirs), pictures, bootstrap)


def check_names(metric: str, aggregation: str | None, method: str) -> None:
    """Raise `ConfigError` for a metric, average or method that does not exist."""
    for value, known in ((metric, METRICS), (method, METHODS), (aggregation, AGGREGATIONS)):
        if value is not None and value not in known:
            raise ConfigError(f"{value!r} is not one of {', '.join(known)}")


def _with_numbers(result: Comparison, anchor: Points, test: Points) -> Comparison:
    curves = [(points.bpp[None], points.quality[None]) for points in (anchor, test)]
    rate = float(_rate_deltas(curves[0], curves[1], result.method)[0])
    quality = float(_quality_deltas(curves[0], curves[1], result.method)[0]) * anchor.sign
    findings = result.findings
    if math.isnan(quality):
        reason = f"{result.anchor} and {result.test} have no rates in common"
        remedy = "there is no difference of quality at equal rate"
        findings = (*findings, Finding("warning", "overlap", reason, remedy))
    low, high = sorted(anchor.sign * q for q in _common(anchor.quality, test.quality))
    return replace(
        result,
        findings=findings,
        bd_rate=rate,
        bd_quality=quality,
        quality_range=(low, high),
        bpp_range=_NONE if math.isnan(quality) else _common(anchor.bpp, test.bpp),
        overlap=overlap(anchor.quality, test.quality),
    )


def _common(anchor: Float[np.ndarray, " n"], test: Float[np.ndarray, " m"]) -> Range:
    return float(max(anchor[0], test[0])), float(min(anchor[-1], test[-1]))


def _with_images(
    result: Comparison,
    points: tuple[Points, ...],
    pictures: tuple[dict[str, tuple[ImageResult, ...]], ...],
    bootstrap: Bootstrap | None,
) -> Comparison:
    """Add the deltas of each picture, and an interval from resampling them."""
    order = sorted(pictures[0], key=lambda key: pictures[0][key][0].image)
    tables = []
    for its_points, rows in zip(points, pictures, strict=True):
        grid = [[rows[key][i] for i in its_points.index] for key in order]
        tables.append(_Table(grid, result.metric, result.aggregation, its_points.sign))
    sign = points[0].sign
    own = [table.each_image() for table in tables]
    rates = _rate_deltas(own[0], own[1], result.method)
    qualities = sign * _quality_deltas(own[0], own[1], result.method)
    names = [pictures[0][key][0].image for key in order]
    deltas = zip(names, rates.tolist(), qualities.tolist(), strict=True)
    result = replace(result, per_image=tuple(ImageDelta(*delta) for delta in deltas))
    if bootstrap is None or len(order) < 2:
        return result

    generator = np.random.default_rng(bootstrap.seed)
    chunks = []
    for begin in range(0, bootstrap.resamples, _AT_A_TIME):
        count = min(_AT_A_TIME, bootstrap.resamples - begin)
        drawn = generator.multinomial(len(order), np.full(len(order), 1 / len(order)), count)
        means = [table.averaged(drawn / len(order)) for table in tables]
        chunks.append([delta(means[0], means[1], result.method) for delta in _DELTAS])
    rates, qualities = (np.concatenate(part) for part in zip(*chunks, strict=True))
    qualities = sign * qualities
    usable = np.isfinite(rates)
    if usable.mean() < _MIN_USABLE:
        reason = (
            f"{result.test}: only {usable.sum()} of {len(usable)} resamples of the pictures give "
            f"curves that rise and overlap"
        )
        finding = Finding("warning", "interval", reason, "there is no interval of confidence")
        return replace(result, findings=(*result.findings, finding))
    intervals = (_percentiles(deltas, bootstrap.confidence) for deltas in (rates, qualities))
    return replace(result, interval=Interval(bootstrap, len(order), *intervals))


def _percentiles(deltas: Each, confidence: float) -> Range:
    finite = deltas[np.isfinite(deltas)]
    if not len(finite):
        return _NONE
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


class _Table:
    """Rates and qualities of pictures (rows) at points (columns), to average as a curve does."""

    def __init__(
        self, grid: Sequence[Sequence[ImageResult]], metric: str, aggregation: str, sign: int
    ) -> None:
        self.aggregation, self.sign = aggregation, sign
        self.bpp = np.array([[row.bpp for row in rows] for rows in grid])
        self.quality = np.array([[row.quality(metric) for row in rows] for rows in grid])
        # What is averaged, before decibels are made of it.
        column = {MEAN_MSE: METRICS[metric].squared_error, MEAN_MS_SSIM: "ms_ssim"}.get(aggregation)
        self.averaged_value = self.quality
        if column is not None:
            self.averaged_value = np.array([[getattr(r, column) for r in rows] for rows in grid])

    def each_image(self) -> Pair:
        return self.bpp, self.sign * self.quality

    def averaged(self, weights: Float[np.ndarray, "curves images"]) -> Pair:
        mean = weights @ self.averaged_value
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.aggregation == MEAN_MSE:
                mean = 10 * np.log10(255**2 / mean)
            elif self.aggregation == MEAN_MS_SSIM:
                mean = -10 * np.log10(1 - mean)
        return weights @ self.bpp, self.sign * mean
