"""The tables of a report: BD-rate of every pair of curves, and what each codec costs."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lictor.comparison.bd import Comparison
from lictor.comparison.curve import METRICS, Curve
from lictor.comparison.point import PointComparison
from lictor.reporting.charts import View, is_published, speed_of, styles, times_of
from lictor.reporting.markup import Html, join, named, tag
from lictor.reporting.words import ITEMS, words_of

# Every comparison that the page can show, by view and the numbers of anchor and test; besides, the
# comparisons of which one side is a single point.
Comparisons = Mapping[tuple[View, int, int], Comparison]
PointComparisons = Mapping[tuple[View, int, int], PointComparison]

MINUS, DASH, NONE = "−", "–", "–"
_PLOT_WIDTH, _PLOT_HEIGHT = 168, 20


def signed(value: float, digits: int = 1) -> str:
    """Return a number with its sign and a true minus; zero has none."""
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("+" if value > 0 else MINUS) + text


# ----------------------------------------------------------------------------------------- BD-rate

_BD_COLUMNS = (
    ("Codec", "text"),
    ("BD-rate", "number"),
    ("95 % interval", "number"),
    ("", "plot"),
    ("BD-quality", "number"),
    ("Common range", "plain"),
)


def bd_section(
    curves: Sequence[Curve],
    views: Sequence[View],
    comparisons: Comparisons,
    points: PointComparisons,
    shown: tuple[View, int],
) -> Html:
    """Return a table with one body for each view and anchor, of which `shown` can be seen."""
    if len(curves) < 2:
        return tag("p", "There is one curve; BD-rate needs a second to compare it with.")
    head = tag("tr", *(_bd_head(title, kind) for title, kind in _BD_COLUMNS))
    bodies, remarks = [], []
    for view in views:
        for anchor in range(len(curves)):
            body, its_remarks = _bd_body(
                curves, view, anchor, comparisons, points, hidden=(view, anchor) != shown
            )
            bodies.append(body)
            remarks.append(its_remarks)
    anchor, metric = curves[shown[1]].name, shown[0].label
    return join(
        tag(
            "p",
            "Change in bits at equal quality against ",
            tag("strong", anchor, class_="anchor-name"),
            ", in ",
            tag("span", metric, class_="metric-name"),
            f"; {MINUS}20\u00a0% is a fifth fewer. The interval is a "
            f"bootstrap over the {words_of(curves).many}.",
            class_="note",
        ),
        tag(
            "div",
            tag(
                "table",
                tag("caption", "BD-rate of each codec against the anchor", class_="unseen"),
                tag("thead", head),
                *bodies,
                class_="sortable",
                id="bd-table",
            ),
            class_="box",
            tabindex="0",
            role="region",
            aria_label="BD-rate table",
        ),
        *remarks,
    )


def _bd_head(title: str, kind: str) -> Html:
    if kind == "plot":
        return tag("td", class_=kind)
    if kind == "plain":
        return tag("th", title, scope="col", class_="text")
    return tag("th", tag("button", title, type="button"), scope="col", class_=kind)


def _bd_body(
    curves: Sequence[Curve],
    view: View,
    anchor: int,
    comparisons: Comparisons,
    points: PointComparisons,
    *,
    hidden: bool,
) -> tuple[Html, Html]:
    """Return the rows of one view and anchor, and the numbered remarks that belong to them."""
    looks = styles(curves)
    own = {i: comparisons[view, anchor, i] for i in range(len(curves)) if i != anchor}
    scale = _scale(own.values())
    order = sorted(own, key=lambda i: (math.isnan(own[i].bd_rate), own[i].bd_rate, i))
    remarks: dict[str, int] = {}
    for i in order:
        if not math.isnan(own[i].bd_rate):
            for finding in own[i].findings:
                remarks.setdefault(str(finding), len(remarks) + 1)
    rows = []
    for i in order:
        name, point = named(i, curves[i], looks[i]), points.get((view, anchor, i))
        if point is None:
            rows.append(_bd_row(i, name, own[i], view, scale, remarks))
        else:
            rows.append(_point_row(name, point))
    anchor_row = tag(
        "tr",
        tag("th", named(anchor, curves[anchor], looks[anchor]), scope="row"),
        tag("td", "the anchor", colspan=len(_BD_COLUMNS) - 1, data_value=""),
        class_="anchor-row",
    )
    where = {"data_view": view.key, "data_anchor": anchor, "hidden": hidden}
    notes = tag("ol", *(tag("li", text) for text in remarks), class_="remarks", **where)
    return tag("tbody", *rows, anchor_row, **where), notes if remarks else Html()


def _scale(comparisons: Iterable[Comparison]) -> tuple[float, float]:
    ends = [0.0]
    for comparison in comparisons:
        if math.isfinite(comparison.bd_rate):
            ends.append(comparison.bd_rate)
            ends += comparison.interval.bd_rate if comparison.interval else ()
    low, high = min(ends), max(ends)
    return (low, high) if high > low else (low - 1, high + 1)


def _bd_row(
    index: int,
    name: Html,
    comparison: Comparison,
    view: View,
    scale: tuple[float, float],
    remarks: Mapping[str, int],
) -> Html:
    head = tag("th", name, scope="row", class_="text", data_value=comparison.test)
    if math.isnan(comparison.bd_rate):
        errors = [str(f) for f in comparison.findings if f.level == "error"]
        reason = tag(
            "td",
            tag("strong", "No number: "),
            *(tag("span", text, class_="remark") for text in errors or ["they do not overlap"]),
            colspan=len(_BD_COLUMNS) - 1,
            class_="refused",
            data_value="",
        )
        return tag("tr", head, reason)
    metric = METRICS[view.metric]
    unit = " dB" if metric.label.endswith("dB") else ""
    interval, low = NONE, ""
    if comparison.interval is not None:
        low, high = comparison.interval.bd_rate
        interval = f"{signed(low)} to {signed(high)} %"
    better = "better" if comparison.bd_rate < 0 else "worse"
    ends = [f"{q:.{metric.digits}f}" for q in comparison.quality_range]
    quality = signed(comparison.bd_quality, metric.digits)
    known = not math.isnan(comparison.bd_quality)
    marks = ", ".join(
        str(number) for number in sorted(remarks[str(f)] for f in comparison.findings)
    )
    marks = tag("sup", marks, title="remark below the table") if marks else None
    return tag(
        "tr",
        head,
        tag(
            "td",
            tag("strong", f"{signed(comparison.bd_rate)} %", class_=better),
            class_="number",
            data_value=f"{comparison.bd_rate:.6g}",
        ),
        tag("td", interval, class_="number", data_value=low),
        tag("td", _interval_plot(comparison, index, *scale), class_="plot"),
        tag(
            "td",
            f"{quality}{unit}" if known else NONE,
            class_="number",
            data_value=f"{comparison.bd_quality:.6g}" if known else "",
        ),
        tag("td", f"{ends[0]} to {ends[1]}{unit}", marks, class_="text nowrap"),
    )


def _point_row(name: Html, point: PointComparison) -> Html:
    """Return the row of a comparison that has no BD-rate, as one side of it is a single point."""
    head = tag("th", name, scope="row", class_="text", data_value=point.test)
    if point.refused:
        said, texts = "No number: ", [str(f) for f in point.findings if f.level == "error"]
    else:
        metric = METRICS[point.metric]
        unit = " dB" if metric.label.endswith("dB") else ""
        bits, quality = NONE, NONE
        if not math.isnan(point.point_rate):
            bits = f"{signed(point.point_rate)} %"
        if not math.isnan(point.point_quality):
            quality = f"{signed(point.point_quality, metric.digits)}{unit}"
        said = f"One point, no BD-rate: {bits} bits at equal quality, {quality} at equal bits. "
        texts = [str(f) for f in point.findings]
    reason = tag(
        "td",
        tag("strong", said),
        *(tag("span", text, class_="remark") for text in texts),
        colspan=len(_BD_COLUMNS) - 1,
        class_="refused" if point.refused else "text",
        data_value="",
    )
    return tag("tr", head, reason)


def _interval_plot(comparison: Comparison, index: int, low: float, high: float) -> Html:
    """Return the number and its interval on the scale that all rows of a body share."""

    def x(value: float) -> str:
        place = (min(max(value, low), high) - low) / (high - low)
        return f"{5 + place * (_PLOT_WIDTH - 10):.1f}"

    middle, whisker = _PLOT_HEIGHT // 2, ""
    if comparison.interval is not None and math.isfinite(comparison.interval.bd_rate[0]):
        start, end = comparison.interval.bd_rate
        whisker = (
            f'<path d="M{x(start)} {middle}H{x(end)}" stroke="currentColor" stroke-width="2"/>'
        )
    return Html(
        f'<svg viewBox="0 0 {_PLOT_WIDTH} {_PLOT_HEIGHT}" width="{_PLOT_WIDTH}" '
        f'height="{_PLOT_HEIGHT}" aria-hidden="true">'
        f'<path class="zero" d="M{x(0)} 0V{_PLOT_HEIGHT}"/>'
        f'<g style="color:var(--curve-{index})">{whisker}'
        f'<circle cx="{x(comparison.bd_rate)}" cy="{middle}" r="4" fill="currentColor"/></g></svg>'
    )


# ------------------------------------------------------------------------------------ time and cost


def time_section(curves: Sequence[Curve]) -> Html:
    """Return the place of the time chart, how the times were taken, and the table of costs."""
    if not any(times_of(curve) for curve in curves):
        return tag("p", "None of these results has times.", class_="note")
    return join(
        tag("div", id="time-chart", class_="chart", role="img", aria_label="Time of each codec"),
        tag(
            "p",
            "Filled: encoding; hollow: decoding. The marker is the median over a codec's settings, "
            "the line goes from the fastest to the slowest.",
            class_="note",
        ),
        *_how_timed(curves),
        _cost_table(curves),
    )


def _how_timed(curves: Sequence[Curve]) -> Iterator[Html]:
    """Say under which conditions times were taken; those of a busy machine are marked as such."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for curve in curves:
        times = times_of(curve)
        jobs = curve.provenance.get("jobs")
        if not times:
            continue
        if all(t.alone for t in times):
            key = (False, "Measured on its own: warm calls, one after the other, medians")
        elif is_published(curve):
            key = (False, "As published, on another machine and per picture only")
        elif isinstance(jobs, int) and jobs > 1:
            text = f"Taken while {jobs} processes ran beside each other: slower than alone"
            key = (True, text)
        elif jobs == 1:
            key = (False, f"From the evaluation: one process, each {words_of([curve]).one} once")
        else:
            key = (True, "From an evaluation that does not say how many processes ran")
        groups.setdefault(key, []).append(curve.name)
    for (doubtful, text), names in groups.items():
        yield tag("p", f"{text}: {', '.join(names)}.", class_="warning" if doubtful else "note")


