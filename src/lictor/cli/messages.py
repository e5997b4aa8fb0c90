"""What commands say: results on stdout, errors as one line each on stderr."""

import os
import sys


def printable(name: str) -> str:
    """Return a file's name as text that can be written: bytes that are no UTF-8 are replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def say(text: str, *, aside: bool = False) -> None:
    """Print one line of a result; `aside` where standard output is for data."""
    print(printable(text), file=sys.stderr if aside else sys.stdout, flush=True)


def note(text: str) -> None:
    """Print one line about something that is not as one may expect, and no error."""
    print(f"lictor: note: {_one_line(text)}", file=sys.stderr, flush=True)


def complain(error: object) -> None:
    """Print one line about what is wrong."""
    rank = os.environ.get("RANK", "0")  # of several processes of one run
    who = f" in process {rank}" if rank != "0" else ""
    print(f"lictor: error{who}: {_one_line(str(error))}", file=sys.stderr, flush=True)


def _one_line(text: str) -> str:
    """Return text without control characters: names and other programs' words are in it."""
    return "".join(c if c.isprintable() else "?" for c in text.replace("\n", " "))
