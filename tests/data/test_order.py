"""The order of pictures: permutations, epochs in which nothing is lost, belts, shares."""

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lictor.data.order import Order, permuted
from lictor.errors import ConfigError

SEEDS = st.integers(0, 2**63 - 1)


def walk(order: Order, steps: range) -> list[int]:
    return [order.picture(s, p) for s in steps for p in range(order.batch_size)]


@given(st.integers(1, 200), SEEDS, st.integers(-3, 2**40))
def test_every_size_has_a_permutation_for_every_key(size, seed, epoch):
    assert sorted(permuted(i, size, (seed, epoch)) for i in range(size)) == list(range(size))


def test_a_permutation_of_very_many_needs_no_memory():
    size = 10**15 + 37
    images = [permuted(i, size, (1, 2)) for i in range(2000)]
    assert len(set(images)) == 2000
    assert all(0 <= image < size for image in images)
    assert abs(np.mean(images) / size - 0.5) < 0.04  # 6 standard deviations


@pytest.mark.parametrize("size", [3, 7, 11])
def test_every_picture_comes_equally_often_at_every_place_and_behind_every_other(size):
    epochs = 300 * size
    places, pairs = np.zeros((size, size)), np.zeros((size, size))
    for epoch in range(epochs):
        shuffled = [permuted(i, size, (5, epoch)) for i in range(size)]
        places[range(size), shuffled] += 1
        pairs[shuffled[:-1], shuffled[1:]] += 1
    # Chi-squared has as many degrees of freedom; its deviation is the root of twice as many.
    for counts, cells in ((places, (size - 1) ** 2), (pairs, size * (size - 1) - 1)):
        seen = counts[counts > 0] if counts is pairs else counts
        assert seen.size == (size * (size - 1) if counts is pairs else size**2)
        excess = ((seen - seen.mean()) ** 2 / seen.mean()).sum()
        assert excess < cells + 6 * (2 * cells) ** 0.5


def test_epochs_and_seeds_are_not_alike():
    size = 1000
    orders = [
        [permuted(i, size, key) for i in range(size)] for key in itertools.product((1, 2), range(4))
    ]
    for first, second in itertools.combinations([list(range(size)), *orders], 2):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.19  # 6 standard deviations
        assert sum(a == b for a, b in zip(first, second, strict=True)) < 10


@given(st.integers(1, 40), st.integers(1, 9), SEEDS, st.integers(0, 20))
def test_an_epoch_has_every_picture_once_wherever_a_run_is_resumed(count, batch_size, seed, stop):
    order = Order(((count, 1.0),), batch_size, seed)
    end = max(stop, 3 * count // batch_size + 1)
    again = Order(order.groups, batch_size, seed)
    seen = walk(order, range(stop)) + walk(again, range(stop, end))
    for epoch in range(len(seen) // count):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


@pytest.mark.slow
@given(st.integers(1, 30), st.integers(1, 6), st.integers(2, 6), SEEDS)
def test_on_belts_every_draw_is_cut_as_often_as_decoding_pays_for(count, batch_size, k, seed):
    order = Order(((count, 1.0),), batch_size, seed, k)
    plain = Order(((count, 1.0),), batch_size, seed)
    cut: dict[int, list[tuple[int, int]]] = defaultdict(list)
    steps = 3 * k * (-(-count // batch_size) + k)
    drawn = []
    for step in range(steps):
        for position in range(batch_size):
            time = step - position % k
            generation, crop = divmod(time, k)
            draw = (generation - crop) * batch_size + position
            drawn.append(draw)
            cut[draw].append((step, position))
            if draw >= 0:
                assert order.picture(step, position) == plain.picture(*divmod(draw, batch_size))
    assert len(set(drawn[:batch_size])) == batch_size
    whole = [draw for draw in cut if 0 <= draw < count]
    assert sorted(whole) == list(range(count))  # an epoch, none lost
    for draw in whole:
        times = [step for step, _ in cut[draw]]
        assert len(times) == k
        assert {b - a for a, b in itertools.pairwise(times)} == {k + 1}
        assert len({position for _, position in cut[draw]}) == 1  # in one process, whatever many


def test_belts_take_up_pictures_evenly_and_use_few_at_a_time():
    k, batch_size = 8, 16
    order = Order(((10**9, 1.0),), batch_size, 3, k)
    rows = [[order.picture(s, p) for p in range(batch_size)] for s in range(400)]
    assert all(len(set(row)) == batch_size for row in rows)
    last = {picture: s for s, row in enumerate(rows) for picture in row}
    first = {picture: s for s, row in reversed(list(enumerate(rows))) for picture in row}
    begun = Counter(first.values())
    assert {begun[s] for s in range(100, 200)} == {batch_size // k}
    in_use = sum(first[p] <= 200 <= last[p] for p in first)
    assert in_use <= batch_size * k


@given(
    st.lists(st.tuples(st.integers(1, 12), st.floats(0.1, 10)), min_size=1, max_size=4),
    st.integers(1, 5),
    SEEDS,
)
def test_sources_take_turns_by_their_shares_and_repeat_nothing_within_an_epoch(groups, batch, seed):
    order = Order(groups, batch, seed)
    seen = walk(order, range(80))
    starts = np.cumsum([0, *(count for count, _ in groups)])
    total = sum(share for _, share in groups)
    for number, (count, share) in enumerate(groups):
        own = [p - int(starts[number]) for p in seen if starts[number] <= p < starts[number + 1]]
        for length in (len(seen) // 3, len(seen)):
            part = sum(starts[number] <= p < starts[number + 1] for p in seen[:length])
            assert abs(part - length * share / total) < len(groups) + 1e-3
        for epoch in range(len(own) // count):
            assert sorted(own[epoch * count : (epoch + 1) * count]) == list(range(count))


@pytest.mark.parametrize("group", [(0, 1.0), (3, 0.0), (3, -1.0), (3, float("inf"))])
def test_a_source_without_pictures_or_share_is_refused(group):
    with pytest.raises(ConfigError, match="source of"):
        Order(((3, 1.0), group), 2, 0)


def test_shares_of_any_size_take_turns():
    greatest, least = 1.7e308, 5e-324
    for share in (greatest, least):
        assert Order(((3, share), (3, share)), 2, 7) != Order(((3, 1.0), (3, 1.0)), 2, 7)
        assert walk(Order(((3, share), (3, share)), 2, 7), range(9)) == walk(
            Order(((3, 1.0), (3, 1.0)), 2, 7), range(9)
        )


@pytest.mark.parametrize("shares", [(1e30, 1.0), (1.0, 1e30), (1.7e308, 5e-324), (1, 1e-12, 1)])
def test_a_source_that_would_never_have_its_turn_is_refused(shares):
    with pytest.raises(ConfigError, match="too far apart"):
        Order(tuple((3, share) for share in shares), 2, 0)
