"""Symbols in, bytes out: groups of symbols under any tables, first in, first out.

The payload, whose integers are unsigned, little-endian, and where `varint` is LEB128 (7 bits a
byte, low bits first, high bit set on all bytes but the last) in its shortest form:

    varint   lanes              1..64; 0 for a stream without symbols, which ends after 3 bytes
    varint   num_words
    varint   num_escape_bytes
    uint32   states[lanes]      where the decoder starts; each >= 2**16
    uint16   words[num_words]   in the order the decoder reads them
    uint8    escapes[num_escape_bytes]

Symbol `i` of the stream, counted through all groups, belongs to lane `i % lanes` and is coded as
`rans` tells, under its row of the tables. After the last symbol all words are read and every state
is 2**16. Each symbol outside of the range of its row has one varint in `escapes`, in order of the
symbols: `2 * d` for the value `offset + lengths - 1 + d`, `2 * d + 1` for `offset - 1 - d`.

For symbols that follow their tables, a payload takes at most `overhead_bytes(lanes)` and 1 % more
than `CdfTables.bits` says; 0.1 to 0.2 % is typical, the price of 32-bit states. The encoder takes
as many lanes as cost 0.25 % of the payload: 1 below 3.2 kB, 4 from 6.4 kB, 8 from 12.8 kB on.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from lictor.coding import rans
from lictor.coding.stopwatch import timed
from lictor.coding.tables import CdfTables
from lictor.coding.varint import varint
from lictor.errors import ConfigError, CorruptError, DataError, TruncatedError

MAX_LANES = 64
_MOST_CHOSEN_LANES = 8  # more do not decode faster, and each costs 4 bytes
_BYTES_PER_LANE = 1600  # 4 bytes of state are 0.25 % of this
_MAX_VARINT_BYTES = 9
_INT32 = np.iinfo(np.int32)


def overhead_bytes(lanes: int) -> int:
    """Return the most bytes of a payload that are not there for a symbol: counts and states."""
    return 4 * lanes + 12


def expected_overhead_bytes(lanes: int) -> float:
    """Return the bytes of a payload beyond its symbols' entropy, on average.

    A lane begins with 16 bits that say nothing, and ends in a state of 32 bits of which 24 are used
    on average; the counts take 4 bytes or so.
    """
    return 3 * lanes + 4


class SymbolEncoder:
    """Collect groups of symbols and code them all at `finish`, so that they decode in order.

    Args:
        lanes: number of interleaved states, 1 to 64; chosen from the payload's size if None.

    Attributes:
        symbol_crc: CRC-32 of the symbols put so far, in order, as little-endian int32.
    """

    symbol_crc: int

    def __init__(self, *, lanes: int | None = None) -> None:
        if lanes is not None and not 1 <= lanes <= MAX_LANES:
            raise ConfigError(f"lanes must be in [1, {MAX_LANES}], not {lanes}")
        self.symbol_crc = 0
        self._lanes = lanes
        self._groups: list[tuple[NDArray[np.int32], rans.Lookup]] = []
        self._escapes: list[bytes] = []
        self._cost = 0  # of the words, in bits << COST_SHIFT
        self._finished = False

    @timed
    def put(
        self, symbols: NDArray[np.integer], indexes: NDArray[np.integer], tables: CdfTables
    ) -> None:
        """Append a group of symbols, in C order; the arrays are not kept.

        Args:
            symbols: integers in the range of int32, any shape; int32 is fastest.
            indexes: row of `tables` for each symbol, same shape; int32 is fastest.
            tables: any tables; groups of one stream need not share them.

        Raises:
            DataError: shapes differ, dtypes are not integer, or an index is out of range. Nothing
                has been appended then.
            ConfigError: the stream is finished.
        """
        if self._finished:
            raise ConfigError("put after finish: start a new SymbolEncoder")
        if np.shape(symbols) != np.shape(indexes):
            raise DataError(
                f"symbols {np.shape(symbols)} and indexes {np.shape(indexes)} differ in shape"
            )
        symbols, indexes = _flat_int32(symbols, "symbols"), _flat_int32(indexes, "indexes")
        table = rans.lookup(tables)
        entry_of = np.empty(len(symbols), dtype=np.int32)
        status, num_escapes, cost = rans.map_symbols(
            symbols, indexes, table.rows, table.costs, entry_of
        )
        if status == rans.BAD_INDEX:
            raise _bad_index(table)
        if num_escapes:
            side = np.empty(num_escapes * rans.MAX_ESCAPE_BYTES, dtype=np.uint8)
            used = rans.write_escapes(symbols, indexes, entry_of, table.rows, side)
            self._escapes.append(side[:used].tobytes())
        self._groups.append((entry_of, table))
        self._cost += int(cost)
        self.symbol_crc = _crc32(symbols, self.symbol_crc)

    @timed
    def finish(self) -> bytes:
        """Return the payload of all groups; call it once.

        Raises:
            ConfigError: the stream is finished already.
        """
        if self._finished:
            raise ConfigError("finish was called before: start a new SymbolEncoder")
        self._finished = True
        num_symbols = sum(len(entry_of) for entry_of, _ in self._groups)
        if not num_symbols:
            return bytes(3)
        escapes = b"".join(self._escapes)
        lanes = self._lanes or choose_lanes((self._cost >> rans.COST_SHIFT) // 8 + len(escapes))
        states = np.full(lanes, rans.INITIAL_STATE, dtype=np.uint64)
        words = np.empty(num_symbols, dtype=np.uint16)
        lane, pos = (num_symbols - 1) % lanes, num_symbols
        while self._groups:
            entry_of, table = self._groups.pop()
            lane, pos = rans.encode(
                entry_of, table.entries, table.reciprocals, states, int(lane), words, int(pos)
            )
        words = words[int(pos) :]
        counts = varint(lanes) + varint(len(words)) + varint(len(escapes))
        return b"".join(
            (counts, states.astype("<u4").tobytes(), words.astype("<u2").tobytes(), escapes)
        )


class SymbolDecoder:
    """Give back the groups of a payload in the order they were put.

    Whatever the bytes, it reads nothing outside of them, and needs memory for them and the symbols
    asked for, no more. After an error the stream is of no further use.

    Args:
        payload: what `SymbolEncoder.finish` returned.

    Attributes:
        symbol_crc: CRC-32 of the symbols got so far; equals the encoder's at the end.

    Raises:
        TruncatedError: the payload is shorter than its counts say.
        CorruptError: it is longer, or a count or a state is impossible.
    """

    symbol_crc: int

    @timed
    def __init__(self, payload: bytes) -> None:
        self.symbol_crc = 0
        lanes, at = _read_varint(payload, 0)
        num_words, at = _read_varint(payload, at)
        num_escape_bytes, at = _read_varint(payload, at)
        if lanes > MAX_LANES or (not lanes and (num_words or num_escape_bytes)):
            raise CorruptError(f"symbol stream: {lanes} lanes are not possible")
        end = at + 4 * lanes + 2 * num_words + num_escape_bytes
        if len(payload) < end:
            raise TruncatedError(f"symbol stream: {len(payload)} bytes instead of {end}")
        if len(payload) > end:
            raise CorruptError(f"symbol stream: {len(payload) - end} bytes too many")
        states = np.frombuffer(payload, dtype="<u4", count=lanes, offset=at)
        if (states < rans.INITIAL_STATE).any():
            raise CorruptError("symbol stream: a state is below its lower bound")
        self._states = states.astype(np.uint64)
        at += 4 * lanes
        self._words = np.zeros(num_words + 1, dtype=np.uint16)  # see rans.decode for the last one
        self._words[:-1] = np.frombuffer(payload, dtype="<u2", count=num_words, offset=at)
        at += 2 * num_words
        self._escapes = np.frombuffer(payload, dtype=np.uint8, count=num_escape_bytes, offset=at)
        self._lane, self._word, self._escape = 0, 0, 0
        self._failed = False

    @timed
    def get(self, indexes: NDArray[np.integer], tables: CdfTables) -> NDArray[np.int32]:
        """Return the next group of symbols, in the shape of `indexes`.

        Args:
            indexes: row of `tables` for each symbol, as it was put; int32 is fastest.
            tables: the tables the group was put with.

        Raises:
            CorruptError: the stream has not that many symbols, or an escape is impossible.
            DataError: an index is out of range, or `indexes` has no integer dtype.
        """
        flat = _flat_int32(indexes, "indexes")
        out = np.empty(len(flat), dtype=np.int32)
        if len(flat):
            self._decode(flat, rans.lookup(tables), out)
        self.symbol_crc = _crc32(out, self.symbol_crc)
        return out.reshape(np.shape(indexes))

    def _decode(
        self, indexes: NDArray[np.int32], table: rans.Lookup, out: NDArray[np.int32]
    ) -> None:
        if self._failed:
            raise CorruptError("symbol stream: it failed before and cannot go on")
        if not len(self._states):
            raise CorruptError("symbol stream: it is empty, but symbols are asked for")
        self._failed = True  # until this group is through
        status, num_escapes, lane, word = rans.decode(
            self._words, self._word, self._states, self._lane,
            indexes, table.rows, table.entries, table.buckets, out,
        )  # fmt: skip
        self._lane, self._word = int(lane), int(word)
        if status == rans.OK and num_escapes:
            status, self._escape = rans.read_escapes(
                out, indexes, table.rows, self._escapes, self._escape
            )
        if status == rans.BAD_INDEX:
            raise _bad_index(table)
        if status == rans.OUT_OF_WORDS:
            raise CorruptError("symbol stream: it ends before the symbols that are asked for")
        if status == rans.BAD_ESCAPE:
            raise CorruptError("symbol stream: an escaped value is missing or impossible")
        self._failed = False

    @timed
    def finish(self) -> None:
        """Check that the stream ends exactly here.

        Raises:
            CorruptError: words or escapes are left, or a lane is not back at its initial state.
        """
        if self._failed:
            raise CorruptError("symbol stream: it failed before and cannot go on")
        if self._word != len(self._words) - 1 or self._escape != len(self._escapes):
            raise CorruptError("symbol stream: there are more symbols than were asked for")
        if (self._states != rans.INITIAL_STATE).any():
            raise CorruptError("symbol stream: a lane does not end where its encoder began")


def choose_lanes(payload_bytes: int) -> int:
    """Return how many lanes the encoder takes for a payload of about this size."""
    lanes = 1
    while 2 * lanes * _BYTES_PER_LANE <= payload_bytes and lanes < _MOST_CHOSEN_LANES:
        lanes *= 2
    return lanes


def _flat_int32(array: NDArray[np.integer], name: str) -> NDArray[np.int32]:
    """Return a read-only C-order int32 vector of the same integers: one type to compile for."""
    array = np.asarray(array)
    if array.dtype != np.int32:
        if array.dtype.kind not in "iu":
            raise DataError(f"{name} must be integers, not {array.dtype}")
        if array.size and array.dtype.itemsize >= 4:
            low, high = int(array.min()), int(array.max())
            if low < _INT32.min or high > _INT32.max:
                raise DataError(f"{name} must be in the range of int32, not {low}..{high}")
    flat = np.require(array, np.int32, ["C", "A"]).reshape(-1).view()
    flat.flags.writeable = False
    return flat


def _crc32(symbols: NDArray[np.int32], crc: int) -> int:
    return zlib.crc32(symbols.astype("<i4", copy=False).data, crc)


def _bad_index(table: rans.Lookup) -> DataError:
    return DataError(f"an index is outside of the tables' rows [0, {len(table.rows)})")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for i in range(_MAX_VARINT_BYTES):
        if at + i >= len(data):
            raise TruncatedError("symbol stream: it ends within its first counts")
        byte = data[at + i]
        number |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            if byte == 0 and i:
                raise CorruptError("symbol stream: a count is not in its shortest form")
            return number, at + i + 1
    raise CorruptError("symbol stream: a count is too long")
