"""Processes of this machine, beside each other; one that dies costs the item that killed it."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from lictor.workers.engine import Lost

_DIED = "its process died; was there enough memory?"
Make = Callable[[], Callable[[Any], Any]]


@dataclass(frozen=True)
class Processes:
    """So many processes, each with as many torch threads; started anew for every `map`."""

    jobs: int
    threads: int = 1

    def map(self, make: Make, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield every item with its result as it comes."""
        while items:
            suspects, items = yield from self._run(make, items, self.jobs, 2 * self.jobs)
            while suspects:  # one of them killed a process: one at a time, it only hurts itself
                culprits, suspects = yield from self._run(make, suspects, 1, 1)
                for item in culprits:
                    yield item, Lost(_DIED)

    def _run(
        self, make: Make, items: Sequence[Any], jobs: int, most_pending: int
    ) -> Generator[tuple[Any, Any], None, tuple[list[Any], list[Any]]]:
        """Yield results as they come, until a process dies.

        Returns the items that were in other processes' hands then, and those that nobody had begun.
        """
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(jobs, context, _start_worker, (make, self.threads))
        waiting, running = deque(items), dict[Future[Any], Any]()
        lost: list[Any] = []
        done_with_it = False
        try:
            while (waiting or running) and not lost:
                # A bounded queue: a million items need no memory before their turn.
                while waiting and len(running) < most_pending and not lost:
                    item = waiting.popleft()
                    try:
                        running[pool.submit(_work_on, item)] = item
                    except BrokenProcessPool:
                        lost.append(item)
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    item = running.pop(future)
                    try:
                        yield item, future.result()
                    except BrokenProcessPool:
                        lost.append(item)
            done_with_it = True
            return [*lost, *running.values()], list(waiting)
        finally:
            if not done_with_it:  # interrupted: nobody waits for what the workers are at
                for process in list((getattr(pool, "_processes", None) or {}).values()):
                    process.terminate()
            pool.shutdown(wait=not lost, cancel_futures=True)


_work: Callable[[Any], Any] | None = None


def _start_worker(make: Make, threads: int) -> None:
    """Leave Ctrl-C to the parent; end, and with it the running command, when the parent does."""
    global _work

    def end(*_: object) -> None:
        raise SystemExit(1)

    def follow_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=follow_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    _work = make()


def _work_on(item: Any) -> Any:
    assert _work is not None
    return _work(item)
