"""Sounds as signals: one item, a sample for each moment, a channel for each of the sound's."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from lictor.data.signals.quiet import needed
from lictor.data.signals.signal import Signal, Wanted, filled, signal_of
from lictor.errors import DataError

# What libsndfile decodes to without loss: narrow integers lie in the upper bits of wider ones.
_DTYPES = {
    "PCM_S8": "int16",
    "PCM_U8": "int16",
    "PCM_16": "int16",
    "PCM_24": "int32",
    "PCM_32": "int32",
    "ULAW": "int16",
    "ALAW": "int16",
    "DOUBLE": "float64",
}
_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}
# How a sound is written whose own subtype the file cannot have; Ogg is lossy by nature.
_SUBTYPES = {
    "WAV": {"int16": "PCM_16", "int32": "PCM_32", "float32": "FLOAT", "float64": "DOUBLE"},
    "FLAC": {"int16": "PCM_16", "int32": "PCM_24"},
    "OGG": dict.fromkeys(("int16", "int32", "float32", "float64"), "VORBIS"),
}
# Samples written in one call: the Vorbis encoder's stack overflows on very many.
_CHUNK = 1 << 16
_RATE = 16000
# Of Ogg (RFC 3533, section 6): bytes of the longest page, and the flag of a stream's last one.
_MOST_PAGE, _LAST_PAGE = 65307, 4


def _soundfile() -> Any:
    return needed("soundfile", "audio")


def _dtype_of(subtype: str) -> str:
    return _DTYPES.get(subtype, "float32")


def read_audio(path: Path, wanted: Wanted) -> Signal:
    """Read a sound: integers where the file has them, floats otherwise.

    Raises `DataError` when it has no samples, or fewer than its header says.
    """
    del wanted
    with _soundfile().SoundFile(str(path)) as file:
        if file.format not in ("WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG"):
            raise DataError(f"is a sound of format {file.format}; convert it to WAV, FLAC or Ogg")
        if not file.frames:
            raise DataError("holds no sound: it has no samples")
        samples = file.read(dtype=_dtype_of(file.subtype), always_2d=True)
        if len(samples) < file.frames or _is_cut_short(path):
            raise DataError(f"is cut short: it ends after {len(samples)} samples")
        form = {"sample_rate": file.samplerate, "subtype": file.subtype}
    return signal_of(samples[None], "audio", form)


def _is_cut_short(path: Path) -> bool:
    """Tell whether a file ends before it says, which libsndfile passes over in WAV and Ogg."""
    with path.open("rb") as file:
        start, length = file.read(12), file.seek(0, os.SEEK_END)
        file.seek(max(0, length - _MOST_PAGE))
        end = file.read()
    if start[:4] == b"RIFF":
        said = int.from_bytes(start[4:8], "little")
        # What is written to a pipe says nothing: 0, or about the most that fits.
        return 0 < said < 0x7FFF0000 and length < said
    if start[:4] == b"OggS":
        page = end.rfind(b"OggS")
        return page < 0 or not end[page + 5 : page + 6] or not end[page + 5] & _LAST_PAGE
    return False


def write_audio(path: Path, signal: Signal) -> None:
    """Write a sound with the rate and the width it was read with, 16 kHz if none is known.

    Raises `DataError` on several items and other shapes, and where only rounding would make it
    fit; Ogg, which is lossy, rounds.
    """
    soundfile, samples = _soundfile(), filled(signal)
    if len(samples) != 1 or samples.ndim != 3:
        raise DataError(f"a sound file holds one item of one axis, not {samples.shape}; write .npy")
    container = _FORMATS[path.suffix.lower()]
    subtype = _subtype(soundfile, container, samples, signal.form.get("subtype"))
    rate = int(signal.form.get("sample_rate", _RATE))
    with soundfile.SoundFile(
        str(path), "w", rate, signal.channels, subtype, format=container
    ) as file:
        for start in range(0, samples.shape[1], _CHUNK):
            file.write(np.ascontiguousarray(samples[0, start : start + _CHUNK]))


def _subtype(soundfile: Any, container: str, samples: np.ndarray, own: Any) -> str:
    name = samples.dtype.name
    if own in soundfile.available_subtypes(container) and _dtype_of(own) == name:
        return own
    subtype = _SUBTYPES[container].get(name)
    if subtype is None:
        raise DataError(
            f"{container} holds no {name}; write {'.wav' if name.startswith('float') else '.npy'}"
        )
    if subtype == "PCM_24" and (samples & 0xFF).any():
        raise DataError("FLAC holds 24 bits a sample, these have more; write .wav")
    return subtype
