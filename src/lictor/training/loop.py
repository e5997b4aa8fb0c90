"""One training step, and the generator that repeats it.

`train` yields a report after every step; whoever iterates decides what to print, log, evaluate or
save. What is trained, a `Task` knows; there is no trainer object and no callback registry.
"""

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from lictor.data.prefetch import Prefetcher
from lictor.errors import LictorError
from lictor.runtime import Runtime
from lictor.training.checkpoint import RunState
from lictor.training.hooks import NO_HOOKS, TrainHook
from lictor.training.phases import Phase, phase_at
from lictor.training.recipe import AnyRunConfig
from lictor.training.schedule import SCHEDULES, learning_rate
from lictor.training.task import Task

# After so many steps in a row without a finite gradient the run is over, not unlucky.
MAX_SKIPPED_IN_A_ROW = 50
# So many parameters are named in a message.
_NAMED = 3
_LOSS = "loss"
_LESS = "raise train.accumulate, or lower train.batch_size or data.crop_size"
# Gradients of a smaller norm have finite squares, in float32.
_SURE_NORM = 1e18


@dataclass(frozen=True)
class StepReport:
    """What one step did; `skipped` when its gradient was not finite and the weights stayed.

    `metrics` are what the task tells beside the loss. `not_finite` names the parameters whose
    gradient it was, all of them.
    """

    step: int
    loss: float
    metrics: Mapping[str, float]
    grad_norm: float
    lr: float = 0.0
    skipped: bool = False
    step_s: float = 0.0
    wait_s: float = 0.0
    not_finite: tuple[str, ...] = ()

    @property
    def where_not_finite(self) -> str:
        """The first names of `not_finite` for a message; empty where there are none."""
        more = len(self.not_finite) - _NAMED
        names = ", ".join(self.not_finite[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        return f" in {names}" if names else ""


@runtime_checkable
class CheckingOptimizer(Protocol):
    """An optimizer that takes no step with gradients that are no use to it, as `SOAP` does."""

    skipped_steps: int
    step_takes_finite: bool

    def step(self, *, finite: bool | None = None) -> Any:
        """Take a step; `finite` says what is known of the gradients and their squares."""
        ...


def train_step(
    task: Task,
    batch: Sequence[Any],
    *,
    step: int,
    optimizer: torch.optim.Optimizer,
    hooks: Mapping[str, TrainHook] = NO_HOOKS,
    max_grad_norm: float = 1.0,
    progress: float = 0.0,
    resting: Collection[nn.Parameter] = (),
    runtime: Runtime | None = None,
) -> StepReport:
    """Take one optimizer step of a task on a batch of it, in pieces, together with other processes.

    `progress`, from 0 to 1, is how much of the run lies behind; `resting` parameters do not learn;
    `runtime` is one process on the CPU if not given.
    A step whose gradient is not finite changes nothing and reports `skipped`; so does one that the
    optimizer itself refuses, as `SOAP` does, by counting it in its `skipped_steps`.
    """
    model, runtime = task.model, runtime or Runtime()
    model.zero_grad(set_to_none=True)  # hooks may have put other tensors before the optimizer
    told: dict[str, Tensor] = {}
    for piece in batch:
        loss = task.loss(piece, step=step, progress=progress)
        (loss.total / len(batch)).backward()
        for name, value in {_LOSS: loss.total, **loss.metrics}.items():
            share = value.detach().float() / len(batch)
            told[name] = told[name] + share if name in told else share
    runtime.average_([p.grad for p in model.parameters() if p.grad is not None])
    for p in resting:
        p.grad = None  # no optimizer moves, decays or keeps statistics of what has no gradient
    for hook in hooks.values():
        hook.before_step(step)
    norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    grad_norm, total, *metrics = _on_the_host(runtime, norm, *told.values())
    refused, finite = getattr(optimizer, "skipped_steps", 0), math.isfinite(grad_norm)
    if finite:  # clipping by another norm would spread NaN over all gradients
        clip_grads_with_norm_(model.parameters(), max_grad_norm, norm)
        if isinstance(optimizer, CheckingOptimizer):
            known = True if grad_norm < _SURE_NORM else None
            optimizer.step(finite=known)  # pyright: ignore[reportCallIssue]
        else:
            optimizer.step()
        finite = getattr(optimizer, "skipped_steps", 0) == refused
    if finite:
        for hook in hooks.values():
            hook.after_step(step)
    return StepReport(
        step,
        total,
        dict(zip(list(told)[1:], metrics, strict=True)),
        grad_norm,
        lr=optimizer.param_groups[0]["lr"],
        skipped=not finite,
        not_finite=() if finite else _not_finite(model),
    )


def _on_the_host(runtime: Runtime, *scalars: Tensor) -> list[float]:
    """Bring means over at once: each transfer waits for all that a device has still to do."""
    device = scalars[0].device
    values = torch.stack([scalar.float().to(device) for scalar in scalars])
    runtime.average_([values])
    return values.tolist()


@torch.no_grad()
def _not_finite(model: torch.nn.Module) -> tuple[str, ...]:
    """Name the parameters whose gradient is not finite, or too large for its square to be."""
    return tuple(
        name
        for name, p in model.named_parameters()
        if p.grad is not None
        and not math.isfinite(float(torch.linalg.vector_norm(p.grad).square()))
    )


@contextlib.contextmanager
def enough_memory(lower: str) -> Iterator[None]:
    """Say what to do when a device, or the memory of a CPU, has too little room: `lower` what."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; a CPU has none of its own
        asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
        if not (asked or isinstance(error, torch.OutOfMemoryError)):
            raise
        more = f" ({asked[1]} more were asked for)" if asked else ""
        raise LictorError(f"the device has too little memory{more}; {lower}") from error


def _parameters_of(model: nn.Module, parts: Collection[str]) -> list[nn.Parameter]:
    return [p for part in parts for p in model.get_submodule(part).parameters()]


def train(
    config: AnyRunConfig,
    task: Task,
    state: RunState,
    *,
    hooks: Mapping[str, TrainHook] = NO_HOOKS,
    runtime: Runtime | None = None,
) -> Iterator[StepReport]:
    """Train from `state.step` to the end of the run, yielding a report after every step.

    `state` is up to date at every yield: saving it there and resuming gives the same run, bit for
    bit. `runtime` is one process on the CPU if not given. Raises `LictorError` when training has
    diverged, or the device has too little memory.
    """
    steps, optim = config.train.steps, config.optim
    shape = SCHEDULES[optim.schedule].make(optim.shape)
    batches = Prefetcher(task.batch, state.step, workers=config.data.workers)
    skipped_in_a_row = 0
    started, waited = time.perf_counter(), 0.0
    for batch in batches:
        if state.step >= steps:
            return
        progress = (state.step + 1) / steps
        phase = phase_at(config.phases, progress) or Phase(share=1.0)
        lr = learning_rate(
            progress,
            shape=shape,
            peak=phase.lr or optim.lr,
            warmup=optim.warmup,
            final=optim.final,
        )
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        with enough_memory(_LESS):
            report = train_step(
                task,
                batch,
                step=state.step,
                optimizer=state.optimizer,
                hooks=hooks,
                max_grad_norm=optim.max_grad_norm,
                progress=progress,
                resting=_parameters_of(task.model, phase.freeze),
                runtime=runtime,
            )
        state.step += 1
        state.skipped += report.skipped
        skipped_in_a_row = skipped_in_a_row + 1 if report.skipped else 0
        if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise LictorError(
                f"step {state.step}: {skipped_in_a_row} steps in a row without a finite gradient"
                f"{report.where_not_finite and f', the last{report.where_not_finite}'}; "
                f"lower {'the lr of its [[phase]]' if phase.lr else 'optim.lr'} and resume from "
                "the last checkpoint"
            )
        now = time.perf_counter()
        step_s, wait_s = now - started, batches.waited_s - waited
        yield dataclasses.replace(report, step_s=step_s, wait_s=wait_s)
        # What the caller did meanwhile (evaluate, save) is not the step's time.
        started, waited = time.perf_counter(), batches.waited_s
