"""What commands say: results on stdout, errors as one line each on stderr."""

import os
import sys


def printable(name: str) -> str:
    """Return a file's name as text that can be written: bytes that are no UTF-8 are replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def say(text: str) -> None:
    """Print one line of a result."""
    print(printable(text), flush=True)


def complain(error: object) -> None:
    """Print one line about what is wrong."""
    # Names and other programs' words are in it: no control characters get through.
    text = "".join(c if c.isprintable() else "?" for c in str(error).replace("\n", " "))
    rank = os.environ.get("RANK", "0")  # of several processes of one run
    who = f" in process {rank}" if rank != "0" else ""
    print(f"lictor: error{who}: {text}", file=sys.stderr, flush=True)
