"""The compiled loops against plain Python, and the facts their speed rests on."""

import numpy as np
import pytest

from lictor.coding import compiled, rans
from lictor.coding.stream import SymbolDecoder, SymbolEncoder
from lictor.coding.tables import TOTAL, CdfTables, build_tables

LOOPS = ["map_symbols", "encode", "decode", "write_escapes", "read_escapes"]


def textbook_encode(tables: CdfTables, symbols, indexes, lanes: int) -> tuple[list, list]:
    """States and words by the definition in the head of rans.py, with Python's own integers."""
    states, words = [1 << 16] * lanes, []
    for i in reversed(range(len(symbols))):
        row = indexes[i]
        last = int(tables.lengths[row]) - 1
        s = int(symbols[i]) - int(tables.offset[row])
        s = s if 0 <= s < last else last
        start = int(tables.cdf[row, s])
        count = int(tables.cdf[row, s + 1]) - start
        x = states[i % lanes]
        if (x // count << 16) + x % count + start >= 1 << 32:
            words.append(x & 0xFFFF)
            x >>= 16
        states[i % lanes] = (x // count << 16) + x % count + start
    return states, words[::-1]


@pytest.fixture
def example():
    rng = np.random.default_rng(5)
    pmf = [rng.random(n) ** 6 for n in (1, 2, 17, 300, 1500)] + [np.array([])]
    tail = np.array([1e-9, 0.1, 1e-3, 1e-6, 0.01, 1.0])
    tables = build_tables(pmf, tail, np.array([0, -1, -8, 100, -750, 3]))
    indexes = rng.integers(0, 6, 3000).astype(np.int32)
    width = tables.lengths[indexes]
    symbols = tables.offset[indexes] + rng.integers(-1, width + 1)
    symbols[::97] = rng.integers(-(2**31), 2**31, symbols[::97].shape)
    return symbols.astype(np.int32), indexes, tables


@pytest.mark.parametrize("lanes", [1, 2, 3, 8, 64])
def test_compiled_loops_equal_their_python_and_the_textbook(example, lanes, monkeypatch):
    symbols, indexes, tables = example

    def both_ways():
        encoder = SymbolEncoder(lanes=lanes)
        encoder.put(symbols[:1000], indexes[:1000], tables)
        encoder.put(symbols[1000:], indexes[1000:], tables)
        payload = encoder.finish()
        decoder = SymbolDecoder(payload)
        got = np.append(decoder.get(indexes[:7], tables), decoder.get(indexes[7:], tables))
        decoder.finish()
        return payload, got

    payload, got = both_ways()
    for name in LOOPS:
        monkeypatch.setattr(rans, name, getattr(rans, name).py_func)
    python_payload, python_got = both_ways()
    assert payload == python_payload
    assert np.array_equal(got, symbols)
    assert np.array_equal(python_got, symbols)

    states, words = textbook_encode(tables, symbols, indexes, lanes)
    coded = np.array(states, "<u4").tobytes() + np.array(words, "<u2").tobytes()
    assert coded in payload
    assert payload.index(coded) < 8


def test_a_wrong_state_fails_alike_in_both_worlds(example):
    _, indexes, tables = example
    table = rans.lookup(tables)
    rng = np.random.default_rng(6)
    words = rng.integers(0, TOTAL, 400).astype(np.uint16)
    indexes = indexes.copy()
    indexes.flags.writeable = False
    seen = set()
    for case in range(12):
        start = rng.integers(1 << 16, 1 << 32, 3).astype(np.uint64)
        results = []
        for loop in (rans.decode, rans.decode.py_func):
            states, out = start.copy(), np.zeros(len(indexes), np.int32)
            flat = indexes if case % 3 else np.where(np.arange(3000) == 50, -1 - case, indexes)
            flat = flat.astype(np.int32)
            flat.flags.writeable = False
            status = loop(
                words, 0, states, 0, flat, table.rows, table.entries, table.buckets, out
            )  # fmt: skip
            results.append(([int(n) for n in status], states.tolist(), out.tolist()))
        assert results[0] == results[1]
        seen.add(results[0][0][0])
        assert results[0][0][3] <= len(words) - 1
    assert seen == {rans.OUT_OF_WORDS, rans.BAD_INDEX}


def test_reciprocal_division_is_exact_up_to_its_last_state():
    count = np.arange(1, TOTAL + 1, dtype=np.uint64)
    reciprocal = (np.uint64((1 << 48) - 1) + count) // count
    limit = count << np.uint64(16)  # the encoder renormalizes states from here on
    assert int(limit[-1] - np.uint64(1)) * int(reciprocal[-1]) < 1 << 64
    assert (
        max(int(x - np.uint64(1)) * int(r) for x, r in zip(limit, reciprocal, strict=True))
        < 1 << 64
    )
    rng = np.random.default_rng(7)
    one = np.uint64(1)
    for quotient in [0, 1, 2, 3, 255, 32768, 65534, 65535, *rng.integers(0, TOTAL, 20)]:
        base = count * np.uint64(quotient)
        for x in (base, base + count - one):
            assert np.array_equal((x * reciprocal) >> np.uint64(48), x // count)


def test_lookup_finds_the_symbol_of_every_slot(example):
    tables = example[2]
    table = rans.lookup(tables)
    slots = np.arange(TOTAL)
    for i, (first, last, value, bucket, shift) in enumerate(table.rows):
        length = tables.lengths[i]
        want = np.searchsorted(tables.cdf[i, : length + 1], slots, side="right") - 1
        guess = table.buckets[bucket + (slots >> shift)].astype(np.int64)
        assert (guess <= want).all()
        assert ((want - guess) <= 1 << shift).all()
        assert (last - first + 1, first + value) == (length, tables.offset[i])
        entry = table.entries[first + want]
        assert ((entry & 0xFFFF) <= slots).all()
        assert (slots - (entry & 0xFFFF) <= entry >> 16).all()


def test_lookup_is_built_once_and_dies_with_its_tables(example):
    tables = build_tables([np.ones(3)], np.ones(1), np.zeros(1, np.int64))
    assert rans.lookup(tables) is rans.lookup(tables)
    before = len(rans._LOOKUPS)
    del tables
    assert len(rans._LOOKUPS) == before - 1


def test_compiles_without_a_folder_for_the_cache():
    namespace: dict = {}
    exec("def double(x):\n    return 2 * x\n", namespace)  # no file, so numba finds no folder
    with pytest.raises(RuntimeError, match="no locator"):
        compiled.njit(cache=True)(namespace["double"])
    assert compiled.compiled(namespace["double"])(21) == 42
