"""One training step, and the generator that repeats it.

`train` yields a report after every step; whoever iterates decides what to print, log, evaluate or
save. There is no trainer object and no callback registry.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from lictor.config import RunConfig
from lictor.data.crops import make_batch
from lictor.data.folder import ImageFolder
from lictor.data.prefetch import Prefetcher
from lictor.errors import LictorError
from lictor.layers.quantize.surrogate import Surrogate, build_surrogate
from lictor.models.base import AbstractCodecModel
from lictor.training.checkpoint import RunState
from lictor.training.hooks import TrainHook
from lictor.training.loss import rate_distortion
from lictor.training.schedule import learning_rate

# After so many steps in a row without a finite gradient the run is over, not unlucky.
MAX_SKIPPED_IN_A_ROW = 50
# So many parameters are named in a message.
_NAMED = 3


@dataclass(frozen=True)
class StepReport:
    """What one step did; `skipped` when its gradient was not finite and the weights stayed.

    `not_finite` names the parameters whose gradient it was, all of them.
    """

    step: int
    loss: float
    bpp: float
    mse: float
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

    @property
    def psnr(self) -> float:
        """PSNR in dB of the batch's mean squared error."""
        return -10 * math.log10(max(self.mse, 1e-12)) if math.isfinite(self.mse) else math.nan


def train_step(
    model: torch.nn.Module,
    x: Float[Tensor, "b c h w"],
    *,
    surrogate: Surrogate,
    lmbda: float,
    optimizer: torch.optim.Optimizer,
    hooks: Sequence[TrainHook],
    step: int,
    generator: torch.Generator,
    max_grad_norm: float,
    precision: torch.dtype = torch.float32,
) -> StepReport:
    """Take one optimizer step on a batch in [0, 1].

    A step whose gradient is not finite changes nothing and reports `skipped`; so does one that the
    optimizer itself refuses, as `SOAP` does, by counting it in its `skipped_steps`.
    """
    with torch.autocast(x.device.type, precision, enabled=precision != torch.float32):
        out = model(x, surrogate=surrogate, generator=generator)
    loss = rate_distortion(x, out, lmbda)
    model.zero_grad(set_to_none=True)  # hooks may have put other tensors before the optimizer
    loss.total.backward()
    for hook in hooks:
        hook.before_step(step)
    norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    grad_norm, refused = float(norm), getattr(optimizer, "skipped_steps", 0)
    finite = math.isfinite(grad_norm)
    if finite:  # clipping by another norm would spread NaN over all gradients
        clip_grads_with_norm_(model.parameters(), max_grad_norm, norm)
        optimizer.step()
        finite = getattr(optimizer, "skipped_steps", 0) == refused
    if finite:
        for hook in hooks:
            hook.after_step(step)
    return StepReport(
        step,
        float(loss.total.detach()),
        float(loss.bpp.detach()),
        float(loss.distortion.detach()),
        grad_norm,
        lr=optimizer.param_groups[0]["lr"],
        skipped=not finite,
        not_finite=() if finite else _not_finite(model),
    )


@torch.no_grad()
def _not_finite(model: torch.nn.Module) -> tuple[str, ...]:
    """Name the parameters whose gradient is not finite, or too large for its square to be."""
    return tuple(
        name
        for name, p in model.named_parameters()
        if p.grad is not None
        and not math.isfinite(float(torch.linalg.vector_norm(p.grad).square()))
    )


def train(
    config: RunConfig,
    model: AbstractCodecModel,
    state: RunState,
    folder: ImageFolder,
    *,
    hooks: Sequence[TrainHook] = (),
) -> Iterator[StepReport]:
    """Train from `state.step` to the end of the run, yielding a report after every step.

    `state` is up to date at every yield: saving it there and resuming gives the same run, bit for
    bit. Raises `LictorError` when training has diverged.
    """
    settings, data, optim = config.train, config.data, config.optim
    surrogate = build_surrogate(config.surrogate.name)
    batches = Prefetcher(
        lambda step: make_batch(
            folder,
            step=step,
            seed=settings.seed,
            batch_size=settings.batch_size,
            size=data.crop_size,
            min_scale=data.min_scale,
        ),
        state.step,
    )
    skipped_in_a_row = 0
    started, waited = time.perf_counter(), 0.0
    for x in batches:
        if state.step >= settings.steps:
            return
        lr = learning_rate(
            (state.step + 1) / settings.steps,
            schedule=optim.schedule,
            peak=optim.lr,
            warmup=optim.warmup,
            final=optim.final,
        )
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        report = train_step(
            model,
            x,
            surrogate=surrogate,
            lmbda=config.loss.lmbda,
            optimizer=state.optimizer,
            hooks=hooks,
            step=state.step,
            generator=state.generator,
            max_grad_norm=optim.max_grad_norm,
            precision=getattr(torch, settings.precision),
        )
        state.step += 1
        state.skipped += report.skipped
        skipped_in_a_row = skipped_in_a_row + 1 if report.skipped else 0
        if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise LictorError(
                f"step {state.step}: {skipped_in_a_row} steps in a row without a finite gradient"
                f"{report.where_not_finite and f', the last{report.where_not_finite}'}; "
                "lower optim.lr and resume from the last checkpoint"
            )
        now = time.perf_counter()
        step_s, wait_s = now - started, batches.waited_s - waited
        yield dataclasses.replace(report, step_s=step_s, wait_s=wait_s)
        # What the caller did meanwhile (evaluate, save) is not the step's time.
        started, waited = time.perf_counter(), batches.waited_s
