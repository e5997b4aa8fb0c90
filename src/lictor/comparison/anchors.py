"""Published rate-distortion curves to compare with, each with the place it was read from.

They are facts out of public repositories, all on Kodak, packed by `benchmarks/import_anchors.py`. A
curve's `provenance` has its label, repository, path and commit, and the source's own words on
averaging and notes. No source says whether its rates count the headers of files.
"""

import importlib.resources
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

from lictor.comparison.curve import Curve, curve_from_json
from lictor.errors import DataError


@cache
def _contents() -> Mapping[str, Mapping[str, Any]]:
    asset = importlib.resources.files("lictor") / "assets" / "anchors.json"
    return json.loads(asset.read_text(encoding="utf-8"))["curves"]


def anchor_names() -> tuple[str, ...]:
    """Return the names of all published curves, in alphabetical order."""
    return tuple(_contents())


def near_anchors(name: str, count: int = 5) -> Sequence[str]:
    """Return up to `count` names of anchors like a given one, the likeliest first."""
    wanted = name.casefold().strip()
    within = [known for known in anchor_names() if len(wanted) > 1 and wanted in known]
    close = get_close_matches(wanted, anchor_names(), n=count, cutoff=0.5)
    return list(dict.fromkeys([*sorted(within, key=len)[:count], *close]))[:count]


def load_anchor(name: str) -> Curve:
    """Return a published curve by its name; raises `DataError` with near names for an unknown one.

    Upper case and spaces around do not matter.
    """
    key = name.casefold().strip()
    if key not in _contents():
        near = near_anchors(name)
        hint = f"near: {', '.join(near)}" if near else f"there are {len(anchor_names())}"
        raise DataError(f"{name!r} is not an anchor; {hint}; see lictor anchors")
    content = dict(_contents()[key])
    about = content["provenance"]
    words = dict.fromkeys(filter(None, (about["label"], about.get("about"))))
    return curve_from_json({**content, "name": key, "description": "; ".join(words)})
