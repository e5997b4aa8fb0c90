"""What is wrong, or not known, about curves that someone wants to compare.

Each check is a function of curves that returns findings. An error means that a number made of these
curves would mislead; a warning, that the reader of the number should know. Where only some points
are at fault, `usable_points` has the others, for a caller who insists.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from lictor.comparison.curve import AGGREGATIONS, MEAN_PSNR, METRICS, Curve, ImageResult

# A further average of MS-SSIM dB: the decibels of the mean MS-SSIM, which is what most files hold.
MEAN_MS_SSIM = "mean-ms-ssim"
MIN_POINTS = 4
MIN_OVERLAP = 0.5
# What measured pictures can be expected to have; far outside, something was measured wrongly.
PLAUSIBLE = {
    "bpp": (0.001, 48.0),
    "psnr": (0.0, 60.0),
    "psnr-y": (0.0, 60.0),
    "ms-ssim": (0.0, 1.0),
    "ms-ssim-db": (0.0, 60.0),
    "lpips": (0.0, math.inf),
}
# Of signals: a field that hardly differs from the mean costs next to nothing, and a sound that is
# rounded to 16 bits has 107 dB, one to 24 bits 155.
PLAUSIBLE_OF_SIGNALS = {"bpp": (1e-6, 64.0), "psnr": (0.0, 160.0)}
NUM_PICTURES = {"kodak": 24}


@dataclass(frozen=True)
class Finding:
    """One thing about curves under comparison: what it is, and what to do about it."""

    level: Literal["error", "warning"]
    code: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


def _error(code: str, reason: str, remedy: str) -> Finding:
    return Finding("error", code, reason, remedy)


def _warning(code: str, reason: str, remedy: str) -> Finding:
    return Finding("warning", code, reason, remedy)


@dataclass(frozen=True)
class Points:
    """Points that make a function: by strictly rising rate, of strictly rising quality.

    `quality` is the metric times `sign`, -1 where lower is better; `index` is the points' place in
    the curve.
    """

    bpp: Float[np.ndarray, " points"]
    quality: Float[np.ndarray, " points"]
    index: Int[np.ndarray, " points"]
    sign: int = 1

    def __len__(self) -> int:
        return len(self.index)


def values(curve: Curve, metric: str, aggregation: str) -> Float[np.ndarray, " points"]:
    """Return a metric at each point, averaged in a way that `known_aggregations` has."""
    if aggregation == MEAN_MS_SSIM:
        with np.errstate(divide="ignore", invalid="ignore"):
            return -10 * np.log10(1 - curve.columns["ms-ssim"])
    return curve.quality(metric, aggregation)


def known_aggregations(curve: Curve, metric: str) -> tuple[str, ...]:
    """Return the ways of averaging in which a curve has a metric, the usual one first."""
    known = curve.aggregations(metric)
    if metric == "ms-ssim-db" and "ms-ssim" in curve.columns:
        return (*known, MEAN_MS_SSIM)
    return known


def choose_aggregations(
    anchor: Curve, test: Curve, metric: str, wanted: str | None
) -> tuple[tuple[str, str] | None, list[Finding]]:
    """Return how to average each curve: as wanted, else in the first way that both have.

    None where a curve does not have the metric at all, or not as wanted.
    """
    known = [known_aggregations(curve, metric) for curve in (anchor, test)]
    for curve, ways in zip((anchor, test), known, strict=True):
        if not ways:
            has = [m for m in METRICS if known_aggregations(curve, m)]
            reason = f"{curve.name}: has no {metric}, only {', '.join(has) or 'rates'}"
            return None, [_error("metric", reason, "choose a metric that both curves have")]
        if wanted is not None and wanted not in ways:
            reason = f"{curve.name}: has {metric} only as {' and '.join(ways)}, not as {wanted}"
            return None, [_error("aggregation", reason, "choose an average that both curves have")]
    if wanted is not None:
        return (wanted, wanted), []
    common = [way for way in known[0] if way in known[1]]
    if common:
        return (common[0], common[0]), []
    reason = (
        f"{anchor.name} has {metric} as {' and '.join(known[0])}, "
        f"{test.name} as {' and '.join(known[1])}"
    )
    remedy = "measure both in one way: averages differ by tenths of a dB"
    return (known[0][0], known[1][0]), [_error("aggregation", reason, remedy)]


def usable_points(curve: Curve, metric: str, aggregation: str) -> tuple[Points, list[Finding]]:
    """Return the points of a curve that make a function, and what is wrong with the others.

    Left out are points that are not finite (of lossless ones, without blame), that are there twice,
    and those that cost no fewer bits than another and are no better.
    """
    value = values(curve, metric, aggregation)
    sign = 1 if METRICS[metric].higher_is_better else -1
    quality = sign * value
    finite = np.isfinite(value) & np.isfinite(curve.bpp)
    found = _check_plausible(curve, metric, value, finite)

    order = np.lexsort((-quality, curve.bpp))
    order = order[finite[order]]
    pairs = [(curve.bpp[i], quality[i]) for i in order]
    once = [i for place, i in enumerate(order) if place == 0 or pairs[place] != pairs[place - 1]]
    if len(once) < len(order):
        reason = f"{curve.name}: {_count(len(order) - len(once), 'point')} there twice"
        found.append(_warning("twice", reason, "each counts once"))
    if len(once) < MIN_POINTS:
        reason = f"{curve.name}: has {_count(len(once), 'point')}, too few for a curve"
        found.append(_error("points", reason, f"measure at least {MIN_POINTS} settings"))

    front, beaten = [], []
    for i in once:
        (beaten if front and quality[i] <= quality[front[-1]] else front).append(i)
    if beaten:
        where = _some([_name(curve, i, value) for i in beaten])
        reason = f"{curve.name}: more bits but no better {metric} at {where}"
        found.append(_error("monotone", reason, "mend these points or leave them out"))
    index = np.array(front, np.int64)
    return Points(curve.bpp[index], quality[index], index, sign), found


def _check_plausible(
    curve: Curve,
    metric: str,
    value: Float[np.ndarray, " points"],
    finite: np.ndarray,
) -> list[Finding]:
    found = []
    lossless = ~finite & _has_lossless_rows(curve)
    if lossless.any():
        where = _some([_name(curve, i, value) for i in np.flatnonzero(lossless)])
        thing = "an item" if curve.of_signals else "a picture"
        reason = f"{curve.name}: nothing is lost of {thing} at {where}"
        remedy = f"left out, as the mean {METRICS[metric].label} is infinite"
        found.append(_warning("lossless", reason, remedy))
    unknown = np.flatnonzero(~finite & ~lossless)
    if len(unknown):
        where = _some([_name(curve, i, value) for i in unknown])
        reason = f"{curve.name}: no finite {metric} at {where}"
        remedy = "measure these points again or leave them out"
        found.append(_error("implausible", reason, remedy))
    for name, column in (("bpp", curve.bpp), (metric, value)):
        of_signals = PLAUSIBLE_OF_SIGNALS.get(name) if curve.of_signals else None
        low, high = of_signals or PLAUSIBLE[name]
        outside = np.flatnonzero(finite & ((column < low) | (column > high)))
        if len(outside):
            where = _some([_name(curve, i, value) for i in outside])
            reason = f"{curve.name}: {name} not between {low:g} and {high:g} at {where}"
            remedy = "check how it was measured (range of the pictures, rate of whole files)"
            found.append(_error("implausible", reason, remedy))
    return found


def _has_lossless_rows(curve: Curve) -> Bool[np.ndarray, " points"]:
    """Tell of each point whether a row behind it has no error, which makes a mean infinite."""
    lossless = {row.setting for row in curve.rows if row.mse == 0}
    return np.array([setting in lossless for setting in curve.settings], bool)


def check_overlap(anchor: Points, test: Points, anchor_name: str, test_name: str) -> list[Finding]:
    """Find whether two curves share a range of quality, and how much of each."""
    if len(anchor) < 2 or len(test) < 2:
        return []
    spans = [sorted(p.sign * p.quality[[0, -1]]) for p in (anchor, test)]
    shown = [
        f"{n} ({low:.4g} to {high:.4g})"
        for n, (low, high) in zip((anchor_name, test_name), spans, strict=True)
    ]
    shares = overlap(anchor.quality, test.quality)
    if max(shares) <= 0:
        reason = f"{shown[1]} and {shown[0]} have no quality in common"
        return [_error("overlap", reason, "measure settings that reach into the other's range")]
    pair = f"{test_name} and {anchor_name} share only"
    return [
        _warning("overlap", f"{pair} {100 * share:.0f} % of {one}", "the rest is not compared")
        for share, one in zip(shares, shown, strict=True)
        if share < MIN_OVERLAP
    ]


def overlap(anchor: Float[np.ndarray, " n"], test: Float[np.ndarray, " m"]) -> tuple[float, float]:
    """Return the common range of two sets of numbers, as a share of the range of each."""
    common = min(anchor.max(), test.max()) - max(anchor.min(), test.min())
    spans = [float(np.ptp(numbers)) for numbers in (anchor, test)]
    shares = [float(max(common, 0.0) / span) if span > 0 else 0.0 for span in spans]
    return shares[0], shares[1]


def check_about(anchor: Curve, test: Curve, metric: str) -> list[Finding]:
    """Find what the files say, or do not say, about how two curves were measured."""
    found = []
    for curve in (anchor, test):
        if curve.errors:
            reason = f"{curve.name}: its evaluation had {_count(len(curve.errors), 'error')}"
            found.append(_warning("errors", f"{reason} ({curve.errors[0]})", "see its file"))
        two_ways = METRICS[metric].squared_error is not None
        if two_ways and not curve.aggregation and not curve.rows:
            reason = f"{curve.name}: does not say how {metric} was averaged"
            found.append(
                _warning("aggregation", reason, f"taken for the {AGGREGATIONS[MEAN_PSNR]}")
            )
    return [*found, *_check_header(anchor, test), *_check_pictures(anchor, test)]


def _check_header(anchor: Curve, test: Curve) -> list[Finding]:
    found = [
        _warning(
            "header",
            f"{curve.name}: its rate is without the headers of the files",
            "measure whole files: at low rates headers are percents",
        )
        for curve in (anchor, test)
        if curve.counts_header is False
    ]
    if found or anchor.counts_header == test.counts_header:
        return found
    unknown = anchor if anchor.counts_header is None else test
    reason = f"{unknown.name}: does not say whether its rate counts the headers of files"
    return [_warning("header", reason, "that of the other does")]


def _check_pictures(anchor: Curve, test: Curve) -> list[Finding]:
    """Find whether both are of the same pictures: by their hashes, else by their set's name."""
    found = []
    for curve in (anchor, test):
        expected = NUM_PICTURES.get(_set(curve))
        if curve.rows and expected not in (None, len(curve.images)):
            reason = (
                f"{curve.name}: is of {_count(len(curve.images), 'picture')}, "
                f"but {curve.dataset} has {expected}"
            )
            found.append(_error("images", reason, "evaluate on all of them"))
    if anchor.rows and test.rows:
        ours, theirs = (Counter(curve.images.values()) for curve in (anchor, test))
        if ours != theirs:
            names = {sha: name for c in (anchor, test) for name, sha in c.images.items()}
            where = _some(sorted(names[sha] for sha in (ours - theirs) + (theirs - ours)))
            reason = f"{anchor.name} and {test.name} are of different pictures ({where})"
            found.append(_error("images", reason, "evaluate both on the same pictures"))
        return found
    sets = _set(anchor), _set(test)
    if all(sets) and sets[0] != sets[1]:
        reason = f"{anchor.name} is of {anchor.dataset}, {test.name} of {test.dataset}"
        return [*found, _error("dataset", reason, "evaluate both on the same pictures")]
    if not all(sets):
        unknown = " and ".join(c.name for c in (anchor, test) if not _set(c))
        reason = f"{unknown}: the pictures are not known"
        found.append(_warning("dataset", reason, "make sure that both are of the same"))
    return found


