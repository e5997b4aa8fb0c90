"""A large picture, tile by tile: no transform ever sees more than a tile and what is around it.

The latents lie on one grid, that of the whole picture. Those of a tile are computed from its pixels
and from real pixels around them, coded by themselves, and synthesised with the decoded latents
around them. So there is nothing at a seam that is not everywhere else: the pixels are those of a
picture coded in one piece, as far as the networks reach, but for the last bits of their sums.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lictor.codecs.pieces import Piece, span_of
from lictor.coders import AuditCoder, DecodeCoder, EncodeCoder, Shape
from lictor.coding.container import Tile
from lictor.coding.grid import UNIT, Grid, Rectangle
from lictor.coding.tables import CdfTables
from lictor.data.images import image_to_tensor, tensor_to_image
from lictor.errors import BitstreamError, ConfigError, DesyncError
from lictor.models.base import AbstractCodecModel, Latents
from lictor.ops import pad_to_multiple

# Sides of tiles in pixels, and the most pixels of a picture that is not cut.
TILE, ONE_TILE_PIXELS = 1024, 1 << 21
# What the analysis sees around a tile: from 128 pixels on, y of the shipped codec is that of the
# whole picture to the last bit, and z rounds to the same integers.
ANALYSIS_MARGIN = 128
# What the synthesis sees, where a network does not let itself be probed; and the most that is.
_USUAL_MARGIN, _MOST_MARGIN = 128, 512

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def choose_side(width: int, height: int, stride: int, side: int | None = None) -> int:
    """Return the side of a picture's tiles: 0 for one tile, else as asked for, or the usual one.

    Raises `ConfigError` for a side that is no multiple of 64, or that the model's stride forbids.
    """
    if side is None:
        fits = UNIT % stride == 0
        return TILE if fits and width * height > ONE_TILE_PIXELS else 0
    if side < 0 or side % UNIT or (side and UNIT % stride):
        raise ConfigError(
            f"a tile's side must be a multiple of {UNIT} and of the model's stride {stride}, "
            f"not {side}"
        )
    return side


def synthesis_margin(model: AbstractCodecModel, device: torch.device) -> int:
    """Return how far pixels reach for latents, in pixels, rounded up to a multiple of 64.

    Found out by a latent that is no number: so is every pixel that it has a part in.
    """
    length = UNIT + _MOST_MARGIN
    strip = torch.zeros(1, model.in_channels, UNIT, length).to(device)
    poisoned = {}
    for name, latent in model.analyse(strip).items():
        column = torch.arange(latent.shape[3], device=device)
        poisoned[name] = torch.where(column < latent.shape[3] * UNIT // length, torch.nan, latent)
    spoilt = torch.nonzero(model.synthesise(poisoned).isnan().any(dim=(0, 1, 2)).cpu())
    if len(spoilt) < UNIT:  # integers know no such thing
        return _USUAL_MARGIN
    return -(-(int(spoilt[-1]) + 1 - UNIT) // UNIT) * UNIT


def in_threads(
    work: Callable[[_Item], _Result], items: Iterable[_Item], workers: int
) -> list[_Result]:
    """Return the results of `work`, in order, each made in a thread for which torch has one thread.

    So they do not depend on how many workers there are. The first error ends it all.
    """

    def begin() -> None:
        torch.set_num_threads(1)

    def run(item: _Item) -> _Result:
        with torch.inference_mode():  # each thread has a mode of its own
            return work(item)

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "lictor-tile", initializer=begin)
    try:
        return list(pool.map(run, items))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # what later threads begin with


@dataclass(frozen=True, eq=False)
class TileCoder:
    """Takes the tiles of one picture through a frozen model.

    Args:
        model: its transforms are on the device.
        tables: of its priors.
        device: where the transforms run.
        grid: which tiles the picture has.
        margin: what the synthesis sees around a tile; of no matter for a picture of one tile.
    """

    model: AbstractCodecModel
    tables: Mapping[str, CdfTables]
    device: torch.device
    grid: Grid
    margin: int = 0

    @property
    def whole(self) -> Shape:
        """The shape of the padded picture."""
        return self.model.padded_shape(1, self.grid.height, self.grid.width)

    def piece(self, index: int, margin: int) -> Piece:
        """Return where a tile is in the padded picture, with a margin, a multiple of the stride."""
        tile, stride = self.grid.tile(index), self.model.stride
        spans = (
            span_of(start, start + size + -size % stride, length, margin)
            for start, size, length in (
                (tile.y, tile.height, self.whole[2]),
                (tile.x, tile.width, self.whole[3]),
            )
        )
        return Piece(*spans)

    def each(self, work: Callable[[int], _Result], tiles: Sequence[int]) -> list[_Result]:
        """Do some work for each tile: several at a time, or the only one with torch's threads."""
        if self.grid.count == 1:
            return [work(index) for index in tiles]
        # A device does one thing at a time.
        workers = torch.get_num_threads() if self.device.type == "cpu" else 1
        return in_threads(work, tiles, workers)

    def pixels(self, image: UInt8[np.ndarray, "h w c"], piece: Piece) -> Float[Tensor, "1 3 hs ws"]:
        """Return what is seen of a picture, not padded, in [0, 1]."""
        return image_to_tensor(image[piece.rows.seen, piece.columns.seen])

    def analyse(self, image: UInt8[np.ndarray, "h w c"], index: int, margin: int = 0) -> Latents:
        """Return the latents of a tile and of a margin around it, before quantization."""
        one = self.grid.count == 1
        piece = self.piece(index, 0 if one else margin + ANALYSIS_MARGIN)
        x = pad_to_multiple(self.pixels(image, piece), self.model.stride)
        x = x.contiguous(memory_format=torch.channels_last).to(self.device)
        latents = {name: t.cpu() for name, t in self.model.analyse(x).items()}
        return latents if one else _part(latents, piece, self.piece(index, margin))

    def encode(self, latents: Latents, index: int) -> tuple[Tile, Latents]:
        """Code the latents of a tile by themselves; return it, and its quantized latents."""
        coder = EncodeCoder(self.tables)
        quantized = self.model.code(coder, latents, self.piece(index, 0).shape(self.whole))
        return Tile(*coder.finish()), quantized

    def read(self, coder: DecodeCoder | AuditCoder, tile: Tile, index: int) -> Latents:
        """Decode quantized latents, checked against the encoder's before they are used."""
        where = "" if self.grid.count == 1 else f"tile {index} ({self.grid.tile(index)}): "
        try:
            quantized = self.model.code(coder, None, self.piece(index, 0).shape(self.whole))
            crc = coder.finish()
        except BitstreamError as error:
            raise type(error)(f"{where}{error}") from error
        if crc != tile.symbol_crc:
            raise DesyncError(
                f"{where}the decoded symbols differ from the encoder's: this machine computes "
                "other probabilities; decode with the version and kind of machine that encoded"
            )
        return quantized

    def decode(self, tile: Tile, index: int) -> Latents:
        """Decode the quantized latents of a tile; raises a `BitstreamError`."""
        return self.read(DecodeCoder(tile.payload, self.tables), tile, index)

    def seen_from(self, index: int) -> list[int]:
        """Return the numbers of the tiles whose latents the synthesis of a tile looks at."""
        piece = self.piece(index, self.margin)
        (y, bottom), (x, right) = (
            (span.low, min(span.high, length))
            for span, length in (
                (piece.rows, self.grid.height),
                (piece.columns, self.grid.width),
            )
        )
        return list(self.grid.meeting(Rectangle(x, y, right - x, bottom - y)))

    def picture(
        self, quantized: Mapping[int, Latents], area: Rectangle, channels: int
    ) -> UInt8[np.ndarray, "h w c"]:
        """Synthesise an area of the picture from the latents of all tiles in and around it."""
        image = np.zeros((area.height, area.width, channels), np.uint8)
        self._paint(image, area, quantized, list(self.grid.meeting(area)))
        return image

    def restore(
        self, read: Callable[[int], Latents | None], area: Rectangle, channels: int
    ) -> tuple[UInt8[np.ndarray, "h w c"], list[int]]:
        """Decode an area row by row, holding the latents of three rows of tiles or so.

        `read` gives the latents of a tile, None if it has none. Returns the picture, in which those
        tiles are black, and their numbers.
        """
        image = np.zeros((area.height, area.width, channels), np.uint8)
        held: dict[int, Latents | None] = {}
        missing = list[int]()
        for _, row in groupby(self.grid.meeting(area), lambda index: index // self.grid.columns):
            wanted = list(row)
            needed = {other for index in wanted for other in self.seen_from(index)}
            fresh = sorted(needed - held.keys())
            held = {index: latents for index, latents in held.items() if index in needed}
            held |= zip(fresh, self.each(read, fresh), strict=True)
            there = {index: latents for index, latents in held.items() if latents is not None}
            missing += [index for index in wanted if index not in there]
            self._paint(image, area, there, [index for index in wanted if index in there])
        return image, missing

    def _paint(
        self,
        image: UInt8[np.ndarray, "h w c"],
        area: Rectangle,
        quantized: Mapping[int, Latents],
        tiles: Sequence[int],
    ) -> None:
        """Synthesise tiles into the picture of an area."""

        def paint(index: int) -> None:
            tile, pixels = self.grid.tile(index), self.synthesise(quantized, index, image.shape[2])
            left, top = max(tile.x, area.x), max(tile.y, area.y)
            part = pixels[top - tile.y :, left - tile.x :]
            part = part[: area.y + area.height - top, : area.x + area.width - left]
            down, right = top - area.y, left - area.x
            image[down : down + part.shape[0], right : right + part.shape[1]] = part

        self.each(paint, tiles)

    def synthesise(
        self, quantized: Mapping[int, Latents], index: int, channels: int
    ) -> UInt8[np.ndarray, "h w c"]:
        """Synthesise a tile from the latents of it and of those that are seen from it.

        Where there are none, they count as zeros.
        """
        tile = self.grid.tile(index)
        if self.grid.count == 1:
            x_hat = self.model.synthesise(self._there(quantized[index]))
            seen = self.piece(index, 0)
        else:
            seen = self.piece(index, self.margin)
            x_hat = self.model.synthesise(self._there(self._joined(quantized, index, seen)))
        inner = seen.within
        x_hat = x_hat[..., inner.rows.seen, inner.columns.seen][..., : tile.height, : tile.width]
        return tensor_to_image(x_hat.cpu(), channels=channels)

    def _there(self, latents: Latents) -> Latents:
        return {name: t.to(self.device) for name, t in latents.items()}

    def _joined(self, quantized: Mapping[int, Latents], index: int, seen: Piece) -> Latents:
        """Return the latents of all that is seen from a tile."""
        own, bare = quantized[index], self.piece(index, 0)
        joined: dict[str, Tensor] = {}
        for name, latent in own.items():
            ratio = (bare.rows.stop - bare.rows.start) // latent.shape[2]
            rows, columns = seen.rows.over(ratio), seen.columns.over(ratio)
            size = (1, latent.shape[1], rows.high - rows.low, columns.high - columns.low)
            # The layout that the synthesis is fastest in, whichever the latents have.
            joined[name] = torch.empty(size, memory_format=torch.channels_last).zero_()
        for other in self.seen_from(index):
            if other in quantized:
                _paste(quantized[other], self.piece(other, 0), joined, seen)
        return joined


def _overlap(one: slice, other: slice, ratio: int) -> slice:
    """Return what two slices share, in units of `ratio` pixels."""
    return slice(max(one.start, other.start) // ratio, min(one.stop, other.stop) // ratio)


def _moved(part: slice, origin: int) -> slice:
    return slice(part.start - origin, part.stop - origin)


def _paste(latents: Latents, where: Piece, joined: Mapping[str, Tensor], seen: Piece) -> None:
    """Copy what is seen of a tile's latents to where it belongs."""
    for name, latent in latents.items():
        ratio = (where.rows.stop - where.rows.start) // latent.shape[2]
        rows = _overlap(where.rows.seen, seen.rows.seen, ratio)
        columns = _overlap(where.columns.seen, seen.columns.seen, ratio)
        joined[name][
            ...,
            _moved(rows, seen.rows.low // ratio),
            _moved(columns, seen.columns.low // ratio),
        ] = latent[
            ...,
            _moved(rows, where.rows.low // ratio),
            _moved(columns, where.columns.low // ratio),
        ]


def _part(latents: Latents, seen: Piece, wanted: Piece) -> Latents:
    """Return of the latents of what is seen those of a wanted piece and its margin."""
    parts = {}
    for name, latent in latents.items():
        ratio = (seen.rows.high - seen.rows.low) // latent.shape[2]
        rows, columns = seen.rows.over(ratio), seen.columns.over(ratio)
        inner_rows, inner_columns = wanted.rows.over(ratio), wanted.columns.over(ratio)
        part = latent[
            ..., _moved(inner_rows.seen, rows.low), _moved(inner_columns.seen, columns.low)
        ]
        parts[name] = part.contiguous(memory_format=torch.channels_last)
    return parts


def mark(image: UInt8[np.ndarray, "h w c"], area: Rectangle) -> None:
    """Make an area of a picture grey, with a dark cross from corner to corner: nothing is there."""
    view = image[area.y : area.y + area.height, area.x : area.x + area.width]
    rows, columns = np.mgrid[0 : area.height, 0 : area.width].astype(np.float32)
    across = columns * (area.height / area.width)
    thick = max(1.0, min(area.width, area.height) / 64)
    on_cross = (abs(rows - across) <= thick) | (abs(area.height - 1 - rows - across) <= thick)
    view[:] = np.where(on_cross, 64, 128)[:, :, None]


def area_of(grid: Grid, region: Sequence[int] | None) -> Rectangle:
    """Return a region as it was asked for, `(x, y, width, height)`, or the whole picture.

    Raises `ConfigError` where it is not within the picture.
    """
    if region is None:
        return Rectangle(0, 0, grid.width, grid.height)
    x, y, width, height = region
    area = Rectangle(x, y, width, height)
    inside = x >= 0 and y >= 0 and x + width <= grid.width and y + height <= grid.height
    if not inside or width < 1 or height < 1:
        raise ConfigError(
            f"the region {area} is not within the picture of {grid.width}x{grid.height} pixels"
        )
    return area
