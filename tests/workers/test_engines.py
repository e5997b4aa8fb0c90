"""Engines: whoever does the work, every item has its result, and a dead worker costs its item."""

import os
from functools import partial

import pytest

from lictor.workers.engine import InProcess, Lost
from lictor.workers.processes import Processes


class Cube:
    def __call__(self, item: int) -> int:
        if item < 0:
            os._exit(1)
        return item**3


@pytest.mark.slow
def test_processes_give_what_one_gives_and_lose_only_what_kills_them():
    items = list(range(7))
    one = dict(InProcess().map(Cube, items))
    found = dict(Processes(2).map(Cube, [*items[:3], -1, *items[3:]]))
    assert isinstance(found.pop(-1), Lost)
    assert found == one == {n: n**3 for n in items}


@pytest.mark.slow
def test_ray_gives_what_one_gives_and_loses_only_what_kills_it():
    pytest.importorskip("ray")
    from lictor.workers.ray_data import ray_engine

    with ray_engine(None, 2) as engine:
        found = dict(engine.map(partial(Cube), [0, 1, -1, 2, 3]))
    assert isinstance(found.pop(-1), Lost)
    assert found == {n: n**3 for n in range(4)}
