"""The codec that a command is told to use: a file, or the one that ships with lictor."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lictor.codecs.learned import Codec

DEFAULT = "default"


def load_codec(name: Path | str | None) -> "Codec":
    """Return the codec of a file, or the one that ships with lictor for None and for `default`.

    Raises `CheckpointError` when the file is missing, damaged, or no codec.
    """
    from lictor.codecs.learned import Codec

    return Codec.default() if name is None or str(name) == DEFAULT else Codec.load(name)
