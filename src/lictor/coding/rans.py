"""Interleaved rANS over the rows of `CdfTables`: the compiled loops, and nothing else.

Three things that surprise (the coder is a stack; the rest is arithmetic):

1. It is last in, first out. `encode` walks the symbols backwards and fills its word buffer from
   the end; `decode` walks both forwards. Hence no symbol is coded before the stream is finished.
2. A stream has many states. Symbol `i` belongs to lane `i % lanes`; all lanes share one sequence
   of words, because encoder and decoder meet their renormalizations in mirrored order. The lanes
   break the chain of dependent instructions, which is what a single state would wait for.
3. A state is a number in `[2**16, 2**32)`. Coding a symbol with `count` of `2**16` and cumulated
   count `start` maps `x` to `(x // count << 16) + x % count + start`; when that would leave the
   range, the low 16 bits of `x` are written first. One word always suffices, as 16 + 16 = 32.

The decoder indexes nothing it has not checked: words against their number, row indexes against the
tables, and symbols against nothing, since tables are valid by construction (`CdfTables`). It says
what is wrong with a status code. Loops work in uint64 only, as NumPy and numba agree on it; every
compiled function has its plain Python twin as `.py_func`, which the tests hold it to.

numba compiles on the first call (about a second in total) and keeps the machine code beside this
file or, where that folder is not writable, in the user's cache folder (`NUMBA_CACHE_DIR` changes
it). Where none can be written, each process compiles anew; nothing else changes.

Sources: Duda 2013, arXiv:1311.2540 (ANS); Giesen 2014, arXiv:1402.3392 (interleaving).
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from lictor.coding.compiled import compiled
from lictor.coding.tables import PRECISION, TOTAL, CdfTables

OK, OUT_OF_WORDS, BAD_INDEX, BAD_ESCAPE = 0, 1, 2, 3
INITIAL_STATE = 1 << 16
COST_SHIFT = 16
MAX_ESCAPE_BYTES = 5  # of one symbol: a folded distance stays below 2**35

# Columns of Lookup.rows.
_FIRST, _LAST, _VALUE, _BUCKETS, _SHIFT = range(5)

# Typed constants: in numba uint64 with a plain integer would become float64.
_0, _1, _16, _48 = (np.uint64(n) for n in (0, 1, 16, 48))
_MASK = np.uint64(0xFFFF)
_TOTAL = np.uint64(TOTAL)
_INT32_MIN, _INT32_MAX = -(1 << 31), (1 << 31) - 1


@dataclass(frozen=True, eq=False)
class Lookup:
    """What the loops read instead of `CdfTables`: its rows flattened, one *entry* per symbol.

    Args:
        rows: int64 `[rows, 5]`: first entry, last entry (the escape), what to add to an entry to
            get its value, first bucket, and how far to shift 16 bits to get a bucket's number.
        entries: uint32, `start | (count - 1) << 16`.
        reciprocals: uint64, `ceil(2**48 / count)`.
        costs: uint32, what each entry costs in bits, times `2**COST_SHIFT`.
        buckets: uint16, the first symbol of its row that reaches into the bucket.
    """

    rows: NDArray[np.int64]
    entries: NDArray[np.uint32]
    reciprocals: NDArray[np.uint64]
    costs: NDArray[np.uint32]
    buckets: NDArray[np.uint16]


_LOOKUPS: WeakKeyDictionary[CdfTables, Lookup] = WeakKeyDictionary()


def lookup(tables: CdfTables) -> Lookup:
    """Return the lookup arrays of `tables`, built at first use and kept as long as the tables."""
    found = _LOOKUPS.get(tables)
    if found is None:
        found = _LOOKUPS[tables] = _build_lookup(tables)
    return found


def _build_lookup(tables: CdfTables) -> Lookup:
    lengths = tables.lengths.astype(np.int64)
    ends = np.cumsum(lengths)
    # Four or more buckets a symbol: then hardly any bucket holds two boundaries, and the decoder's
    # search ends at its first look. Small rows get small arrays, which stay in the nearest cache.
    bucket_bits = np.clip(np.ceil(np.log2(lengths)).astype(np.int64) + 2, 8, PRECISION)
    bucket_ends = np.cumsum(1 << bucket_bits)
    shift = PRECISION - bucket_bits
    rows = np.empty((len(lengths), 5), dtype=np.int64)
    rows[:, _FIRST] = ends - lengths
    rows[:, _LAST] = ends - 1
    rows[:, _VALUE] = tables.offset - rows[:, _FIRST]
    rows[:, _BUCKETS] = bucket_ends - (1 << bucket_bits)
    rows[:, _SHIFT] = shift
    buckets = np.empty(int(bucket_ends[-1]), dtype=np.uint16)
    start = np.empty(int(ends[-1]), dtype=np.uint32)
    count = np.empty(int(ends[-1]), dtype=np.uint32)
    for i, length in enumerate(lengths):
        row = tables.cdf[i, : length + 1]
        start[ends[i] - length : ends[i]] = row[:-1]
        count[ends[i] - length : ends[i]] = np.diff(row)
        slots = np.arange(1 << bucket_bits[i]) << shift[i]
        symbols = np.searchsorted(row, slots, side="right") - 1
        buckets[bucket_ends[i] - len(slots) : bucket_ends[i]] = symbols
    entries = start | (count - np.uint32(1)) << np.uint32(16)
    reciprocals = (np.uint64((1 << 48) - 1) + count) // count
    costs = np.rint((PRECISION - np.log2(count)) * (1 << COST_SHIFT)).astype(np.uint32)
    for array in (rows, entries, reciprocals, costs, buckets):
        array.flags.writeable = False
    return Lookup(rows, entries, reciprocals, costs, buckets)


@compiled
def map_symbols(symbols, indexes, rows, costs, entry_of):
    """Turn values into entries (int32); return a status, the number of escapes, the total cost."""
    num_rows = rows.shape[0]
    num_escapes = 0
    total = np.int64(0)
    for i in range(symbols.shape[0]):
        k = indexes[i]
        if k < 0 or k >= num_rows:
            return BAD_INDEX, 0, total
        last = rows[k, _LAST]
        entry = np.int64(symbols[i]) - rows[k, _VALUE]
        if entry < rows[k, _FIRST] or entry > last:
            entry = last
        num_escapes += entry == last
        entry_of[i] = entry
        total += np.int64(costs[entry])
    return OK, num_escapes, total


@compiled
def encode(entry_of, entries, reciprocals, states, lane, words, pos):
    """Push entries in reverse onto the states, `lane` being the last one's.

    Words go to `words[pos - 1]` and down, where there must be room for one per symbol. Returns the
    lane and position to go on with.
    """
    lane = np.uint64(lane)
    pos = np.uint64(pos)
    wrap = np.uint64(states.shape[0])
    for i in range(entry_of.shape[0] - 1, -1, -1):
        g = np.uint64(entry_of[i])
        entry = np.uint64(entries[g])
        count = (entry >> _16) + _1
        x = states[lane]
        words[pos - _1] = x & _MASK
        if (x >> _16) >= count:
            pos -= _1
            x >>= _16
        # x < count * 2**16 here, so this product stays below 2**64 and the quotient is exact.
        quotient = (x * reciprocals[g]) >> _48
        states[lane] = x + quotient * (_TOTAL - count) + (entry & _MASK)
        lane = (wrap if lane == _0 else lane) - _1
    return lane, pos


@compiled
def decode(words, pos, states, lane, indexes, rows, entries, buckets, out):
    """Pop one symbol per index; escapes come out as the row's first value above its range.

    `words` ends with one word that is not part of the stream. Returns a status, the number of
    escapes, and the lane and position to go on with.
    """
    num_rows = rows.shape[0]
    lane = np.uint64(lane)
    pos = np.uint64(pos)
    num_words = np.uint64(words.shape[0] - 1)
    wrap = np.uint64(states.shape[0])
    num_escapes = 0
    for i in range(indexes.shape[0]):
        k = indexes[i]
        if k < 0 or k >= num_rows:
            return BAD_INDEX, 0, lane, pos
        x = states[lane]
        slot = x & _MASK
        bucket = np.uint64(rows[k, _BUCKETS]) + (slot >> np.uint64(rows[k, _SHIFT]))
        g = np.uint64(rows[k, _FIRST]) + np.uint64(buckets[bucket])
        entry = np.uint64(entries[g])
        while slot - (entry & _MASK) > (entry >> _16):
            g += _1
            entry = np.uint64(entries[g])
        x = ((entry >> _16) + _1) * (x >> _16) + slot - (entry & _MASK)
        # A select, not a branch: whether a word is due is as random as the data.
        refilled = (x << _16) | np.uint64(words[pos])
        due = x < _TOTAL
        states[lane] = refilled if due else x
        pos += np.uint64(due)
        if pos > num_words:
            return OUT_OF_WORDS, 0, lane, num_words
        lane += _1
        if lane == wrap:
            lane = _0
        found = np.int64(g)
        num_escapes += found == rows[k, _LAST]
        out[i] = found + rows[k, _VALUE]
    return OK, num_escapes, lane, pos


@compiled
def write_escapes(symbols, indexes, entry_of, rows, out):
    """Write the varint of each symbol whose entry is its row's last; return the bytes written."""
    at = 0
    for i in range(symbols.shape[0]):
        k = indexes[i]
        if entry_of[i] == rows[k, _LAST]:
            entry = np.int64(symbols[i]) - rows[k, _VALUE]
            if entry < rows[k, _FIRST]:
                code = 2 * (rows[k, _FIRST] - entry) - 1
            else:
                code = 2 * (entry - rows[k, _LAST])
            while code > 0x7F:
                out[at] = (code & 0x7F) | 0x80
                at += 1
                code >>= 7
            out[at] = code
            at += 1
    return at


@compiled
def read_escapes(out, indexes, rows, escapes, at):
    """Replace what `decode` left for escapes by their values; return a status and where to go on.

    A varint that ends early, is not the shortest or leaves the range of int32 is BAD_ESCAPE.
    """
    for i in range(out.shape[0]):
        k = indexes[i]
        above = rows[k, _LAST] + rows[k, _VALUE]
        if out[i] != above:
            continue
        code = np.int64(0)
        for byte_number in range(MAX_ESCAPE_BYTES + 1):
            if byte_number == MAX_ESCAPE_BYTES or at >= escapes.shape[0]:
                return BAD_ESCAPE, at
            byte = np.int64(escapes[at])
            at += 1
            code |= (byte & 0x7F) << (7 * byte_number)
            if byte < 0x80:
                if byte == 0 and byte_number > 0:
                    return BAD_ESCAPE, at
                break
        if code & 1:
            value = rows[k, _FIRST] + rows[k, _VALUE] - ((code + 1) >> 1)
        else:
            value = above + (code >> 1)
        if value < _INT32_MIN or value > _INT32_MAX:
            return BAD_ESCAPE, at
        out[i] = value
    return OK, at
