"""Items of signals as small pictures, and sounds as files that a browser plays."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.signal import stft

from lictor.data.signals.quiet import needed
from lictor.data.signals.signal import Signal
from lictor.evaluation.signals.quality import in_unit

_SECONDS = 10.0  # of a sound, at most: pages are sent by mail
_WIDTH, _HEIGHT = 480, 320
_DB_RANGE = 80.0
_WINDOW_S = 0.025
_FLAT = 4  # times as long are the other sides of a flat volume, at least
_MOST_STRETCH = 20.0  # of a voxel: longer ones are drawn as cubes


def sound_uri(signal: Signal) -> str:
    """Return the first seconds of a sound as a FLAC file for a page.

    Raises `ConfigError` without soundfile.
    """
    soundfile = needed("soundfile", "audio")
    samples, rate = _sound(signal)
    levels = np.clip(np.rint(samples * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, levels, rate, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _sound(signal: Signal) -> tuple[np.ndarray, int]:
    rate = int(signal.form.get("sample_rate", 16000))
    samples = signal.samples[0, : int(_SECONDS * rate)]
    return in_unit(samples, "audio", signal.samples.dtype), rate


def spectrogram(signal: Signal, top_db: float | None = None) -> tuple[np.ndarray, float]:
    """Return the picture of a sound's spectrum over time, and the level in dB of its brightest.

    80 dB below `top_db` is black; that is the sound's own loudest level if not given.
    """
    samples, rate = _sound(signal)
    mono = samples.mean(-1)
    count = min(len(mono), max(16, int(_WINDOW_S * rate)))
    # Windows of a short sound overlap more, so that its picture is as wide as others'.
    step = max(1, min(count // 2, len(mono) // _WIDTH))
    power = np.abs(stft(mono, rate, nperseg=count, noverlap=count - step)[2]) ** 2
    levels = 10 * np.log10(np.maximum(power, 1e-20))[::-1]
    top = float(levels.max()) if top_db is None else top_db
    return coloured((levels - top + _DB_RANGE) / _DB_RANGE, "magma"), top


def planes(samples: np.ndarray, sides: Sequence[float] = (1.0, 1.0, 1.0)) -> list[np.ndarray]:
    """Return the middle planes of a volume "x y z", first and last axes upright.

    `sides` are those of a voxel: planes are as wide and high as the body, with square pixels of the
    shortest side.
    """
    return [_plane(samples, sides, axis, n // 2) for axis, n in enumerate(samples.shape)]


def slices(samples: np.ndarray, sides: Sequence[float], axis: int) -> list[np.ndarray]:
    """Return up to three slices across an axis, as `planes` are: near both ends and between."""
    count = samples.shape[axis]
    places = sorted({(2 * i + 1) * count // 6 for i in range(3)})
    return [_plane(samples, sides, axis, place) for place in places]


def _plane(samples: np.ndarray, sides: Sequence[float], axis: int, place: int) -> np.ndarray:
    factors = [side / min(sides) for i, side in enumerate(sides) if i != axis]
    return np.rot90(_stretched(np.take(samples, place, axis), factors))


def _stretched(cut: np.ndarray, factors: Sequence[float]) -> np.ndarray:
    """Repeat rows and columns until there are so many times as many; a factor is at least 1."""
    counts = [round(n * factor) for n, factor in zip(cut.shape, factors, strict=True)]
    places = [(np.arange(m) * n + n // 2) // m for n, m in zip(cut.shape, counts, strict=True)]
    return cut[np.ix_(*places)]


def voxel_sides(signal: Signal) -> tuple[float, float, float]:
    """Return the sides of a voxel, of a volume whose form has an affine matrix; else 1, 1, 1.

    Sides that nobody can draw, such as those of a damaged matrix, are 1 too.
    """
    affine = np.asarray(signal.form.get("affine", np.eye(4)), np.float64)
    if affine.shape != (4, 4):
        return 1.0, 1.0, 1.0
    x, y, z = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    drawn = all(np.isfinite((x, y, z))) and 0 < max(x, y, z) <= _MOST_STRETCH * min(x, y, z)
    return (x, y, z) if drawn else (1.0, 1.0, 1.0)


def limits(signal: Signal) -> tuple[float, float]:
    """Return what is drawn darkest and brightest: all values but the outermost thousandths."""
    values = signal.samples if signal.mask is None else signal.samples[signal.mask]
    low, high = (float(v) for v in np.percentile(values, (0.1, 99.9)))
    return (low, high) if high > low else (low, low + 1)


def grey_planes(signal: Signal, low: float, high: float) -> np.ndarray:
    """Return planes of a volume's first item beside each other.

    These are the middle ones of the three axes, but of a flat volume, whose other planes are
    stripes, slices across its short axis.
    """
    share = (signal.samples[0, ..., 0].astype(np.float64) - low) / (high - low)
    sides = voxel_sides(signal)
    lengths = [n * side for n, side in zip(share.shape, sides, strict=True)]
    shortest, middle, _ = np.argsort(lengths)
    flat = _FLAT * lengths[shortest] < lengths[middle]
    shown = slices(share, sides, int(shortest)) if flat else planes(share, sides)
    return beside([coloured(plane, "gray") for plane in shown])


def _is_south_first(signal: Signal) -> bool:
    """Tell whether the rows of a field are known to go from south to north."""
    known = signal.form.get("coords", {}).get(signal.form.get("rows"), {}).get("values", [])
    return len(known) > 1 and known[0] < known[-1]


@dataclass(frozen=True)
class Maps:
    """Fields as maps: the original, each decoded one with its error beside it, and the scales.

    Errors are blue below and red above, darkest at `worst`, which is the same for all.
    """

    original: np.ndarray
    decoded: list[np.ndarray]
    low: float
    high: float
    worst: float
    unit: str


def maps(original: Signal, decoded: Sequence[Signal]) -> Maps:
    """Draw the first item of fields, north up."""
    low, high = limits(original)
    north = slice(None, None, -1 if _is_south_first(original) else 1)
    there = None if original.mask is None else original.mask[0, north]
    x = original.samples[0, north, :, 0].astype(np.float64)
    errors = [signal.samples[0, north, :, 0] - x for signal in decoded]
    if there is not None:
        errors = [np.where(there, error, 0.0) for error in errors]
    worst = max((float(np.abs(error).max()) for error in errors), default=0.0) or 1.0
    pairs = [
        beside(
            [
                coloured((x + error - low) / (high - low), "viridis", there),
                coloured(0.5 + error / (2 * worst), "RdBu_r", there),
            ]
        )
        for error in errors
    ]
    first = coloured((x - low) / (high - low), "viridis", there)
    unit = str(original.form.get("attrs", {}).get("units", ""))
    return Maps(first, pairs, low, high, worst, unit)


def coloured(share: np.ndarray, colours: str, there: np.ndarray | None = None) -> np.ndarray:
    """Return "rows columns 3" of 8 bits: a colour map of [0, 1], grey where there is no value."""
    from matplotlib import colormaps

    pixels = colormaps[colours](np.clip(np.nan_to_num(share), 0, 1))[..., :3]
    if there is not None:
        pixels = np.where(there[..., None], pixels, 0.6)
    return np.rint(255 * pixels).astype(np.uint8)


def picture_uri(pixels: np.ndarray) -> str:
    """Return a picture for a page as WebP, small ones enlarged, large ones reduced."""
    rows, columns = pixels.shape[:2]
    factor = min(_WIDTH / columns, _HEIGHT / rows)
    factor = max(1, int(factor)) if factor > 1 else factor
    size = max(1, round(columns * factor)), max(1, round(rows * factor))
    how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, how).save(buffer, "WEBP", quality=80, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Join pictures in a row, on grey, a few pixels apart."""
    rows = max(picture.shape[0] for picture in pictures)
    padded = [
        np.pad(p, ((0, rows - p.shape[0]), (0, 4), (0, 0)), constant_values=153) for p in pictures
    ]
    return np.concatenate(padded, axis=1)[:, :-4]
