"""Symbol streams: order, shapes, bytes that never change, and what is refused."""

import zlib

import numpy as np
import pytest

from lictor.coding.stream import MAX_LANES, SymbolDecoder, SymbolEncoder, overhead_bytes
from lictor.coding.tables import CdfTables, build_tables
from lictor.errors import ConfigError, CorruptError, DataError, LictorError, TruncatedError

TOTAL = 1 << 16


def geometric_tables(decays=(0.05, 0.3, 0.6, 0.9), reach=30) -> CdfTables:
    values = np.abs(np.arange(-reach, reach + 1))
    pmf = [d**values * (1 - d) / (1 + d) for d in decays]
    tail = np.array([2 * d ** (reach + 1) / (1 + d) for d in decays])
    return build_tables(pmf, tail, np.full(len(decays), -reach))


def draw(tables: CdfTables, shape, seed: int, rows=None):
    """Symbols that follow their tables, escapes included (as values just outside of the row)."""
    rng = np.random.default_rng(seed)
    indexes = rng.integers(0, len(tables.lengths), shape) if rows is None else np.full(shape, rows)
    slots = rng.integers(0, TOTAL, shape)
    symbols = np.empty(shape, np.int32)
    for i in range(len(tables.lengths)):
        mine = indexes == i
        found = np.searchsorted(tables.cdf[i, : tables.lengths[i] + 1], slots[mine], "right") - 1
        symbols[mine] = tables.offset[i] + found
    return symbols, indexes.astype(np.int32)


GOLDEN_TABLES = CdfTables(
    np.array([[0, 60000, 65000, TOTAL, TOTAL], [0, 5, 30000, 65535, TOTAL]], np.int32),
    np.array([3, 4], np.int32),
    np.array([0, -2], np.int32),
)
GOLDEN_SYMBOLS = np.array(
    [0, -1, 0, 0, 1, -2, 0, 7, 0, -1, 0, 0, -3, 2**31 - 1, 0, -(2**31)], np.int32
)
GOLDEN_INDEXES = np.array([0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 1, 1, 0, 0], np.int32)


def golden_payload(lanes: int | None) -> bytes:
    encoder = SymbolEncoder(lanes=lanes)
    encoder.put(GOLDEN_SYMBOLS, GOLDEN_INDEXES, GOLDEN_TABLES)
    payload = encoder.finish()
    assert encoder.symbol_crc == 0x5D3ED8D5
    return payload


@pytest.mark.parametrize(
    ("lanes", "text"),
    [
        (1, "01040cd7901d00000046c0ffff38500a01fcffffff0fffffffff0f"),
        (3, "03020c6c964e022e49c21d2198e59278fe00000a01fcffffff0fffffffff0f"),
    ],
)
def test_bytes_of_the_format_never_change(lanes, text):
    assert golden_payload(lanes).hex() == text
    decoder = SymbolDecoder(bytes.fromhex(text))
    assert np.array_equal(decoder.get(GOLDEN_INDEXES, GOLDEN_TABLES), GOLDEN_SYMBOLS)
    decoder.finish()
    assert decoder.symbol_crc == 0x5D3ED8D5


def test_groups_come_back_in_order_and_shape_under_their_own_tables():
    first, second = geometric_tables(), geometric_tables((0.8,), 3)
    groups = [
        (*draw(first, (2, 3, 50), 1), first),
        (*draw(second, (), 2), second),
        (*draw(first, (0, 4), 3), first),
        (*draw(second, (77,), 4), second),
        (*draw(first, (5, 1), 5), first),
    ]
    encoder = SymbolEncoder(lanes=4)
    for symbols, indexes, tables in groups:
        encoder.put(symbols, indexes, tables)
    decoder = SymbolDecoder(encoder.finish())
    for symbols, indexes, tables in groups:
        got = decoder.get(indexes, tables)
        assert got.dtype == np.int32
        assert got.shape == symbols.shape
        assert np.array_equal(got, symbols)
    decoder.finish()
    every = b"".join(symbols.astype("<i4").tobytes() for symbols, _, _ in groups)
    assert encoder.symbol_crc == decoder.symbol_crc == zlib.crc32(every)


def test_how_symbols_are_grouped_does_not_change_the_bytes():
    tables = geometric_tables()
    symbols, indexes = draw(tables, (1000,), 6)
    whole, parts = SymbolEncoder(), SymbolEncoder()
    whole.put(symbols, indexes, tables)
    for at in range(0, 1000, 9):
        parts.put(symbols[at : at + 9], indexes[at : at + 9], tables)
    assert whole.finish() == parts.finish()
    assert whole.symbol_crc == parts.symbol_crc


