"""Whole pictures to `.lic` files and back: the pixels by a codec, what lies beside them lossless.

What a section of a file holds, by its kind:

    alpha     byte 1, then a lossless WebP of the opacity as grey; or byte 2, then an 8-bit grey PNG
    others    byte 0, then the bytes as they are; or byte 1, then these deflated (zlib)

ICC, EXIF and XMP are the bytes that the picture's file had, EXIF without the word `Exif` before it.
Text is a JSON object: `text`, a list of pairs of a keyword and a comment, and `dpi`, two numbers.
"""

import dataclasses
import io
import json
import warnings
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lictor.codecs.learned import Codec
from lictor.codecs.refinement import Refinement, Watch, go_on
from lictor.coding.container import ALPHA, EXIF, ICC, MAX_PIXELS, TEXT, XMP, Container, name_of
from lictor.coding.grid import Rectangle
from lictor.data.images import MAX_IMAGE_PIXELS
from lictor.data.pictures import Picture
from lictor.errors import CorruptError, DataError

# Of a section once it is inflated: a few bytes of a file may claim any number.
MAX_METADATA_BYTES = 1 << 24
_STORED, _DEFLATED = 0, 1
_WEBP, _PNG = 1, 2
_MAX_WEBP_SIDE = 16383
_MAX_DPI = 1_000_000
_ANY = 1 << 64  # pixels of a file that was just made
_VP8L = b"WEBPVP8L"
_BYTES: Mapping[int, str] = {ICC: "icc", EXIF: "exif", XMP: "xmp"}


def encode_picture(
    codec: Codec,
    picture: Picture,
    *,
    refinement: Refinement | None = None,
    watch: Watch = go_on,
    max_pixels: int = MAX_PIXELS,
) -> bytes:
    """Compress a picture, with all that lies beside its pixels, into the bytes of a `.lic` file.

    `refinement`, `watch` and `max_pixels` are as in `Codec.encode`. Raises as that does, and
    `DataError` for metadata of more than `MAX_METADATA_BYTES`.
    """
    sections = sections_of(picture)
    data = codec.encode(picture.pixels, refinement=refinement, watch=watch, max_pixels=max_pixels)
    return with_sections(data, sections)


