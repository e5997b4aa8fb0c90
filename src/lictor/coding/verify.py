"""Is a file whole, and does a codec read it? By the reference decoder, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from lictor.coding.codec_file import CodecFile
from lictor.coding.container import MAX_PIXELS, Container
from lictor.coding.reference import decode_latents
from lictor.errors import CheckpointError, DesyncError, ModelMismatchError


@dataclass(frozen=True)
class Verified:
    """What was found: the picture's sides, its tiles, and the checksum of all symbols."""

    width: int
    height: int
    tiles: int
    symbol_crc: int


def verify(data: bytes, codec: CodecFile, *, max_pixels: int = MAX_PIXELS) -> Verified:
    """Decode the latents of a `.lic` file with the reference decoder and check them.

    Args:
        data: the file.
        codec: that it was made with.
        max_pixels: width * height that is accepted.

    Raises:
        BitstreamError: the file is damaged, another codec's, or its symbols are not the encoder's.
        CheckpointError: the codec file is of a former format, without a list of operations.
    """
    file = Container.from_bytes(data, max_pixels=max_pixels)
    if file.fingerprint != codec.fingerprint:
        known = file.fingerprint in codec.replaces
        raise ModelMismatchError(
            f"made by the codec {file.fingerprint.hex()}, but this codec is "
            f"{codec.fingerprint.hex()}; "
            + ("it reads the file, but not exactly" if known else "pass the one it was made with")
        )
    if codec.path is None:
        raise CheckpointError(
            "the codec is of a former format, and not exact; make it so with `lictor convert`"
        )
    for number, tile in enumerate(file.tiles):
        place, stride = file.grid.tile(number), codec.path.stride
        height, width = (-(-n // stride) * stride for n in (place.height, place.width))
        _, crc = decode_latents(codec.path, codec.tables, tile.payload, height, width)
        if crc != tile.symbol_crc:
            raise DesyncError(f"the symbols of tile {number + 1} are not those of the encoder")
    return Verified(file.width, file.height, len(file.tiles), file.symbol_crc)
