"""Codecs of a signal's slices: JPEG 2000, JPEG XL, x265; and those of pictures on pictures.

Slices have 8 or 16 bits: others are scaled by the signal's own range, which their file holds.
"""

import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from lictor.data.signals.signal import Signal
from lictor.errors import BitstreamError, ConfigError, DataError, LictorError
from lictor.evaluation.peers import PEERS, JpegXlCodec
from lictor.evaluation.signals.array_peers import (
    MASK,
    Reader,
    filled_by_mean,
    imagecodecs,
    only_one,
    packed_mask,
    varint,
)

_RANGE = 2
_TIMEOUT_S = 600


@lru_cache(maxsize=1)
def ffmpeg_version() -> str:
    """Return ffmpeg's version; raises `ConfigError` where it, or its x265, is not installed."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise ConfigError("x265 needs the program ffmpeg, which is not installed")
    told = subprocess.run(
        [program, "-hide_banner", "-encoders"], capture_output=True, text=True, check=False
    ).stdout
    if "libx265" not in told:
        raise ConfigError("x265 needs an ffmpeg that was built with libx265")
    version = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
    return version.stdout.partition("\n")[0]


@dataclass(frozen=True)
class _Planes:
    """Slices of 8 or 16 bits, and how to get the samples back from them.

    Args:
        planes: "planes rows columns": of an item of three axes along the last.
        limits: what the least and the greatest level stand for; None: for themselves.
        items: how many items there are.
        flat: whether an item is a slice.
        mask: which samples have a value.
    """

    planes: np.ndarray
    limits: tuple[float, float] | None
    items: int
    flat: bool
    mask: np.ndarray | None = None

    def header(self) -> bytes:
        """Return what stands in front of the streams."""
        flags = (MASK if self.mask is not None else 0) | (_RANGE if self.limits else 0)
        limits = struct.pack("<2f", *self.limits) if self.limits else b""
        counts = varint(self.items) + varint(0 if self.flat else len(self.planes) // self.items)
        return bytes([flags]) + counts + limits + packed_mask(self.mask)

    def samples(self) -> np.ndarray:
        """Return "items *grid 1": integers as they were, floats within their range."""
        values = self.planes
        if self.limits is not None:
            low, high = self.limits
            values = low + values.astype(np.float64) * ((high - low) / np.iinfo(values.dtype).max)
        if not self.flat:
            values = values.reshape(self.items, -1, *values.shape[1:])
            values = np.moveaxis(values, 1, 3)
        return values[..., None]


def _planes(signal: Signal, *, most_bits: int = 16) -> _Planes:
    values, axes = filled_by_mean(signal), signal.samples.ndim - 2
    if axes not in (2, 3) or signal.channels != 1:
        raise DataError(
            f"slices are of signals of two or three axes and one channel, not {values.shape}"
        )
    limits = None
    if values.dtype != np.uint8:
        low, high = np.float32(values.min()), np.float32(values.max())
        high = high if high > low else low + max(np.float32(1), abs(low))
        limits = (float(low), float(high))
        share = (values.astype(np.float64) - limits[0]) / (limits[1] - limits[0])
        levels = np.rint(np.clip(share, 0, 1) * (2**most_bits - 1))
        values = levels.astype(np.uint8 if most_bits == 8 else np.uint16)
    values = values[..., 0]
    planes = values if axes == 2 else np.moveaxis(values, 3, 1).reshape(-1, *values.shape[1:3])
    return _Planes(np.ascontiguousarray(planes), limits, len(signal), axes == 2, signal.mask)


def _joined(planes: _Planes, streams: Sequence[bytes]) -> bytes:
    *first, last = streams
    sized = b"".join(varint(len(stream)) + stream for stream in first)
    return planes.header() + sized + last


def _parted(data: bytes) -> tuple[tuple[float, float] | None, int, int, Reader]:
    """Return limits, items, slices of each (0: it is one), and what reads the streams."""
    reader = Reader(data)
    flags = reader.take(1)[0]
    items, each = reader.varint(), reader.varint()
    limits = None
    if flags & _RANGE:
        low, high = struct.unpack("<2f", reader.take(8))
        limits = (float(low), float(high))
    if flags & MASK:
        reader.take(reader.varint())
    return limits, items, each, reader


def _slices(data: bytes, decode: Any) -> list[np.ndarray]:
    limits, items, each, reader = _parted(data)
    count = items * max(each, 1)
    try:
        planes = [decode(reader.take(reader.varint())) for _ in range(count - 1)]
        planes.append(decode(reader.rest()))
        stack = np.stack(planes)
    except BitstreamError:
        raise
    except Exception as error:
        raise BitstreamError(f"not a readable file of slices ({error})") from error
    return [_Planes(stack, limits, items, each == 0).samples()]


@dataclass(frozen=True)
class Jpeg2000Planes:
    """OpenJPEG's codestream of each slice, at a target PSNR in dB of the slice's levels."""

    quality: float
    delays = False
    scaled = False

    @property
    def name(self) -> str:
        """Format and target."""
        return f"JPEG 2000 {self.quality:g} dB"

    def encode(self, signals: Sequence[Signal]) -> bytes:
        """Compress one signal; raises `ConfigError` without imagecodecs."""
        codecs, planes = imagecodecs(), _planes(only_one(signals))
        options: dict[str, Any] = {"codecformat": "j2k", "reversible": False, "numthreads": 1}
        # Small slices cannot be halved as often as usual.
        halvings = min(6, max(1, min(planes.planes.shape[1:]).bit_length() - 1))
        options["resolutions"] = halvings
        try:
            streams = [
                bytes(codecs.jpeg2k_encode(plane, level=self.quality, **options))
                for plane in planes.planes
            ]
        except Exception as error:
            raise LictorError(f"JPEG 2000 failed ({error})") from error
        return _joined(planes, streams)

    def decode(self, data: bytes) -> list[np.ndarray]:
        """Restore the samples; raises `BitstreamError` when they cannot be."""
        codecs = imagecodecs()
        return _slices(data, lambda stream: codecs.jpeg2k_decode(stream, numthreads=1))


@dataclass(frozen=True)
class JpegXlPlanes:
    """JPEG XL's codestream of each slice, at a quality from 0 to 100."""

    quality: float
    delays = False
    scaled = False

    @property
    def name(self) -> str:
        """Format and quality."""
        return f"JPEG XL q{self.quality:g}"

    def encode(self, signals: Sequence[Signal]) -> bytes:
        """Compress one signal; raises `ConfigError` without imagecodecs."""
        codecs, planes = imagecodecs(), _planes(only_one(signals))
        distance = JpegXlCodec(self.quality).distance
        try:
            streams = [
                bytes(codecs.jpegxl_encode(plane, distance=distance, effort=7, numthreads=1))
                for plane in planes.planes
            ]
        except Exception as error:
            raise LictorError(f"JPEG XL failed ({error})") from error
        return _joined(planes, streams)

    def decode(self, data: bytes) -> list[np.ndarray]:
        """Restore the samples; raises `BitstreamError` when they cannot be."""
        codecs = imagecodecs()
        return _slices(data, lambda stream: codecs.jpegxl_decode(stream, numthreads=1))


