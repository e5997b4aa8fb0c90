"""One HTML file about results: charts, BD-rates, times, pictures side by side, origin of it all.

The page needs nothing but itself: scripts, styles and pictures are inside, and its content security
policy forbids the browser to load anything or to run a script that is not one of ours. The same
inputs make the same bytes.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from string import Template
from typing import Any

from lictor.comparison.bd import Comparison, compare
from lictor.comparison.curve import AGGREGATIONS, MEAN_MSE, MEAN_PSNR, METRICS, Curve, ImageResult
from lictor.comparison.findings import MEAN_MS_SSIM, MIN_POINTS
from lictor.comparison.point import PointComparison, compare_point, is_point
from lictor.comparison.unit import shared_unit
from lictor.errors import DataError
from lictor.reporting.charts import (
    View,
    is_published,
    points,
    rd_figure,
    styles,
    time_figure,
    views,
)
from lictor.reporting.gallery import Gallery, gallery
from lictor.reporting.markup import Html, join, script_json, tag
from lictor.reporting.page_tables import Comparisons, bd_section, time_section
from lictor.reporting.sections import legend, origin_section, rows_section, warnings
from lictor.reporting.signals.section import signals_section
from lictor.reporting.sources import Source
from lictor.reporting.words import ITEMS, PICTURES, words_of

_ROW = ("width", "height", "bytes", "bpp", "psnr", "psnr_y", "ms_ssim", "lpips")
_WAYS = {MEAN_PSNR: "mean of the dB values", MEAN_MSE: "PSNR of the mean error"}
# Anchors of signals, the first that is there: what people know best, and always in this order.
_USUAL_ANCHORS = ("mp3", "jpeg2000", "jpeg", "sz3")
_SCRIPTS = ("theme", "page", "charts", "viewer")


@dataclass(frozen=True)
class Options:
    """What a report shows: title, name of the first anchor, pictures and their size together."""

    title: str = ""
    anchor: str = ""
    pictures: int = 3
    picture_bytes: int = 20_000_000


def build_report(
    sources: Sequence[Source],
    options: Options = Options(),
    *,
    notes: Sequence[str] = (),
) -> str:
    """Return the page about curves; `notes` are shown among its warnings.

    Raises `DataError` when there is no curve, none has a finite quality, or none is the anchor.
    """
    curves = [source.curve for source in sources]
    found = views(curves)
    if not curves or not found:
        raise DataError("a report needs a curve with at least one finite quality")
    anchor = anchor_of(curves, found[0], options.anchor)
    comparisons = compare_all(curves, found)
    pictures = gallery(sources, count=options.pictures, limit_bytes=options.picture_bytes)
    data = _data(curves, found, anchor, comparisons, pictures)
    scripts = {name: _script(_asset(f"{name}.js")) for name in _SCRIPTS}
    scripts["plotly"] = _script(_plotly())
    title = options.title or _title(curves)
    words = words_of(curves)
    return Template(_asset("page.html")).substitute(
        policy=_policy(list(scripts.values())),
        version=tag("span", version("lictor")),
        title=join(title),
        style=_asset("style.css"),
        colours=_colours(curves),
        lead=_lead(curves),
        metrics=_metric_options(found),
        aggregations=_options(_WAYS.items()),
        anchors=_options(((i, c.name) for i, c in enumerate(curves)), anchor),
        warnings=warnings(curves, [*notes, *_incomplete(curves, found)]),
        legend=legend(curves),
        bd=bd_section(
            curves, found, comparisons, compare_points(curves, found), (found[0], anchor)
        ),
        pictures=_pictures(pictures, options.pictures, curves),
        links=_links(curves, pictures),
        each=f"Per {words.one}",
        one=words.one,
        million=words.million,
        signals=signals_section(sources, count=options.pictures, limit_bytes=options.picture_bytes),
        time=time_section(curves),
        rows=rows_section(curves),
        origin=origin_section(curves, found),
        data=script_json(data),
        **{f"{name}_script": script for name, script in scripts.items() if name != "plotly"},
        plotly=scripts["plotly"],
    )


def compare_all(curves: Sequence[Curve], found: Sequence[View]) -> Comparisons:
    """Compare every curve with every other as its anchor, in every view."""
    comparisons: dict[tuple[View, int, int], Comparison] = {}
    for view in found:
        own = [_only(curve, view) for curve in curves]
        # Only decibels of a mean MS-SSIM have no name in `AGGREGATIONS`; the curves know no other.
        aggregation = view.aggregation if view.aggregation in AGGREGATIONS else None
        for anchor, one in enumerate(own):
            for test, other in enumerate(own):
                if test != anchor:
                    comparisons[view, anchor, test] = compare(
                        one, other, metric=view.metric, aggregation=aggregation
                    )
    return comparisons


def compare_points(
    curves: Sequence[Curve], found: Sequence[View]
) -> dict[tuple[View, int, int], PointComparison]:
    """Compare every curve of one point, and what has such a curve as its anchor, in every view."""
    return {
        (view, anchor, test): compare_point(
            _only(one, view),
            _only(other, view),
            metric=view.metric,
            aggregation=view.aggregation if view.aggregation in AGGREGATIONS else None,
        )
        for view in found
        for anchor, one in enumerate(curves)
        for test, other in enumerate(curves)
        if test != anchor and (is_point(one) or is_point(other))
    }


def _only(curve: Curve, view: View) -> Curve:
    if view.aggregation != MEAN_MS_SSIM:
        return curve
    columns = {key: column for key, column in curve.columns.items() if key != view.metric}
    return replace(curve, columns=columns)


def anchor_of(curves: Sequence[Curve], view: View, name: str = "") -> int:
    """Return the number of the curve that BD-rates are against at first: the one of that name.

    Without a name it is the first that is a curve in this view. Of signals, codecs that everybody
    knows come before those with a network of their own. Raises `DataError` for an unknown name.
    """
    names = [curve.name for curve in curves]
    if name and name not in names:
        raise DataError(f"anchor {name!r} is not one of the curves: {', '.join(names)}")
    if name:
        return names.index(name)
    whole = [
        i for i, curve in enumerate(curves) if len(set(_drawn_settings(curve, view))) >= MIN_POINTS
    ]
    if any(curve.of_signals for curve in curves):
        usual = [names.index(peer) for peer in _USUAL_ANCHORS if peer in names]
        peers = [i for i in range(len(curves)) if "network_bytes" not in curves[i].codec]
        whole = [*(i for i in (*usual, *peers) if i in whole), *whole]
    return whole[0] if whole else 0


# ------------------------------------------------------------------------------------- the data


def _data(
    curves: Sequence[Curve],
    found: Sequence[View],
    anchor: int,
    comparisons: Comparisons,
    pictures: Gallery,
) -> dict[str, Any]:
    """Return what the page's scripts draw; tables that need no script are HTML already."""
    images = list(dict.fromkeys(row.image for curve in curves for row in curve.rows))
    number = {image: i for i, image in enumerate(images)}
    return {
        "views": [
            {
                "key": view.key,
                "metric": view.metric,
                "aggregation": view.aggregation,
                "label": view.label,
                "digits": METRICS[view.metric].digits,
            }
            for view in found
        ],
        "anchor": anchor,
        "unit": shared_unit(curve.unit for curve in curves).name,
        "words": asdict(words_of(curves)),
        "images": images,
        "curves": [
            {
                "name": curve.name,
                "settings": curve.settings,
                "unit": {"name": curve.unit.name, "per_bpp": curve.unit.per_bpp},
                "points": {view.key: _drawn_settings(curve, view) for view in found},
                "rows": _rows(curve.rows, number),
            }
            for curve in curves
        ],
        "rd": {view.key: rd_figure(curves, view) for view in found},
        "bd": _bd(comparisons, found, len(curves), images),
        "times": {
            "megapixel": time_figure(curves, per_megapixel=True),
            "picture": time_figure(curves, per_megapixel=False),
        },
        "pictures": pictures.pictures,
        "colours": _heat_colours() if pictures.pictures else [],
    }


