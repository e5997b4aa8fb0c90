"""Sound codecs that libsndfile writes: MP3, Opus and FLAC, behind the methods of `SignalCoder`."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lictor.data.signals.quiet import needed
from lictor.data.signals.signal import Signal
from lictor.errors import BitstreamError, ConfigError, DataError
from lictor.evaluation.signals.quality import in_unit

# Samples written in one call: encoders of libsndfile keep a call's samples on the stack.
_CHUNK = 1 << 15
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
# Lowest and highest constant rate of MP3 in kbps, by the least sample rate that has them: how
# libsndfile maps its "compression level".
_MP3_RATES = ((32000, 32, 320), (16000, 8, 160), (0, 8, 64))
_OPUS_KBPS = (6, 256)


def soundfile_version(container: str) -> str:
    """Return libsndfile's version; raises `ConfigError` without it, or if it lacks a container."""
    soundfile = needed("soundfile", "audio")
    version = str(soundfile.__libsndfile_version__)
    if container not in soundfile.available_formats():
        raise ConfigError(f"libsndfile {version} writes no {container}: upgrade soundfile")
    return version


def _only(signals: Sequence[Signal]) -> Signal:
    if len(signals) != 1 or len(signals[0]) != 1 or signals[0].samples.ndim != 3:
        raise DataError("a sound codec takes one sound of one axis")
    if signals[0].mask is not None:
        raise DataError("a sound codec knows no missing samples")
    return signals[0]


def _write(samples: np.ndarray, rate: int, **options: Any) -> bytes:
    soundfile = needed("soundfile", "audio")
    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(buffer, "w", rate, samples.shape[1], **options) as file:
            for start in range(0, len(samples), _CHUNK):
                file.write(np.ascontiguousarray(samples[start : start + _CHUNK]))
    except (TypeError, RuntimeError) as error:  # an older soundfile knows no compression level
        kind = options["format"]
        raise ConfigError(
            f"soundfile cannot write {kind} at {rate} Hz and this quality ({error})"
        ) from error
    return buffer.getvalue()


def _read(data: bytes, dtype: str) -> list[np.ndarray]:
    soundfile = needed("soundfile", "audio")
    try:
        samples, _ = soundfile.read(io.BytesIO(data), dtype=dtype, always_2d=True)
    except RuntimeError as error:
        raise BitstreamError(f"not a readable sound ({error})") from error
    return [samples[None]]


def _level(kbps: float, low: float, high: float) -> float:
    """Return libsndfile's compression level of a rate, 0 for the highest."""
    return min(max((high - kbps) / (high - low), 0.0), 0.999)


@dataclass(frozen=True)
class Mp3:
    """LAME's MP3 at a constant rate in kbps; LAME takes the legal rate next to it."""

    quality: float
    delays = True
    scaled = True

    @property
    def name(self) -> str:
        """Format and rate."""
        return f"MP3 {self.quality:g} kbps"

    def encode(self, signals: Sequence[Signal]) -> bytes:
        """Compress one sound; raises `ConfigError` where libsndfile cannot."""
        signal = _only(signals)
        rate = _rate(signal)
        low, high = next((low, high) for least, low, high in _MP3_RATES if rate >= least)
        if not low <= self.quality <= high:
            raise ConfigError(f"MP3 has {low} to {high} kbps at {rate} Hz, not {self.quality:g}")
        return _write(
            _floats(signal),
            rate,
            format="MP3",
            subtype="MPEG_LAYER_III",
            compression_level=_level(self.quality, low, high),
            bitrate_mode="CONSTANT",
        )

    def decode(self, data: bytes) -> list[np.ndarray]:
        """Restore the sound in [-1, 1]; raises `BitstreamError` when it is none."""
        return _read(data, "float32")


@dataclass(frozen=True)
class Opus:
    """Opus in an Ogg file, at a target rate in kbps for each channel."""

    quality: float
    delays = True
    scaled = True

    @property
    def name(self) -> str:
        """Format and rate."""
        return f"Opus {self.quality:g} kbps"

    def encode(self, signals: Sequence[Signal]) -> bytes:
        """Compress one sound; raises `ConfigError` for sample rates that Opus has not."""
        signal = _only(signals)
        rate = _rate(signal)
        if rate not in _OPUS_RATES:
            known = ", ".join(f"{r}" for r in _OPUS_RATES)
            raise ConfigError(f"Opus takes sounds of {known} Hz, not {rate}; resample them")
        return _write(
            _floats(signal),
            rate,
            format="OGG",
            subtype="OPUS",
            compression_level=_level(self.quality, *_OPUS_KBPS),
        )

    def decode(self, data: bytes) -> list[np.ndarray]:
        """Restore the sound in [-1, 1]; raises `BitstreamError` when it is none."""
        return _read(data, "float32")


@dataclass(frozen=True)
class Flac:
    """FLAC of samples rounded to so many bits; nothing is lost of 16-bit samples at 16."""

    quality: float
    delays = False
    scaled = True

    @property
    def name(self) -> str:
        """Format and bits."""
        return f"FLAC {self.quality:g} bits"

    def encode(self, signals: Sequence[Signal]) -> bytes:
        """Compress one sound."""
        signal = _only(signals)
        step = 2.0 ** (16 - self.quality)
        levels = np.rint(_floats(signal).astype(np.float64) * 2**15 / step) * step
        samples = np.clip(levels, -(2**15), 2**15 - step).astype(np.int16)
        return _write(
            samples, _rate(signal), format="FLAC", subtype="PCM_16", compression_level=1.0
        )

    def decode(self, data: bytes) -> list[np.ndarray]:
        """Restore the sound in [-1, 1]; raises `BitstreamError` when it is none."""
        return _read(data, "float32")


def _rate(signal: Signal) -> int:
    if "sample_rate" not in signal.form:
        raise DataError("a sound codec needs to know the sound's sample rate")
    return int(signal.form["sample_rate"])


def _floats(signal: Signal) -> np.ndarray:
    return in_unit(signal.samples, "audio", signal.samples.dtype)[0].astype(np.float32)