@dataclass(frozen=True)
class X265Planes:
    """The slices of a volume as a video of key frames, 8 bits grey, by ffmpeg's x265."""

    quality: float
    delays = False
    scaled = False

    @property
    def name(self) -> str:
        """Format and rate factor."""
        return f"x265 crf {self.quality:g}"

    def encode(self, signals: Sequence[Signal]) -> bytes:
        """Compress one signal; raises `ConfigError` without ffmpeg."""
        planes = _planes(only_one(signals), most_bits=8)
        _, rows, columns = planes.planes.shape
        more = [(0, _x265_side(side) - side) for side in (rows, columns)]
        padded = np.pad(planes.planes, ((0, 0), *more), mode="edge")
        size = f"{padded.shape[2]}x{padded.shape[1]}"
        stream = _ffmpeg(
            [*_GREY, "-s", size, "-r", "25", "-i", "-", "-c:v", "libx265", "-preset", "medium",
             "-crf", f"{self.quality:g}", "-x265-params", "keyint=1:log-level=none:info=0",
             "-pix_fmt", "gray", "-f", "hevc", "-"],
            padded.tobytes(),
        )  # fmt: skip
        return planes.header() + varint(rows) + varint(columns) + stream

    def decode(self, data: bytes) -> list[np.ndarray]:
        """Restore the samples; raises `BitstreamError` when they cannot be."""
        limits, items, each, reader = _parted(data)
        rows, columns = reader.varint(), reader.varint()
        raw = _ffmpeg(["-f", "hevc", "-i", "-", *_GREY, "-"], reader.rest(), BitstreamError)
        shape = (items * max(each, 1), _x265_side(rows), _x265_side(columns))
        if len(raw) != np.prod(shape):
            raise BitstreamError("the video has another size than its header says")
        planes = np.frombuffer(raw, np.uint8).reshape(shape)[:, :rows, :columns]
        return [_Planes(planes, limits, items, each == 0).samples()]


def _x265_side(length: int) -> int:
    """Return how long a side of a slice is coded: even, and no shorter than x265 takes."""
    return max(16, length + length % 2)


_GREY = ("-f", "rawvideo", "-pix_fmt", "gray")


def _ffmpeg(
    arguments: Sequence[str], data: bytes, failure: type[LictorError] = LictorError
) -> bytes:
    """Run ffmpeg from bytes to bytes; raises `failure` where it does not succeed."""
    ffmpeg_version()
    command = ["ffmpeg", "-hide_banner", "-loglevel", "error", *arguments]
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LictorError(f"ffmpeg cannot be run, or takes too long ({error})") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise failure(f"ffmpeg failed: {said}")
    return done.stdout


# ------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class PicturePeer:
    """One of the codecs of pictures, on pictures as signals."""

    peer: str
    quality: float
    delays = False
    scaled = False

    @property
    def name(self) -> str:
        """Format and quality."""
        return PEERS[self.peer].make(self.quality).name

    def encode(self, signals: Sequence[Signal]) -> bytes:
        """Compress one picture of 8 bits."""
        signal = only_one(signals)
        if len(signal) != 1 or signal.samples.dtype != np.uint8 or signal.channels not in (1, 3):
            raise DataError("codecs of pictures take one picture of 8 bits, grey or RGB")
        return PEERS[self.peer].make(self.quality).encode(signal.samples[0])

    def decode(self, data: bytes) -> list[np.ndarray]:
        """Restore the picture; raises `BitstreamError` when it is none."""
        return [PEERS[self.peer].make(self.quality).decode(data)[None]]
