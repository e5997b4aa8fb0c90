"""What is fuzzed: functions of bytes that may raise what they say, and nothing else."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from lictor.codecs.learned import Codec
from lictor.codecs.shipped import shipped_codec
from lictor.codecs.signals.codec import SignalCodec
from lictor.coding.archive import Archive
from lictor.coding.codec_file import read_codec_file
from lictor.coding.container import HEADER_BYTES, Container
from lictor.coding.crc import crc32c
from lictor.coding.grid import UNIT, Grid
from lictor.coding.verify import verify
from lictor.data.signals.signal import Signal
from lictor.errors import BitstreamError, CheckpointError
from lictor.models.zoo import MODELS

MAX_PIXELS = 1 << 16
_TINY = {"n": 8, "m": 8, "depth": 1}
_CRC_AT = HEADER_BYTES - 4


def small_codec() -> Codec:
    """A codec with a context, of random weights, the same every time."""
    torch.manual_seed(0)
    model = MODELS["checkerboard"](**_TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return Codec.freeze(model)


def pictures() -> Iterator[bytes]:
    """Small files of one tile and of several."""
    codec, rng = small_codec(), np.random.default_rng(0)
    for height, width, channels, side in ((1, 1, 1, 0), (70, 90, 3, 0), (130, 130, 3, 64)):
        image = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
        yield codec.encode(image, tile_side=side)


def mended(data: bytes) -> bytes:
    """Return a picture's file with the checksums that its bytes have, as far as its index reads."""
    if len(data) < HEADER_BYTES:
        return data
    width, height, side = struct.unpack_from("<IIH", data, 16)
    if not width or not height or width * height > MAX_PIXELS:
        return data
    out, at, checks = bytearray(data), HEADER_BYTES, list[tuple[int, int]]()
    try:
        for _ in range(data[7]):
            kind, at = data[at], at + 1
            for _ in range(Grid(width, height, side * UNIT).count if kind == 1 else 1):
                length, at = _number(data, at)
                checks.append((at, length))
                at += 8 if kind == 1 else 4
    except IndexError:
        return data
    start = at
    for place, length in checks:
        if place + 4 <= len(out):
            struct.pack_into("<I", out, place, crc32c(bytes(out[start : start + length])))
        start += length
    head = crc32c(bytes(out[:_CRC_AT]))
    struct.pack_into("<I", out, _CRC_AT, crc32c(bytes(out[HEADER_BYTES:at]), head))
    return bytes(out)


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return a LEB128 number and where it ends."""
    number = shift = 0
    while data[at] > 0x7F:
        number |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return number | data[at] << shift, at + 1


def container(folder: Path) -> Callable[[bytes], None]:
    """Take files of pictures apart."""
    del folder

    def read(data: bytes) -> None:
        for each in (data, mended(data)):
            for attempt in (Container.from_bytes, Container.salvage):
                try:
                    attempt(each, max_pixels=MAX_PIXELS)
                except BitstreamError:
                    continue

    return read


def decode(folder: Path) -> Callable[[bytes], None]:
    """Decode files of pictures."""
    del folder
    codec = small_codec()
    torch.set_num_threads(1)

    def read(data: bytes) -> None:
        for each in (data, mended(data)):
            for attempt in (codec.decode, codec.salvage):
                try:
                    attempt(each, max_pixels=MAX_PIXELS)
                except BitstreamError:
                    continue

    return read


def reference(folder: Path) -> Callable[[bytes], None]:
    """Decode the latents of files of pictures with the reference decoder."""
    small_codec().save(folder / "small.lcodec")
    codec = read_codec_file(folder / "small.lcodec")

    def read(data: bytes) -> None:
        for each in (data, mended(data)):
            try:
                verify(each, codec, max_pixels=MAX_PIXELS)
            except BitstreamError:
                continue

    return read


def codec_file(folder: Path) -> Callable[[bytes], None]:
    """Read codec files."""
    place = folder / "foreign.lcodec"

    def read(data: bytes) -> None:
        place.write_bytes(data)
        for attempt in (read_codec_file, Codec.load):
            try:
                attempt(place)
            except CheckpointError:
                continue

    return read


def signals(folder: Path) -> Callable[[bytes], None]:
    """Take files of signals apart."""
    del folder

    def read(data: bytes) -> None:
        whole = data
        if len(data) > 16:  # magic, version, fingerprint, then the checksum of what follows
            whole = (
                data[:8]
                + struct.pack("<I", zlib.crc32(data[12:], zlib.crc32(data[:8])))
                + data[12:]
            )
        for each in (data, whole):
            try:
                Archive.from_bytes(each, max_samples=1 << 20)
            except BitstreamError:
                continue

    return read


TARGETS: dict[str, Callable[[Path], Callable[[bytes], None]]] = {
    "container": container,
    "decode": decode,
    "reference": reference,
    "codec": codec_file,
    "signals": signals,
}


def seeds(name: str) -> Iterator[bytes]:
    """Yield what a target's corpus begins with."""
    golden = Path(__file__).parents[1] / "golden"
    if name == "codec":
        yield from (path.read_bytes() for path in sorted(golden.glob("*.lcodec")))
    elif name == "signals":
        codec, rng = SignalCodec.load(shipped_codec("thumbnails")), np.random.default_rng(0)
        for count in (1, 3):
            samples = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            yield codec.encode([Signal(samples, None, "image", {})], 0)
    else:
        yield from pictures()
        yield from (path.read_bytes() for path in sorted(golden.glob("*-1.lic")))
