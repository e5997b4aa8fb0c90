"""Engines: whoever does the work, every item has its result, and a dead worker costs its item."""

from functools import partial

import pytest

from lictor.workers.engine import InProcess, Lost
from lictor.workers.processes import Processes

WORK = partial(partial, eval)  # of names that every process has
ITEMS = [f"{number}**3" for number in range(7)]
KILLS = "__import__('os')._exit(1)"


@pytest.mark.slow
def test_processes_give_what_one_gives_and_lose_only_what_kills_them():
    found = dict(Processes(2).map(WORK, [*ITEMS[:3], KILLS, *ITEMS[3:]]))
    assert isinstance(found.pop(KILLS), Lost)
    assert found == dict(InProcess().map(WORK, ITEMS)) == {item: eval(item) for item in ITEMS}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray warns of itself
def test_ray_gives_what_one_gives_and_loses_only_what_kills_or_fails():
    pytest.importorskip("ray")
    from lictor.workers.ray_data import ray_engine

    with ray_engine(None, 2) as engine:
        found = dict(engine.map(WORK, [*ITEMS[:3], KILLS, "1/0", *ITEMS[3:]]))
    assert isinstance(found.pop(KILLS), Lost)
    assert "ZeroDivisionError" in found.pop("1/0").reason
    assert found == {item: eval(item) for item in ITEMS}
