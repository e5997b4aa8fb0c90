"""Refinement of a large picture, tile by tile."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lictor.codecs.pieces import cut
from lictor.codecs.refinement import (
    MARGIN,
    TILE,
    Networks,
    Refinement,
    Watch,
    estimate_lmbda,
    part_of,
    refine,
    refine_tile,
)
from lictor.codecs.tiles import EncodedTile, TileCoder
from lictor.models.base import Latents


def refine_tiles(
    tiles: TileCoder,
    networks: Networks,
    image: UInt8[np.ndarray, "h w c"],
    how: Refinement,
    lmbda: float | None,
    watch: Watch,
) -> list[EncodedTile]:
    """Encode tile after tile with latents that cost no more than the plain ones, see `refine`.

    `lmbda` is the codec's, if known. Once `watch` stops it, the rest of the tiles are plain.
    """
    if tiles.grid.count == 1:
        latents, x = _seen(tiles, image, 0, 0)
        return [tiles.encode(refine(networks, latents, x, how, lmbda, watch), 0)]
    value = how.lmbda or lmbda
    if value is None:  # one for all: tiles of different quality would be seen
        value = _estimate(networks, *_seen(tiles, image, tiles.grid.count // 2, MARGIN))
    stopped = False

    def watched(done: int, total: int) -> bool:
        nonlocal stopped
        stopped = watch(done, total)
        return stopped

    encoded = list[EncodedTile]()
    for index in range(tiles.grid.count):
        part = tiles.piece(index, MARGIN).within
        latents, x = _seen(tiles, image, index, MARGIN)
        if stopped:
            chosen: Latents = part.of(latents, networks.frozen.padded_shape(1, *x.shape[-2:]))
        else:
            told = part_of(watched, index, tiles.grid.count)
            chosen = refine_tile(networks, latents, x, part, how, value, told)
        # What is quantized already rounds to the same symbols again.
        encoded.append(tiles.encode(chosen, index))
    return encoded


def _seen(
    tiles: TileCoder, image: UInt8[np.ndarray, "h w c"], index: int, margin: int
) -> tuple[Latents, Float[Tensor, "1 c hs ws"]]:
    """Return latents and pixels of a tile and its margin; grey has one channel."""
    latents = tiles.analyse(image, index, margin)
    with torch.inference_mode(False):
        x = tiles.pixels(image, tiles.piece(index, margin))[:, : image.shape[2]].clone()
    return latents, x


def _estimate(networks: Networks, latents: Latents, x: Float[Tensor, "1 c hs ws"]) -> float:
    shape = networks.frozen.padded_shape(1, *x.shape[-2:])
    pieces = cut(shape, networks.frozen.stride, TILE, MARGIN)
    with torch.inference_mode(False), torch.enable_grad():
        free = {name: t.clone() for name, t in latents.items()}
        return estimate_lmbda(networks, free, x, pieces)
