"""numba's compiler with a cache on disk, for the loops of this package."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """Compile with numba, with a cache on disk wherever a folder for it can be found."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available": neither this folder nor the user's is writable
        return njit(nogil=True)(function)
