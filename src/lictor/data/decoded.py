"""Decoded pictures that will be wanted again soon, for several threads at once."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock

import numpy as np
from jaxtyping import UInt8

_log = logging.getLogger(__name__)


class Decoded:
    """Decodes pictures by number, and keeps those that were asked for last.

    Args:
        decode: gives a picture; several threads call it, but never two for the same one.
        most: pictures kept.
        most_bytes: bytes kept, if that is less; a warning says so once.
        what: a name for the warning.
    """

    def __init__(
        self,
        decode: Callable[[int], UInt8[np.ndarray, "h w 3"]],
        *,
        most: int,
        most_bytes: int,
        what: str,
    ):
        self._decode, self._most, self._most_bytes = decode, most, most_bytes
        self._what, self._warned = what, False
        self._held: OrderedDict[int, Future[UInt8[np.ndarray, "h w 3"]]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __call__(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return a picture; raises what `decode` raises, every time."""
        with self._lock:
            future = self._held.get(number)
            own = future is None
            if future is None:
                future = self._held[number] = Future()
            self._held.move_to_end(number)
        if own:
            self._fill(number, future)
        return future.result()

    def _fill(self, number: int, future: "Future[UInt8[np.ndarray, 'h w 3']]") -> None:
        try:
            image = self._decode(number)
        except BaseException as error:
            with self._lock:
                del self._held[number]
            future.set_exception(error)
            return
        future.set_result(image)
        with self._lock:
            self._bytes += image.nbytes
            self._drop()

    def _drop(self) -> None:
        """Let go of what was asked for longest ago; what is being decoded stays."""
        for number, future in list(self._held.items()):
            too_large = self._bytes > self._most_bytes
            if not (too_large or len(self._held) > self._most) or len(self._held) == 1:
                return
            if not future.done():
                continue
            if too_large and len(self._held) <= self._most and not self._warned:
                self._warned = True
                _log.warning(
                    "%s: %d decoded pictures need more than %d MiB, so that some are decoded again "
                    "for every crop; raise data.cache_mib, lower data.crops_per_decode, or make "
                    "them smaller (lictor data pack --max-side)",
                    self._what, len(self._held), self._most_bytes // 2**20,
                )  # fmt: skip
            self._bytes -= future.result().nbytes
            del self._held[number]
