"""Kept items of signals as a section of a page: the original, and what codecs made of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np

from lictor.comparison.curve import ImageResult
from lictor.data.signals.signal import Signal
from lictor.errors import ConfigError, DataError
from lictor.evaluation.signals.figures import point_figures
from lictor.evaluation.signals.items import signal_hash
from lictor.evaluation.signals.kept import load_kept, original_signal_path, signal_path
from lictor.reporting.gallery import matched_rates, nearest_setting
from lictor.reporting.markup import Html, join, tag
from lictor.reporting.signals.drawings import (
    coloured,
    grey_planes,
    limits,
    maps,
    picture_uri,
    sound_uri,
    spectrogram,
)
from lictor.reporting.sources import Source

_RATES = 3  # of each codec: what a reader can take in at once


@dataclass(frozen=True)
class Shown:
    """A decoded item: whose it is, its row, its samples."""

    curve: str
    unit: str
    rate: float
    row: ImageResult
    signal: Signal


def signals_section(sources: Sequence[Source], *, count: int, limit_bytes: int) -> Html:
    """Return figures and kept items of curves of signals; nothing where there is no such curve.

    Up to `count` items, of each codec those settings that are nearest to a few rates, together no
    larger than `limit_bytes` of the page.
    """
    ours = [source for source in sources if source.curve.of_signals]
    if not ours:
        return Html()
    parts, notes, used = [], [], 0
    for name, original, shown in _kept(ours, count, notes):
        try:
            part = _item(name, original, shown)
        except ConfigError as error:
            notes.append(f"{name} is not shown: {error}")
            continue
        if used + len(part) > limit_bytes:
            notes.append(f"{name} does not fit into {limit_bytes / 1e6:g} MB; raise --picture-mb.")
            continue
        used += len(part)
        parts.append(part)
    if not parts and count and not notes:
        notes.append("No decoded signals were kept: lictor evaluate ... --keep 3 keeps the first.")
    return tag(
        "section",
        tag("h2", "Signals", id="h-signals"),
        _figures(ours),
        *parts,
        *(tag("p", note, class_="note") for note in notes),
        id="signals",
        aria_labelledby="h-signals",
    )


def _figures(sources: Sequence[Source]) -> Html:
    """Return one table of all curves, of the columns that any of them has."""
    rows = [row for source in sources for row in point_figures(source.curve)]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    told = [key for key in keys if any(row.get(key, "-") != "-" for row in rows)]
    # What stands for words is on the left, numbers are on the right.
    looks = {key: "text" if key in ("curve", "setting") else "number" for key in told}
    head = tag("tr", *(tag("th", key, scope="col", class_=looks[key]) for key in told))
    bodies = [
        tag(
            "tbody",
            *(
                tag("tr", *(tag("td", row.get(key, "-"), class_=looks[key]) for key in told))
                for row in group
            ),
        )
        for _, group in groupby(rows, key=itemgetter("curve"))
    ]
    table = tag("table", tag("thead", head), *bodies)
    return join(
        tag("div", table, class_="box", tabindex="0", role="region", aria_label="Figures"),
        tag(
            "p",
            "Baseline: PSNR of silence for sounds, of the mean value for all else. SNR: how far "
            "the codec is above it. cos-lat: PSNR with squared errors weighted by the cosine of "
            "the latitude.",
            class_="note",
        ),
    )


def _kept(
    sources: Sequence[Source], count: int, notes: list[str]
) -> Iterator[tuple[str, Signal, list[Shown]]]:
    """Give items that were kept with their originals, in the order of the rows."""
    names = dict.fromkeys((r.image, r.sha256) for s in sources for r in s.curve.rows)
    found = 0
    for name, sha256 in names:
        if found == count:
            return
        places = [s.file.parent for s in sources if s.file is not None]
        originals = [p for p in (original_signal_path(f, name) for f in places) if p.exists()]
        if not originals:
            continue
        try:
            original = load_kept(originals[0])
            if original.samples.dtype != np.float32 and signal_hash(original) != sha256:
                raise DataError("the kept original is another signal")
            shown = [one for s in sources for one in _shown(s, name, sha256)]
        except DataError as error:
            notes.append(f"{name} is not shown: {error}")
            continue
        if shown:
            found += 1
            yield name, original, shown


def _shown(source: Source, name: str, sha256: str) -> Iterator[Shown]:
    if source.file is None:
        return
    folder, unit = source.file.parent, source.curve.unit
    rows = {}
    for row in source.curve.rows:
        path = signal_path(folder, source.kept_as, row.setting, name)
        if (row.image, row.sha256) == (name, sha256) and path.exists():
            rows[row.setting] = (row, path)
    if not rows:
        return
    rates = {setting: row.bpp for setting, (row, _) in rows.items()}
    chosen = {nearest_setting(rates, rate) for rate in matched_rates([rates], _RATES)}
    for setting in sorted(chosen, key=rates.__getitem__):
        row, path = rows[setting]
        rate = row.bpp * unit.per_bpp
        yield Shown(source.curve.name, unit.name, rate, row, load_kept(path))


def _item(name: str, original: Signal, shown: Sequence[Shown]) -> Html:
    draw = _DRAW.get(original.kind, _draw_array)
    first, *figures = draw(original, [one.signal for one in shown])
    curves = groupby(zip(shown, figures, strict=True), key=lambda pair: pair[0].curve)
    rows = [[("original", first)]]
    rows += [[(_caption(one), figure) for one, figure in group] for _, group in curves]
    return join(
        tag("h3", name),
        *(
            tag(
                "div",
                *(tag("figure", figure, tag("figcaption", words)) for words, figure in row),
                class_="signals",
            )
            for row in rows
        ),
    )


def _caption(one: Shown) -> str:
    head = f"{one.curve} {one.row.setting}: {one.rate:.4g} {one.unit}"
    if one.row.mse == 0:
        return f"{head}, without loss"
    above = one.row.psnr - one.row.baseline_psnr
    return f"{head}, PSNR {one.row.psnr:.2f} dB, {above:.2f} dB above the baseline"


def _image(pixels: np.ndarray, words: str) -> Html:
    return tag("img", src=picture_uri(pixels), alt=words, loading="lazy")


def _draw_sounds(original: Signal, decoded: Sequence[Signal]) -> list[Html]:
    first, top = spectrogram(original)
    pictures = [first, *(spectrogram(signal, top)[0] for signal in decoded)]
    return [
        join(
            _image(picture, "Spectrogram"),
            tag("audio", controls=True, preload="none", src=sound_uri(signal)),
        )
        for picture, signal in zip(pictures, (original, *decoded), strict=True)
    ]


def _draw_planes(original: Signal, decoded: Sequence[Signal]) -> list[Html]:
    low, high = limits(original)
    return [
        _image(grey_planes(signal, low, high), "Three planes") for signal in (original, *decoded)
    ]


def _draw_maps(original: Signal, decoded: Sequence[Signal]) -> list[Html]:
    """Draw maps with their errors beside them, all errors on the scale of the largest."""
    drawn = maps(original, decoded)
    scale = tag("p", f"{drawn.low:.4g} to {drawn.high:.4g} {drawn.unit}", class_="note")
    error = tag("p", f"error: \N{PLUS-MINUS SIGN}{drawn.worst:.3g} {drawn.unit}", class_="note")
    pairs = [join(_image(pair, "Map, and error"), error) for pair in drawn.decoded]
    return [join(_image(drawn.original, "Map"), scale), *pairs]


def _draw_array(original: Signal, decoded: Sequence[Signal]) -> list[Html]:
    low, high = limits(original)

    def draw(signal: Signal) -> Html:
        values = signal.samples[0].astype(np.float64)
        flat = values.reshape(-1, values.shape[-1]) if values.ndim < 3 else values[..., 0]
        flat = flat.reshape(-1, flat.shape[-1])
        return _image(coloured((flat - low) / (high - low), "viridis"), "Values")

    return [draw(signal) for signal in (original, *decoded)]


_DRAW: dict[str, Callable[[Signal, Sequence[Signal]], list[Html]]] = {
    "audio": _draw_sounds,
    "volume": _draw_planes,
    "field": _draw_maps,
}
