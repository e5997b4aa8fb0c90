"""What Ray does wrong ends in one line, and what others do wrong stays theirs; with no Ray at all.

A module of these tests stands in for Ray: it does the work here, and fails where it is told to.
"""

import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lictor.errors import ConfigError, LictorError
from lictor.workers import ray_data
from lictor.workers.engine import Lost
from lictor.workers.ray_data import ray_engine

WORK = partial(partial, eval)
ITEMS = ["2**3", "1/0", "5**3"]
TOKEN = "ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken\n\nConnectionError: Failed"


class OfRay(Exception):
    """A failure that is of no class which lictor knows."""


class StandIn(ModuleType):
    """A Ray with two cores that calls a hook before each step, for it to fail."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.fails: dict[str, Callable[[], None]] = {}
        self.calls: list[str] = []
        self.address = ""
        self.raylets = (0, 0)  # ports: on this machine, on another
        data = ModuleType("ray.data")
        context = SimpleNamespace()
        data.__dict__.update(
            DataContext=SimpleNamespace(get_current=lambda: context),
            ActorPoolStrategy=lambda size: size,
            from_items=self._from_items,
        )
        self.data = data

    def step(self, name: str) -> None:
        self.calls.append(name)
        self.fails.get(name, lambda: None)()

    def is_initialized(self) -> bool:
        return False

    def init(self, **_: Any) -> None:
        self.step("init")

    def shutdown(self) -> None:
        self.step("shutdown")

    def cluster_resources(self) -> dict[str, float]:
        self.step("cluster_resources")
        return {"CPU": 2.0}

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address=self.address, get_node_id=lambda: "mine")

    def nodes(self) -> list[dict[str, Any]]:
        here, there = self.raylets
        return [
            {"NodeID": "other", "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": there},
            {"NodeID": "mine", "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": here},
        ]

    def put(self, value: bytes) -> bytes:
        self.step("put")
        return value

    def _from_items(self, rows: list[dict[str, Any]], **_: Any) -> Any:
        self.step("from_items")
        return SimpleNamespace(map_batches=partial(self._map_batches, rows))

    def _map_batches(self, rows: list[dict[str, Any]], worker: Any, **how: Any) -> Any:
        self.step("map_batches")
        return SimpleNamespace(iter_rows=partial(self._iter_rows, rows, worker, how))

    def _iter_rows(self, rows: list[dict[str, Any]], worker: Any, how: Any) -> Iterator[Any]:
        self.step("iter_rows")
        work = worker(*how["fn_constructor_args"])
        for number, row in enumerate(rows):
            self.step(f"row {number}")
            done = work({name: [value] for name, value in row.items()})
            yield {name: values[0] for name, values in done.items()}


@pytest.fixture
def ray(monkeypatch) -> StandIn:
    ray = StandIn()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)  # its workers are in this process
    return ray


def raises(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_the_stand_in_does_the_work(ray):
    with ray_engine(None, None) as engine:
        found = dict(engine.map(WORK, ITEMS))
        assert list(engine.map(WORK, [])) == []
    assert isinstance(found.pop("1/0"), Lost)
    assert found == {"2**3": 8, "5**3": 125}
    assert ray.calls[-1] == "shutdown"


def test_ray_is_told_before_its_import_to_start_nothing_by_itself(monkeypatch, tmp_path):
    """Work that goes on while Ray is let go of would start another one, which nobody stops."""
    package = tmp_path / "ray"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import os\nseen = os.environ['RAY_ENABLE_AUTO_CONNECT']\n"
    )
    (package / "data.py").touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delenv("RAY_ENABLE_AUTO_CONNECT", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert ray_data._ray().seen == "0"
    finally:
        for name in ("ray", "ray.data"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("way", ["argument", "environment"])
@pytest.mark.parametrize("address", ["ray://head:10001", "ray://head", "http://head:8265"])
def test_an_address_of_ray_client_is_refused_before_ray_is_asked(address, way, ray, monkeypatch):
    if way == "environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
    with (
        pytest.raises(
            ConfigError, match=r"Ray Client.* HOST:6379 or auto.* ray job submit$"
        ) as told,
        ray_engine(address if way == "argument" else None, 1),
    ):
        pass
    assert str(told.value).startswith(f"{address}: ")
    assert ray.calls == []


def answer_of_the_probe(monkeypatch, returncode: int, stderr: str) -> list[dict[str, Any]]:
    """Let the process that tries an address end in this way; return how it is started."""
    started = []

    def run(_: Any, **how: Any) -> subprocess.CompletedProcess[str]:
        started.append(how)
        return subprocess.CompletedProcess((), returncode, "", stderr)

    monkeypatch.setattr(ray_data.subprocess, "run", run)
    return started


@pytest.mark.parametrize(
    ("stderr", "words", "not_said"),
    [
        (
            TOKEN,
            ["token", "RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN,", "RAY_AUTH_TOKEN_PATH"],
            "running",
        ),
        ("ConnectionError: Failed", ["is it running?", "ConnectionError: Failed"], "token"),
    ],
)
def test_a_ray_that_asks_for_a_token_is_not_said_to_be_down(
    stderr, words, not_said, ray, monkeypatch
):
    answer_of_the_probe(monkeypatch, 1, stderr)
    with pytest.raises(ConfigError) as told, ray_engine("auto", 1):
        pass
    for word in words:
        assert word in str(told.value)
    assert not_said not in str(told.value)
    assert "init" not in ray.calls


def test_the_probe_hears_why_before_its_time_is_up(ray, monkeypatch):
    started = answer_of_the_probe(monkeypatch, 0, "")
    with ray_engine("auto", 1, limit_s=30.0):
        pass
    tries = int(started[0]["env"]["RAY_NUM_REDIS_GET_RETRIES"])
    assert 1 <= tries < started[0]["timeout"] / 2


FAILURES = [
    OfRay("first line\n\n  the cause"),
    ConnectionError("the cause"),
    OSError("the cause"),
    KeyError("the cause"),
    AssertionError("the cause"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["put", "from_items", "map_batches", "iter_rows", "row 1"])
def test_whatever_ray_raises_is_one_line(where, error, ray):
    ray.fails[where] = raises(error)
    found = []
    with pytest.raises(LictorError, match="Ray gave up") as told, ray_engine(None, 1) as engine:
        found.extend(engine.map(WORK, ITEMS))
    assert type(told.value) is LictorError
    assert told.value.__cause__ is error
    assert "the cause" in str(told.value)
    assert "\n" not in str(told.value)
    assert ray.calls[-1] == "shutdown"


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["init", "cluster_resources"])
def test_a_ray_that_cannot_be_used_is_one_line(where, error, ray):
    ray.fails[where] = raises(error)
    with pytest.raises(ConfigError, match="the cause") as told, ray_engine(None, 1):
        pass
    assert told.value.__cause__ is error
    assert "\n" not in str(told.value)


def test_rows_before_a_failure_are_given(ray):
    ray.fails["row 2"] = raises(OfRay("gone"))
    found = []
    with pytest.raises(LictorError, match="OfRay: gone"), ray_engine(None, 1) as engine:
        found.extend(engine.map(WORK, ITEMS))
    assert [item for item, _ in found] == ITEMS[:2]


@pytest.mark.parametrize("error", [*FAILURES, KeyboardInterrupt()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("shutdown_fails", [False, True])
def test_what_the_caller_raises_stays_what_it_is(shutdown_fails, error, ray):
    if shutdown_fails:
        ray.fails["shutdown"] = raises(OfRay("no goodbye"))
    seen = []
    with pytest.raises(type(error)) as told, ray_engine(None, 1) as engine:
        seen.extend(raises(error)() for _ in engine.map(WORK, ITEMS))
    assert told.value is error


def test_what_cannot_be_pickled_is_the_callers_fault(ray):
    with ray_engine(None, 1) as engine, pytest.raises((pickle.PicklingError, AttributeError)):
        list(engine.map(lambda: eval, ITEMS))
    assert "from_items" not in ray.calls


def test_memory_that_is_out_is_said_to_be(ray):
    ray.fails["row 1"] = raises(MemoryError())
    with pytest.raises(MemoryError), ray_engine(None, 1) as engine:
        list(engine.map(WORK, ITEMS))


@pytest.fixture
def in_a_hurry(monkeypatch) -> None:
    monkeypatch.setattr(ray_data, "_HEAD_LIMIT_S", 0.4)
    monkeypatch.setattr(ray_data, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(ray_data, "_LEAVE_S", 0.1)


@pytest.fixture
def listening() -> Iterator[Callable[[], socket.socket]]:
    """Somebody who listens at a port of this machine."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_server(("127.0.0.1", 0)))


