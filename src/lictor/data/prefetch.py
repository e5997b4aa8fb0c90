"""Batches of coming steps, made while the present one is worked on."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from lictor.data.crops import batch_to_tensor


@dataclass
class Prefetcher:
    """Makes the batches of coming steps in a background thread.

    Iterating yields tensors from `first_step` on, for ever. `waited_s` adds up how long the
    consumer stood waiting.
    """

    make: Callable[[int], UInt8[np.ndarray, "b h w 3"]]
    first_step: int = 0
    depth: int = 4
    waited_s: float = field(default=0.0, init=False)

    def __iter__(self) -> Iterator[Float[Tensor, "b 3 h w"]]:
        with ThreadPoolExecutor(1, thread_name_prefix="crops") as pool:
            step = self.first_step
            pending: deque[Future[NDArray[np.uint8]]] = deque()
            try:
                while True:
                    while len(pending) < self.depth:
                        pending.append(pool.submit(self.make, step))
                        step += 1
                    start = time.perf_counter()
                    batch = pending.popleft().result()
                    self.waited_s += time.perf_counter() - start
                    yield batch_to_tensor(batch)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
