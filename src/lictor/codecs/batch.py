"""One file through a codec, to where its result belongs: done, skipped as finished, or failed.

A batch that was stopped, or killed, goes on when it is given again: outputs that it finished are
not made a second time. The files may lie in folders or behind URLs, and the process may be any.
"""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lictor.codecs.learned import Codec
from lictor.codecs.pictures import (
    decode_picture,
    encode_picture,
    salvage_picture,
    same_picture,
    sections_of,
    with_sections,
)
from lictor.codecs.refinement import Refinement, Watch, go_on
from lictor.codecs.shipped import remedy_for
from lictor.coding import archive
from lictor.coding.container import ALPHA, EXIF, MAGIC, MAX_PIXELS, XMP, Container
from lictor.coding.grid import Rectangle
from lictor.data.picture_files import picture_file
from lictor.data.pictures import Picture, picture_sizes, read_picture
from lictor.data.places import (
    STANDARD,
    exists,
    is_url,
    modified_s,
    read_place,
    suffix_of,
    whole_file,
)
from lictor.data.signals import formats
from lictor.errors import (
    BitstreamError,
    CorruptError,
    DataError,
    LictorError,
    NotABitstreamError,
    TruncatedError,
)
from lictor.rates import bpp
from lictor.runtime import choose_device

LIC = ".lic"
LSIG = ".lsig"  # of signals, see `codecs.signals.batch`


@dataclass(frozen=True)
class Item:
    """A file and where its result goes, paths or URLs."""

    source: str
    target: str


@dataclass(frozen=True)
class Result:
    """What became of an item, with what there is to say of it.

    `notices` tell what was lost on the way; the bytes are those of source and target, if done.
    """

    status: Literal["done", "skipped", "failed"]
    text: str = ""
    notices: tuple[str, ...] = ()
    source_bytes: int = 0
    target_bytes: int = 0


@dataclass(frozen=True)
class Rules:
    """How a batch is coded.

    `verb` is what is done. A target that exists is made again with `force`; without it, one that an
    earlier run finished is skipped if `skip`, and any other is an error. `folders` that are missing
    are made. `device` is where a worker's codec runs its transforms, by name. Pictures are
    compressed with the `refinement`, if there is one, and with `strip` upright and without what
    lies beside their pixels; with `verify` each is decoded, compared with what the encoder meant,
    and read again from where it was written. With `preserve` results have the times of their
    sources. Decoded pictures are of the format that the end of the target's name says, on standard
    output of that of `suffix`. Only the `region`, x, y, width and height, is restored, if there is
    one; with `salvage`, whatever is left of damaged files is. A picture of more than `max_pixels`
    is an error.
    """

    verb: Literal["compress", "decompress"]
    force: bool = False
    skip: bool = True
    folders: bool = False
    device: str = "cpu"
    refinement: Refinement | None = None
    strip: bool = False
    verify: bool = False
    preserve: bool = False
    suffix: str = ".png"
    region: tuple[int, int, int, int] | None = None
    salvage: bool = False
    max_pixels: int = MAX_PIXELS


