"""Operations on integers: the fast evaluation is the reference; what is not exact is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lictor.coding.program import (
    EXACT64,
    REACH,
    Convolve,
    Deconvolve,
    HalfConvolve,
    Leaky,
    Lookup,
    Op,
    Rescale,
    check,
    make_op,
    name_of,
)
from lictor.coding.program import settings as settings_of
from lictor.coding.reference import join, run_network, run_op, split
from lictor.errors import CheckpointError, LictorError
from lictor.layers.checkerboard import checkerboard_join, checkerboard_split
from lictor.layers.integer_network import IntegerNetwork

SEEDS = st.integers(0, 2**32 - 1)


def integers(rng: np.random.Generator, most: int, *shape: int) -> np.ndarray:
    return rng.integers(-most, most + 1, shape)


def rescale(rng: np.random.Generator, channels: int, bits: int) -> Rescale:
    """A random one that brings sums of so many bits back to what a network may give."""
    ends = np.sort(rng.integers(-REACH, REACH, (2, channels)), 0)
    shift = rng.integers(max(bits - 20, 0), bits + 1, channels)
    return Rescale(
        rng.integers(-4, 5, channels), integers(rng, 1 << bits, channels), shift, ends[0], ends[1]
    )


def network(rng: np.random.Generator) -> tuple[list[Op], int]:
    """A random chain with operations of every kind, its weights of up to 14 bits."""
    side, stride = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    extra = int(rng.integers(0, stride))
    inner, odd = int(rng.integers(0, (side + 1) // 2)), 2 * int(rng.integers(0, 3)) + 1
    ops: list[Op] = [
        Deconvolve(
            integers(rng, 8000, 3, 4, side, side), stride, min(inner, (side - 1) // 2), extra
        ),
        rescale(rng, 4, 24),
        Leaky(int(rng.integers(0, 65537))),
        Convolve(integers(rng, 8000, 6, 2, side, side), stride, side // 2, 2),
        rescale(rng, 6, 24),
        Lookup(-5, rng.integers(-1000, 1000, 11)),
        HalfConvolve(integers(rng, 8000, 2, 6, odd, odd)),
        rescale(rng, 2, 20),
    ]
    return ops, 3


def even_rows(ops: list[Op], x: np.ndarray) -> bool:
    """Half convolutions need an even number of rows."""
    for op in ops:
        if isinstance(op, HalfConvolve):
            return x.shape[1] % 2 == 0
        x = run_op(op, np.clip(x, -REACH, REACH))
    return True


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 2]))
def test_the_fast_network_is_the_reference_to_the_last_bit(seed, height, width, threads):
    rng = np.random.default_rng(seed)
    ops, channels = network(rng)
    most = int(rng.choice([1, 1000, 2 * REACH]))
    x = integers(rng, most, channels, height, width)
    if not even_rows(ops, x):
        ops = ops[:-2]
    wanted = run_network(tuple(ops), x)
    fast = IntegerNetwork(ops, channels)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = fast(torch.from_numpy(x / 1024).float()[None])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0].double().numpy() * 1024, wanted)


@given(SEEDS, st.integers(1, 4), st.integers(1, 3))
def test_reference_convolutions_are_those_of_torch(seed, side, stride):
    rng = np.random.default_rng(seed)
    x = integers(rng, 1000, 4, 6, 5)
    padding = int(rng.integers(0, side))
    weight = integers(rng, 100, 6, 2, side, side)
    wanted = F.conv2d(
        torch.from_numpy(x).double()[None],
        torch.from_numpy(weight).double(),
        stride=stride,
        padding=padding,
        groups=2,
    )
    found = run_op(Convolve(weight, stride, padding, 2), x)
    np.testing.assert_array_equal(found, wanted[0].numpy())

    weight = integers(rng, 100, 4, 3, side, side)
    padding, extra = int(rng.integers(0, (side + 1) // 2)), int(rng.integers(0, stride))
    wanted = F.conv_transpose2d(
        torch.from_numpy(x).double()[None],
        torch.from_numpy(weight).double(),
        stride=stride,
        padding=padding,
        output_padding=extra,
    )
    found = run_op(Deconvolve(weight, stride, padding, extra), x)
    np.testing.assert_array_equal(found, wanted[0].numpy())


def test_halves_of_the_reference_are_those_of_torch():
    x = np.arange(2.0 * 4 * 6).reshape(2, 4, 6)
    even, odd = split(x)
    for found, wanted in zip(
        (even, odd), checkerboard_split(torch.from_numpy(x)[None]), strict=True
    ):
        np.testing.assert_array_equal(found, wanted[0].numpy())
    joined = checkerboard_join(torch.from_numpy(even)[None], torch.from_numpy(odd)[None])
    np.testing.assert_array_equal(join(even, odd), joined[0].numpy())


def test_the_bound_is_reached_and_never_passed():
    rng = np.random.default_rng(0)
    weight = integers(rng, 8000, 3, 5, 3, 3)
    margin = _first_margin(weight)
    worst = int(np.abs(weight).sum((1, 2, 3)).argmax())
    x = REACH * np.sign(weight[worst])
    found = run_op(Convolve(weight), x)
    assert np.abs(found).max() == margin.largest
    assert 0 < margin.spare_bits < 52


def _first_margin(weight: np.ndarray):
    clamp = Rescale(*(np.full(len(weight), value) for value in (1, 0, 30, -5, 5)))
    return check([Convolve(weight), clamp], weight.shape[1])[0]


def test_sums_that_could_pass_2_to_the_52_are_refused():
    weight = np.full((1, 64, 5, 5), EXACT64 // REACH // (64 * 25) + 1)
    with pytest.raises(LictorError, match=r"operation 1 \(convolve\).*2\^52"):
        check([Convolve(weight)], 64)
    ones = np.ones(1, np.int64)
    with pytest.raises(LictorError, match=r"operation 1 \(rescale"):
        check([Rescale(ones << 30, ones, ones, -ones, ones)], 1)


def test_a_result_beyond_the_reach_is_refused():
    with pytest.raises(CheckpointError, match="result"):
        check([Convolve(np.full((1, 1, 1, 1), 2))], 1)


@pytest.mark.parametrize(
    "ops",
    [
        [Convolve(np.ones((1, 2, 1, 1), np.int64))],
        [Convolve(np.ones((3, 1, 1, 1), np.int64), groups=2)],
        [Leaky(-1)],
        [Leaky((1 << 16) + 1)],
        [Lookup(0, np.zeros(0, np.int64))],
        [Rescale(*(np.ones(2, np.int64) for _ in range(5)))],
        [Rescale(*(np.full(1, v) for v in (1, 0, 53, 0, 1)))],
        [Rescale(*(np.full(1, v) for v in (1, 0, -1, 0, 1)))],
        [Rescale(*(np.full(1, v) for v in (1, 0, 1, 2, 1)))],
    ],
    ids=lambda ops: name_of(ops[0]),
)
def test_operations_that_do_not_fit_are_refused(ops):
    with pytest.raises(CheckpointError, match="operation 1"):
        check(ops, 1)


@given(SEEDS)
def test_an_operation_is_what_its_settings_say(seed):
    for op in network(np.random.default_rng(seed))[0]:
        again = make_op(name_of(op), *settings_of(op))
        assert type(again) is type(op)
        for name, array in settings_of(op)[1].items():
            np.testing.assert_array_equal(getattr(again, name), array)
        assert settings_of(again)[0] == settings_of(op)[0]


def test_what_is_no_operation_is_refused():
    with pytest.raises(CheckpointError, match="'multiply'"):
        make_op("multiply", {}, {})
    with pytest.raises(CheckpointError, match="slope"):
        make_op("leaky", {}, {})
    with pytest.raises(CheckpointError, match="integers"):
        make_op("leaky", {"slope": 0.1}, {})
