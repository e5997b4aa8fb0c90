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
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
# Sent to another process, where it may take as long as it likes: Ray waits minutes by itself.
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); ray.shutdown()"


def _ray() -> Any:
    try:
        importlib.import_module("ray.data")
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(
            f"the engine ray needs a package that is not installed ({error}): "
            'pip install "lictor[ray]"'
        ) from error


@contextmanager
def ray_engine(
    address: str | None, jobs: int | None, *, limit_s: float | None = None
) -> Iterator[Engine]:
    """Connect to the Ray at an address, or start one on this machine; let go of it at the end.

    Without an address, `RAY_ADDRESS` says it. Without `jobs` there are as many workers as the
    cluster has cores. A Ray that this process uses already is used and stays. Raises `ConfigError`
    when Ray is not installed, or nothing answers at the address within `limit_s` seconds,
    30 if not given.
    """
    ray = _ray()
    address = address or os.environ.get("RAY_ADDRESS") or _LOCAL
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, address, jobs, LIMIT_S if limit_s is None else limit_s)
    try:
        cores = int(ray.cluster_resources().get("CPU", 0))
        if cores < 1:
            raise ConfigError(f"{address}: this Ray has no cores to work with")
        yield RayData(jobs or cores)
    finally:
        if mine:
            ray.shutdown()


def _connect(ray: Any, address: str, jobs: int | None, limit_s: float) -> None:
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
        raise ConfigError(f"{address}: cannot use Ray there ({_last_line(str(error))})") from error


def _probe(address: str, limit_s: float) -> None:
    """Raise `ConfigError` when no Ray answers in time."""
    end = time.monotonic() + limit_s
    start_one = "is it running? start one with: ray start --head"
    if address != "auto":
        parts = urlsplit(address if "://" in address else f"//{address}")
        try:
            host, port = parts.hostname, parts.port or _DEFAULT_PORT
            if not host:
                raise ConfigError(f"--address {address}: expected HOST:PORT, or ray://HOST:PORT")
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
            timeout=max(1.0, end - time.monotonic()),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"{address}: no Ray answers there within {limit_s:g} s; {start_one}"
        ) from error
    if done.returncode != 0:
        raise ConfigError(
            f"{address}: cannot use Ray there ({_last_line(done.stderr)}); {start_one}"
        )


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
        """Yield every item with its result as it comes, those of dead workers last."""
        if not items:
            return
        ray = _ray()
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # a block whose worker died costs its items, not the rest
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        work = ray.put(pickle.dumps(make))
        rows = [{"number": n, "item": pickle.dumps(item)} for n, item in enumerate(items)]
        data = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # releases of Ray disagree on how retries are said
            results = data.map_batches(
                _Worker,
                fn_constructor_args=(work,),
                compute=ray.data.ActorPoolStrategy(size=min(self.jobs, len(rows))),
                batch_size=1,
                num_cpus=1,
                # A picture that kills its worker would do so for ever.
                ray_remote_args_fn=partial(dict, max_task_retries=1),
            )
        missing = dict(enumerate(items))
        try:
            for row in results.iter_rows():
                yield missing.pop(int(row["number"])), pickle.loads(row["result"])
        except (ray.exceptions.RayError, RuntimeError, ValueError) as error:
            raise LictorError(f"Ray gave up ({_last_line(str(error))})") from error
        for item in missing.values():
            yield item, Lost(_DIED)


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