def _millions(value: float) -> str:
    return f"{value / 1e6:.2f} M"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.0f} MB"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _kmac(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


_COSTS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("parameters", "Parameters", _millions),
    ("kmac_per_pixel_encode", "kMAC/pixel encode", _kmac),
    ("kmac_per_pixel_decode", "kMAC/pixel decode", _kmac),
    ("encode_entropy_share", "Entropy coding, encode", _percent),
    ("decode_entropy_share", "Entropy coding, decode", _percent),
    ("peak_rss_encode_bytes", "Peak memory, encode", _megabytes),
    ("peak_rss_decode_bytes", "Peak memory, decode", _megabytes),
)


def _cost_table(curves: Sequence[Curve]) -> Html:
    """Return what a speed measurement found of each codec; a column nobody has is not there."""
    rows, looks = {}, styles(curves)
    for index, curve in enumerate(curves):
        costs = _costs_of(curve)
        if costs:
            rows[index] = costs
    known = [key for key, *_ in _COSTS if any(key in costs for costs in rows.values())]
    parts = any("parts" in costs for costs in rows.values())
    if not rows and words_of(curves) is ITEMS:  # nobody measures these of signals
        return Html()
    if not rows:
        return tag(
            "p",
            "Parameters, multiplications and memory are there after ",
            tag("code", "lictor evaluate ... --speed"),
            ".",
            class_="note",
        )
    titles = {key: title for key, title, _ in _COSTS}
    head = [tag("th", tag("button", "Codec", type="button"), scope="col", class_="text")]
    for key in known:
        head.append(
            tag("th", tag("button", titles[key], type="button"), scope="col", class_="number")
        )
    if parts:
        head.append(tag("th", "kMAC/pixel by part", scope="col", class_="text"))
    lines = []
    for index, costs in rows.items():
        cells = [tag("th", named(index, curves[index], looks[index]), scope="row", class_="text")]
        for key in known:
            text, value = costs.get(key, (NONE, ""))
            cells.append(tag("td", text, class_="number", data_value=value))
        if parts:
            cells.append(tag("td", costs.get("parts", (NONE, ""))[0], class_="text parts"))
        lines.append(tag("tr", *cells))
    return tag(
        "div",
        tag(
            "table",
            tag("caption", "What each codec costs", class_="unseen"),
            tag("thead", tag("tr", *head)),
            tag("tbody", *lines),
            class_="sortable",
            id="cost-table",
        ),
        class_="box",
        tabindex="0",
        role="region",
        aria_label="Table of costs",
    )


def _costs_of(curve: Curve) -> dict[str, tuple[str, object]]:
    """Return text and value of each cost; a range where it differs between settings."""
    speeds = [speed for setting in curve.settings if (speed := speed_of(curve, setting))]
    costs: dict[str, tuple[str, object]] = {}
    for key, _, text in _COSTS:
        values: list[float] = sorted(s[key] for s in speeds if _is_number(s.get(key)))
        if values:
            texts = list(dict.fromkeys((text(values[0]), text(values[-1]))))
            costs[key] = (DASH.join(texts), values[-1])
    parts = speeds[0].get("kmac_per_pixel") if speeds else None
    if isinstance(parts, Mapping) and parts:
        shown = [f"{part} {_kmac(v)}" for part, v in parts.items() if _is_number(v)]
        costs["parts"] = (", ".join(shown), "")
    return costs


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
