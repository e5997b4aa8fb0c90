"""Sounds as signals: one item, a sample for each moment, a channel for each of the sound's."""

from pathlib import Path
from typing import Any

import numpy as np

from lictor.data.signals.extras import needed
from lictor.data.signals.signal import Signal
from lictor.errors import DataError

_DTYPES = {"PCM_16": "int16", "PCM_S8": "int16", "PCM_U8": "int16", "PCM_24": "int32",
           "PCM_32": "int32"}  # fmt: skip
_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}


def _soundfile() -> Any:
    return needed("soundfile", "audio")


def read_audio(path: Path, axes: int, variable: str | None) -> Signal:
    """Read a sound: integers of the file's width where it has them, float32 otherwise."""
    del axes, variable
    with _soundfile().SoundFile(str(path)) as file:
        if not file.frames:
            raise DataError("holds no sound: it has no samples")
        dtype = _DTYPES.get(file.subtype, "float64" if file.subtype == "DOUBLE" else "float32")
        samples = file.read(dtype=dtype, always_2d=True)
        form = {"sample_rate": file.samplerate, "subtype": file.subtype}
    return Signal(np.ascontiguousarray(samples)[None], kind="audio", form=form)


def write_audio(path: Path, signal: Signal) -> None:
    """Write a sound; raises `DataError` on several items and other shapes."""
    soundfile, samples = _soundfile(), signal.samples
    if len(samples) != 1 or samples.ndim != 3:
        raise DataError(f"a sound file holds one item of one axis, not {samples.shape}; use .npy")
    container = _FORMATS[path.suffix.lower()]
    subtype = signal.form.get("subtype")
    if not subtype or not soundfile.check_format(container, subtype):
        subtype = None
    rate = int(signal.form.get("sample_rate", 16000))
    soundfile.write(str(path), samples[0], rate, subtype=subtype, format=container)
