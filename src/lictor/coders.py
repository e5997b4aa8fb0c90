"""The three ways to take a latent through a model: charge its rate, encode it, decode it.

A model states its data path once and hands each latent to a coder:

    y_hat = coder.code("y", y, prior, means, scales, shape=y_shape)

meaning "here is a latent (None when decoding) and its prior; give me the quantized one". The
`shape` is what the decoder knows in advance. Which coder it is decides whether bits are counted,
symbols are written, or symbols are read; the model cannot tell.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lictor.coding.stream import SymbolDecoder, SymbolEncoder
from lictor.coding.tables import CdfTables
from lictor.errors import DataError
from lictor.layers.quantize.noise import Draw, NoiseSource, draw_anew
from lictor.layers.quantize.surrogate import Surrogate
from lictor.priors.base import AbstractPrior

Shape = tuple[int, int, int, int]


@runtime_checkable
class LatentCoder(Protocol):
    """Takes a latent and its prior, gives the quantized latent."""

    def code(
        self,
        name: str,
        latent: Float[Tensor, "b c h w"] | None,
        prior: AbstractPrior,
        *params: Tensor,
        shape: Shape,
    ) -> Float[Tensor, "b c h w"]:
        """Return the quantized latent of the given shape, float32.

        `name` says which tables and which entry of the rate it belongs to; calls that share a name
        add up (a context model codes one latent in several parts).
        """
        ...


@runtime_checkable
class Rounding(Protocol):
    """Chooses the integer of each residual: the encoder's freedom, which no decoder sees."""

    def __call__(
        self,
        name: str,
        residual: Float[Tensor, "b c h w"],
        prior: AbstractPrior,
        params: tuple[Tensor, ...],
    ) -> Float[Tensor, "b c h w"]:
        """Return whole numbers, as floats, of the residual's shape."""
        ...


def nearest(
    name: str,
    residual: Float[Tensor, "b c h w"],
    prior: AbstractPrior,
    params: tuple[Tensor, ...],
) -> Float[Tensor, "b c h w"]:
    """Return the nearest integer, the even one at halves: the least distortion of the latent."""
    del name, prior, params
    return residual.round()


