"""Where and how a run computes: device, processes, precision.

Nothing else asks torch which device there is, or speaks to other processes of a run.
"""

import contextlib
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lictor.errors import ConfigError, LictorError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# What `auto` prefers, and how many there are of each.
_BACKENDS = ("cuda", "xpu", "mps")
# A process that hears nothing from the others for so long gives up.
_PATIENCE = timedelta(minutes=10)
# Reading a large collection of pictures takes one machine longer than another.
_LONG_PATIENCE = timedelta(days=7)
# Gradients travel in pieces of about so many bytes, several at a time.
_BUCKET_BYTES = 2**25


def _count(kind: str) -> int:
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind)
    return module.device_count() if module.is_available() else 0


def devices() -> list[str]:
    """Return the names of all devices that can compute here, best first; the last one is `cpu`."""
    named = [f"{kind}:{i}" for kind in _BACKENDS for i in range(_count(kind))]
    return [name.removesuffix(":0") if name == "mps:0" else name for name in named] + ["cpu"]


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of a name such as `auto`, `cpu`, `cuda`, `cuda:1`, `mps`, `xpu`.

    Raises `ConfigError` when there is no such device, saying which there are.
    """
    there = devices()
    if name == "auto":
        return torch.device(there[0])
    full = f"{name}:0" if name in ("cuda", "xpu") else name
    if full not in there:
        raise ConfigError(f"no device {name!r} here; there is {', '.join(there)}")
    return torch.device(full)


@dataclass(frozen=True)
class Runtime:
    """One process of a run, and what it computes with.

    `rank` counts from 0 to `world_size - 1`; `precision` is a name of `PRECISIONS`, of the
    transforms alone: whatever a rate or a table is made of stays float32 or better. In float32,
    convolutions of a device that has TF32 use it unless torch is told otherwise. Raises
    `ConfigError` on another precision or an impossible rank.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1
    precision: str = "float32"
    # Those who wait for each other with more patience: a group of torch.distributed.
    patient: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision = {self.precision!r} must be one of {', '.join(PRECISIONS)}"
            )
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank {self.rank} of {self.world_size} processes")

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the transforms run."""
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def place(self, model: nn.Module) -> None:
        """Move a network to the device; raises `ConfigError` when that has no room for it."""
        try:
            model.to(self.device)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"{self.device}: no memory is left, not even for the weights"
            ) from error

    def compile(self, model: nn.Module) -> None:
        """Let torch compile a network when it is first called; weights keep their names.

        On CUDA its forward and backward pass become graphs, each launched at once.
        """
        model.compile(mode="reduce-overhead" if self.device.type == "cuda" else "default")

    def begin_compiled_step(self) -> None:
        """Let go of what graphs of a compiled network gave in the step before."""
        if self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()

    def put(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the device."""
        return tensor.to(self.device, non_blocking=True)

    def stage(self, tensor: Tensor) -> Tensor:
        """Return a tensor from where it can be copied to the device while that computes."""
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def describe(self) -> str:
        """Say what a run computes with, for people."""
        name = str(self.device)
        if self.device.type == "cuda":
            name = f"{name} ({torch.cuda.get_device_name(self.device)})"
        precision = self.precision
        if (
            precision == "float32"
            and self.device.type == "cuda"
            and torch.backends.cudnn.allow_tf32
        ):
            precision = "float32 (TF32 in convolutions)"
        several = f", {self.world_size} processes" if self.world_size > 1 else ""
        return f"{name}, {precision}{several}"

    def peak_bytes(self) -> int | None:
        """Return the most memory taken so far: of the device, or of the process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self.device.type == "xpu":
            return torch.xpu.max_memory_allocated(self.device)
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory()
        return peak_rss_bytes()

    def share(self, count: int, *, what: str = "train.batch_size") -> range:
        """Return which of `count` things are this process' own; all have equally many.

        Raises `ConfigError` when that is not possible.
        """
        if count % self.world_size:
            raise ConfigError(
                f"{what} = {count} is not a multiple of the {self.world_size} processes"
            )
        each = count // self.world_size
        return range(self.rank * each, (self.rank + 1) * each)

    @torch.no_grad()
    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes, the same to the bit in each."""
        if self.world_size == 1:
            return
        with _peers():
            buckets = [torch.cat([t.reshape(-1) for t in bucket]) for bucket in _buckets(tensors)]
            for work in [dist.all_reduce(bucket, async_op=True) for bucket in buckets]:
                assert work is not None
                work.wait()
        for bucket, members in zip(buckets, _buckets(tensors), strict=True):
            parts = bucket.div_(self.world_size).split([t.numel() for t in members])
            for t, part in zip(members, parts, strict=True):
                t.copy_(part.view(t.shape))

    @torch.no_grad()
    def broadcast_(self, tensors: Sequence[Tensor], source: int) -> None:
        """Replace tensors by those of one process."""
        if self.world_size == 1:
            return
        with _peers():
            for t in tensors:
                whole = t.contiguous()
                dist.broadcast(whole, source)
                if whole is not t:
                    t.copy_(whole)

    def gather(self, value: Any) -> list[Any]:
        """Return what every process gives, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with _peers():
            dist.all_gather_object(values, value)
        return values

    def gather_late(self, value: Any) -> list[Any]:
        """Return what every process gives, by rank, where some may come hours after others."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with _peers():
            dist.all_gather_object(values, value, group=self.patient)
        return values

    def from_first(self, value: Any) -> Any:
        """Return what the first process gives."""
        if self.world_size == 1:
            return value
        values = [value]
        with _peers():
            dist.broadcast_object_list(values, 0)
        return values[0]

    def any(self, flag: bool) -> bool:
        """Return whether any process says so."""
        if self.world_size == 1:
            return flag
        vote = torch.tensor(float(flag))  # on the CPU: no device has to be waited for
        with _peers():
            dist.all_reduce(vote)
        return bool(vote)


