"""Files of signals: which kinds a suffix stands for, who reads it, who writes it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lictor.config import nearest
from lictor.data.signals.array import read_array, write_array
from lictor.data.signals.audio import read_audio, write_audio
from lictor.data.signals.field import read_field, read_grib, write_field
from lictor.data.signals.image import read_image, write_image
from lictor.data.signals.items import as_stored, in_items
from lictor.data.signals.pp import read_pp
from lictor.data.signals.quiet import quiet
from lictor.data.signals.signal import Signal, Wanted
from lictor.data.signals.volume import read_volume, write_volume
from lictor.errors import ConfigError, DataError
from lictor.files import whole_path

Read = Callable[[Path, Wanted], Signal]
Write = Callable[[Path, Signal], None]
# What is written where a format cannot be, by kind.
_INSTEAD = {"image": ".png", "audio": ".wav", "volume": ".nii.gz", "field": ".nc", "array": ".npy"}


@dataclass(frozen=True)
class Format:
    """What files of a suffix hold.

    Args:
        kinds: of signals; the first is what `read_signal` takes it for.
        read: from a file, looking for what is wanted.
        write: to a file that does not exist yet; None where the format cannot be written.
    """

    kinds: tuple[str, ...]
    read: Read
    write: Write | None = None


_IMAGE = Format(("image",), read_image, write_image)
_AUDIO = Format(("audio",), read_audio, write_audio)
_VOLUME = Format(("volume",), read_volume, write_volume)
_FIELD = Format(("field",), read_field, write_field)
FORMATS: dict[str, Format] = {
    ".png": _IMAGE,
    ".webp": _IMAGE,
    ".jpg": Format(("image",), read_image),
    ".jpeg": Format(("image",), read_image),
    ".tif": Format(("image",), read_image, write_image),
    ".wav": _AUDIO,
    ".flac": _AUDIO,
    ".ogg": _AUDIO,
    ".nii": _VOLUME,
    ".nii.gz": _VOLUME,
    ".nc": _FIELD,
    ".nc4": _FIELD,
    ".zarr": _FIELD,
    ".grib": Format(("field",), read_grib),
    ".grb": Format(("field",), read_grib),
    ".grib2": Format(("field",), read_grib),
    ".grb2": Format(("field",), read_grib),
    ".pp": Format(("field",), read_pp),
    ".npy": Format(("array", "image", "audio", "volume", "field"), read_array, write_array),
}


def suffix_of(path: Path) -> str:
    """Return the suffix that names a file's format, in lower case; its last one if none does."""
    name = path.name.lower()
    found = [suffix for suffix in FORMATS if name.endswith(suffix)]
    return max(found, key=len, default=path.suffix.lower())


def _format(path: Path) -> Format:
    suffix = suffix_of(path)
    if suffix not in FORMATS:
        raise DataError(
            f"{path}: no signals are known by {suffix!r} as a suffix; "
            f"{nearest(suffix, list(FORMATS))}"
        )
    return FORMATS[suffix]


def read_signal(
    path: Path | str,
    *,
    kind: str | None = None,
    axes: int | None = None,
    channels: int | None = None,
    variable: str | None = None,
    item_shape: tuple[int, ...] = (),
) -> Signal:
    """Read a signal from a file.

    Args:
        path: its suffix says the format.
        kind: what it is to be; what its format holds if not given.
        axes: of an item, for formats that do not say.
        channels: of a sample, likewise.
        variable: which variable of several.
        item_shape: the file holds items of this shape one after the other, as in the memory of its
            array; () for the items that it has by itself.

    Raises `DataError` when it cannot be read or is of another kind, and `ConfigError` when that
    needs a package which is not installed, or a variable is named where there are none.
    """
    path = Path(path)
    line = _format(path)
    if kind is not None and kind not in line.kinds:
        raise DataError(f"{path}: holds a signal of kind {line.kinds[0]}, not {kind}")
    if variable is not None and "field" not in line.kinds:
        raise ConfigError(f"{path}: {suffix_of(path)} has no variables; leave out --variable")
    _check_place(path)
    try:
        with quiet():
            signal = line.read(path, Wanted(axes, channels, variable))
        if item_shape:
            signal = in_items(signal, item_shape)
    except (DataError, ConfigError) as error:
        raise type(error)(named(path, str(error))) from error
    except Exception as error:  # readers of other people's formats raise anything
        raise DataError(
            f"{path}: cannot be read as {suffix_of(path)} ({_reason(path, error)}); "
            "it may be damaged, or of another format"
        ) from error
    if kind is not None and signal.kind != kind:
        signal = replace(signal, kind=kind)
    return signal


def _check_place(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such file")
    folder = suffix_of(path) == ".zarr"
    if path.is_dir() != folder:
        raise DataError(f"{path}: is {'not a folder' if folder else 'a folder, not a file'}")
    if not folder and not path.is_file():  # a pipe would block for ever
        raise DataError(f"{path}: is not a regular file")
    if not folder and not path.stat().st_size:
        raise DataError(f"{path}: empty file")


def named(path: Path, message: str) -> str:
    """Return a message that names the file, whether or not it did."""
    return message if str(path) in message else f"{path}: {message}"


def _reason(path: Path, error: Exception) -> str:
    """Return in one line what a package said, without the path, which is said already."""
    words = " ".join(str(error).replace(f"'{path}'", "").replace(str(path), "it").split())
    return words[:200].rstrip(" :") or type(error).__name__


def write_signal(path: Path | str, signal: Signal) -> None:
    """Write a signal to a file, whole or not at all.

    Raises `DataError` when the format cannot hold it or cannot be written, `ConfigError` when that
    needs a package which is not installed.
    """
    path = Path(path)
    line, suffix = _format(path), suffix_of(path)
    instead = _INSTEAD[signal.kind]
    if line.write is None:
        raise DataError(f"{path}: {suffix} cannot be written; write {instead}")
    if signal.kind not in line.kinds:
        raise DataError(f"{path}: {suffix} holds no signals of kind {signal.kind}; write {instead}")
    if suffix == ".zarr" and path.is_dir() and not _is_zarr(path):
        raise DataError(f"{path}: is a folder of something else; choose another output")
    with whole_path(path) as temporary:
        try:
            with quiet():
                line.write(temporary, as_stored(signal))
        except (DataError, ConfigError) as error:
            raise type(error)(named(path, str(error))) from error
        except OSError:
            raise
        except Exception as error:
            raise DataError(f"{path}: cannot be written ({_reason(temporary, error)})") from error


def _is_zarr(folder: Path) -> bool:
    names = ("zarr.json", ".zgroup", ".zattrs")
    return any((folder / name).exists() for name in names) or not any(folder.iterdir())