def test_any_integer_dtype_and_memory_layout_gives_the_same_bytes():
    tables = geometric_tables()
    symbols, indexes = draw(tables, (40, 30), 7)
    payloads = set()
    for s, i in [
        (symbols, indexes),
        (symbols.astype(np.int64), indexes.astype(np.uint8)),
        (symbols.astype(">i4"), indexes.astype(np.uint64)),
        (np.asfortranarray(symbols), indexes.astype(np.int16)),
        (np.repeat(symbols, 2, axis=1)[:, ::2], np.asfortranarray(indexes)),
        (np.frombuffer(b"x" + symbols.tobytes(), np.int32, offset=1).reshape(40, 30), indexes),
    ]:
        encoder = SymbolEncoder()
        encoder.put(s, i, tables)
        payloads.add(encoder.finish())
        got = SymbolDecoder(next(iter(payloads))).get(i, tables)
        assert np.array_equal(got, symbols)
    assert len(payloads) == 1


def test_encoder_keeps_no_reference_to_its_arguments():
    tables = geometric_tables()
    symbols, indexes = draw(tables, (100,), 8)
    encoder = SymbolEncoder()
    given = symbols.copy()
    encoder.put(given, indexes, tables)
    given[:] = 0
    assert np.array_equal(SymbolDecoder(encoder.finish()).get(indexes, tables), symbols)


def test_stream_without_symbols_is_three_bytes():
    encoder = SymbolEncoder()
    encoder.put(np.zeros((0, 2), np.int32), np.zeros((0, 2), np.int32), geometric_tables())
    payload = encoder.finish()
    assert payload == bytes(3)
    decoder = SymbolDecoder(payload)
    assert decoder.get(np.zeros((3, 0), np.int32), geometric_tables()).shape == (3, 0)
    decoder.finish()
    assert decoder.symbol_crc == encoder.symbol_crc == 0
    with pytest.raises(CorruptError, match="empty"):
        decoder.get(np.zeros(1, np.int32), geometric_tables())


@pytest.mark.parametrize(("num_symbols", "lanes"), [(1, 1), (9000, 1), (40_000, 4), (200_000, 8)])
def test_lanes_cost_less_than_half_a_percent(num_symbols, lanes):
    tables = geometric_tables((0.4,))
    symbols, indexes = draw(tables, (num_symbols,), 9)
    encoder = SymbolEncoder()
    encoder.put(symbols, indexes, tables)
    payload = encoder.finish()
    assert payload[0] == lanes
    assert lanes == 1 or 4 * lanes < 0.005 * len(payload)


def test_dyadic_tables_spend_exactly_their_bits():
    # With counts that are powers of two, a symbol of b bits moves the state by exactly b binary
    # places, so words and states account for every bit that CdfTables.bits promises.
    tables = build_tables(
        [np.array([0.5, 0.25, 0.125, 0.0625]), np.full(255, 1 / 256)],
        np.array([0.0625, 1 / 256]),
        np.array([-2, 0]),
    )
    symbols, indexes = draw(tables, (5000,), 10)
    symbols[::50] = np.random.default_rng(0).integers(-(2**31), 2**31, 100)
    for lanes in (1, 5):
        encoder = SymbolEncoder(lanes=lanes)
        encoder.put(symbols, indexes, tables)
        payload = encoder.finish()
        decoder = SymbolDecoder(payload)
        spent = 16 * (len(decoder._words) - 1) + 8 * len(decoder._escapes)
        spent += sum(int(x).bit_length() - 17 for x in decoder._states)
        assert spent == tables.bits(symbols, indexes).sum()
        assert len(payload) <= spent / 8 + overhead_bytes(lanes)


def test_wrong_arguments_are_refused_and_leave_the_encoder_as_it_was():
    tables = geometric_tables()
    good = np.zeros(4, np.int32)
    encoder = SymbolEncoder()
    for symbols, indexes in [
        (good, good[:3]),
        (good.reshape(2, 2), good),
        (good, np.array([0, 1, 2, 4])),
        (good, np.array([0, 1, 2, -1])),
        (good, np.array([0, 1, 2, 2**32])),
        (np.array([0, 0, 0, 2**31]), good),
        (good.astype(np.float32), good),
        (good, good.astype(np.float32)),
        (good.astype(bool), good),
    ]:
        with pytest.raises(DataError):
            encoder.put(symbols, indexes, tables)
    assert encoder.symbol_crc == 0
    assert encoder.finish() == bytes(3)
    with pytest.raises(ConfigError):
        encoder.finish()
    with pytest.raises(ConfigError):
        encoder.put(good, good, tables)
    for lanes in (0, -1, MAX_LANES + 1):
        with pytest.raises(ConfigError):
            SymbolEncoder(lanes=lanes)


def encoded(lanes=2, seed=11):
    tables = geometric_tables()
    symbols, indexes = draw(tables, (500,), seed)
    symbols[100] = 10**6
    encoder = SymbolEncoder(lanes=lanes)
    encoder.put(symbols, indexes, tables)
    return encoder.finish(), symbols, indexes, tables


