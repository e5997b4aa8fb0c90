"""The words of a report: legend, warnings, places of the tables of pictures, origin of all."""

from collections.abc import Mapping, Sequence
from typing import Any

from lictor.comparison.curve import AGGREGATIONS, METRICS, Curve
from lictor.reporting.charts import View, styles
from lictor.reporting.markup import Html, join, named, swatch, tag
from lictor.reporting.words import words_of


def legend(curves: Sequence[Curve]) -> Html:
    """Return a button for each curve, to show and hide it."""
    return join(
        *(
            tag(
                "button",
                swatch(index, style),
                curve.name,
                type="button",
                data_curve=index,
                aria_pressed="true",
                title="Show or hide; a double click shows it alone",
            )
            for index, (curve, style) in enumerate(zip(curves, styles(curves), strict=True))
        )
    )


# ------------------------------------------------------------------------------ rows, warnings


def rows_section(curves: Sequence[Curve]) -> Html:
    """Return the places of the tables of pictures, which the page fills."""
    words = words_of(curves)
    options = [
        tag("option", curve.name, value=index) for index, curve in enumerate(curves) if curve.rows
    ]
    if not options:
        return tag("p", f"Published curves have no numbers of single {words.many}.", class_="note")
    return join(
        tag("h3", "BD-rate in % against ", tag("span", class_="anchor-name")),
        tag(
            "p",
            f"No number for single {words.many}: it needs two codecs measured on the same "
            f"{words.many}.",
            class_="note",
            id="picture-rates-none",
        ),
        tag(
            "div",
            id="picture-rates",
            class_="box",
            tabindex="0",
            role="region",
            aria_label=f"BD-rate of each {words.one}",
        ),
        tag("h3", "Measurements"),
        tag(
            "div",
            tag("label", "Codec ", tag("select", *options, id="rows-curve")),
            tag("label", "Setting ", tag("select", id="rows-setting")),
            class_="controls",
        ),
        tag(
            "div",
            id="rows",
            class_="box",
            tabindex="0",
            role="region",
            aria_label=f"Measurements of each {words.one}",
        ),
    )


def warnings(curves: Sequence[Curve], notes: Sequence[str]) -> Html:
    """Return what went wrong before the report, if anything did."""
    texts = [f"{curve.name}: {error}" for curve in curves for error in curve.errors]
    texts += notes
    if not texts:
        return Html()
    items = tag("ul", *(tag("li", text) for text in texts))
    count = f"{len(texts)} warning{'' if len(texts) == 1 else 's'} from the evaluation"
    return tag("details", tag("summary", count), items, class_="warning", open=len(texts) <= 3)


# ------------------------------------------------------------------------------------------ origin


def origin_section(curves: Sequence[Curve], views: Sequence[View]) -> Html:
    """Return how the numbers are defined, and for each curve what made it, down to the command."""
    metrics = list(dict.fromkeys(view.metric for view in views))
    two_ways = [METRICS[m].label.removesuffix(" dB") for m in metrics if METRICS[m].squared_error]
    definitions = [
        (
            "Rate",
            "bits per pixel or sample: 8 × bytes of the whole file / pixels or samples, mean over "
            f"{words_of(curves).many}",
        ),
        (" and ".join(two_ways), f"either the {', or the '.join(AGGREGATIONS.values())}"),
        ("BD-rate", "PCHIP of log-rate over quality, mean over the common range of quality"),
    ]
    looks = styles(curves)
    return join(
        tag(
            "dl",
            *(tag("div", tag("dt", a), tag("dd", b)) for a, b in definitions if a),
            class_="facts",
        ),
        *(
            tag(
                "details",
                tag("summary", named(index, curve, looks[index]), class_="curve-summary"),
                _origin_of(curve, metrics),
                class_="origin",
            )
            for index, curve in enumerate(curves)
        ),
    )


def _origin_of(curve: Curve, metrics: Sequence[str]) -> Html:
    counts: dict[object, str] = {
        True: "whole files, headers included",
        False: "without the headers of the files",
    }
    facts: list[tuple[str, object]] = [
        ("Description", curve.description),
        (words_of([curve]).many.capitalize(), _pictures_of(curve)),
        ("Average", AGGREGATIONS.get(curve.aggregation, "not said; taken for the mean of PSNRs")),
        ("Rate", counts.get(curve.counts_header, "not said whether headers count")),
        ("Settings", ", ".join(curve.settings)),
    ]
    missing = [METRICS[m].label for m in metrics if not curve.aggregations(m)]
    facts.append(("Not measured", ", ".join(missing)))
    facts.append(("Errors", join(*(tag("div", error) for error in curve.errors))))
    facts += [(key.replace("_", " "), _value(key, v)) for key, v in curve.provenance.items()]
    codec = {key: value for key, value in curve.codec.items() if key != "speed"}
    if codec:
        facts.append(("Codec", _value("codec", codec)))
    shown = [(key[:1].upper() + key[1:], value) for key, value in facts if value not in ("", None)]
    return tag(
        "dl", *(tag("div", tag("dt", key), tag("dd", v)) for key, v in shown), class_="facts"
    )


def _pictures_of(curve: Curve) -> str:
    count = f"{len(curve.images)} measured" if curve.rows else ""
    return ", ".join(text for text in (curve.dataset, count) if text)


def _value(key: str, value: Any) -> object:
    """Return a value of the provenance: a command as code, what is nested as lists."""
    if isinstance(value, Mapping):
        items = (tag("li", f"{k}: ", _value(str(k), v)) for k, v in value.items())
        return tag("ul", *items)
    if isinstance(value, list | tuple):
        if all(not isinstance(item, Mapping | list | tuple) for item in value):
            return ", ".join(map(str, value))
        return tag("ul", *(tag("li", _value(key, item)) for item in value))
    if key in ("command", "commands", "images_sha256") or len(str(value)) > 60:
        return tag("code", value)
    return str(value)
