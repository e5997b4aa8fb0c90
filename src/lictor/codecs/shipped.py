"""The codecs that ship with lictor, by name: where their files are, and what they are for."""

import atexit
import importlib.resources
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

from lictor.config import nearest
from lictor.errors import CheckpointError

DEFAULT = "default"  # the codec of pictures
# The kind of signals that each of the others is for.
OF_SIGNALS = MappingProxyType(
    {"thumbnails": "image", "speech": "audio", "climate": "field", "mri": "volume"}
)
# A package need not lie on a disk: files that were taken out of an archive go when Python ends.
_FILES = ExitStack()
atexit.register(_FILES.close)


def shipped_codec(name: str) -> Path:
    """Return the file of the codec of that name; raises `CheckpointError` if none ships."""
    known = [DEFAULT, *OF_SIGNALS]
    if name not in known:
        hint = nearest(name, known)
        others = "" if hint.startswith("valid") else f" There are {', '.join(known)}."
        raise CheckpointError(
            f"{name}: no such file, and no codec of this name ships with lictor; {hint}{others}"
        )
    folder = importlib.resources.files("lictor") / "assets"
    file = folder / f"{name}.lcodec" if name == DEFAULT else folder / "signals" / f"{name}.lcodec"
    return _FILES.enter_context(importlib.resources.as_file(file))


def find_codec(place: Path | str | None) -> Path:
    """Return the codec file that a place means: a file, or by its name one that ships with lictor.

    None and `default` are the codec of pictures. Another name without a folder and a suffix is that
    of a shipped codec where no such file exists; `CheckpointError` says if there is none. Any other
    place is returned as it is: whoever reads it says what is wrong with it.
    """
    if place is None or str(place) == DEFAULT:
        return shipped_codec(DEFAULT)
    path = Path(place)
    if is_name(place) and not path.is_file():
        return shipped_codec(str(place))
    return path


def is_name(place: Path | str) -> bool:
    """Tell whether a place has the look of a name: neither a folder nor a suffix is in it."""
    return str(place) == Path(place).name and "." not in str(place)


def remedy_for(kind: str) -> str:
    """Return what to do with a signal of a kind that a codec of pictures was given."""
    names = [name for name, its in OF_SIGNALS.items() if its == kind]
    if not names:
        return "name a codec of such signals with --codec; none ships with lictor"
    return f"add --codec {' or '.join(names)}, which ships with lictor, or --codec and one of yours"
