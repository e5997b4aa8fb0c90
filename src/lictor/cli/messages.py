"""What commands say: results on stdout, errors as one line each on stderr."""

import sys


def say(text: str) -> None:
    """Print one line of a result."""
    print(text, flush=True)


def complain(error: object) -> None:
    """Print one line about what is wrong."""
    # Names and other programs' words are in it: no control characters get through.
    text = "".join(c if c.isprintable() else "?" for c in str(error).replace("\n", " "))
    print(f"lictor: error: {text}", file=sys.stderr, flush=True)
