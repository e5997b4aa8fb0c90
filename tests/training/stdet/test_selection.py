"""When weights are embedded, how many, and which: as scheduled; by chance only on request."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lictor.errors import ConfigError
from lictor.training.stdet.selection import (
    SELECTIONS,
    Schedule,
    Scores,
    lowest,
    quantiles,
    ranks,
    select,
)


@pytest.mark.parametrize(
    ("snapshots", "warmup", "window", "share", "cap", "last", "mean"),
    [
        (70, 20, 5, 0.05, 0.5, 0.45, 0.161),
        (50, 10, 5, 0.05, 0.5, 0.35, 0.140),
        (100, 20, 10, 0.10, 0.9, 0.70, 0.280),
    ],
)
def test_published_budgets_give_their_shares(snapshots, warmup, window, share, cap, last, mean):
    schedule = Schedule(3, 3 * snapshots + 2, warmup, window, share, cap)
    shares = schedule.shares()
    assert len(shares) == schedule.snapshots == snapshots
    assert shares[-1] == pytest.approx(last)
    assert sum(shares) / len(shares) == pytest.approx(mean, abs=5e-4)
    assert shares == sorted(shares)
    assert schedule.events[0] == warmup + window
    assert snapshots - 1 not in schedule.events


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(0.01, 0.99))
def test_events_embed_their_share_until_the_cap(total, share, cap):
    schedule = Schedule(1, 100, 9, 5, share, cap)
    embedded = 0
    for _ in schedule.events:
        more = schedule.target(total, embedded)
        assert 0 <= more <= -(-share * total // 1) + 1
        embedded += more
        assert embedded <= cap * total
    if share * total >= 1 and share * len(schedule.events) > cap:
        assert embedded == int(cap * total)
    assert schedule.target(total, total) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"warmup": 8}, r"stdet\.warmup = 8 gives 9 snapshots"),
        ({"cap": 1.0}, "this would embed everything"),
        ({"cap": 0.0}, "cap above 0"),
        ({"share": 1.1}, "share must be from 0 to 1"),
        ({"share": -0.1}, "share must be from 0 to 1"),
        ({"every": 0}, "at least 1"),
        ({"window": 0}, "at least 1"),
        ({"steps": 21}, r"21 snapshots in 21 steps leave none.*needed are 22"),
    ],
)
def test_a_schedule_that_cannot_be_is_an_error_that_says_why(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Schedule(**{"every": 1, "steps": 22, "warmup": 15, "window": 5} | wrong)
    assert Schedule(1, 22, 15, 5).events == (20,)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_ranks_are_a_permutation_in_order_and_ties_keep_theirs(score):
    place = ranks(torch.tensor(score).float())
    assert sorted(place.tolist()) == list(range(len(score)))
    order = sorted(range(len(score)), key=lambda k: (score[k], k))
    assert place[order].tolist() == list(range(len(score)))
    low, rest = lowest(torch.tensor(score).float(), 3)
    assert [*low.tolist(), *rest.tolist()] == order


def scores(n: int = 60, seed: int = 0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return Scores(
        torch.rand(n, generator=generator) < 0.8,
        torch.rand(n, generator=generator),
        torch.rand(n, generator=generator),
    )


@pytest.mark.parametrize("how", SELECTIONS)
def test_what_is_chosen_are_candidates_as_many_as_asked_for_and_no_dummy_is_embedded(how):
    given_ = scores()
    true, dummies = select(given_, how=how, count=9, dummies=7, generator=torch.Generator())
    assert (int(true.sum()), int(dummies.sum())) == (9, 7)
    assert not (true & dummies).any()
    assert not ((true | dummies) & ~given_.candidates).any()
    rest = given_.candidates & ~true & ~dummies
    assert given_.drift[dummies].max() <= given_.drift[rest].min()
    greedy, none = select(given_, how=how, count=99, dummies=9, generator=torch.Generator())
    assert torch.equal(greedy, given_.candidates)
    assert not none.any()


def test_each_way_of_choosing_takes_the_lowest_of_its_score():
    given_ = scores()
    chosen = {
        how: select(given_, how=how, count=9, dummies=0, generator=torch.Generator())[0]
        for how in SELECTIONS
    }
    places = torch.nonzero(given_.candidates).flatten()
    sums = {
        "drift": given_.drift[places],
        "sensitivity": given_.sensitivity[places],
        "both": ranks(given_.drift[places]) + ranks(given_.sensitivity[places]),
    }
    for how, score in sums.items():
        assert score[chosen[how][places]].max() <= score[~chosen[how][places]].min(), how
    assert len({tuple(mask.tolist()) for mask in chosen.values()}) == 4


def test_random_choice_is_of_the_generator_and_an_unknown_way_is_an_error():
    def at_random(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return select(scores(), how="random", count=9, dummies=0, generator=generator)[0]

    assert torch.equal(at_random(1), at_random(1))
    assert not torch.equal(at_random(1), at_random(2))
    with pytest.raises(ConfigError, match="unknown selection 'best': choose one of both, drift"):
        select(scores(), how="best", count=1, dummies=0, generator=torch.Generator())


def test_quantiles_are_those_of_the_values_and_none_of_none():
    assert quantiles(torch.arange(101.0)) == pytest.approx([5, 25, 50, 75, 95])
    assert quantiles(torch.zeros(0)) == []
    many = quantiles(torch.linspace(0, 1, 5_000_000))
    assert many == pytest.approx([0.05, 0.25, 0.5, 0.75, 0.95], abs=1e-4)
