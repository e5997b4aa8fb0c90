"""Items of signals as small pictures, and sounds as files that a browser plays."""

import base64
import io
from collections.abc import Sequence

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
    power = np.abs(stft(mono, rate, nperseg=count, noverlap=count // 2)[2]) ** 2
    levels = 10 * np.log10(np.maximum(power, 1e-20))[::-1]
    top = float(levels.max()) if top_db is None else top_db
    return coloured((levels - top + _DB_RANGE) / _DB_RANGE, "magma"), top


def planes(samples: np.ndarray) -> list[np.ndarray]:
    """Return the middle planes of a volume "x y z", first and last axes upright."""
    middles = [n // 2 for n in samples.shape]
    cuts = [np.take(samples, middle, axis) for axis, middle in enumerate(middles)]
    return [np.rot90(cut) for cut in cuts]


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
