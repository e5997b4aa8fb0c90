"""A run folder: what a training run leaves on disk, and how it is taken up again.

config.json      the resolved configuration
metrics.jsonl    one JSON object a line: averages over steps, and evaluations
modes.jsonl      with STDET: one JSON object a line, a row of `STDET`
trajectories.f32 with STDET: the first snapshots of all weights, until modes are found
best.pt          the weights of the best evaluation so far
good.pt          with `train.rollback`: the state at the best evaluation so far
conflict.jsonl   with `train.conflict_every`: one JSON object a line, a row of `ConflictProbe`
checkpoint.pt    the latest state; `run(resume=True)` goes on from it
.lock            empty; locked while a run writes here
"""

import contextlib
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from lictor.config import nearest
from lictor.data.sources import Source
from lictor.errors import CheckpointError, ConfigError, LictorError
from lictor.files import locked_folder, write_file
from lictor.models.base import AbstractCodecModel
from lictor.optim.factory import OPTIMIZERS, SharingOptimizer
from lictor.optim.precondition import check_linear_map
from lictor.runtime import Runtime
from lictor.training.checkpoint import (
    RunState,
    check_goes_on,
    checkpoint_config,
    read_checkpoint,
    restore,
    save_checkpoint,
    save_weights,
)
from lictor.training.hooks import TrainHook, evaluation_weights
from lictor.training.implicit.learner import Learner
from lictor.training.implicit.signals import Signals
from lictor.training.kind import Data, Kind
from lictor.training.loop import StepReport, enough_memory, train
from lictor.training.metrics_log import (
    append,
    best_loss,
    mean_report,
    no_log,
    open_log,
    recorder,
    trim_metrics,
)
from lictor.training.phases import Phase
from lictor.training.pictures import CONFLICT, Pictures
from lictor.training.recipe import (
    AnyRunConfig,
    RunConfig,
    SignalRunConfig,
    config_to_dict,
    may_change,
)
from lictor.training.task import Task
from lictor.training.techniques import build_techniques