class Coder:
    """Codes one item after the other with one codec; `watch` sees every step of a refinement."""

    def __init__(self, codec: Codec, rules: Rules, watch: Watch = go_on):
        self._codec, self._rules, self._watch = codec, rules, watch

    def __call__(self, item: Item) -> Result:
        """Make an item's target, unless it is there; whatever goes wrong is the result."""
        return settle(item, lambda: self._settled(item.source, item.target))

    def _settled(self, source: str, target: str) -> Result:
        if is_there(source, target, self._rules, self._is_finished):
            return Result("skipped")
        made = self._compress if self._rules.verb == "compress" else self._decompress
        result = made(source, target)
        if self._rules.preserve:
            _copy_times(source, target)
        return result

    def _compress(self, source: str, target: str) -> Result:
        content = read_place(source, "a picture")
        picture = _picture(content, source, strip=self._rules.strip)
        rows, columns, _ = picture.pixels.shape
        if rows * columns > self._rules.max_pixels:
            raise DataError(
                f"{source}: has {columns}x{rows} pixels, more than {self._rules.max_pixels}; "
                "raise --max-pixels if it is meant"
            )
        data = self._encoded(picture)
        self._write(target, data)
        height, width, _ = picture.pixels.shape
        rate = bpp(len(data), height, width)
        told = f"{source} -> {target}  {width}x{height}  {len(data)} bytes  {rate:.3f} bpp"
        return Result("done", told, _of(source, picture.notices), len(content), len(data))

    def _encoded(self, picture: Picture) -> bytes:
        refinement, most = self._rules.refinement, self._rules.max_pixels
        if not self._rules.verify:
            return encode_picture(
                self._codec, picture, refinement=refinement, watch=self._watch, max_pixels=most
            )
        encoded = self._codec.encode_verbose(
            picture.pixels, refinement=refinement, watch=self._watch, max_pixels=most
        )
        data = with_sections(encoded.data, sections_of(picture))
        meant = dataclasses.replace(picture, pixels=encoded.reconstruction, notices=())
        if not same_picture(decode_picture(self._codec, data, max_pixels=most), meant):
            raise DataError("decoding does not give what the encoder meant; nothing is written")
        return data

    def _write(self, target: str, data: bytes) -> None:
        make_folder(target, self._rules)
        with whole_file(target) as file:
            file.write(data)
        if self._rules.verify and target != STANDARD and read_bitstream(target) != data:
            raise DataError(f"{target}: reads back differently from what was written")

    def _decompress(self, source: str, target: str) -> Result:
        data, rules = read_bitstream(source), self._rules
        if data.startswith(archive.MAGIC):
            raise NotABitstreamError(
                f"{source}: is a {LSIG} file, and this is a codec of pictures; name the codec of "
                "signals that made it with --codec"
            )
        damaged = list[Rectangle]()
        try:
            if rules.salvage:
                picture, damaged = salvage_picture(self._codec, data, max_pixels=rules.max_pixels)
            else:
                picture = decode_picture(
                    self._codec, data, region=rules.region, max_pixels=rules.max_pixels
                )
        except BitstreamError as error:
            raise type(error)(f"{source}: {error}{_remedy(error, data, rules)}") from error
        make_folder(target, rules)
        suffix = rules.suffix if target == STANDARD else suffix_of(target)
        content, notices = picture_file(picture, suffix, target)
        with whole_file(target) as file:
            file.write(content)
        if damaged:
            return Result("failed", _lost(source, target, damaged))
        height, width, _ = picture.pixels.shape
        told = f"{source} -> {target}  {width}x{height}"
        notices = (*picture.notices, *notices)
        return Result("done", told, _of(target, notices), len(data), len(content))

    def _is_finished(self, source: str, target: str) -> bool:
        """Tell whether a target is an earlier run's.

        Its age tells a result from what it cannot be: made before its input was changed, or the
        very picture that the input was once made from.
        """
        file, picture = (target, source) if self._rules.verb == "compress" else (source, target)
        try:
            if not is_younger(target, source):
                return False
            return _belongs(file, picture, self._codec, strip=self._rules.strip)
        except (OSError, LictorError):
            return False


def _remedy(error: BitstreamError, data: bytes, rules: Rules) -> str:
    """Return what to add to a message about a file that is not decoded."""
    if "max_pixels" in str(error):
        return "; raise --max-pixels if that is meant"
    if rules.salvage or not isinstance(error, CorruptError | TruncatedError):
        return ""
    try:
        rest = Container.salvage(data, max_pixels=rules.max_pixels)
    except BitstreamError:
        return ""
    whole = len(rest.container.tiles) - len(rest.damaged)
    if not whole:
        return ""
    return f"; --salvage restores the {whole} of {len(rest.container.tiles)} tiles that are whole"


_MOST_NAMED = 8


def _lost(source: str, target: str, damaged: Sequence[Rectangle]) -> str:
    """Return what there is to say of a picture that has lost tiles."""
    named = "; ".join(map(str, damaged[:_MOST_NAMED]))
    more = f"; and {len(damaged) - _MOST_NAMED} more" if len(damaged) > _MOST_NAMED else ""
    tiles = "a tile is" if len(damaged) == 1 else f"{len(damaged)} tiles are"
    return f"{source}: {tiles} damaged, and grey in {target}: {named}{more}"


def settle(item: Item, work: Callable[[], Result]) -> Result:
    """Return what became of an item; whatever goes wrong with it is the result."""
    source, target = item.source, item.target
    try:
        return work()
    except LictorError as error:
        named = source in str(error) or target in str(error)
        return Result("failed", str(error) if named else f"{source}: {error}")
    except MemoryError:
        return Result("failed", f"{source}: not enough memory; split it, or use fewer --jobs")