def _set(curve: Curve) -> str:
    return curve.dataset.strip().casefold()


def picture_rows(curve: Curve) -> dict[str, tuple[ImageResult, ...]]:
    """Return each picture's rows in the order of the points; empty when they are not complete.

    The key is the picture's hash, and its name besides where a set has a picture twice.
    """
    images = curve.images
    unique = len(set(images.values())) == len(images)
    grid = {(row.image, row.setting): row for row in curve.rows}
    complete = len(grid) == len(curve.rows) == len(images) * len(set(curve.settings))
    fits = (r.setting in curve.settings and r.sha256 == images[r.image] for r in curve.rows)
    if not complete or not all(fits):
        return {}
    return {
        sha if unique else f"{sha} {image}": tuple(grid[image, s] for s in curve.settings)
        for image, sha in sorted(images.items())
    }


def choose_basis(
    anchor: Curve, test: Curve, metric: str, aggregation: str | None
) -> tuple[Curve, Curve, tuple[str, str] | None, list[Finding]]:
    """Return what to compare, as far as it can be trusted, and how to average each curve.

    Rows that are not what their curve's points are the means of are left out of both.
    """
    findings = [*check_rows(anchor, metric), *check_rows(test, metric)]
    if findings:  # the points are all there is
        anchor, test = replace(anchor, rows=()), replace(test, rows=())
    ways, found = choose_aggregations(anchor, test, metric, aggregation)
    return anchor, test, ways, [*findings, *found]


