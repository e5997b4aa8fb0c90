"""The codec that a command is told to use: a file, or one that ships with lictor, by its name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from lictor.errors import CheckpointError

if TYPE_CHECKING:
    from lictor.codecs.learned import Codec

# Of a command that runs networks: auto, cpu, cuda, cuda:1, mps, xpu.
Device = Annotated[str, arg(metavar="DEVICE", help_behavior_hint="")]


def is_of_signals(name: Path | str) -> bool:
    """Tell whether a codec is one of signals; raises `CheckpointError` for an unknown name."""
    from lictor.codecs.shipped import find_codec
    from lictor.coding.codec_file import is_signal_codec

    return is_signal_codec(find_codec(name))


def load_codec(name: Path | str | None, device: str = "cpu") -> "Codec":
    """Return the codec of pictures that a place means; see `find_codec`.

    Its transforms run on the device of that name. Raises `CheckpointError` when the file is
    missing, damaged, or no codec, `ConfigError` when there is no such device.
    """
    from lictor.codecs.learned import Codec
    from lictor.codecs.shipped import find_codec
    from lictor.runtime import choose_device

    place = choose_device(device)
    return Codec.load(find_codec(name)).to(place)


def codec_bytes(name: Path | str | None) -> bytes:
    """Return the bytes of the file that `load_codec` reads; raises `CheckpointError`."""
    from lictor.codecs.shipped import find_codec

    path = find_codec(name)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the codec file ({error.strerror})") from error
