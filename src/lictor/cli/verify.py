"""`lictor verify`: is a file whole, and does it decode? Without torch."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from lictor.cli.messages import complain, say
from lictor.errors import LictorError


def verify(
    files: Positional[tuple[Path, ...]],
    /,
    *,
    codec: Annotated[Path | None, arg(metavar="CODEC", help_behavior_hint="")] = None,
) -> int:
    """Decode the symbols of .lic files by a second, slow decoder and compare their checksums.

    It uses no floating-point numbers and does not need torch: what it finds is what any decoder on
    any machine must find. It restores no picture.

    Args:
        files: Files to check; - is standard input.
        codec: Codec file that they were made with; the one that ships with lictor if not given.
    """
    from lictor.codecs.shipped import find_codec
    from lictor.coding.codec_file import read_codec_file
    from lictor.coding.verify import verify as check
    from lictor.files import STANDARD, read_file, read_standard_input

    if not files:
        complain("verify needs at least one .lic file; see --help")
        return 2
    known = read_codec_file(find_codec(codec))
    failed = 0
    for path in files:
        try:
            data = read_standard_input() if str(path) == STANDARD else read_file(path)
            found = check(data, known)
        except LictorError as error:
            named = str(error).startswith(f"{path}:")
            complain(error if named else type(error)(f"{path}: {error}"))
            failed += 1
            continue
        tiles = "" if found.tiles == 1 else f"  {found.tiles} tiles"
        size = f"{found.width}x{found.height}"
        say(f"{path}  {size}{tiles}  symbols {found.symbol_crc:08x}  as written")
    return 1 if failed else 0
