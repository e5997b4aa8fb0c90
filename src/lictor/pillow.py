"""Pillow reads and writes `.lic` files once this module is imported.

    import lictor.pillow
    with Image.open("photo.lic") as image: ...
    image.save("photo.lic")

`Image.open` reads a file's header; networks run, and torch is imported, when its pixels are wanted.
Files are read by the codec that made them, which must be the shipped one or known by `use_codec`.
"""

import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageFile

from lictor.coding.container import ALPHA, MAGIC, Outline, read_outline
from lictor.errors import LictorError, TruncatedError

if TYPE_CHECKING:
    from lictor.codecs.learned import Codec
    from lictor.data.pictures import Picture

FORMAT = "LIC"
_FIRST_BYTES = 4096
_MODES = {(1, False): "L", (1, True): "LA", (3, False): "RGB", (3, True): "RGBA"}
_codecs: "list[Codec]" = []


def use_codec(codec: "Codec | Path | str") -> "Codec":
    """Let Pillow read the files of a codec: an object, a codec file, or the name of a shipped one.

    Returns the codec. Raises `CheckpointError` when there is none.
    """
    from lictor.codecs.learned import Codec
    from lictor.codecs.shipped import find_codec

    if not isinstance(codec, Codec):
        codec = Codec.load(find_codec(codec))
    if all(known.fingerprint != codec.fingerprint for known in _codecs):
        _codecs.append(codec)
    return codec


def _codec_of(fingerprint: bytes) -> "Codec":
    """Return the codec that reads files of a fingerprint, the shipped one if none else does.

    The shipped one will say that it does not, if so.
    """
    for codec in _codecs:
        if fingerprint in (codec.fingerprint, *codec.replaces):
            return codec
    return use_codec("default")


def _outline(file: Any) -> Outline:
    """Read as much of a file as its header and index take."""
    data, size = b"", _FIRST_BYTES
    while True:
        more = file.read(size)
        data += more
        try:
            return read_outline(data)
        except TruncatedError:
            if not more:
                raise
        size = 2 * size


class LicImageFile(ImageFile.ImageFile):
    """A `.lic` file that Pillow has opened."""

    format = FORMAT
    format_description = "lictor learned image compression"

    def _open(self) -> None:
        assert self.fp is not None
        try:
            outline = _outline(self.fp)
        except LictorError as error:
            raise SyntaxError(str(error)) from error
        self._size = outline.width, outline.height
        self._mode = _MODES[outline.channels, ALPHA in outline.kinds]
        self._fingerprint: bytes | None = outline.fingerprint
        self.tile = []

    def load(self) -> Any:
        """Decode the pixels, unless they are there; raises `OSError` when that cannot be."""
        if self._fingerprint is not None:
            assert self.fp is not None
            self.fp.seek(0)
            picture = _decoded(self._fingerprint, self.fp.read())
            self._fingerprint = None
            self.info.update(_info(picture))
            self.text = dict(picture.text)
            if self._exclusive_fp:
                self.fp.close()
            from lictor.data.picture_files import image_of

            pixels = image_of(picture).tobytes()
            self.fp = io.BytesIO(pixels)
            self.tile = [ImageFile._Tile("raw", (0, 0, *self.size), 0, self.mode)]
        return super().load()


def _decoded(fingerprint: bytes, data: bytes) -> "Picture":
    from lictor.codecs.pictures import decode_picture

    try:
        return decode_picture(_codec_of(fingerprint), data)
    except LictorError as error:
        raise OSError(str(error)) from error


def _info(picture: "Picture") -> dict[str, Any]:
    """Return what lay beside the pixels, under the names that Pillow has for it."""
    named = {
        "icc_profile": picture.icc,
        "exif": None if picture.exif is None else b"Exif\0\0" + picture.exif,
        "xmp": picture.xmp,
        "dpi": picture.dpi,
        **dict(picture.text),
    }
    return {key: value for key, value in named.items() if value is not None}


def _save(image: Image.Image, file: Any, filename: str | bytes) -> None:
    """Write an image; the option `codec` of `Image.save` may be as in `use_codec`.

    `icc_profile`, `exif`, `xmp` and `dpi` are the image's own, unless they are given to `save`.
    """
    from lictor.codecs.pictures import encode_picture
    from lictor.data.pictures import picture_of

    options: dict[str, Any] = getattr(image, "encoderinfo", {})
    codec = use_codec(options.get("codec") or "default")
    try:
        picture = _with_options(picture_of(image, str(filename)), options)
        file.write(encode_picture(codec, picture))
    except LictorError as error:
        raise ValueError(str(error)) from error


def _with_options(picture: "Picture", options: dict[str, Any]) -> "Picture":
    """Return a picture with what was given to `Image.save` in place of its own."""
    given: dict[str, Any] = {}
    for key, field in (("icc_profile", "icc"), ("exif", "exif"), ("xmp", "xmp"), ("dpi", "dpi")):
        if key in options:
            given[field] = options[key] or None
    exif = given.get("exif")
    if isinstance(exif, Image.Exif):
        exif = exif.tobytes()
    if exif is not None:
        given["exif"] = exif.removeprefix(b"Exif\0\0")
    return dataclasses.replace(picture, **given)


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


Image.register_open(FORMAT, LicImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, ".lic")
Image.register_mime(FORMAT, "image/x-lictor")
