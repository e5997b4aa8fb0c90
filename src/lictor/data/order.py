"""Which picture a crop is cut from: shuffled epochs, as a pure function of step and position.

Nothing is drawn and nothing is kept: any process can say at once what any place of any step sees,
so that a run resumed anywhere, in however many processes, goes on with the same pictures.

With one crop a picture, the places of all steps, one after the other, go through the pictures in a
new pseudo-random order each epoch. With `k` of them, every position of the batch is a belt of its
own: each `k` steps it takes up the next picture, and cuts its crops `k + 1` steps apart. So a
picture that has to be decoded is decoded once for `k` crops; a batch has `k` generations of
pictures side by side, none of them twice; `k` pictures a position are in use at a time; and a
picture stays at its position, hence in one process.
"""

import functools
import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from lictor.errors import ConfigError

_WORD = 2**64 - 1
_ROUNDS = 8
# Shares of sources are multiples of this.
_SHARE = 2**32


@functools.lru_cache(maxsize=64)
def _round_keys(key: tuple[int, ...]) -> tuple[int, ...]:
    packed = struct.pack(f"<{len(key)}q", *key)
    return struct.unpack(f"<{_ROUNDS}Q", hashlib.blake2b(packed, digest_size=8 * _ROUNDS).digest())


def _mixed(x: int) -> int:
    """Return a 64-bit number each of whose bits depends on all of another (splitmix64)."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _WORD
    return x ^ (x >> 31)


def permuted(index: int, size: int, key: tuple[int, ...]) -> int:
    """Return where a pseudo-random permutation of `range(size)` sends an index.

    A Feistel network on a rectangle that is hardly larger than the range; what falls outside walks
    on (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). `key` chooses the
    permutation: numbers of 64 bits with a sign.
    """
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    keys = _round_keys(key)
    while True:
        row, column = divmod(index, columns)
        for number in range(0, _ROUNDS, 2):
            row = (row + _mixed(keys[number] ^ column)) % rows
            column = (column + _mixed(keys[number + 1] ^ row)) % columns
        index = row * columns + column
        if index < size:
            return index


@dataclass(frozen=True)
class Order:
    """The pictures of all crops of a run.

    Args:
        groups: how many pictures each source has, and its share of the draws, in any unit.
        batch_size: crops in a step, of all processes together.
        seed: of the shuffling.
        crops_per_decode: crops of a picture in an epoch.

    Within an epoch of a source each of its pictures comes exactly `crops_per_decode` times. Sources
    take turns as evenly as their shares allow. Raises `ConfigError` on a source without pictures,
    or with a share that is not positive.
    """

    groups: Sequence[tuple[int, float]]
    batch_size: int
    seed: int
    crops_per_decode: int = 1

    def __post_init__(self) -> None:
        for count, share in self.groups:
            if count < 1 or not 0 < share < math.inf:
                raise ConfigError(f"a source of {count} pictures cannot have the share {share}")
        if not all(0 < part < _SHARE for part in self._parts[:-1]):
            raise ConfigError(
                f"the weights of the sources are too far apart: one gets less than 1 of {_SHARE} "
                "draws; leave it out, or give it more"
            )

    @functools.cached_property
    def _parts(self) -> list[int]:
        """How many of `_SHARE` draws each source takes of those that the ones before it leave."""
        # By a power of two, which changes no ratio: the sum of the largest numbers is none.
        exponent = math.frexp(max(share for _, share in self.groups))[1]
        shares = [math.ldexp(share, -exponent) for _, share in self.groups]
        rests = [math.fsum(shares[number:]) for number in range(len(shares))]
        return [
            round(_SHARE * (share / rest)) if rest else 0
            for share, rest in zip(shares, rests, strict=True)
        ]

    def picture(self, step: int, position: int) -> int:
        """Return the number of the picture that the crop at a place is cut from."""
        # The belts of neighbouring positions take up their pictures at different steps.
        time = step - position % self.crops_per_decode
        taken, crop = divmod(time, self.crops_per_decode)
        return self._drawn((taken - crop) * self.batch_size + position)

    def _drawn(self, draw: int) -> int:
        """Return the picture of a draw; draws below 0 belong to an epoch before the first one."""
        first = 0
        for number, ((count, _), part) in enumerate(zip(self.groups, self._parts, strict=True)):
            before = draw * part // _SHARE
            if (draw + 1) * part // _SHARE > before:
                epoch, rank = divmod(before, count)
                return first + permuted(rank, count, (self.seed, number, epoch))
            draw -= before
            first += count
        raise AssertionError("the last source takes what the others leave")
