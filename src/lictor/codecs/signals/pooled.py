"""The latents of the paper: b bits within three deviations, one histogram for all.

It is here to be compared with: `StepLatents` saves more than a tenth at the same error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Bool, Float, Int

from lictor.codecs.signals.latents import SymbolCoder, check_quality
from lictor.codecs.signals.order import Grid
from lictor.coding.tables import CdfTables, build_tables
from lictor.errors import CheckpointError, ConfigError, CorruptError, DataError

RADIUS = 3.0
_MOST_BITS = 12


@dataclass(frozen=True, eq=False)
class PooledLatents:
    """Latents in `2^b` levels over `mean +- radius * deviation`; the quality is b.

    Args:
        mean: of all entries of all training latents.
        deviation: theirs, positive.
        radius: levels reach this many deviations; what is beyond is clipped.
        dimensions: count of latents of a patch.
        qualities: fewest and most bits, 1 to 12.
        tables: a row for each number of bits, with `2^b` symbols from 0 on.

    Raises:
        CheckpointError: a field is outside of its range.

    Source: COIN++ (arXiv:2201.12904) in its official code.
    """

    mean: float
    deviation: float
    radius: float
    dimensions: int
    qualities: tuple[int, int]
    tables: CdfTables

    def __post_init__(self) -> None:
        first, last = self.qualities
        levels = 1 + (1 << np.arange(first, last + 1)) if 1 <= first <= last <= _MOST_BITS else None
        if levels is None or not np.array_equal(self.tables.lengths, levels):
            raise CheckpointError(f"latents: the tables are not those of {first} to {last} bits")
        if self.tables.offset.any():
            raise CheckpointError("latents: the tables must begin at symbol 0")
        numbers = (self.mean, self.deviation, self.radius)
        if not np.isfinite(numbers).all() or min(numbers[1:]) <= 0 or self.dimensions < 1:
            raise CheckpointError(f"latents: mean, deviation and radius cannot be {numbers}")

    def quantize(self, z: Float[np.ndarray, "n d"], q: int) -> Int[np.ndarray, "n d"]:
        """Return the levels nearest to latents; raises `DataError` if one is not finite."""
        check_quality(self, q)
        if not np.isfinite(z).all():
            raise DataError("a latent is not finite: its fit diverged")
        scaled = (z.astype(np.float64) - self.mean) / self.deviation
        share = np.clip(scaled, -self.radius, self.radius) / (2 * self.radius) + 0.5
        return np.rint(share * ((1 << q) - 1)).astype(np.int32)

    def dequantize(self, symbols: Int[np.ndarray, "n d"], q: int) -> Float[np.ndarray, "n d"]:
        """Return the latents, float32, that levels stand for."""
        check_quality(self, q)
        share = symbols / ((1 << q) - 1) - 0.5
        return (share * 2 * self.radius * self.deviation + self.mean).astype(np.float32)

    def code(
        self,
        coder: SymbolCoder,
        grids: Sequence[Grid],
        q: int,
        symbols: Int[np.ndarray, "n d"] | None = None,
        coded: Bool[np.ndarray, " n"] | None = None,
    ) -> Int[np.ndarray, "n d"]:
        """Code the symbols of all patches of grids, or read them where they are None.

        Patches that are not `coded` have symbols 0 and take no bits; None: all are.

        Raises `CorruptError` when a symbol that is read is no level.
        """
        check_quality(self, q)
        live = np.ones(sum(map(prod, grids)), bool) if coded is None else coded
        row = np.full((int(live.sum()), self.dimensions), q - self.qualities[0], np.int32)
        found = coder(None if symbols is None else symbols[live], row, self.tables)
        if found.size and (found.min() < 0 or found.max() >> q):
            raise CorruptError("a symbol is larger than any that an encoder writes")
        result = np.zeros((len(live), self.dimensions), np.int32)
        result[live] = found
        return result


def freeze_pooled(
    latents: Float[np.ndarray, "n d"], *, qualities: tuple[int, int], radius: float = RADIUS
) -> PooledLatents:
    """Take mean, deviation and histograms from training latents; each level counts one more.

    Raises:
        DataError: there are no latents, not finite ones, or all are the same.
        ConfigError: the bits are not within 1 to 12, or the radius is not positive.
    """
    if not latents.size or not np.isfinite(latents).all() or latents.std() == 0:
        raise DataError("latents must be finite, and not all the same")
    if not 1 <= qualities[0] <= qualities[1] <= _MOST_BITS or not 0 < radius < np.inf:
        raise ConfigError(f"bits must be from 1 to {_MOST_BITS}, not {qualities}; radius positive")
    mean, deviation = float(latents.mean()), float(latents.std())
    bits = range(qualities[0], qualities[1] + 1)
    flat = build_tables(
        [np.ones(1 << b) for b in bits], np.zeros(len(bits)), np.zeros(len(bits), np.int32)
    )
    blank = PooledLatents(mean, deviation, radius, latents.shape[1], qualities, flat)
    counts = [np.ones(1 << b) for b in bits]
    for count, b in zip(counts, bits, strict=True):
        count += np.bincount(blank.quantize(latents, b).ravel(), minlength=1 << b)
    tables = build_tables(counts, np.zeros(len(bits)), np.zeros(len(bits), np.int32))
    return PooledLatents(mean, deviation, radius, latents.shape[1], qualities, tables)
