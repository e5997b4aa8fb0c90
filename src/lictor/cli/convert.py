"""`lictor convert`: a codec file of a former format becomes one of the present, exact one."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from lictor.cli.messages import say
from lictor.cli.outputs import check_output_file


def convert(
    codec: Positional[Path],
    /,
    *,
    out: Annotated[Path, arg(aliases=["-o"])],
    force: bool = False,
) -> int:
    """Make a codec file of a former format exact; files that it wrote stay readable.

    Args:
        codec: Codec file of format lictor-codec-1 or lictor-codec-2.
        out: Codec file to write, ending in .lcodec.
        force: Overwrite an existing file.
    """
    from lictor.codecs.learned import Codec

    check_output_file(out, force=force)
    converted = Codec.convert(codec)
    converted.save(out)
    say(
        f"{codec} -> {out}  codec {converted.fingerprint.hex()}, "
        f"which reads the files of {converted.replaces[0].hex()} too"
    )
    return 0