def _as_decoded(rounded: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Copy whole numbers into the one type, memory layout and zero that all coders give.

    Convolutions sum in another order for another layout: without this, the picture that the encoder
    sees differs from the decoded one in the last bit.
    """
    fresh = torch.empty(rounded.shape, memory_format=torch.channels_last, device=rounded.device)
    return fresh.copy_(rounded).add_(0.0)  # -0.0 + 0.0 is 0.0


class RateCoder:
    """Charges the rate: with a surrogate while training, with hard rounding for evaluation.

    `bits[name]` is a tensor of shape `b`, the bits of each image, differentiable. Without `noise` a
    surrogate draws from torch's own generator.
    """

    def __init__(self, surrogate: Surrogate | None = None, noise: NoiseSource | None = None):
        self.bits: dict[str, Tensor] = {}
        self._surrogate, self._noise = surrogate, noise
        self._draws: dict[str, int] = {}

    def code(
        self,
        name: str,
        latent: Float[Tensor, "b c h w"] | None,
        prior: AbstractPrior,
        *params: Tensor,
        shape: Shape,
    ) -> Float[Tensor, "b c h w"]:
        """Quantize `latent` and add its cost to `bits[name]`."""
        assert latent is not None
        assert latent.shape == shape, f"{name}: {tuple(latent.shape)} is not {shape}"
        # Rates and rounding need float32 even where the transforms run in bfloat16.
        params = tuple(p.float() for p in params)
        if self._surrogate is None:
            for_rate = _as_decoded(prior.residual(latent.float(), params).round())
            quantized, each = prior.restore(for_rate, params), prior.bits(for_rate, params)
        else:
            draw = self._draw(name)
            quantized, each = self._surrogate.charge(latent.float(), prior, params, draw)
        bits = each.sum((1, 2, 3))
        self.bits[name] = self.bits[name] + bits if name in self.bits else bits
        return quantized

    def _draw(self, name: str) -> Draw:
        """Return where this call's noise comes from: torch's own generator if nowhere else."""
        noise = self._noise
        if noise is None:
            return draw_anew

        def draw(like: Tensor) -> Tensor:
            self._draws[name] = self._draws.get(name, 0) + 1
            return noise.uniform(like, name, self._draws[name])

        return draw


class EncodeCoder:
    """Rounds each latent and writes its symbols; `finish` gives the payload."""

    def __init__(self, tables: Mapping[str, CdfTables], *, rounding: Rounding = nearest):
        self._tables, self._rounding = tables, rounding
        self._encoder = SymbolEncoder()

    def code(
        self,
        name: str,
        latent: Float[Tensor, "b c h w"] | None,
        prior: AbstractPrior,
        *params: Tensor,
        shape: Shape,
    ) -> Float[Tensor, "b c h w"]:
        """Round `latent` and put its symbols; raises `DataError` where it is not finite."""
        assert latent is not None
        assert latent.shape == shape, f"{name}: {tuple(latent.shape)} is not {shape}"
        residual = prior.residual(latent, params)
        if not bool(torch.isfinite(residual).all()):
            raise DataError(f"latent {name} is not finite: the model overflows on this image")
        # float32 holds every integer up to 2^24; a latent beyond that is no codec's.
        rounded = self._rounding(name, residual, prior, params).clamp(-(2.0**24), 2.0**24)
        symbols = rounded.to(torch.int32).contiguous()
        tables = self._tables[name]
        indexes = prior.indexes(shape, params, tables).contiguous().numpy()
        self._encoder.put(symbols.numpy(), indexes, tables)
        return prior.restore(_as_decoded(symbols), params)

    def finish(self) -> tuple[bytes, int]:
        """Return the payload and the checksum of all symbols."""
        payload = self._encoder.finish()
        return payload, self._encoder.symbol_crc


class AuditCoder:
    """Reads the symbols of a payload as a `DecodeCoder` does, and charges the rate of each.

    It tells what the model thinks a file costs without the picture that the file was made from.
    """

    def __init__(self, payload: bytes, tables: Mapping[str, CdfTables]):
        self._decoder, self._rate = DecodeCoder(payload, tables), RateCoder()

    @property
    def bits(self) -> dict[str, Tensor]:
        """The bits of each latent, as in `RateCoder`."""
        return self._rate.bits

    def code(
        self,
        name: str,
        latent: Float[Tensor, "b c h w"] | None,
        prior: AbstractPrior,
        *params: Tensor,
        shape: Shape,
    ) -> Float[Tensor, "b c h w"]:
        """Get the symbols of a latent and add their cost to `bits[name]`."""
        quantized = self._decoder.code(name, latent, prior, *params, shape=shape)
        self._rate.code(name, quantized, prior, *params, shape=shape)
        return quantized

    def finish(self) -> int:
        """Check that the payload is used up and return the checksum of all symbols."""
        return self._decoder.finish()


class DecodeCoder:
    """Reads the symbols that an `EncodeCoder` wrote."""

    def __init__(self, payload: bytes, tables: Mapping[str, CdfTables]):
        self._tables = tables
        self._decoder = SymbolDecoder(payload)

    def code(
        self,
        name: str,
        latent: Float[Tensor, "b c h w"] | None,
        prior: AbstractPrior,
        *params: Tensor,
        shape: Shape,
    ) -> Float[Tensor, "b c h w"]:
        """Get the symbols of a latent; raises `BitstreamError` where the payload is damaged."""
        assert latent is None
        tables = self._tables[name]
        indexes = prior.indexes(shape, params, tables).contiguous().numpy()
        symbols = self._decoder.get(indexes, tables)
        return prior.restore(_as_decoded(torch.from_numpy(symbols)), params)

    def finish(self) -> int:
        """Check that the payload is used up and return the checksum of all symbols."""
        self._decoder.finish()
        return self._decoder.symbol_crc