def peak_rss_bytes() -> int | None:
    """Return the most memory that this process ever held, None where nobody says.

    Linux' `ru_maxrss` will not do: a new process inherits it from the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Group tensors of one type and device, in order, up to a size."""
    groups: list[list[Tensor]] = []
    size = 0
    for t in tensors:
        last = groups[-1][-1] if groups else None
        new = last is None or (last.dtype, last.device) != (t.dtype, t.device)
        if new or size >= _BUCKET_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(t)
        size += t.numel() * t.element_size()
    return groups


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Say what it means when others cannot be reached."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError, but of this process
        raise
    except (RuntimeError, dist.DistBackendError) as error:
        raise LictorError(
            "another process of this run has ended, or cannot be reached; see its own message, "
            "then start all of them again (with --resume where there is a checkpoint)"
        ) from error
    except ValueError as error:  # WORLD_SIZE, MASTER_ADDR and the like
        raise ConfigError(
            f"the environment does not say how processes find each other ({error}); start them "
            "with torchrun, or unset LOCAL_RANK"
        ) from error


@contextlib.contextmanager
def processes(device: str = "auto") -> Iterator[Runtime]:
    """Enter a run as one of its processes, as `torchrun` started them; alone without it.

    With a device of several, such as `cuda`, each process of a machine takes its own. Raises
    `ConfigError` when a device is not there, `LictorError` when the others do not come.
    """
    if "LOCAL_RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        yield Runtime(choose_device(device))
        return
    place = choose_device(device)
    local = os.environ["LOCAL_RANK"]
    if place.type in ("cuda", "xpu") and device in ("auto", place.type):
        place = choose_device(f"{place.type}:{local}")
    if place.type == "cuda":
        torch.cuda.set_device(place)
    backend = {"cuda": "cpu:gloo,cuda:nccl", "xpu": "cpu:gloo,xpu:xccl"}.get(place.type, "gloo")
    with _peers():
        dist.init_process_group(backend, timeout=_PATIENCE)
        patient = dist.new_group(backend="gloo", timeout=_LONG_PATIENCE)
    try:
        yield Runtime(place, dist.get_rank(), dist.get_world_size(), patient=patient)
    finally:
        dist.destroy_process_group()
