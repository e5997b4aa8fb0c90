"""Ray Data as an engine: the same work, on a Ray of this machine or on a cluster.

A worker is an actor with one core; it makes the work once, from what lies in the object store.
"""

import importlib
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from lictor.errors import ConfigError, LictorError
from lictor.workers.engine import Engine, Lost

LIMIT_S = 30.0
_DEFAULT_PORT = 6379
_LOCAL = "local"
_DIED = "its worker died; was there enough memory?"
# Pictures of one block are lost together when its worker dies, and every block costs the driver.
_MOST_BLOCKS = 4096
# Ray ends the process of a driver that has been without the head for 60 s, or without the raylet of
# its own machine for some 15 s, and says nothing. A head may be started again, a raylet is not.
_HEAD_LIMIT_S = 40.0
_LOOK_EVERY_S = 5.0
# Ray may wait long for an answer to its goodbye.
_LEAVE_S = 10.0
# Sent to another process, where it may take as long as it likes: Ray waits minutes by itself.
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); ray.shutdown()"


def _ray() -> Any:
    # Or what is still at work when Ray is let go of starts another Ray. It is read at the import.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        importlib.import_module("ray.data")
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(
            f"the engine ray needs a package that is not installed ({error}): "
            'pip install "lictor[ray]"'
        ) from error
    except Exception as error:  # one that does not fit its other packages, say
        raise ConfigError(f"the engine ray: Ray cannot be loaded ({_told(error)})") from error


@contextmanager
def ray_engine(
    address: str | None, jobs: int | None, *, limit_s: float | None = None
) -> Iterator[Engine]:
    """Connect to the Ray at an address, or start one on this machine; let go of it at the end.

    Without an address, `RAY_ADDRESS` says it. Without `jobs` there are as many workers as the
    cluster has cores. A Ray that this process uses already is used and stays. Raises `ConfigError`
    when Ray is not installed, or the address is one of Ray Client, or nothing answers there within
    `limit_s` seconds, 30 if not given, or it wants a token that it is not given.
    """
    ray = _ray()
    address = address or os.environ.get("RAY_ADDRESS") or _LOCAL
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, address, jobs, LIMIT_S if limit_s is None else limit_s)
    try:
        try:
            cores = int(ray.cluster_resources().get("CPU", 0))
        except Exception as error:  # Ray raises of many kinds
            raise ConfigError(f"{address}: cannot use Ray there ({_told(error)})") from error
        if cores < 1:
            raise ConfigError(f"{address}: this Ray has no cores to work with")
        yield RayData(jobs or cores)
    finally:
        if mine:
            _leave(ray)


def _leave(ray: Any) -> None:
    """Let go of Ray; whatever it says to that, the work is done or has an error of its own."""

    def shut_down() -> None:
        with suppress(Exception):
            ray.shutdown()

    thread = threading.Thread(target=shut_down, daemon=True)
    thread.start()
    thread.join(_LEAVE_S)


def _connect(ray: Any, address: str, jobs: int | None, limit_s: float) -> None:
    if "://" in address:
        # Ray Data asks for the core worker of its process; that of a Ray Client is on the cluster.
        raise ConfigError(
            f"{address}: Ray Data does not run through Ray Client; run the command on a machine of "
            f"the cluster, with --address HOST:{_DEFAULT_PORT} or auto, or send it there with: "
            "ray job submit"
        )
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if address == _LOCAL:
            ray.init(
                address=_LOCAL,
                num_cpus=jobs or os.cpu_count() or 1,
                include_dashboard=False,
                **quiet,
            )
        else:
            _probe(address, limit_s)
            ray.init(address=address, **quiet)
    except ConfigError:
        raise
    except Exception as error:  # Ray raises of many kinds
        raise ConfigError(f"{address}: cannot use Ray there ({_told(error)})") from error


def _probe(address: str, limit_s: float) -> None:
    """Raise `ConfigError` when no Ray answers in time."""
    end = time.monotonic() + limit_s
    start_one = "is it running? start one with: ray start --head"
    if address != "auto":
        parts = urlsplit(f"//{address}")
        try:
            host, port = parts.hostname, parts.port or _DEFAULT_PORT
            if not host:
                raise ConfigError(f"--address {address}: expected HOST:PORT, or auto")
            socket.create_connection((host, port), timeout=limit_s).close()
        except ConfigError:
            raise
        except (OSError, ValueError) as error:
            raise ConfigError(f"{address}: no Ray answers there ({error}); {start_one}") from error
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            capture_output=True,
            text=True,
            errors="replace",
            # A try takes a second: why there was none is to be heard before the time is up.
            env={"RAY_NUM_REDIS_GET_RETRIES": str(max(1, int(limit_s / 3))), **os.environ},
            timeout=max(1.0, end - time.monotonic()),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"{address}: no Ray answers there within {limit_s:g} s; {start_one}"
        ) from error
    if done.returncode != 0 and "AuthenticationError" in done.stderr:
        raise ConfigError(
            f"{address}: this Ray asks for a token, and was given none or a wrong one; set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it"
        )
    if done.returncode != 0:
        raise ConfigError(
            f"{address}: cannot use Ray there ({_last_line(done.stderr)}); {start_one}"
        )