def is_there(
    source: str, target: str, rules: Rules, is_finished: Callable[[str, str], bool]
) -> bool:
    """Tell whether an item's target is an earlier run's, to be skipped.

    `is_finished` is asked of a target that exists. Raises `DataError` when it is there and neither
    to be skipped nor overwritten, or the two places cannot be what they are.
    """
    if not _check_places(source, target) or rules.force:
        return False
    if rules.skip and is_finished(source, target):
        return True
    raise DataError(f"{target}: exists already; add --force to overwrite it")


def make_folder(target: str, rules: Rules) -> None:
    """Make the folder of a mirrored tree; stores behind URLs do that when they are written."""
    if rules.folders and not is_url(target):
        folder = Path(target).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder}: cannot make the folder ({error.strerror})") from error


def _of(place: str, notices: tuple[str, ...]) -> tuple[str, ...]:
    """Return notices with the name of what they are about."""
    return tuple(f"{place}: {notice}" for notice in notices)


def _copy_times(source: str, target: str) -> None:
    """Give a result the times of its source."""
    try:
        times = Path(source).stat()
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    except OSError as error:
        raise DataError(f"{target}: cannot set its times ({error.strerror})") from error


def _picture(content: bytes, source: str, *, strip: bool) -> Picture:
    suffix = suffix_of(source)
    kind = LSIG if suffix == LSIG or content.startswith(archive.MAGIC) else LIC
    compressed = DataError(
        f"{source}: is no picture; {kind} files are compressed already, and lictor decompress "
        "restores what they hold"
    )
    # Where lictor's plugin for Pillow is at work, it would read them.
    if content.startswith((MAGIC, archive.MAGIC)):
        raise compressed
    try:
        return read_picture(content, source, strip=strip)
    except DataError as error:
        if suffix in (LIC, LSIG):
            raise compressed from error
        held = formats.FORMATS.get(formats.suffix_of(Path(source)))
        if held is None or held.kinds[0] == "image":
            raise
        raise DataError(
            f"{source}: holds a signal of kind {held.kinds[0]}, and this is a codec of pictures; "
            f"{remedy_for(held.kinds[0])}"
        ) from error


def read_bitstream(place: Path | str) -> bytes:
    """Read a file's bytes; raises `DataError` if it cannot be read."""
    return read_place(str(place), f"a {LIC} file")


def codec_from_bytes(data: bytes) -> Codec:
    """Return the codec of a codec file's bytes; raises `CheckpointError` as `Codec.load` does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sent.lcodec"
        path.write_bytes(data)
        return Codec.load(path)


def coder_from_bytes(data: bytes, rules: Rules) -> Coder:
    """Return what codes items, in a process that has the codec file's bytes and no more."""
    return Coder(codec_from_bytes(data).to(choose_device(rules.device)), rules)


def _belongs(file: str, picture: str, codec: Codec, *, strip: bool) -> bool:
    """Tell whether a file is whole, made by a codec, and of a picture of this one's size.

    Neither is decoded. Where metadata are to be stripped, the file must have none. Raises a
    `LictorError` when the file is none, or the picture.
    """
    content = Container.from_bytes(read_bitstream(file))
    if strip and any(kind != ALPHA for kind in content.sections):
        return False
    stored, upright = picture_sizes(picture)
    sizes = {upright} if strip else {stored, upright}
    width, height = content.width, content.height
    # A decoded picture was turned upright where its format could not say so.
    turned = bool({EXIF, XMP} & content.sections.keys()) and (height, width) in sizes
    same = (width, height) in sizes or turned
    return same and content.fingerprint == codec.fingerprint


def is_younger(target: str, source: str) -> bool:
    """Tell whether a target is no older than its source; so it is taken where nobody can tell."""
    if not is_url(target) and not is_url(source):
        return Path(target).stat().st_mtime_ns >= Path(source).stat().st_mtime_ns
    made, given = modified_s(target), modified_s(source)
    return made is None or given is None or made >= given


def _check_places(source: str, target: str) -> bool:
    """Return whether the target exists; raises `DataError` when the two cannot be what they are."""
    if STANDARD in (source, target):
        return exists(target)
    try:
        if not is_url(source):
            Path(source).stat()
        there = exists(target)
        same = source == target
        if not is_url(source) and not is_url(target):
            same = Path(target).resolve() == Path(source).resolve()
    except FileNotFoundError as error:
        raise DataError(f"{source}: no such file") from error
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, a loop of links
        if isinstance(error, LictorError):
            raise
        raise DataError(f"{source}: not a usable path ({error})") from error
    if same:
        suffix = suffix_of(source)
        hint = f", and {suffix} files are compressed already" if suffix in (LIC, LSIG) else ""
        raise DataError(f"{source}: input and output are the same file{hint}")
    return there