def _drawn_settings(curve: Curve, view: View) -> list[str]:
    return [setting for setting, _, _ in points(curve, view)] if view.known(curve) else []


def _rows(rows: Sequence[ImageResult], number: Mapping[str, int]) -> dict[str, list[Any]]:
    settings: dict[str, list[Any]] = {}
    for row in rows:
        values = {key: _short(getattr(row, key)) for key in _ROW}
        times = {key: float(f"{getattr(row, key):.3g}") for key in ("encode_s", "decode_s")}
        settings.setdefault(row.setting, []).append({"image": number[row.image], **values, **times})
    return settings


def _short(value: float) -> float:
    return round(value, 5) if isinstance(value, float) else value


def _bd(
    comparisons: Comparisons, found: Sequence[View], count: int, images: Sequence[str]
) -> dict[str, Any]:
    """Return rates by view, anchor and test; per picture in the order of `images`."""
    table: dict[str, Any] = {view.key: [[None] * count for _ in range(count)] for view in found}
    for (view, anchor, test), comparison in comparisons.items():
        own = {delta.image: round(delta.bd_rate, 3) for delta in comparison.per_image}
        table[view.key][anchor][test] = {
            "rate": round(comparison.bd_rate, 3),
            "per_image": [own.get(image) for image in images] if own else None,
        }
    return table


