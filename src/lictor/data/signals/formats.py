"""Files of signals: which kinds a suffix stands for, who reads it, who writes it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lictor.config import nearest
from lictor.data.signals.array import read_array, write_array
from lictor.data.signals.audio import read_audio, write_audio
from lictor.data.signals.fields import read_field, read_grib, read_pp, write_field
from lictor.data.signals.image import read_image, write_image
from lictor.data.signals.signal import Signal
from lictor.data.signals.volume import read_volume, write_volume
from lictor.errors import ConfigError, DataError
from lictor.files import whole_path

Read = Callable[[Path, int, str | None], Signal]
Write = Callable[[Path, Signal], None]


@dataclass(frozen=True)
class Format:
    """What files of a suffix hold.

    Args:
        kinds: of signals; the first is what `read_signal` takes it for.
        read: from a file, with the axes of an item (0: whatever it has) and a variable's name.
        write: to a file that must not exist; None where the format cannot be written.
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
    ".zarr": _FIELD,
    ".grib": Format(("field",), read_grib),
    ".grb": Format(("field",), read_grib),
    ".pp": Format(("field",), read_pp),
    ".npy": Format(("array", "image", "audio", "volume", "field"), read_array, write_array),
}


def suffix_of(path: Path) -> str:
    """Return the suffix that names a file's format, in lower case."""
    name = path.name.lower()
    return next(
        (s for s in sorted(FORMATS, key=len, reverse=True) if name.endswith(s)), path.suffix
    )


def _format(path: Path) -> Format:
    suffix = suffix_of(path)
    if suffix not in FORMATS:
        raise DataError(f"{path}: no format of signals; {nearest(suffix, list(FORMATS))}")
    return FORMATS[suffix]


def read_signal(
    path: Path | str, *, kind: str | None = None, axes: int = 0, variable: str | None = None
) -> Signal:
    """Read a signal from a file.

    Args:
        path: its suffix says the format.
        kind: what it is to be; what its format holds if not given.
        axes: of an item, for formats that do not say.
        variable: which variable of several.

    Raises `DataError` when it cannot be read or is of another kind, and `ConfigError` when that
    needs a package which is not installed.
    """
    path = Path(path)
    line = _format(path)
    if kind is not None and kind not in line.kinds:
        raise DataError(f"{path}: holds a signal of kind {line.kinds[0]}, not {kind}")
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.is_file() and not path.stat().st_size:
        raise DataError(f"{path}: empty file")
    try:
        signal = line.read(path, axes, variable)
    except (DataError, ConfigError) as error:
        raise type(error)(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    except Exception as error:  # readers of other people's formats raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: cannot be read as {suffix_of(path)} ({reason})") from error
    if kind is not None and signal.kind != kind:
        signal = Signal(signal.samples, signal.mask, kind, signal.form)
    return signal


def write_signal(path: Path | str, signal: Signal) -> None:
    """Write a signal to a file, whole or not at all.

    Raises `DataError` when the format cannot hold it or cannot be written.
    """
    path = Path(path)
    line = _format(path)
    if line.write is None:
        instead = {"field": ".nc", "image": ".png"}.get(signal.kind, ".npy")
        raise DataError(f"{path}: {suffix_of(path)} cannot be written; use {instead}")
    if signal.kind not in line.kinds:
        raise DataError(
            f"{path}: {suffix_of(path)} holds signals of kind {line.kinds[0]}, not {signal.kind}; "
            "use .npy"
        )
    with whole_path(path) as temporary:
        try:
            line.write(temporary, signal)
        except (DataError, ConfigError) as error:
            raise type(error)(f"{path}: {error}") from error
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(f"{path}: cannot be written ({reason})") from error
