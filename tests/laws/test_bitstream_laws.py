"""Theorems of the coder and the container, for any tables, symbols, lanes and bytes."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lictor.coding.container import ALPHA, Container, Tile
from lictor.coding.grid import Grid
from lictor.coding.stream import SymbolDecoder, SymbolEncoder, overhead_bytes
from lictor.coding.tables import TOTAL, CdfTables, build_tables
from lictor.errors import BitstreamError

INT32 = st.integers(-(2**31), 2**31 - 1)
EDGES = st.sampled_from([-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 2, 2**31 - 1])


@st.composite
def any_tables(draw) -> CdfTables:
    num_rows = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pmf, tail, offset = [], [], []
    for _ in range(num_rows):
        length = draw(st.sampled_from([0, 1, 2, 3, 20, 255, 256, 257, 3000]))
        pmf.append(rng.random(length) ** draw(st.sampled_from([0, 1, 8, 60])))
        tail.append(draw(st.sampled_from([0.0, 1e-6, 0.3])) + (length == 0))
        low = st.sampled_from([-(2**31), 2**31 - 1 - length, -(length // 2), 0])
        offset.append(draw(st.one_of(low, st.integers(-(2**31), 2**31 - 1 - length))))
    return build_tables(pmf, np.array(tail), np.array(offset))


@st.composite
def any_group(draw, tables: CdfTables):
    size = draw(st.integers(0, 60))
    indexes = draw(
        st.lists(st.integers(0, len(tables.lengths) - 1), min_size=size, max_size=size)
    )  # fmt: skip
    symbols = []
    for i in indexes:
        low, length = int(tables.offset[i]), int(tables.lengths[i])
        near = st.integers(max(low - 2, -(2**31)), min(low + length + 1, 2**31 - 1))
        symbols.append(draw(st.one_of(near, near, EDGES, INT32)))
    return np.array(symbols, np.int32), np.array(indexes, np.int32)


def drawn_from(tables: CdfTables, rng: np.random.Generator, size: int):
    """Symbols that follow their tables; an escape is the first value above the range."""
    indexes = rng.integers(0, len(tables.lengths), size).astype(np.int32)
    slots = rng.integers(0, TOTAL, size)
    symbols = np.empty(size, np.int32)
    for i, length in enumerate(tables.lengths):
        mine = indexes == i
        found = np.searchsorted(tables.cdf[i, : length + 1], slots[mine], side="right") - 1
        symbols[mine] = tables.offset[i] + found
    return symbols, indexes


def encode(groups, lanes) -> tuple[bytes, int]:
    encoder = SymbolEncoder(lanes=lanes)
    for symbols, indexes, tables in groups:
        encoder.put(symbols, indexes, tables)
    return encoder.finish(), encoder.symbol_crc


LANES = st.one_of(st.none(), st.integers(1, 64))


@settings(deadline=None, max_examples=60)
@given(st.data(), LANES)
def test_symbols_round_trip_for_any_tables_groups_and_lanes(data, lanes):
    groups = []
    for tables in data.draw(st.lists(any_tables(), min_size=0, max_size=3)):
        groups.append((*data.draw(any_group(tables)), tables))
        groups.append((*data.draw(any_group(tables)), tables))
    payload, crc = encode(groups, lanes)
    decoder = SymbolDecoder(payload)
    for symbols, indexes, tables in groups:
        assert np.array_equal(decoder.get(indexes, tables), symbols)
    decoder.finish()
    assert decoder.symbol_crc == crc
    assert crc == zlib.crc32(b"".join(s.astype("<i4").tobytes() for s, _, _ in groups))


@settings(deadline=None, max_examples=60)
@given(any_tables(), st.integers(0, 2**32), st.integers(1, 20_000), LANES)
def test_bytes_are_at_most_bits_and_one_percent_and_lane_overhead(tables, seed, size, lanes):
    symbols, indexes = drawn_from(tables, np.random.default_rng(seed), size)
    payload, _ = encode([(symbols, indexes, tables)], lanes)
    bits = tables.bits(symbols, indexes).sum()
    assert len(payload) <= 1.01 * bits / 8 + overhead_bytes(payload[0])
    # Nor does it undercut them: bits() is not padded. A state holds up to 16 bits beyond 2**16.
    assert len(payload) >= 0.99 * bits / 8 - 2 * payload[0]


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(any_tables(), st.data())
def test_escape_bytes_are_exactly_those_in_bits(tables, data):
    symbols, indexes = data.draw(any_group(tables))
    payload, _ = encode([(symbols, indexes, tables)], 1)
    last = tables.lengths[indexes] - 1
    position = symbols.astype(np.int64) - tables.offset[indexes]
    s = np.where((position < 0) | (position >= last), last, position)
    table_bits = 16 - np.log2(tables.cdf[indexes, s + 1] - tables.cdf[indexes, s])
    side_bits = tables.bits(symbols, indexes).sum() - table_bits.sum()
    assert len(SymbolDecoder(payload)._escapes) == pytest.approx(side_bits / 8, abs=1e-6)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.data(), any_tables(), st.integers(1, 4))
def test_whatever_decodes_is_what_the_encoder_would_have_written(data, tables, lanes):
    """A damaged or invented payload fails, or is the one payload of the symbols it gives."""
    size = data.draw(st.integers(1, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    symbols, indexes = drawn_from(tables, rng, size)
    payload = bytearray(encode([(symbols, indexes, tables)], lanes)[0])
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoder = SymbolDecoder(bytes(payload))
        got = decoder.get(indexes, tables)
        decoder.finish()
    except BitstreamError:
        return
    assert encode([(got, indexes, tables)], payload[0])[0] == payload


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), any_tables(), st.integers(1, 500), st.booleans())
def test_garbage_never_gets_past_finish_unless_it_is_a_payload(garbage, tables, size, framed):
    if framed:  # as far as the loops: two lanes, valid states, words, escapes
        words, escapes = divmod(max(0, len(garbage) - 8), 2)
        high = b"\x01" if len(garbage) >= 8 else b""
        garbage = bytearray(garbage)
        if high:
            garbage[3] |= 1
            garbage[7] |= 1
            garbage = bytes((2, words, escapes)) + garbage
        garbage = bytes(garbage)
    indexes = (np.arange(size) % len(tables.lengths)).astype(np.int32)
    try:
        decoder = SymbolDecoder(garbage)
        got = decoder.get(indexes, tables)
        decoder.finish()
    except BitstreamError:
        return
    assert encode([(got, indexes, tables)], garbage[0])[0] == garbage


@st.composite
def containers(draw) -> Container:
    width, height = draw(st.integers(1, 2**32 - 1)), draw(st.integers(1, 2**32 - 1))
    side = draw(st.sampled_from([0, 64 * 65535]))
    if draw(st.booleans()):
        width, height, side = width % 300 + 1, height % 300 + 1, draw(st.sampled_from([64, 192]))
    elif Grid(width, height, side).count > 9:
        side = 0
    tile = st.builds(Tile, st.binary(max_size=60), st.integers(0, 2**32 - 1))
    count = Grid(width, height, side).count
    return Container(
        fingerprint=draw(st.binary(min_size=8, max_size=8)),
        width=width,
        height=height,
        channels=draw(st.sampled_from([1, 3])),
        tiles=draw(st.lists(tile, min_size=count, max_size=count)),
        tile_side=side,
        sections=draw(
            st.dictionaries(
                st.one_of(st.just(ALPHA), st.integers(128, 255)), st.binary(max_size=60), max_size=4
            )
        ),
    )


@settings(deadline=None)
@given(containers())
def test_containers_round_trip(container):
    assert Container.from_bytes(container.to_bytes(), max_pixels=2**64) == container


@settings(deadline=None)
@given(containers(), st.data())
def test_every_damaged_container_raises(container, data):
    file = container.to_bytes()
    at = data.draw(st.integers(0, len(file) - 1))
    change = data.draw(st.integers(1, 255))
    flipped = file[:at] + bytes([file[at] ^ change]) + file[at + 1 :]
    longer = file + data.draw(st.binary(min_size=1, max_size=20))
    for damaged in (flipped, file[:at], longer):
        with pytest.raises(BitstreamError):
            Container.from_bytes(damaged, max_pixels=2**64)


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([0, 1, 2]))
def test_garbage_is_no_container(garbage, version):
    with pytest.raises(BitstreamError):
        Container.from_bytes((b"\x8eLIC" + bytes([version]) if version else b"") + garbage)
