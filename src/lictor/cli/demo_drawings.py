"""What `lictor demo` leaves to look at of signals: originals and restored ones in one picture."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lictor.data.signals.signal import Signal
from lictor.reporting.signals.drawings import beside, grey_planes, limits, maps, spectrogram

# Originals, and with a caption each what they were restored to.
Restored = Sequence[tuple[str, Sequence[Signal]]]
Cell = tuple[str, np.ndarray]
_GAP, _CAPTION = 8, 20
_IN_A_ROW = 8  # thumbnails


def sheet(cells: Sequence[Cell], *, columns: int, zoom: int) -> Image.Image:
    """Lay out pictures of one size, each under its caption, enlarged `zoom` times."""
    font = ImageFont.load_default(size=14)
    width = max(
        max(picture.shape[1] * zoom, int(font.getlength(caption))) for caption, picture in cells
    )
    height = max(picture.shape[0] for _, picture in cells) * zoom + _CAPTION
    lines = -(-len(cells) // columns)
    size = columns * (width + _GAP) + _GAP, lines * (height + _GAP) + _GAP
    result = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(result)
    for number, (caption, picture) in enumerate(cells):
        x = _GAP + number % columns * (width + _GAP)
        y = _GAP + number // columns * (height + _GAP)
        draw.text((x, y), caption, fill="black", font=font)
        image = Image.fromarray(picture)
        larger = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
        result.paste(larger, (x, y + _CAPTION))
    return result


def _spectrograms(originals: Sequence[Signal], restored: Restored) -> Image.Image:
    """Draw sounds one below the other, each sound's codecs in the scale of the original."""
    cells = list[Cell]()
    for number, original in enumerate(originals):
        picture, top = spectrogram(original)
        cells.append(("original, the first seconds; low tones at the bottom", picture))
        cells += [(words, spectrogram(found[number], top)[0]) for words, found in restored]
    return sheet(cells, columns=1, zoom=1)


def _slices(originals: Sequence[Signal], restored: Restored) -> Image.Image:
    low, high = limits(originals[0])
    cells = [("original", grey_planes(originals[0], low, high))]
    cells += [(words, grey_planes(found[0], low, high)) for words, found in restored]
    return sheet(cells, columns=1, zoom=2)


def _maps(originals: Sequence[Signal], restored: Restored) -> Image.Image:
    drawn = maps(originals[0], [found[0] for _, found in restored])
    scale = f"original, from {drawn.low:.4g} (dark) to {drawn.high:.4g} {drawn.unit}"
    error = f"; error from {-drawn.worst:.3g} (blue) to {drawn.worst:.3g} (red) {drawn.unit}"
    pairs = [
        (words + error, pair) for (words, _), pair in zip(restored, drawn.decoded, strict=True)
    ]
    return sheet([(scale, drawn.original), *pairs], columns=1, zoom=2)


def _thumbnails(originals: Sequence[Signal], restored: Restored) -> Image.Image:
    cells = [("original", _tiled(originals))]
    cells += [(words, _tiled(found)) for words, found in restored]
    return sheet(cells, columns=2, zoom=2)


def _tiled(signals: Sequence[Signal]) -> np.ndarray:
    pictures = [signal.samples[0] for signal in signals]
    rows = [
        beside(pictures[start : start + _IN_A_ROW]) for start in range(0, len(pictures), _IN_A_ROW)
    ]
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0)), constant_values=153)
        for row in rows
    ]
    return np.concatenate(padded)[:-4]


# The file's name, and who draws it.
DRAWINGS: dict[str, tuple[str, Callable[[Sequence[Signal], Restored], Image.Image]]] = {
    "audio": ("spectrograms.png", _spectrograms),
    "volume": ("slices.png", _slices),
    "field": ("maps.png", _maps),
    "image": ("sheet.png", _thumbnails),
}
