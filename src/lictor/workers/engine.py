"""What every engine is: one function, made once in each worker, mapped over items."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Lost:
    """What an item has in place of a result when its worker died."""

    reason: str


@runtime_checkable
class Engine(Protocol):
    """Maps work over items; results come as they are ready, each with its item."""

    def map(
        self, make: Callable[[], Callable[[Any], Any]], items: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]:
        """Yield every item with its result, or with `Lost`.

        `make` gives the work, once in a worker: what is heavy is loaded there. It, the items and
        the results can be pickled; the work raises nothing.
        """
        ...


class InProcess:
    """Does one item after the other in this process, in order."""

    def map(
        self, make: Callable[[], Callable[[Any], Any]], items: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]:
        """Yield every item with its result."""
        work = make()
        for item in items:
            yield item, work(item)
