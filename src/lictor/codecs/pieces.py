"""Pieces of a padded picture and of its latents, each with a margin of what is around it."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from lictor.coders import Shape
from lictor.models.base import Latents


@dataclass(frozen=True)
class Span:
    """Pixels along one side: from `start` to `stop` is the piece, from `low` to `high` is seen."""

    low: int
    start: int
    stop: int
    high: int

    @property
    def seen(self) -> slice:
        """Where the piece and its margin are."""
        return slice(self.low, self.high)

    @property
    def bare(self) -> "Span":
        """Return the span without its margin."""
        return Span(self.start, self.start, self.stop, self.stop)

    @property
    def within(self) -> "Span":
        """Return the span in what is seen, without its margin."""
        start, stop = self.start - self.low, self.stop - self.low
        return Span(start, start, stop, stop)

    def over(self, ratio: int) -> "Span":
        """Return the span in units of `ratio` pixels."""
        return Span(self.low // ratio, self.start // ratio, self.stop // ratio, self.high // ratio)


@dataclass(frozen=True)
class Piece:
    """One piece; its sides, and its margin's, lie on multiples of the model's stride."""

    rows: Span
    columns: Span

    @property
    def bare(self) -> "Piece":
        """Return the piece without its margin."""
        return Piece(self.rows.bare, self.columns.bare)

    @property
    def within(self) -> "Piece":
        """Return the piece in what is seen, counted from its top left, without its margin."""
        return Piece(self.rows.within, self.columns.within)

    def shape(self, whole: Shape) -> Shape:
        """Return the shape of the picture that is seen, in a padded picture of the given shape."""
        rows, columns = self.rows, self.columns
        return whole[0], whole[1], rows.high - rows.low, columns.high - columns.low

    def picture(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hs ws"]:
        """Return what is seen of a picture that is not padded."""
        return x[..., self.rows.seen, self.columns.seen]

    def of(self, latents: Latents, whole: Shape) -> dict[str, Float[Tensor, "b _ _ _"]]:
        """Return what is seen of the latents of a padded picture of the given shape."""
        seen = {}
        for name, latent in latents.items():
            ratio = whole[2] // latent.shape[2]
            rows, columns = self.rows.over(ratio), self.columns.over(ratio)
            seen[name] = latent[..., rows.seen, columns.seen].contiguous()
        return seen

    def put(self, seen: Latents, latents: MutableMapping[str, Tensor], whole: Shape) -> None:
        """Copy the piece, without its margin, from what is seen into the latents of all."""
        for name, latent in latents.items():
            ratio = whole[2] // latent.shape[2]
            rows, columns = self.rows.over(ratio), self.columns.over(ratio)
            latent[..., rows.start : rows.stop, columns.start : columns.stop] = seen[name][
                ...,
                rows.start - rows.low : rows.stop - rows.low,
                columns.start - columns.low : columns.stop - columns.low,
            ]


def span_of(start: int, stop: int, length: int, margin: int) -> Span:
    """Return a span with a margin within a side of `length` pixels."""
    return Span(max(start - margin, 0), start, stop, min(stop + margin, length))


def _spans(length: int, stride: int, side: int, margin: int) -> list[Span]:
    """Cut a side into as few equal parts as are at most `side` long; margins do not count."""
    units = length // stride
    count = -(-length // side) if length > side + 2 * margin else 1
    count = min(count, units)
    ends = [units * i // count * stride for i in range(count + 1)]
    return [span_of(start, stop, length, margin) for start, stop in pairwise(ends)]


def cut(whole: Shape, stride: int, side: int, margin: int) -> list[Piece]:
    """Cut a padded picture of the given shape into pieces of sides of about `side` pixels at most.

    The margin is rounded up to a multiple of the stride.
    """
    margin = -(-margin // stride) * stride
    rows, columns = (_spans(length, stride, side, margin) for length in whole[2:])
    return [Piece(row, column) for row in rows for column in columns]
