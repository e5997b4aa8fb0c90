"""Batches of coming steps, made while the present one is worked on."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class Prefetcher(Generic[T]):
    """Makes the batches of coming steps in background threads.

    Iterating yields what `make` returns for the steps from `first_step` on, in their order, for
    ever. `workers` threads make `depth` batches in advance, or one each if that is more; `make`
    must be safe to call from several. `waited_s` adds up how long the consumer stood waiting.
    """

    make: Callable[[int], T]
    first_step: int = 0
    depth: int = 4
    workers: int = 1
    waited_s: float = field(default=0.0, init=False)

    def __iter__(self) -> Iterator[T]:
        with ThreadPoolExecutor(self.workers, thread_name_prefix="crops") as pool:
            step = self.first_step
            pending: deque[Future[T]] = deque()
            try:
                while True:
                    while len(pending) < max(self.depth, self.workers):
                        pending.append(pool.submit(self.make, step))
                        step += 1
                    start = time.perf_counter()
                    batch = pending.popleft().result()
                    self.waited_s += time.perf_counter() - start
                    yield batch
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
