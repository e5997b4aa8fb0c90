"""Patches: equal to padding and cutting by hand, put together to what they were, never in whole."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lictor.data.signals.patches import Patching


def by_hand(item: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Pad the whole item, then take one patch after the other."""
    for axis, side in enumerate(size):
        length = item.shape[axis]
        widths = [(0, 0)] * item.ndim
        widths[axis] = (0, -length % side)
        item = np.pad(item, widths, mode="edge" if length < side else "reflect")
    counts = [n // s for n, s in zip(item.shape, size, strict=False)]
    corners = itertools.product(*(range(0, n * s, s) for n, s in zip(counts, size, strict=True)))
    return np.stack(
        [item[tuple(slice(c, c + s) for c, s in zip(p, size, strict=True))] for p in corners]
    )


@st.composite
def cases(draw):
    axes = draw(st.integers(1, 4))
    size = tuple(draw(st.lists(st.integers(1, 5), min_size=axes, max_size=axes)))
    grid = tuple(draw(st.lists(st.integers(1, 11), min_size=axes, max_size=axes)))
    channels = draw(st.integers(1, 3))
    item = np.arange(np.prod(grid) * channels, dtype=np.int32).reshape(*grid, channels)
    count = int(np.prod([-(-n // s) for n, s in zip(grid, size, strict=True)]))
    return item, size, draw(st.integers(0, count)), draw(st.integers(0, count))


@given(cases())
def test_patches_are_those_cut_from_the_padded_whole(case):
    item, size, start, stop = case
    patching, wanted = Patching(size), by_hand(item, size)
    assert patching.count(item.shape[:-1]) == len(wanted)
    np.testing.assert_array_equal(patching.cut(item, start, stop), wanted[start:stop])
    numbers = np.array([start, stop, 0]) % len(wanted)
    np.testing.assert_array_equal(patching.take(item, numbers), wanted[numbers])


@given(cases())
def test_joined_in_pieces_an_item_is_what_it_was(case):
    item, size, start, _ = case
    patching, patches = Patching(size), by_hand(item, size)
    out = np.full_like(item, -1)
    step = start + 1
    for first in range(0, len(patches), step):
        patching.join(out, patches[first : first + step], first)
    np.testing.assert_array_equal(out, item)


@given(cases())
def test_a_mask_is_cut_along_and_padding_is_masked_out(case):
    item, size, start, stop = case
    patching, grid = Patching(size), item.shape[:-1]
    mask = item[..., 0] % 3 > 0
    padded = np.zeros([c * s for c, s in zip(patching.counts(grid), size, strict=True)], bool)
    padded[tuple(slice(n) for n in grid)] = mask
    wanted = by_hand(padded[..., None], size)[..., 0]
    np.testing.assert_array_equal(patching.cut_mask(mask, start, stop), wanted[start:stop])
    numbers = np.arange(len(wanted))[::-1]
    np.testing.assert_array_equal(patching.take_mask(mask, numbers), wanted[numbers])
    ones = np.ones(grid, bool)
    assert patching.cut_mask(ones, 0, len(wanted)).sum() == ones.size


def test_padding_reflects_without_the_edge_and_repeats_it_where_an_item_is_short():
    line = np.array([1, 2, 3, 4, 5])[:, None]
    assert Patching((4,)).cut(line, 1, 2)[0, :, 0].tolist() == [5, 4, 3, 2]
    assert Patching((8,)).cut(line, 0, 1)[0, :, 0].tolist() == [1, 2, 3, 4, 5, 5, 5, 5]


def test_no_size_is_the_item_whole():
    item = np.arange(24.0).reshape(3, 4, 2)
    patching = Patching(())
    assert patching.count((3, 4)) == 1
    np.testing.assert_array_equal(patching.cut(item, 0, 1), item[None])
    out = np.zeros_like(item)
    patching.join(out, item[None], 0)
    np.testing.assert_array_equal(out, item)
    assert patching.cut_mask(np.ones((3, 4), bool), 0, 1).all()


@pytest.mark.parametrize(
    ("grid", "size"), [((2_000_001,), (1600,)), ((128, 130, 127), (16, 16, 16))]
)
def test_a_range_of_patches_needs_memory_for_the_range_alone(grid, size):
    item = np.zeros((*grid, 1), np.float32)
    patching = Patching(size)
    count = patching.count(grid)
    step = count // 50
    of_range = step * int(np.prod(size)) * item.itemsize
    tracemalloc.start()
    for first in range(0, count, step):
        stop = min(count, first + step)
        patching.join(item, patching.cut(item, first, stop), first)
        patching.cut_mask(np.broadcast_to(np.True_, grid), first, stop)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * of_range < item.nbytes / 4