def _told(error: BaseException) -> str:
    """Return the end of what an error says, which is where Ray tells the cause."""
    return f"{type(error).__name__}: {_last_line(str(error))}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"


@dataclass(frozen=True)
class RayData:
    """So many workers of the Ray that this process is connected to."""

    jobs: int

    def map(
        self, make: Callable[[], Callable[[Any], Any]], items: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]:
        """Yield every item with its result as it comes, those of dead workers last.

        Raises `LictorError` when Ray fails, its head has not been there for 40 seconds, or the
        raylet of this machine is gone.
        """
        if not items:
            return
        rows = [{"number": n, "item": pickle.dumps(item)} for n, item in enumerate(items)]
        missing = dict(enumerate(items))
        for row in _rows_as_they_come(partial(self._pipeline, pickle.dumps(make), rows)):
            yield missing.pop(int(row["number"])), pickle.loads(row["result"])
        for item in missing.values():
            yield item, Lost(_DIED)

    def _pipeline(self, make: bytes, rows: Sequence[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        """Begin the work, and return its rows."""
        ray = _ray()
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # a block whose worker died costs its items, not the rest
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        data = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # releases of Ray disagree on how retries are said
            results = data.map_batches(
                _Worker,
                fn_constructor_args=(ray.put(make),),
                compute=ray.data.ActorPoolStrategy(size=min(self.jobs, len(rows))),
                batch_size=1,
                num_cpus=1,
                # A picture that kills its worker would do so for ever.
                ray_remote_args_fn=partial(dict, max_task_retries=1),
            )
        return results.iter_rows()


def _rows_as_they_come(
    pipeline: Callable[[], Iterable[dict[str, Any]]],
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a pipeline while its Ray is there.

    Ray waits for what is gone, so a thread waits for Ray; nothing of the caller runs in it,
    and all that is raised there is a failure of Ray.
    """
    answers = SimpleQueue[Any]()
    stop = threading.Event()
    threading.Thread(target=_ask, args=(pipeline, answers, stop), daemon=True).start()
    watched = _watched()
    try:
        while True:
            for place in watched:
                place.look()
            try:
                answer = answers.get(timeout=_LOOK_EVERY_S)
            except Empty:
                continue
            if answer is None:
                return
            if isinstance(answer, MemoryError) or not isinstance(answer, dict | Exception):
                raise answer
            if isinstance(answer, Exception):
                raise LictorError(f"Ray gave up ({_told(answer)})") from answer
            yield answer
    finally:
        stop.set()


def _ask(
    pipeline: Callable[[], Iterable[dict[str, Any]]], answers: SimpleQueue[Any], stop: Any
) -> None:
    """Put every row, then None; or what was raised."""
    try:
        for row in pipeline():
            answers.put(row)
            if stop.is_set():
                return
        answers.put(None)
    except BaseException as error:
        answers.put(error)


def _watched() -> list["_Place"]:
    """Return what this process's Ray cannot do without; less where Ray does not tell."""
    places = list[_Place]()
    with suppress(Exception):  # without them, Ray's own limits hold
        ray = _ray()
        context = ray.get_runtime_context()
        parts = urlsplit(f"//{context.gcs_address}")
        if parts.hostname and parts.port:
            head = "the head of the cluster"
            places.append(_Place(head, parts.hostname, parts.port, _HEAD_LIMIT_S))
        for node in ray.nodes():
            if node["NodeID"] == context.get_node_id():
                host, port = node["NodeManagerAddress"], int(node["NodeManagerPort"])
                places.append(_Place("the raylet of this machine", host, port, 0.0))
    return places


class _Place:
    """A part of a Ray, looked at now and then, where somebody is to listen.

    Only one that may come back, `limit_s` over 0, is given up when it does not answer in time;
    one that may not, when the connection is refused.
    """

    def __init__(self, name: str, host: str, port: int, limit_s: float):
        self.name, self.host, self.port, self.limit_s = name, host, port, limit_s
        self.seen = self.looked = time.monotonic()

    def look(self) -> None:
        """Raise `LictorError` when nobody has listened for too long."""
        if time.monotonic() - self.looked < _LOOK_EVERY_S:
            return
        try:
            socket.create_connection((self.host, self.port), timeout=_LOOK_EVERY_S).close()
            self.seen = time.monotonic()
        except OSError as error:
            away_s = time.monotonic() - self.seen
            refused = isinstance(error, ConnectionRefusedError)
            if away_s >= self.limit_s if self.limit_s > 0 else refused:
                raise LictorError(
                    f"Ray gave up ({self.host}:{self.port}: {self.name} has not answered for "
                    f"{away_s:.0f} s: {error})"
                ) from error
        self.looked = time.monotonic()


class _Worker:
    """Work on one core, made once; what it gets and gives are bytes, so that any type passes."""

    def __init__(self, work: Any):
        import torch

        torch.set_num_threads(1)
        self.work = pickle.loads(_ray().get(work) if not isinstance(work, bytes) else work)()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"number": batch["number"], "result": [self._of(item) for item in batch["item"]]}

    def _of(self, item: bytes) -> bytes:
        try:
            return pickle.dumps(self.work(pickle.loads(item)))
        except Exception as error:  # the others go on, and Ray would not tell whose fault it is
            return pickle.dumps(Lost(f"{type(error).__name__}: {error}"))
