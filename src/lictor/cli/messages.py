"""What commands say: results on stdout, errors as one line each on stderr."""

import sys


def say(text: str) -> None:
    """Print one line of a result."""
    print(text, flush=True)


def complain(error: object) -> None:
    """Print one line about what is wrong."""
    print(f"lictor: error: {error}", file=sys.stderr, flush=True)