@pytest.mark.parametrize("index", [4, -1, 2**40])
def test_wrong_index_stops_a_decoder_for_good(index):
    payload, _, indexes, tables = encoded()
    decoder = SymbolDecoder(payload)
    wrong = indexes.astype(np.int64)
    wrong[300] = index
    with pytest.raises(DataError):
        decoder.get(wrong, tables)
    if index != 2**40:  # that one never reached the stream
        for call in (decoder.finish, lambda: decoder.get(indexes, tables)):
            with pytest.raises(CorruptError, match="failed before"):
                call()


def test_finish_notices_symbols_left_and_symbols_too_many():
    payload, symbols, indexes, tables = encoded()
    for count in (0, 1, 99, 499):
        decoder = SymbolDecoder(payload)
        assert np.array_equal(decoder.get(indexes[:count], tables), symbols[:count])
        with pytest.raises(CorruptError):
            decoder.finish()
    decoder = SymbolDecoder(payload)
    decoder.get(indexes, tables)
    with pytest.raises(LictorError):
        decoder.get(indexes, tables)
    with pytest.raises(CorruptError):
        decoder.finish()


def test_every_prefix_is_truncated_and_every_suffix_is_garbage():
    payload, *_ = encoded()
    for length in range(len(payload)):
        with pytest.raises(TruncatedError):
            SymbolDecoder(payload[:length])
    with pytest.raises(CorruptError, match="2 bytes too many"):
        SymbolDecoder(payload + b"ab")


@pytest.mark.parametrize(
    "head",
    [
        b"\x00\x01\x00" + bytes(2),  # words without lanes
        b"\x00\x00\x01" + bytes(1),
        b"\x41\x00\x00" + b"\x00\x00\x01\x00" * 65,  # too many lanes
        b"\x81\x00\x00\x00" + b"\x00\x00\x01\x00",  # 1 in two bytes
        b"\x01" + b"\xff" * 9 + b"\x00\x00",  # a count of more than 63 bits
        b"\x01\x00\x00" + b"\xff\xff\x00\x00",  # state below 2**16
    ],
)
def test_impossible_heads_are_corrupt(head):
    with pytest.raises(CorruptError):
        SymbolDecoder(head)


def test_huge_counts_allocate_nothing():
    huge = b"\xff" * 8 + b"\x7f"
    for head in (b"\x01" + huge + b"\x00", b"\x01\x00" + huge, b"\x40" + huge + huge):
        with pytest.raises(TruncatedError):
            SymbolDecoder(head + bytes(100))


@pytest.mark.parametrize(
    ("escapes", "value"),
    [
        (b"", None),
        (b"\x80", None),  # ends in the middle
        (b"\x80\x00", None),  # not the shortest form
        (b"\xff\xff\xff\xff\xff\x00", None),  # six bytes
        (b"\xff\xff\xff\xff\x7f", None),  # beyond int32
        (b"\xf4\xff\xff\xff\x0f", 2**31 - 1),  # 2 * (2**31 - 1 - 5)
        (b"\xf6\xff\xff\xff\x0f", None),
        (b"\x89\x80\x80\x80\x10", -(2**31)),  # 2 * (5 - 1 + 2**31) + 1
        (b"\x8b\x80\x80\x80\x10", None),
        (b"\x00", 5),
        (b"\x01", 4),
    ],
)
def test_escapes_outside_of_int32_or_not_shortest_are_corrupt(escapes, value):
    all_escapes = CdfTables(
        np.array([[0, TOTAL]], np.int32), np.ones(1, np.int32), np.array([5], np.int32)
    )
    decoder = SymbolDecoder(b"\x01\x00" + bytes([len(escapes)]) + b"\x00\x00\x01\x00" + escapes)
    if value is None:
        with pytest.raises(CorruptError, match="escaped"):
            decoder.get(np.zeros(1, np.int32), all_escapes)
    else:
        assert decoder.get(np.zeros(1, np.int32), all_escapes) == value
        decoder.finish()


@pytest.mark.parametrize(("words", "escapes"), [(b"\x00\x00", b""), (b"", b"\x00")])
def test_finish_notices_words_and_escapes_that_no_symbol_needs(words, escapes):
    symbols, indexes = np.zeros(3, np.int32), np.zeros(3, np.int32)
    encoder = SymbolEncoder(lanes=1)
    encoder.put(symbols, indexes, GOLDEN_TABLES)
    payload = encoder.finish()
    assert payload[:3] == b"\x01\x00\x00"
    head = bytes([1, len(words) // 2, len(escapes)])
    decoder = SymbolDecoder(head + payload[3:] + words + escapes)
    assert np.array_equal(decoder.get(indexes, GOLDEN_TABLES), symbols)
    with pytest.raises(CorruptError, match="more symbols"):
        decoder.finish()
