"""HTML in which nothing is markup unless it was made here: escaping is what happens by default."""

import json
import math
from collections.abc import Mapping
from html import escape
from typing import Any

from lictor.comparison.curve import Curve
from lictor.reporting.charts import Style

_VOID = ("br", "col", "hr", "input", "link", "meta")
_SHAPES = {
    "circle": '<circle cx="14" cy="6" r="3.8"/>',
    "square": '<rect x="10.6" y="2.6" width="6.8" height="6.8"/>',
    "diamond": '<path d="M14 1.2 18.8 6 14 10.8 9.2 6Z"/>',
    "triangle-up": '<path d="M14 1.4 18.4 9.4H9.6Z"/>',
    "triangle-down": '<path d="M14 10.6 9.6 2.6h8.8Z"/>',
    "x": '<path d="m11.6 1.4 2.4 2.4 2.4-2.4 2.2 2.2L16.2 6l2.4 2.4-2.2 2.2L14 8.2l-2.4 2.4-2.2-2.2'
    'L11.8 6 9.4 3.6Z"/>',
    "cross": '<path d="M12.4 1.5h3.2v2.9h2.9v3.2h-2.9v2.9h-3.2V7.6H9.5V4.4h2.9Z"/>',
    "star": '<path d="m14 .8 1.5 3.5 3.8.3-2.9 2.5.9 3.7L14 8.8l-3.3 2 .9-3.7L8.7 4.6l3.8-.3Z"/>',
}


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Html:
    """Return an element; children and attributes are escaped unless they are `Html`.

    An attribute's underscores become dashes and one at its end is dropped (`class_`, `for_`);
    True is an attribute without a value; False and None are left out.
    """
    shown = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            shown.append(f" {key}")
        elif value is not False and value is not None:
            shown.append(f' {key}="{escape(str(value))}"')
    opening = f"<{name}{''.join(shown)}>"
    return Html(opening if name in _VOID else f"{opening}{join(*children)}</{name}>")


def join(*parts: object) -> Html:
    """Return the parts one after another, escaped unless they are `Html`; None is nothing."""
    present = [part for part in parts if part is not None]
    return Html("".join(p if isinstance(p, Html) else escape(str(p)) for p in present))


def script_json(value: object) -> Html:
    """Return JSON that is safe inside a script element: no `<`, no line that ends JavaScript's."""
    text = json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Html(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def plain(value: Any) -> Any:
    """Return a value that JSON can say: NaN becomes None, an infinite number the text "inf"."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value > 0 else None
    return value


def swatch(index: int, style: Style) -> Html:
    """Return a small drawing of a curve's line and marker, in the theme's colour of the curve."""
    hollow = 'fill="var(--panel)" stroke="currentColor" stroke-width="1.4"'
    paint = hollow if style.published else 'fill="currentColor"'
    dash = ' stroke-dasharray="4 2.5"' if style.published else ""
    return Html(
        f'<svg class="swatch" style="color:var(--curve-{index})" viewBox="0 0 28 12" width="28" '
        f'height="12" aria-hidden="true"><path d="M0 6h28" stroke="currentColor" fill="none" '
        f'stroke-width="{style.width}"{dash}/><g {paint}>'
        f"{_SHAPES[style.symbol]}</g></svg>"
    )


def named(index: int, curve: Curve, style: Style) -> Html:
    """Return a curve's name beside its line and marker."""
    return tag("span", swatch(index, style), curve.name, class_="named")