def as_warning(finding: Finding) -> Finding:
    """Return what an error is to someone who insists on a number."""
    if finding.level == "warning":
        return finding
    return replace(finding, level="warning", remedy="compared all the same")


def unique(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return findings in their order, each once."""
    return tuple(dict.fromkeys(findings))


def check_rows(curve: Curve, metric: str) -> list[Finding]:
    """Find whether a curve's points are the means of its rows."""
    if not curve.rows:
        return []
    remedy = "evaluate again, or use the points without the rows"
    pictures = picture_rows(curve)
    positive = all(math.isfinite(row.bpp) and row.bpp > 0 for row in curve.rows)
    if not pictures or not positive or len(set(curve.settings)) < len(curve.settings):
        reason = f"{curve.name}: needs one row of positive rate for each picture at each setting"
        return [_error("rows", reason, remedy)]
    points = list(zip(*pictures.values(), strict=True))
    means = {"bpp": [np.mean([row.bpp for row in point]) for point in points]}
    if metric in curve.columns and curve.aggregation in ("", MEAN_PSNR):
        means[metric] = [np.mean([row.quality(metric) for row in point]) for point in points]
    for name, mean in means.items():
        column = curve.columns[name]
        wrong = np.flatnonzero(~np.isclose(mean, column, rtol=1e-3, equal_nan=True))
        if len(wrong):
            i = wrong[0]
            reason = f"{curve.name}: {name} is {column[i]:.5g} at {curve.settings[i]}, "
            return [_error("rows", f"{reason}but {mean[i]:.5g} in the rows", remedy)]
    return []


def _name(curve: Curve, point: np.intp, value: Float[np.ndarray, " points"]) -> str:
    setting = curve.settings[point]
    setting = f"point {setting}" if setting.isdigit() else setting
    rate = f"{curve.bpp[point] * curve.unit.per_bpp:.4g} {curve.unit.name}"
    return f"{setting} ({rate}, {value[point]:.4g})"


def _some(items: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