CHECKPOINT, METRICS, CONFIG = "checkpoint.pt", "metrics.jsonl", "config.json"
MODES, TRAJECTORIES = "modes.jsonl", "trajectories.f32"
BEST, GOOD = "best.pt", "good.pt"
_WHAT = {RunConfig: "pictures", SignalRunConfig: "signals"}
KINDS: dict[type[AnyRunConfig], Kind] = {RunConfig: Pictures(), SignalRunConfig: Signals()}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation during a run found: averages over what was kept out of training.

    `metrics` are what the task tells beside the loss.
    """

    step: int
    loss: float
    metrics: Mapping[str, float]


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    sections = [s for s in new if isinstance(new[s], dict)]
    keys = [(s, k) for s in sections for k in sorted({*old.get(s, {}), *new[s]})]
    return [f"{s}.{k}" for s, k in keys if old.get(s, {}).get(k) != new[s].get(k)]


def _lasting(config: AnyRunConfig) -> list[Phase]:
    """Return the phases without what may change: their rates."""
    return [dataclasses.replace(phase, lr=None) for phase in config.phases]


def _check_same_run(old: AnyRunConfig, new: AnyRunConfig, path: Path) -> None:
    both = _differences(config_to_dict(old), config_to_dict(new))
    changed = set(both) - may_change(old) - may_change(new)
    if _lasting(old) != _lasting(new):
        changed.add("[[phase]]")
    if changed:
        raise ConfigError(
            f"{path}: the run was started with another {', '.join(sorted(changed))}; "
            "resume with its own recipe, or start anew in another folder"
        )


def _build(config: AnyRunConfig, runtime: Runtime) -> tuple[nn.Module, RunState]:
    """Build a model and what trains it; whatever is wrong with a recipe shows here."""
    torch.manual_seed(config.train.seed)
    model = KINDS[type(config)].build(config)
    runtime.place(model)
    optim = config.optim
    state = RunState(OPTIMIZERS[optim.name].make(optim.settings, model, optim.lr))
    if isinstance(state.optimizer, SharingOptimizer):
        state.optimizer.share_work(runtime)
    for part in {part for phase in config.phases for part in phase.freeze}:
        _check_part(model, config.model.name, part)
    if config.train.conflict_every:
        check_linear_map(state.optimizer)
    return model, state


def _check_part(model: nn.Module, model_name: str, part: str) -> None:
    """Raise `ConfigError` when a phase freezes a part that the model does not have."""
    learning = [name for name, module in model.named_modules() if list(module.parameters())]
    if not part or part not in learning:
        parts = [name for name in learning if name and "." not in name]
        raise ConfigError(
            f"[[phase]] freeze: {model_name} has no part {part!r} with weights; "
            f"{nearest(part, parts)}"
        )


def _read(config: AnyRunConfig, out: Path, *, resume: bool) -> dict[str, Any] | None:
    """Return the content of the checkpoint to go on from, None for a run that begins."""
    checkpoint = out / CHECKPOINT
    if not resume:
        if checkpoint.exists():
            raise ConfigError(f"{out}: holds a run already; add --resume, or choose another folder")
        if (out / METRICS).exists():
            _log.warning("%s: holds a run without a checkpoint, which is begun anew", out)
        return None
    content = read_checkpoint(checkpoint)
    check_goes_on(content, checkpoint)
    _check_same_run(checkpoint_config(content, checkpoint), config, checkpoint)
    return content


def _changes_data(state: RunState, identity: str, out: Path, *, other: bool) -> bool:
    """Return whether a run goes on with other pictures than before; refuse it unless asked to."""
    if state.data == identity:
        return False
    if not other:
        raise ConfigError(
            f"{out}: the run was trained on other pictures than those given (their names or "
            "sizes differ); give the same folder, or add --other-data to go on with these"
        )
    _log.warning("%s: goes on with other pictures from step %d", out, state.step)
    state.data = identity
    return True


def _hooks(
    config: AnyRunConfig, out: Path, task: Task, state: RunState, runtime: Runtime
) -> dict[str, TrainHook]:
    """Build the recipe's techniques and its probes, with what they write in the run folder."""

    def record_in(name: str) -> Callable[[dict[str, Any]], None]:
        return recorder(out / name) if runtime.is_first else lambda _: None

    hooks = build_techniques(
        config,
        task.model,
        state.optimizer,
        items=task.items,
        history=out / TRAJECTORIES,
        record=record_in(MODES),
        runtime=runtime,
    )
    return {**hooks, **KINDS[type(config)].probes(config, task, state, record_in)}


def _open_run_folder(config: AnyRunConfig, out: Path, step: int) -> IO[str]:
    """Bring the folder in order for a run that goes on at `step`; return its open metrics file."""
    trim_metrics(out / METRICS, step)
    trim_metrics(out / CONFLICT, step)
    trim_metrics(out / MODES, step)
    write_file(out / CONFIG, (json.dumps(config_to_dict(config), indent=2) + "\n").encode())
    return open_log(out / METRICS)


def _open_data(
    config: AnyRunConfig,
    data: Sequence[Source | str | Path],
    on_decode: Callable[[int, int], None],
    runtime: Runtime,
) -> Data:
    """Open the data, in the first process first: it decodes them for all on its machine.

    Raises `ConfigError` when the processes do not see the same.
    """

    def open_them() -> Data:
        return KINDS[type(config)].open_data(config, data, on_decode, runtime)

    opened = open_them() if runtime.is_first else None
    runtime.gather_late(None)
    opened = opened or open_them()
    seen = runtime.gather_late(opened.identity)
    if len(set(seen)) > 1:
        odd = next(rank for rank, identity in enumerate(seen) if identity != seen[0])
        raise ConfigError(
            f"{', '.join(map(str, data))}: process {odd} sees other {_WHAT[type(config)]} there "
            "than process 0 does; give every machine the same"
        )
    return opened


