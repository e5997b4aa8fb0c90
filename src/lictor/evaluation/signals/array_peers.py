"""Codecs of arrays and of their slices: SZ3, ZFP, JPEG 2000, JPEG XL, x265, and those of pictures.

All but x265 and those of pictures are `imagecodecs`'. Their streams do not say all that is needed;
what is missing stands in front of them, and counts: the shape for SZ3, the range that slices were
scaled by, which samples have a value.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lictor.data.signals.quiet import needed
from lictor.data.signals.signal import Signal
from lictor.errors import BitstreamError, DataError, LictorError

MASK, _DOUBLE = 1, 4


def imagecodecs_version(part: str) -> str:
    """Return the version of one of imagecodecs' libraries; raises `ConfigError` without it."""
    return str(getattr(imagecodecs(), f"{part}_version")())


def imagecodecs() -> Any:
    """Import imagecodecs; raises `ConfigError` without it."""
    return needed("imagecodecs", "jpegxl")


def only_one(signals: Sequence[Signal]) -> Signal:
    """Return the one signal that there is; raises `DataError` when there are more."""
    if len(signals) != 1:
        raise DataError(f"one signal makes a file of this codec, not {len(signals)}")
    return signals[0]


# ----------------------------------------------------------------------------- what streams lack


def varint(value: int) -> bytes:
    """Return a count as LEB128: 7 bits a byte, the lowest first."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


class Reader:
    """Reads what was put in front of a stream; raises `BitstreamError` where it ends early."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        if count > len(self._data) - self._at:
            raise BitstreamError("the file ends before its header says it should")
        self._at += count
        return self._data[self._at - count : self._at]

    def varint(self) -> int:
        """Return the next count."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 56:
                return value

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(len(self._data) - self._at)


def packed_mask(mask: np.ndarray | None) -> bytes:
    """Return a mask, deflated, with its length in front; nothing for None."""
    if mask is None:
        return b""
    packed = zlib.compress(np.packbits(mask).tobytes(), 9)
    return varint(len(packed)) + packed


def filled_by_mean(signal: Signal) -> np.ndarray:
    """Return the samples with the mean where there is no value: what costs least."""
    if signal.mask is None:
        return signal.samples
    there = signal.samples[signal.mask]
    if not there.size:
        raise DataError("the signal has no values")
    mean = np.asarray(there.mean(dtype=np.float64)).astype(signal.samples.dtype)
    return np.where(signal.mask[..., None], signal.samples, mean)


def _width(values: np.ndarray) -> float:
    return float(values.max()) - float(values.min()) or 1.0


# -------------------------------------------------------------------------------------- arrays


@dataclass(frozen=True)
class Sz3:
    """SZ3 with an absolute error bound, a share of the signal's range; items are one more axis."""

    quality: float
    delays = False
    scaled = False

    @property
    def name(self) -> str:
        """Format and bound."""
        return f"SZ3 {self.quality:g} of the range"

    def encode(self, signals: Sequence[Signal]) -> bytes:
        """Compress one signal; raises `ConfigError` without imagecodecs."""
        codecs, signal = imagecodecs(), only_one(signals)
        values = _floats(signal)
        bound = self.quality * _width(values)
        try:
            stream = codecs.sz3_encode(_squeezed(values), mode="abs", abs=bound)
        except Exception as error:  # imagecodecs has an error class for each library
            raise LictorError(f"SZ3 failed ({error})") from error
        return _with_shape(signal, values) + bytes(stream)

    def decode(self, data: bytes) -> list[np.ndarray]:
        """Restore the samples; raises `BitstreamError` when they cannot be."""
        shape, dtype, stream = _shape_of(data)
        squeezed = tuple(n for n in shape if n > 1) or (1,)
        try:
            values = imagecodecs().sz3_decode(stream, squeezed, dtype)
        except Exception as error:
            raise BitstreamError(f"not a readable SZ3 stream ({error})") from error
        return [np.asarray(values).reshape(shape)]


@dataclass(frozen=True)
class Zfp:
    """ZFP with an absolute error bound, a share of the signal's range; items are one more axis."""

    quality: float
    delays = False
    scaled = False

    @property
    def name(self) -> str:
        """Format and bound."""
        return f"ZFP {self.quality:g} of the range"

    def encode(self, signals: Sequence[Signal]) -> bytes:
        """Compress one signal; raises `ConfigError` without imagecodecs."""
        codecs, signal = imagecodecs(), only_one(signals)
        values = _floats(signal)
        bound = self.quality * _width(values)
        mode = codecs.ZFP.MODE.FIXED_ACCURACY
        try:
            stream = codecs.zfp_encode(_squeezed(values), level=bound, mode=mode)
        except Exception as error:
            raise LictorError(f"ZFP failed ({error})") from error
        return _with_shape(signal, values) + bytes(stream)

    def decode(self, data: bytes) -> list[np.ndarray]:
        """Restore the samples; raises `BitstreamError` when they cannot be."""
        shape, _, stream = _shape_of(data)
        try:
            return [np.asarray(imagecodecs().zfp_decode(stream)).reshape(shape)]
        except Exception as error:
            raise BitstreamError(f"not a readable ZFP stream ({error})") from error


def _floats(signal: Signal) -> np.ndarray:
    values = filled_by_mean(signal)
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def _squeezed(values: np.ndarray) -> np.ndarray:
    """Return an array of one to four axes: those that are longer than 1."""
    shape = [n for n in values.shape if n > 1] or [1]
    if len(shape) > 4:
        raise DataError(f"samples of shape {values.shape} have too many axes for this codec")
    return np.ascontiguousarray(values.reshape(shape))


def _with_shape(signal: Signal, values: np.ndarray) -> bytes:
    flags = (MASK if signal.mask is not None else 0) | (
        _DOUBLE if values.dtype == np.float64 else 0
    )
    sides = b"".join(map(varint, values.shape))
    return bytes([flags]) + varint(values.ndim) + sides + packed_mask(signal.mask)


def _shape_of(data: bytes) -> tuple[tuple[int, ...], np.dtype, bytes]:
    reader = Reader(data)
    flags = reader.take(1)[0]
    shape = tuple(reader.varint() for _ in range(reader.varint()))
    if flags & MASK:  # where there is no value, what comes back does not matter here
        reader.take(reader.varint())
    return shape, np.dtype(np.float64 if flags & _DOUBLE else np.float32), reader.rest()
