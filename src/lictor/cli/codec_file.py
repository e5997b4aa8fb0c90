"""The codec that a command is told to use: a file, or the one that ships with lictor."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from lictor.errors import CheckpointError

if TYPE_CHECKING:
    from lictor.codecs.learned import Codec

DEFAULT = "default"
# Of a command that runs networks: auto, cpu, cuda, cuda:1, mps, xpu.
Device = Annotated[str, arg(metavar="DEVICE", help_behavior_hint="")]


def is_of_signals(name: Path | str) -> bool:
    """Tell whether a codec file is one of signals; raises nothing, whatever it is."""
    from lictor.codecs.signals.store import is_signal_codec

    return str(name) != DEFAULT and is_signal_codec(name)


def load_codec(name: Path | str | None, device: str = "cpu") -> "Codec":
    """Return the codec of a file, or the one that ships with lictor for None and for `default`.

    Its transforms run on the device of that name. Raises `CheckpointError` when the file is
    missing, damaged, or no codec, `ConfigError` when there is no such device.
    """
    from lictor.codecs.learned import Codec
    from lictor.runtime import choose_device

    place = choose_device(device)
    codec = Codec.default() if name is None or str(name) == DEFAULT else Codec.load(name)
    return codec.to(place)


def codec_bytes(name: Path | str | None) -> bytes:
    """Return the bytes of the file that `load_codec` reads; raises `CheckpointError`."""
    import importlib.resources

    if name is None or str(name) == DEFAULT:
        return (importlib.resources.files("lictor") / "assets" / "default.lcodec").read_bytes()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{name}: cannot read the codec file ({error.strerror})") from error
