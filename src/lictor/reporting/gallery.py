"""Kept pictures for the viewer: which, at which rates, within a limit on the page's size."""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lictor.comparison.curve import ImageResult
from lictor.data.images import load_image
from lictor.errors import DataError
from lictor.evaluation.pictures import original_path, picture_path
from lictor.evaluation.rd import image_hash
from lictor.reporting.sources import Source

# How many matched rates are tried, one after the other, when all settings are too much.
_RATES = (6, 5, 4, 3, 2, 1)


@dataclass(frozen=True)
class Kept:
    """A picture with its original and what codecs made of it: a row and a file for each setting."""

    name: str
    sha256: str
    original: Path
    decoded: dict[int, dict[str, tuple[ImageResult, Path]]]


@dataclass(frozen=True)
class Gallery:
    """Pictures as the page embeds them, and what a reader must know about the choice."""

    pictures: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    embedded_bytes: int = 0


def kept_pictures(sources: Sequence[Source], count: int) -> list[Kept]:
    """Return up to `count` pictures that were kept, those that most codecs have first, by name.

    The same picture of two results files is one picture: names and hashes of pixels decide.
    """
    found: dict[tuple[str, str], Kept] = {}
    for index, source in enumerate(sources):
        if source.file is None:
            continue
        folder = source.file.parent
        for row in source.curve.rows:
            original = original_path(folder, row.image)
            path = picture_path(folder, source.kept_as, row.setting, row.image)
            if path.exists() and original.exists():
                key = (row.image, row.sha256)
                kept = found.setdefault(key, Kept(*key, original, {}))
                kept.decoded.setdefault(index, {})[row.setting] = (row, path)
    ordered = sorted(found.values(), key=lambda kept: (-len(kept.decoded), kept.name, kept.sha256))
    return sorted(ordered[:count], key=lambda kept: (kept.name, kept.sha256))


def nearest_setting(rates: Mapping[str, float], bpp: float) -> str:
    """Return the setting whose rate is nearest to `bpp`; the lower one of two equally near."""
    return min(rates, key=lambda setting: (abs(rates[setting] - bpp), rates[setting]))


def matched_rates(curves: Sequence[Mapping[str, float]], count: int) -> list[float]:
    """Return rates, evenly spread by ratio, over the range that all curves reach.

    Over the range that any reaches, when they have none in common. A curve of one setting has no
    range and no say, unless all are so.
    """
    curves = [curve for curve in curves if len(curve) > 1] or curves
    lows, highs = [min(c.values()) for c in curves], [max(c.values()) for c in curves]
    low, high = max(lows), min(highs)
    if low >= high:
        low, high = min(lows), max(highs)
    if count == 1:
        return [math.sqrt(low * high)]
    return [float(rate) for rate in np.geomspace(low, high, count)]


def _choose(kept: Kept, count: int | None) -> dict[int, list[str]]:
    """Return the settings of each curve that are shown: all, or those nearest to `count` rates."""
    rates = {
        index: {setting: row.bpp for setting, (row, _) in settings.items()}
        for index, settings in kept.decoded.items()
    }
    if count is None:
        return {index: sorted(own, key=own.__getitem__) for index, own in rates.items()}
    wanted = matched_rates(list(rates.values()), count)
    return {
        index: sorted({nearest_setting(own, rate) for rate in wanted}, key=own.__getitem__)
        for index, own in rates.items()
    }


def gallery(sources: Sequence[Source], *, count: int, limit_bytes: int) -> Gallery:
    """Embed up to `count` kept pictures, together no larger than `limit_bytes` of the page.

    If they are larger, each codec keeps only the settings nearest to a few rates, and at last there
    are fewer pictures; the notes say so.
    """
    notes: list[str] = []
    kept = []
    for picture in kept_pictures(sources, count):
        try:
            fits = image_hash(load_image(picture.original)) == picture.sha256
        except DataError as error:
            notes.append(f"{picture.name} is not shown: {error}")
            continue
        if fits:
            kept.append(picture)
        else:
            notes.append(f"{picture.name} is not shown: the kept original is another picture.")
    uris: dict[Path, str] = {}
    for plan, (pictures, rates) in enumerate(_plans(kept)):
        chosen = [_choose(picture, rates) for picture in pictures]
        total = _total(pictures, chosen, uris, limit_bytes)
        if total is None:
            continue
        if plan:
            notes.append(_thinned(len(pictures), len(kept), rates or 0, limit_bytes))
        shown = [_embed(p, c, uris) for p, c in zip(pictures, chosen, strict=True)]
        return Gallery(shown, notes, total)
    if kept:
        notes.append(
            f"Not even one picture fits into {_mb(limit_bytes)}; raise --picture-mb to see some."
        )
    return Gallery((), notes)


