"""What people call a rate: results are in bits per sample, readers of sounds think in kbps."""

from collections.abc import Iterable
from dataclasses import dataclass

from lictor.errors import DataError


@dataclass(frozen=True)
class Unit:
    """A unit of rate.

    Args:
        name: as a table heads it: `bpp`, `kbps`.
        words: as an axis says it: `bits per pixel`.
        per_bpp: how many of it are one bit per sample of the grid, above 0.
    """

    name: str
    words: str
    per_bpp: float = 1.0


BITS_PER_PIXEL = Unit("bpp", "bits per pixel")
BITS_PER_VOXEL = Unit("bpv", "bits per voxel")
BITS_PER_SAMPLE = Unit("bps", "bits per sample")


def kbps(sample_rate: float) -> Unit:
    """Return thousands of bits a second, for sounds of so many samples a second and channel."""
    return Unit("kbps", "kbit per second", sample_rate / 1000)


def shared_unit(units: Iterable[Unit]) -> Unit:
    """Return the unit of all, or bits per sample where they differ."""
    found = set(units)
    return found.pop() if len(found) == 1 else BITS_PER_SAMPLE


def unit_from_json(content: object) -> Unit:
    """Return the unit that a results file names; raises `DataError` if it is none."""
    if content is None:
        return BITS_PER_PIXEL
    values = content if isinstance(content, dict) else {}
    name, words, factor = (values.get(key) for key in ("name", "words", "per_bpp"))
    if not (isinstance(name, str) and isinstance(words, str)):
        raise DataError(f"unit must have a name and words, not {content!r}")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 1e12:
        raise DataError(f"unit.per_bpp must be a positive number, not {factor!r}")
    return Unit(name, words, float(factor))