def _check_agreement(task: Task, runtime: Runtime, step: int) -> None:
    """Raise `LictorError` when the processes of a run have come to different weights."""
    if runtime.world_size == 1:
        return
    with torch.no_grad():
        total = sum(float(p.double().sum()) for p in task.model.parameters())
    if len(set(map(str, runtime.gather(total)))) > 1:
        raise LictorError(
            f"step {step}: the processes have come to different weights; --resume goes back to the "
            "last checkpoint"
        )


def run(
    config: AnyRunConfig,
    data: Source | Path | str | Sequence[Source | Path | str],
    out: Path | str,
    *,
    resume: bool = False,
    other_data: bool = False,
    runtime: Runtime | None = None,
    make_hooks: Callable[[Any], Mapping[str, TrainHook]] = lambda _: {},
    should_stop: Callable[[], bool] = lambda: False,
    on_decode: Callable[[int, int], None] = lambda *_: None,
    on_row: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Iterator[StepReport | Evaluation]:
    """Train on `data`, keeping everything in the folder `out`.

    `data` is a folder of pictures, shards or their URL, each maybe with a weight as in
    `"photos=2"`, or several of them; for a recipe of signals, folders or files of those. Yields a
    report after every step and after every evaluation. When `should_stop` says so, the run ends
    after the current step with a checkpoint to resume from; `other_data` lets a resumed run go on
    with other pictures; `runtime` is one process on the CPU if not given. `on_row` is told each row
    of the metrics once it is in the file. Of several processes the first one writes and is told of
    rows, and all see the same folders. Raises `ConfigError`, `DataError`
    or `CheckpointError` before the first step if something does not fit, or if another run is going
    on in the same folder.
    """
    out = Path(out)
    runtime = dataclasses.replace(runtime or Runtime(), precision=config.train.precision)
    model, state = _build(config, runtime)
    former = _read(config, out, resume=resume)  # fails now rather than after the data are read
    if former is not None:  # a task may look at its model; what does not fit, `restore` says
        with contextlib.suppress(RuntimeError, KeyError, TypeError, AttributeError):
            model.load_state_dict(former["model"])
    sources = [data] if isinstance(data, Source | Path | str) else list(data)
    kind, opened = KINDS[type(config)], _open_data(config, sources, on_decode, runtime)
    task = kind.make_task(config, model, opened, runtime, begins=not resume)
    state.data = opened.identity
    own, others = _hooks(config, out, task, state, runtime), make_hooks(model)
    if taken := sorted({*own, *kind.optional_hooks} & set(others)):
        raise ConfigError(f"a hook is called {taken[0]!r} already; give yours another name")
    hooks = {**others, **own}
    if config.train.compile:
        runtime.compile(model)
    with locked_folder(out) if runtime.is_first else contextlib.nullcontext():
        # Read again, now that no other run can write there.
        content = _read(config, out, resume=resume)
        if content is not None:
            restore(content, out / CHECKPOINT, model, state, hooks, optional=kind.optional_hooks)
        changes = _changes_data(state, opened.identity, out, other=other_data)
        runtime.gather(None)  # all have read the checkpoint before the first one writes another
        with _open_run_folder(config, out, state.step) if runtime.is_first else no_log() as log:

            def record(row: dict[str, Any]) -> None:
                append(log, row)
                if runtime.is_first:
                    on_row(row)

            _log.info("training on %s", runtime.describe())
            if changes:
                record({"kind": "data", "step": state.step, "identity": opened.identity})
            yield from _train_and_keep(
                config, task, state, hooks, out, record, should_stop, runtime
            )


def _train_and_keep(
    config: AnyRunConfig,
    task: Task,
    state: RunState,
    hooks: Mapping[str, TrainHook],
    out: Path,
    record: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
    runtime: Runtime,
) -> Iterator[StepReport | Evaluation]:
    """Train any task, with its logs, evaluations and checkpoints in a run folder."""
    settings, reports = config.train, []
    best = best_loss(out / METRICS) if (out / BEST).exists() else math.inf
    writes = runtime.is_first

    def evaluate() -> Evaluation:
        nonlocal best
        with evaluation_weights(hooks):
            with enough_memory("lower train.eval_side"):
                metrics = task.evaluate(state.step / settings.steps)
            record({"kind": "evaluation", "step": state.step, **metrics})
            result = Evaluation(state.step, metrics.pop("loss"), metrics)
            better = result.loss < best
            if better and writes:
                save_weights(out / BEST, config, task.model, state.step)
        if better:
            best = result.loss
            if settings.rollback and writes:
                save_checkpoint(out / GOOD, config, task.model, state, hooks)
        elif settings.rollback and not result.loss <= best * (1 + settings.rollback):
            _roll_back(out / GOOD, task.model, state, hooks, record, runtime)
        return result

    for report in train(config, task, state, hooks=hooks, runtime=runtime):
        reports.append(report)
        yield report
        last = state.step >= settings.steps
        stop = last or runtime.any(should_stop())
        if stop or state.step % settings.log_every == 0:
            record(mean_report(reports, state.skipped, runtime.peak_bytes()))
            reports = []
            _check_agreement(task, runtime, state.step)
        if last or state.step % settings.eval_every == 0:
            yield evaluate()
        due = stop or state.step % settings.checkpoint_every == 0
        if due and writes:
            save_checkpoint(out / CHECKPOINT, config, task.model, state, hooks)
        if last and writes:  # by now modes have been found, and the checkpoint holds them
            (out / TRAJECTORIES).unlink(missing_ok=True)
        if stop:
            return


def _roll_back(
    path: Path,
    model: nn.Module,
    state: RunState,
    hooks: Mapping[str, TrainHook],
    record: Callable[[dict[str, Any]], None],
    runtime: Runtime,
) -> None:
    """Go back to the state at the best evaluation, but on with the steps to come."""
    runtime.gather(None)  # it has been written
    if not path.exists():
        return
    step, skipped = state.step, state.skipped
    restore(read_checkpoint(path), path, model, state, hooks)
    record({"kind": "rollback", "step": step, "to": state.step})
    _log.warning("step %d: training has diverged; back to the weights of step %d", step, state.step)
    state.step, state.skipped = step, skipped


def load_run(out: Path | str, *, best: bool = False) -> tuple[AbstractCodecModel, RunConfig, int]:
    """Return the model, configuration and step of a run's latest checkpoint, or its best one.

    The weights are those that the run evaluates: averaged ones if it averages. Raises
    `CheckpointError` when there is no such checkpoint, it is damaged, or it is of signals.
    """
    model, config, step = _load(Path(out), best=best)
    if not isinstance(config, RunConfig) or not isinstance(model, AbstractCodecModel):
        raise CheckpointError(f"{out}: is a run of signals, not of pictures")
    return model, config, step


def load_signal_run(out: Path | str, *, best: bool = False) -> tuple[Learner, SignalRunConfig, int]:
    """Return what a run of signals has learned, likewise.

    Raises `CheckpointError` when there is no such checkpoint, it is damaged, or it is of pictures.
    """
    model, config, step = _load(Path(out), best=best)
    if not isinstance(config, SignalRunConfig) or not isinstance(model, Learner):
        raise CheckpointError(f"{out}: is a run of pictures, not of signals")
    return model, config, step


def _load(out: Path, *, best: bool) -> tuple[nn.Module, AnyRunConfig, int]:
    if not out.is_dir():
        raise CheckpointError(f"{out}: no such run folder")
    path = out / (BEST if best else CHECKPOINT)
    if best and not path.exists():
        raise CheckpointError(
            f"{path}: there is no evaluation to have been the best; take the latest checkpoint"
        )
    content = read_checkpoint(path)
    config = checkpoint_config(content, path)
    model = KINDS[type(config)].build(config)
    try:
        model.load_state_dict(content.get("evaluated") or content["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{path}: weights do not fit the model: {error}") from error
    return model, config, content["step"]