def _plans(kept: Sequence[Kept]) -> Iterator[tuple[Sequence[Kept], int | None]]:
    if kept:
        yield kept, None
        for rates in _RATES:
            yield kept, rates
        for fewer in range(len(kept) - 1, 0, -1):
            yield kept[:fewer], 1


def _thinned(pictures: int, kept: int, rates: int, limit_bytes: int) -> str:
    which = "one rate" if rates == 1 else f"{rates} rates"
    fewer = f"{pictures} of {kept} pictures, " if pictures < kept else ""
    return (
        f"To keep pictures within {_mb(limit_bytes)} this page has {fewer}each codec's settings "
        f"nearest to {which}. Raise --picture-mb for more."
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:g} MB"


def _total(
    pictures: Sequence[Kept],
    chosen: Sequence[Mapping[int, Sequence[str]]],
    uris: dict[Path, str],
    limit_bytes: int,
) -> int | None:
    """Return the size of what was chosen, None as soon as it passes the limit."""
    total = 0
    for picture, settings in zip(pictures, chosen, strict=True):
        files = [picture.decoded[i][s][1] for i, own in settings.items() for s in own]
        for path in (picture.original, *files):
            if path not in uris:
                uris[path] = data_uri(path)
            total += len(uris[path])
            if total > limit_bytes:
                return None
    return total


def data_uri(path: Path) -> str:
    """Return a picture's pixels as lossless WebP, or PNG where that is smaller, for a page."""
    data, kind = path.read_bytes(), "png"
    image = load_image(path)
    if max(image.shape) <= 16383:  # what WebP can hold
        buffer = io.BytesIO()
        squeezed = image[:, :, 0] if image.shape[2] == 1 else image
        Image.fromarray(squeezed).save(buffer, "WEBP", lossless=True, quality=50, method=4)
        if len(buffer.getvalue()) < len(data) or not data.startswith(b"\x89PNG"):
            data, kind = buffer.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _embed(
    kept: Kept, chosen: Mapping[int, Sequence[str]], uris: Mapping[Path, str]
) -> dict[str, Any]:
    """Return a picture for the page: its data, each codec's settings by rate, and their matches."""
    row = next(iter(next(iter(kept.decoded.values())).values()))[0]
    codecs = {}
    for index, settings in chosen.items():
        codecs[index] = [
            {
                "setting": setting,
                "uri": uris[path],
                "bytes": row.bytes,
                "bpp": row.bpp,
                "psnr": row.psnr,
                "ms_ssim": row.ms_ssim,
            }
            for setting in settings
            for row, path in [kept.decoded[index][setting]]
        ]
    return {
        "name": kept.name,
        "width": row.width,
        "height": row.height,
        "original": uris[kept.original],
        "codecs": codecs,
        "matches": matches(kept, chosen),
    }


def matches(kept: Kept, chosen: Mapping[int, Sequence[str]]) -> dict[int, dict[int, list[int]]]:
    """Return, for each pair of codecs and setting of the first, the position of the second's.

    The second's is the one of its settings in `chosen` with the nearest rate for this picture.
    """
    rates = {
        index: {setting: kept.decoded[index][setting][0].bpp for setting in settings}
        for index, settings in chosen.items()
    }
    return {
        left: {
            right: [
                list(chosen[right]).index(nearest_setting(rates[right], bpp))
                for bpp in rates[left].values()
            ]
            for right in chosen
        }
        for left in chosen
    }
