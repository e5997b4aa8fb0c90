"""CDF tables: what a row guarantees, how close it is to its pmf, and what is refused."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lictor.coding.tables import TOTAL, CdfTables, build_tables
from lictor.errors import CheckpointError, ConfigError, DataError

rows_of_mass = hnp.arrays(
    np.float64,
    st.integers(1, 300),
    elements=st.one_of(st.just(0.0), st.floats(1e-12, 1.0), st.sampled_from([0.25, 1e-300, 1e6])),
).filter(lambda p: p.sum() > 0)


def counts_of(tables: CdfTables, row: int = 0) -> np.ndarray:
    return np.diff(tables.cdf[row])[: tables.lengths[row]]


def one_row(p: np.ndarray, tail: float = 0.0, offset: int = 0) -> CdfTables:
    return build_tables([p], np.array([tail]), np.array([offset]))


@settings(deadline=None)  # the machine may be busy
@given(rows_of_mass, st.floats(0, 1))
def test_counts_sum_to_total_and_none_is_zero(p, tail):
    counts = counts_of(one_row(p, tail))
    assert len(counts) == len(p) + 1
    assert counts.sum() == TOTAL
    assert counts.min() >= 1


@settings(deadline=None)  # the machine may be busy
@given(rows_of_mass, st.floats(0, 1))
def test_no_count_could_move_to_a_dearer_symbol(p, tail):
    counts = counts_of(one_row(p, tail))
    p = np.append(p, tail)
    p = p / math.fsum(p)
    next_gain = p / (counts + 0.5)
    last_loss = np.where(counts > 1, p / (counts - 0.5), np.inf)
    assert next_gain.max() <= last_loss.min() * (1 + 1e-12)


@settings(deadline=None)  # the machine may be busy
@given(rows_of_mass, st.floats(0, 1))
def test_divergence_from_pmf_is_below_two_and_a_half_counts_a_symbol(p, tail):
    counts = counts_of(one_row(p, tail))
    p = np.append(p, tail)
    p = p / math.fsum(p)
    some = p > 0
    divergence = (p[some] * np.log2(p[some] * TOTAL / counts[some])).sum()
    assert -1e-9 <= divergence <= 2.5 * len(p) / TOTAL


def test_among_equal_probabilities_the_lowest_symbols_change_first():
    counts = counts_of(one_row(np.full(6, 1 / 7), 1 / 7))
    assert counts.tolist() == [9363, 9363, 9362, 9362, 9362, 9362, 9362]  # 65536 = 7 * 9362 + 2
    counts = counts_of(one_row(np.full(10, 1.0), 1.0))
    # 11 * 5958 is 2 too many, and those are taken from the lowest symbols.
    assert counts.tolist() == [5957] * 2 + [5958] * 9


def test_scale_of_a_row_does_not_matter_when_it_is_a_power_of_two():
    p = np.random.default_rng(1).random(200)
    assert np.array_equal(one_row(p, 0.1).cdf, one_row(p * 2.0**-40, 0.1 * 2.0**-40).cdf)


def test_exact_dyadic_probabilities_are_kept():
    assert counts_of(one_row(np.array([0.5, 0.25, 0.125]), 0.125)).tolist() == [
        32768, 16384, 8192, 8192,
    ]  # fmt: skip


def test_rows_of_different_width_are_padded_with_the_total():
    tables = build_tables(
        [np.array([1.0]), np.array([]), np.ones(3)], np.array([1.0, 1.0, 1.0]), np.array([5, -7, 0])
    )
    assert tables.lengths.tolist() == [2, 1, 4]
    assert tables.offset.tolist() == [5, -7, 0]
    assert tables.cdf.tolist() == [
        [0, 32768, TOTAL, TOTAL, TOTAL],
        [0, TOTAL, TOTAL, TOTAL, TOTAL],
        [0, 16384, 32768, 49152, TOTAL],
    ]
    assert all(a.dtype == np.int32 for a in (tables.cdf, tables.lengths, tables.offset))


def test_widest_row_has_one_count_for_each_symbol():
    assert set(counts_of(one_row(np.ones(TOTAL - 1)))) == {1}
    with pytest.raises(ConfigError, match="65535 is the most"):
        one_row(np.ones(TOTAL))


def test_nearly_full_row_takes_no_count_below_one():
    counts = counts_of(one_row(np.random.default_rng(2).random(TOTAL - 100) ** 4))
    assert counts.min() == 1
    assert counts.sum() == TOTAL


@pytest.mark.parametrize(
    ("p", "tail"),
    [([np.nan], 0.1), ([np.inf], 0.1), ([-0.1, 1], 0.1), ([0.0, 0.0], 0.0), ([0.5], -0.5),
     ([1e308, 1e308], 0.0)],
)  # fmt: skip
def test_impossible_probabilities_are_refused(p, tail):
    with pytest.raises(ConfigError, match="pmf row 0"):
        one_row(np.array(p), tail)


def test_arguments_of_different_length_are_refused():
    row = np.ones(2)
    for pmf, tail, offset in [
        ([row, row], np.zeros(1), np.zeros(2, np.int64)),
        ([row], np.zeros(1), np.zeros(2, np.int64)),
        ([], np.zeros(0), np.zeros(0, np.int64)),
        ([row], np.zeros(1), np.zeros(1)),
        ([row], np.zeros(1), np.array([2**31])),
    ]:
        with pytest.raises(ConfigError):
            build_tables(pmf, tail, offset)


GOOD = {
    "cdf": np.array([[0, 100, TOTAL, TOTAL], [0, 1, 2, TOTAL]], np.int32),
    "lengths": np.array([2, 3], np.int32),
    "offset": np.array([-1, 7], np.int32),
    "thresholds": np.array([-4], np.int32),
}


@pytest.mark.parametrize(
    ("field", "at", "value"),
    [
        ("cdf", (0, 0), 1),  # begins above 0
        ("cdf", (1, 1), 0),  # a symbol without a count
        ("cdf", (1, 2), 0),  # falls
        ("cdf", (1, 3), TOTAL - 1),  # does not reach the total
        ("cdf", (1, 3), TOTAL + 1),
        ("cdf", (0, 3), TOTAL + 5),  # padding rises
        ("cdf", (0, 2), TOTAL - 1),  # total reached in the padding
        ("lengths", 0, 0),
        ("lengths", 0, 1),
        ("lengths", 0, 3),
        ("lengths", 1, 4),
        ("offset", 0, 2**31 - 1),
    ],
)
def test_damaged_tables_are_refused(field, at, value):
    CdfTables(**GOOD)
    bad = {k: v.copy() for k, v in GOOD.items()}
    bad[field][at] = value
    with pytest.raises(CheckpointError, match="tables"):
        CdfTables(**bad)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cdf", GOOD["cdf"].astype(np.int64)),
        ("cdf", GOOD["cdf"][0]),
        ("cdf", GOOD["cdf"][:0]),
        ("cdf", GOOD["cdf"].tolist()),
        ("lengths", GOOD["lengths"][:1]),
        ("offset", GOOD["offset"].astype(np.float32)),
        ("offset", GOOD["offset"][:1]),
        ("thresholds", np.array([4], np.int64)),
        ("thresholds", np.array([4.0], np.float32)),
        ("thresholds", np.array([[4]], np.int32)),
        ("thresholds", [4]),
        ("thresholds", np.zeros(0, np.int32)),
        ("thresholds", np.array([4, 5], np.int32)),
    ],
)
def test_tables_of_wrong_shape_or_dtype_are_refused(field, value):
    with pytest.raises(CheckpointError, match="tables"):
        CdfTables(**{**GOOD, field: value})


@pytest.mark.parametrize("values", [(5, 4), (4, 4), (2**31 - 1, -(2**31))])
def test_thresholds_that_do_not_rise_are_refused(values):
    three = {
        "cdf": np.array([[0, TOTAL]] * 3, np.int32),
        "lengths": np.ones(3, np.int32),
        "offset": np.zeros(3, np.int32),
    }
    CdfTables(**three, thresholds=np.array(sorted({*values, 9})[:2], np.int32))
    with pytest.raises(CheckpointError, match="thresholds"):
        CdfTables(**three, thresholds=np.array(values, np.int32))


def test_tables_are_private_and_read_only():
    cdf, thresholds = GOOD["cdf"].copy(), GOOD["thresholds"].copy()
    tables = CdfTables(cdf, GOOD["lengths"], GOOD["offset"], thresholds)
    cdf[0, 1] = thresholds[0] = 0
    assert tables.cdf[0, 1] == 100
    assert tables.thresholds is not None
    assert tables.thresholds[0] == -4
    with pytest.raises(ValueError, match="read-only"):
        tables.cdf[0, 1] = 0
    with pytest.raises(ValueError, match="read-only"):
        tables.thresholds[0] = 0


def test_bits_are_minus_log2_of_mass_and_escapes_add_bytes():
    tables = CdfTables(**GOOD)
    symbols = np.array([[-1, 0, 7], [8, 9, 6]])
    indexes = np.array([[0, 0, 1], [1, 1, 1]])
    in_escape = -math.log2((TOTAL - 2) / TOTAL)
    want = [
        [-math.log2(100 / TOTAL), 8 - math.log2((TOTAL - 100) / TOTAL), 16.0],
        [16.0, 8 + in_escape, 8 + in_escape],
    ]
    np.testing.assert_allclose(tables.bits(symbols, indexes), want, rtol=1e-12)
    # Row 1 covers 7 and 8; distances are folded as 2d above and 2d + 1 below.
    edges = np.array(
        [9 + 63, 9 + 64, 6 - 63, 6 - 64, 9 + 2**13 - 1, 9 + 2**13, 2**31 - 1, -(2**31)]
    )
    bits = tables.bits(edges, np.ones(8, np.int32)) - in_escape
    np.testing.assert_allclose(bits, [8, 16, 8, 16, 16, 24, 40, 40], rtol=1e-12)


def test_bits_refuses_wrong_indexes():
    tables = CdfTables(**GOOD)
    for symbols, indexes in [(np.zeros(2, int), np.zeros(3, int)), ([0], [2]), ([0], [-1])]:
        with pytest.raises(DataError):
            tables.bits(np.array(symbols), np.array(indexes))


def test_importing_tables_imports_neither_numba_nor_torch():
    code = (
        "import sys, lictor.coding, lictor.coding.tables, lictor.coding.container;"
        "sys.exit(bool({'numba', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
