"""What a report calls what was measured: pictures, or the items of signals."""

from collections.abc import Iterable
from dataclasses import dataclass

from lictor.comparison.curve import Curve


@dataclass(frozen=True)
class Words:
    """The words of a page.

    Args:
        one: thing that was measured.
        many: of them.
        million: of the samples that times are told for.
        size: head of the column of their sizes.
    """

    one: str
    many: str
    million: str
    size: str


PICTURES = Words("picture", "pictures", "megapixel", "Size")
ITEMS = Words("item", "items", "million samples", "Samples")


def words_of(curves: Iterable[Curve]) -> Words:
    """Return the words for curves: items where all are of signals."""
    return ITEMS if all(curve.of_signals for curve in curves) else PICTURES