def _heat_colours() -> list[list[int]]:
    """Return 256 colours from black to yellow (matplotlib's inferno), red, green, blue."""
    from matplotlib import colormaps

    return (255 * colormaps["inferno"](range(256))[:, :3]).round().astype(int).tolist()


# ------------------------------------------------------------------------------------- the words


def _title(curves: Sequence[Curve]) -> str:
    return f"Rate and distortion of {len(curves)} codecs" if len(curves) > 1 else curves[0].name


def _lead(curves: Sequence[Curve]) -> Html:
    """Say in a sentence what was measured on what."""
    measured = [curve for curve in curves if not is_published(curve)]
    parts = []
    if measured:
        counts = sorted({len(curve.images) for curve in measured})
        words = words_of(measured)
        things = words.one if counts == [1] else words.many
        pictures = f"{' or '.join(map(str, counts))} {things}"
        sets = list(dict.fromkeys(curve.dataset for curve in measured if curve.dataset))
        where = f" ({', '.join(sets)})" if sets else ""
        parts.append(f"{_count(len(measured), 'codec')} measured on {pictures}{where}")
    published = len(curves) - len(measured)
    if published:
        parts.append(f"{_count(published, 'published curve')}, dashed")
    return join("; ".join(parts) + ".")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _incomplete(curves: Sequence[Curve], found: Sequence[View]) -> list[str]:
    """Say which points of a curve have no number in a measure that its others have."""
    texts = []
    for metric in dict.fromkeys(view.metric for view in found):
        view = next(view for view in found if view.metric == metric)
        for curve in curves:
            if view.known(curve) and len(_drawn_settings(curve, view)) < len(curve.settings):
                shown = set(_drawn_settings(curve, view))
                gone = ", ".join(s for s in curve.settings if s not in shown)
                label = METRICS[metric].label
                texts.append(f"{curve.name}: {label} is not finite at {gone}; not drawn.")
    return texts


def _metric_options(found: Sequence[View]) -> Html:
    labels: dict[str, str] = {}
    for view in found:
        labels.setdefault(view.metric, METRICS[view.metric].label)
    return _options(labels.items())


def _options(entries: Any, selected: object = None) -> Html:
    return join(
        *(tag("option", text, value=key, selected=key == selected) for key, text in entries)
    )


def _links(curves: Sequence[Curve], pictures: Gallery) -> Html:
    """Return links to the sections of pictures and of signals, as far as these are there."""
    links = []
    if pictures.pictures or words_of(curves) is PICTURES:
        links.append(tag("a", "Pictures", href="#pictures"))
    if any(curve.of_signals for curve in curves):
        links.append(tag("a", "Signals", href="#signals"))
    return join(*links)


def _pictures(pictures: Gallery, count: int, curves: Sequence[Curve]) -> Html:
    """Return the section of pictures; nothing where signals have none and need none."""
    if not pictures.pictures and words_of(curves) is ITEMS:
        return join(*(tag("p", note, class_="note") for note in pictures.notes))
    return tag(
        "section",
        tag("h2", "Pictures", id="h-pictures"),
        _viewer(pictures, count),
        id="pictures",
        aria_labelledby="h-pictures",
    )


def _viewer(pictures: Gallery, count: int) -> Html:
    notes = [tag("p", note, class_="note", data_note="pictures") for note in pictures.notes]
    if pictures.pictures:
        return join(Html(_asset("viewer.html")), *notes)
    if count == 0:
        return join(tag("p", "This page was made without pictures.", class_="note"), *notes)
    how = tag(
        "p",
        "No decoded pictures were kept beside these results. ",
        tag("code", "lictor evaluate ... --keep 3"),
        " keeps the first three of each codec and setting; a report made after that compares them "
        "here.",
        class_="note",
    )
    return join(*notes) if notes else how


# ----------------------------------------------------------------------------------- the page


def _asset(name: str) -> str:
    return files("lictor").joinpath("assets", "report", name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _script(text: str) -> Html:
    if "</script" in text.lower() or "<!--" in text:
        raise DataError("a script of the report cannot be embedded: it ends its own element")
    return Html(text)


def _policy(scripts: Sequence[str]) -> Html:
    """Forbid everything but what the page has inside; scripts are named by their hashes."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return Html(
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; media-src data:; base-uri 'none'; form-action 'none'"
    )


def _colours(curves: Sequence[Curve]) -> Html:
    """Return each curve's colour for both themes, as CSS variables."""
    looks = list(enumerate(styles(curves)))
    light = "".join(f"--curve-{i}:{style.light};" for i, style in looks)
    dark = "".join(f"--curve-{i}:{style.dark};" for i, style in looks)
    return Html(f':root{{{light}}}\n:root[data-theme="dark"]{{{dark}}}')