def decode_picture(
    codec: Codec,
    data: bytes | bytearray | memoryview,
    *,
    region: tuple[int, int, int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Picture:
    """Restore a picture, with all that lay beside its pixels, from the bytes of a `.lic` file.

    Of a `region`, x, y, width and height, there are only its pixels and their opacity. Raises a
    `BitstreamError` as `Codec.decode` does, `CorruptError` for sections that do not hold what they
    are said to.
    """
    file = Container.from_bytes(bytes(data), max_pixels=max_pixels)
    pixels = codec.decode(data, region=region, max_pixels=max_pixels)
    return beside(pixels, file, region)


def salvage_picture(
    codec: Codec, data: bytes | bytearray | memoryview, *, max_pixels: int = MAX_PIXELS
) -> tuple[Picture, list[Rectangle]]:
    """Restore what is left of a damaged file, and tell where tiles are lost; see `Codec.salvage`.

    Notices name sections that are lost. Raises a `BitstreamError` where header or index are
    damaged.
    """
    saved = Container.salvage(bytes(data), max_pixels=max_pixels)
    pixels, damaged = codec.salvage(data, max_pixels=max_pixels)
    sections, lost = dict(saved.container.sections), list(saved.lost)
    while True:
        try:
            file = dataclasses.replace(saved.container, sections=sections)
            picture = beside(pixels, file)
            break
        except CorruptError:  # whole by its checksum, but not what it should be
            lost.append(sections.popitem()[0])
    notices = tuple(f"{name_of(kind)} is damaged and left out" for kind in lost)
    return dataclasses.replace(picture, notices=notices), damaged


def with_sections(data: bytes, sections: Mapping[int, bytes]) -> bytes:
    """Return a codec's file with sections beside its tiles."""
    if not sections:
        return data
    file = Container.from_bytes(data, max_pixels=_ANY)
    return Container(
        file.fingerprint,
        file.width,
        file.height,
        file.channels,
        file.tiles,
        file.tile_side,
        {**file.sections, **sections},
    ).to_bytes()


def sections_of(picture: Picture) -> dict[int, bytes]:
    """Return what lies beside a picture's pixels as sections of a file, by their kind.

    Raises `DataError` for metadata that are too long, or opacity of too many pixels.
    """
    sections: dict[int, bytes] = {}
    if picture.alpha is not None and int(picture.alpha.min()) < 255:
        sections[ALPHA] = _alpha_body(picture.alpha)
    for kind, field in _BYTES.items():
        content: bytes | None = getattr(picture, field)
        if content:
            sections[kind] = _deflated(content, kind)
    notes: dict[str, Any] = {}
    if picture.text:
        notes["text"] = [list(pair) for pair in picture.text]
    if picture.dpi is not None:
        notes["dpi"] = list(picture.dpi)
    if notes:
        written = json.dumps(notes, ensure_ascii=False, separators=(",", ":"))
        sections[TEXT] = _deflated(written.encode(errors="replace"), TEXT)
    return sections


def beside(
    pixels: UInt8[np.ndarray, "h w c"],
    file: Container,
    region: tuple[int, int, int, int] | None = None,
) -> Picture:
    """Return the picture of a file's decoded pixels and its sections; raises `CorruptError`."""
    alpha, sections = None, file.sections
    if ALPHA in sections:
        alpha = _alpha(sections[ALPHA], (file.height, file.width))
        if region is not None:
            x, y, width, height = region
            alpha = alpha[y : y + height, x : x + width]
    found = {
        field: _inflated(sections[kind], kind) for kind, field in _BYTES.items() if kind in sections
    }
    text, dpi = (), None
    if TEXT in sections:
        text, dpi = _notes(_inflated(sections[TEXT], TEXT))
    return Picture(pixels, alpha, found.get("icc"), found.get("exif"), found.get("xmp"), text, dpi)


def same_picture(a: Picture, b: Picture) -> bool:
    """Tell whether two pictures, and all that lies beside their pixels, are equal."""
    if (a.icc, a.exif, a.xmp, a.text, a.dpi) != (b.icc, b.exif, b.xmp, b.text, b.dpi):
        return False
    if a.alpha is None or b.alpha is None:
        return a.alpha is b.alpha and np.array_equal(a.pixels, b.pixels)
    return np.array_equal(a.pixels, b.pixels) and np.array_equal(a.alpha, b.alpha)


def _deflated(content: bytes, kind: int) -> bytes:
    if len(content) > MAX_METADATA_BYTES:
        raise DataError(
            f"{name_of(kind)} would hold {len(content)} bytes, more than {MAX_METADATA_BYTES}; "
            "add --strip to leave metadata out"
        )
    packed = zlib.compress(content, 9)
    if len(packed) < len(content):
        return bytes([_DEFLATED]) + packed
    return bytes([_STORED]) + content


def _inflated(body: bytes, kind: int) -> bytes:
    """Return what a section holds; its length is bounded before it is made."""
    content = body[1:]
    if body[:1] == bytes([_DEFLATED]):
        reader = zlib.decompressobj()
        try:
            content = reader.decompress(body[1:], MAX_METADATA_BYTES + 1)
        except zlib.error as error:
            raise CorruptError(f"{name_of(kind)} cannot be inflated ({error})") from error
        if len(content) <= MAX_METADATA_BYTES and (not reader.eof or reader.unused_data):
            raise CorruptError(f"{name_of(kind)} does not end where its deflated bytes do")
    elif body[:1] != bytes([_STORED]):
        raise CorruptError(f"{name_of(kind)} is written in a way that is not known")
    if len(content) > MAX_METADATA_BYTES:
        raise CorruptError(f"{name_of(kind)} holds more than {MAX_METADATA_BYTES} bytes")
    return content


def _alpha_body(alpha: UInt8[np.ndarray, "h w"]) -> bytes:
    if alpha.size > MAX_IMAGE_PIXELS:
        raise DataError(f"opacity of more than {MAX_IMAGE_PIXELS} pixels; split the picture first")
    image = Image.fromarray(alpha)
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=9)
    bodies = [bytes([_PNG]) + png.getvalue()]
    if max(alpha.shape) <= _MAX_WEBP_SIDE:
        webp = io.BytesIO()
        image.convert("RGB").save(webp, "WEBP", lossless=True)
        bodies.append(bytes([_WEBP]) + webp.getvalue())
    return min(bodies, key=len)


def _alpha(body: bytes, shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w"]:
    """Return the opacity; its size is known to be the picture's before any pixel is made."""
    height, width = shape
    coder, data = body[:1], body[1:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if coder == bytes([_WEBP]):
                _check_alpha_size(_webp_size(data), (width, height))
                with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
                    return np.asarray(image.convert("RGB").getchannel("G"))
            if coder == bytes([_PNG]):
                with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                    _check_alpha_size(image.size, (width, height))
                    if image.mode != "L":
                        raise CorruptError(f"{name_of(ALPHA)} is not 8-bit grey")
                    return np.asarray(image)
    except CorruptError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise CorruptError(f"{name_of(ALPHA)} cannot be decoded ({error})") from error
    raise CorruptError(f"{name_of(ALPHA)} is written in a way that is not known")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a lossless WebP; Pillow would make room for any, unasked.

    WebP Lossless Bitstream Specification, section 3.
    """
    if len(data) < 25 or data[:4] != b"RIFF" or data[8:16] != _VP8L or data[20] != 0x2F:
        raise CorruptError(f"{name_of(ALPHA)} is no lossless WebP")
    bits = int.from_bytes(data[21:25], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _check_alpha_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    if size != expected:
        raise CorruptError(
            f"{name_of(ALPHA)} is {size[0]}x{size[1]}, and the picture {expected[0]}x{expected[1]}"
        )


def _notes(content: bytes) -> tuple[tuple[tuple[str, str], ...], tuple[float, float] | None]:
    """Return comments and resolution."""
    wrong = CorruptError(f"{name_of(TEXT)} does not hold texts and a resolution")
    try:
        notes = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise wrong from error
    if not isinstance(notes, dict):
        raise wrong
    pairs, dpi = notes.get("text", []), notes.get("dpi")
    if not isinstance(pairs, list) or not all(_is_list(pair, str) for pair in pairs):
        raise wrong
    if dpi is None:
        return tuple((key, value) for key, value in pairs), None
    if not _is_list(dpi, int | float) or not all(0 < v <= _MAX_DPI for v in dpi):
        raise wrong
    return tuple((key, value) for key, value in pairs), (float(dpi[0]), float(dpi[1]))


def _is_list(value: Any, kind: Any) -> bool:
    """Tell whether something is a list of two things of a kind."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, kind) for v in value)
