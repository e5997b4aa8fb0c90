"""How long the integer coder takes, for whoever asks; nobody pays who does not.

The seam is a context, not an argument: a codec's `encode` and `decode` take pictures and bytes, and
a measurement must see the very calls that everybody makes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

Clock = Callable[[], float]
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass
class Stopwatch:
    """Seconds by `clock` that were spent in `timed` functions, and how many calls they took."""

    clock: Clock
    seconds: float = 0.0
    calls: int = 0


_RUNNING: ContextVar[Stopwatch | None] = ContextVar("lictor_coding_stopwatch", default=None)


@contextmanager
def time_coding(clock: Clock = time.perf_counter) -> Iterator[Stopwatch]:
    """Yield a stopwatch of the integer coder's work in this block and this thread.

    `clock` returns seconds. An inner block hides its work from the outer one.
    """
    watch = Stopwatch(clock)
    token = _RUNNING.set(watch)
    try:
        yield watch
    finally:
        _RUNNING.reset(token)


def timed(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Tell the running stopwatch, if there is one, what `function` takes; `timed` do not nest."""

    @functools.wraps(function)
    def watched(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        watch = _RUNNING.get()
        if watch is None:
            return function(*args, **kwargs)
        start = watch.clock()
        try:
            return function(*args, **kwargs)
        finally:
            watch.seconds += watch.clock() - start
            watch.calls += 1

    return watched