@pytest.mark.usefixtures("in_a_hurry")
@pytest.mark.parametrize("rows_go_on", [False, True])
@pytest.mark.parametrize(("gone", "least_s"), [("head", 0.4), ("raylet", 0.0)])
def test_a_part_that_goes_away_is_missed(gone, least_s, rows_go_on, ray, listening):
    """Also when workers elsewhere go on for a while, or Ray does not come back from goodbye."""
    for_ever = threading.Event()
    parts = {"head": listening(), "raylet": listening()}
    ports = {name: part.getsockname()[1] for name, part in parts.items()}
    ray.address, ray.raylets = f"127.0.0.1:{ports['head']}", (ports["raylet"], ports["head"])

    def go_away() -> None:
        parts[gone].close()
        if not rows_go_on:
            for_ever.wait()

    ray.fails = {f"row {number}": partial(time.sleep, 0.02) for number in range(500)}
    ray.fails |= {"row 1": go_away, "shutdown": for_ever.wait}
    begun, found = time.monotonic(), []
    with (
        pytest.raises(LictorError, match=f":{ports[gone]}: the {gone} of") as told,
        ray_engine(None, 1) as engine,
    ):
        found.extend(engine.map(WORK, [f"{n}+0" for n in range(500)]))
    for_ever.set()
    assert "\n" not in str(told.value)
    assert least_s <= time.monotonic() - begun < 5
    assert 1 <= len(found) < 500


@pytest.mark.usefixtures("in_a_hurry")
def test_a_ray_that_is_there_is_waited_for(ray, listening):
    """Whatever becomes of machines that are not this one."""
    ray.address = f"127.0.0.1:{listening().getsockname()[1]}"
    ray.raylets = (listening().getsockname()[1], 1)
    ray.fails["row 1"] = lambda: time.sleep(1.0)
    with ray_engine(None, 1) as engine:
        assert len(list(engine.map(WORK, ITEMS))) == len(ITEMS)


@pytest.mark.usefixtures("in_a_hurry")
def test_a_head_that_comes_back_in_time_is_forgiven(ray, listening):
    head = listening()
    address = head.getsockname()
    ray.address, ray.raylets = f"127.0.0.1:{address[1]}", (listening().getsockname()[1], 1)
    ray.fails["row 1"] = lambda: (head.close(), time.sleep(0.25))[1]

    def come_back() -> None:
        with socket.create_server(address):
            time.sleep(0.6)

    ray.fails["row 2"] = come_back
    with ray_engine(None, 1) as engine:
        assert len(list(engine.map(WORK, ITEMS))) == len(ITEMS)
