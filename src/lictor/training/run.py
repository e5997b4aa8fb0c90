"""A run folder: what a training run leaves on disk, and how it is taken up again.

config.json      the resolved configuration
metrics.jsonl    one JSON object a line: averages over steps, and evaluations
modes.jsonl      with STDET: one JSON object a line, a row of `STDET`
trajectories.f32 with STDET: the first snapshots of all weights, until modes are found
best.pt          the weights of the best evaluation so far
conflict.jsonl   with `train.conflict_every`: one JSON object a line, a row of `ConflictProbe`
checkpoint.pt    the latest state; `run(resume=True)` goes on from it
.lock            empty; locked while a run writes here
"""

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from lictor.config import RunConfig, config_to_dict
from lictor.data.crops import batch_to_tensor, make_batch
from lictor.data.folder import ImageFolder, open_image_folder
from lictor.data.images import image_to_tensor
from lictor.errors import CheckpointError, ConfigError, DataError
from lictor.files import locked_folder, write_file
from lictor.layers.quantize.surrogate import build_surrogate
from lictor.models.base import AbstractCodecModel
from lictor.models.zoo import build_model
from lictor.optim.factory import build_optimizer
from lictor.optim.precondition import check_linear_map
from lictor.training.checkpoint import (
    RunState,
    checkpoint_config,
    read_checkpoint,
    restore,
    save_checkpoint,
    save_weights,
)
from lictor.training.hooks import TrainHook, evaluation_weights
from lictor.training.loop import StepReport, train
from lictor.training.loss import rate_distortion
from lictor.training.probe import ConflictProbe
from lictor.training.schedule import SCHEDULES
from lictor.training.techniques import build_techniques

CHECKPOINT, METRICS, CONFIG = "checkpoint.pt", "metrics.jsonl", "config.json"
CONFLICT, MODES, TRAJECTORIES = "conflict.jsonl", "modes.jsonl", "trajectories.f32"
BEST = "best.pt"
# A resumed run may be made longer, calmer, or logged otherwise; all else must stay.
_MAY_CHANGE = {
    "optim.lr",
    "optim.beta1",
    "optim.beta2",
    "optim.schedule",
    "optim.warmup",
    "optim.final",
    "optim.max_grad_norm",
    "optim.weight_decay",
    "optim.factor_beta",
    "optim.precondition_every",
    "train.steps",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.conflict_every",
    "train.conflict_lag",
    "data.cache_mib",
}
_EVALUATION_SIDE = 512
# With fewer latents than this along a side, padding is most of what the smallest latent sees.
_LEAST_SIDE = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Averages over the held-out pictures with hard rounding; `psnr` in dB, of unrounded output."""

    step: int
    loss: float
    bpp: float
    psnr: float


@torch.no_grad()
def evaluate_held_out(
    model: AbstractCodecModel, folder: ImageFolder, *, lmbda: float, step: int
) -> Evaluation:
    """Run the model in float32 on the middle of each picture, at most 512x512 pixels of it."""
    training = model.training
    model.eval()
    losses, bpps, psnrs = [], [], []
    for number in range(len(folder)):
        image = folder.load(number)
        height, width = (min(side, _EVALUATION_SIDE) for side in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        x = image_to_tensor(image[top : top + height, left : left + width])
        loss = rate_distortion(x, model(x), lmbda)
        losses.append(float(loss.total))
        bpps.append(float(loss.bpp))
        psnrs.append(-10 * math.log10(max(float(loss.distortion), 1e-12)))
    model.train(training)
    count = len(folder)
    return Evaluation(step, sum(losses) / count, sum(bpps) / count, sum(psnrs) / count)


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    keys = [(s, k) for s in new for k in sorted({*old.get(s, {}), *new[s]})]
    return [f"{s}.{k}" for s, k in keys if old.get(s, {}).get(k) != new[s].get(k)]


def _check_same_run(old: RunConfig, new: RunConfig, path: Path) -> None:
    changed = set(_differences(config_to_dict(old), config_to_dict(new))) - _MAY_CHANGE
    if changed:
        raise ConfigError(
            f"{path}: the run was started with another {', '.join(sorted(changed))}; "
            "resume with its own recipe, or start anew in another folder"
        )


def _trim_metrics(path: Path, step: int) -> None:
    """Drop what was logged after the checkpoint: the resumed run logs it again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # a line cut short when the run was killed
    write_file(path, "".join(kept).encode())


def _best_loss(metrics: Path) -> float:
    """Return the least finite loss of the evaluations that a run folder has kept."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    rows = [json.loads(line) for line in lines]
    losses = [row["loss"] for row in rows if row.get("kind") == "evaluation"]
    finite = (loss for loss in losses if loss is not None and math.isfinite(loss))
    return min(finite, default=math.inf)


def _mean_report(reports: Sequence[StepReport], skipped: int) -> dict[str, Any]:
    done = [r for r in reports if not r.skipped] or list(reports)
    keys = ("loss", "bpp", "mse", "grad_norm")
    means: dict[str, Any] = {k: sum(getattr(r, k) for r in done) / len(done) for k in keys}
    step_s = sum(r.step_s for r in reports)
    return {
        "kind": "train",
        "step": reports[-1].step + 1,
        **{k: v if math.isfinite(v) else None for k, v in means.items()},
        "lr": reports[-1].lr,
        "step_s": step_s / len(reports),
        "wait_share": sum(r.wait_s for r in reports) / step_s if step_s else 0.0,
        "skipped": skipped,
    }


def _prepare(
    config: RunConfig, out: Path, *, resume: bool
) -> tuple[AbstractCodecModel, RunState, dict[str, Any] | None]:
    """Build model and state, read what is to be restored into them; nothing is written yet."""
    build_surrogate(config.surrogate.name)  # fails now rather than after the data is read
    if config.optim.schedule not in SCHEDULES:
        raise ConfigError(
            f"unknown schedule {config.optim.schedule!r}: choose one of {', '.join(SCHEDULES)}"
        )
    checkpoint = out / CHECKPOINT
    if not resume and checkpoint.exists():
        raise ConfigError(f"{out}: holds a run already; add --resume, or choose another folder")
    torch.manual_seed(config.train.seed)
    model = build_model(config.model.name, config.model.hyperparameters)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    state = RunState(
        build_optimizer(model, config.optim),
        torch.Generator().manual_seed(config.train.seed),
    )
    if config.train.conflict_every:
        check_linear_map(state.optimizer)
    if not resume:
        return model, state, None
    content = read_checkpoint(checkpoint)
    old = checkpoint_config(content, checkpoint)
    _check_same_run(old, config, checkpoint)
    # The probe is the last hook; it may come or go when a run is resumed.
    if old.train.conflict_every and not config.train.conflict_every:
        content["hooks"] = content["hooks"][:-1]
    elif config.train.conflict_every and not old.train.conflict_every:
        content["hooks"] = [*content["hooks"], {}]
    return model, state, content


def _warn_of_small_crops(config: RunConfig, model: AbstractCodecModel) -> None:
    side = config.data.crop_size // model.stride
    if side < _LEAST_SIDE:
        _log.warning(
            "data.crop_size = %d: the smallest latent of %s is %dx%d in such crops, so that whole "
            "pictures may be coded worse than crops; take %d or more",
            config.data.crop_size, model.name, side, side, _LEAST_SIDE * model.stride,
        )  # fmt: skip


def _techniques(
    config: RunConfig, out: Path, model: AbstractCodecModel, state: RunState, pictures: int
) -> list[TrainHook]:
    """Build the recipe's techniques, with what they write in the run folder."""

    def record(row: dict[str, Any]) -> None:
        with _open_log(out / MODES) as log:
            _append(log, row)

    return build_techniques(
        config,
        model,
        state.optimizer,
        pictures=pictures,
        history=out / TRAJECTORIES,
        record=record,
    )


def _probe(
    config: RunConfig, out: Path, model: AbstractCodecModel, state: RunState, held_out: ImageFolder
) -> list[TrainHook]:
    """Build the probe that the recipe asks for, on crops of the held-out pictures."""
    settings = config.train
    if not settings.conflict_every:
        return []
    crops = make_batch(
        held_out,
        step=0,
        seed=0,  # whatever the run's seed is: runs are compared on the same pictures
        batch_size=settings.batch_size,
        size=config.data.crop_size,
        min_scale=config.data.min_scale,
    )

    def record(row: dict[str, Any]) -> None:
        with _open_log(out / CONFLICT) as log:
            _append(log, row)

    probe = ConflictProbe(
        model,
        state.optimizer,
        batch_to_tensor(crops),
        surrogate=build_surrogate(config.surrogate.name),
        lmbda=config.loss.lmbda,
        every=settings.conflict_every,
        lag=settings.conflict_lag,
        record=record,
    )
    return [probe]


def _open_run_folder(config: RunConfig, out: Path, step: int) -> IO[str]:
    """Bring the folder in order for a run that goes on at `step`; return its open metrics file."""
    _trim_metrics(out / METRICS, step)
    _trim_metrics(out / CONFLICT, step)
    _trim_metrics(out / MODES, step)
    write_file(out / CONFIG, (json.dumps(config_to_dict(config), indent=2) + "\n").encode())
    return _open_log(out / METRICS)


def _open_log(path: Path) -> IO[str]:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot write ({error.strerror})") from error


def _append(log: IO[str], row: dict[str, Any]) -> None:
    try:
        log.write(json.dumps(row) + "\n")
        log.flush()
    except OSError as error:
        raise DataError(
            f"{log.name}: cannot write ({error.strerror}); free some space, then --resume"
        ) from error


def run(
    config: RunConfig,
    data: Path | str,
    out: Path | str,
    *,
    resume: bool = False,
    make_hooks: Callable[[AbstractCodecModel], Sequence[TrainHook]] = lambda _: (),
    should_stop: Callable[[], bool] = lambda: False,
    on_decode: Callable[[int, int], None] = lambda *_: None,
) -> Iterator[StepReport | Evaluation]:
    """Train on the pictures of `data`, keeping everything in the folder `out`.

    Yields a report after every step and after every evaluation. When `should_stop` says so, the run
    ends after the current step with a checkpoint to resume from. Raises `ConfigError`, `DataError`
    or `CheckpointError` before the first step if something does not fit, or if another run is
    going on in the same folder.
    """
    out = Path(out)
    model, state, content = _prepare(config, out, resume=resume)
    folder = open_image_folder(
        Path(data), cache_bytes=config.data.cache_mib * 2**20, on_progress=on_decode
    )
    training, held_out = folder.split(config.data.held_out)
    _warn_of_small_crops(config, model)
    settings, reports = config.train, []
    hooks = [
        *make_hooks(model),
        *_techniques(config, out, model, state, len(training)),
        *_probe(config, out, model, state, held_out),
    ]
    if content is not None:
        restore(content, out / CHECKPOINT, model, state, hooks)

    def evaluate() -> Evaluation:
        nonlocal best
        with evaluation_weights(hooks):
            result = evaluate_held_out(model, held_out, lmbda=config.loss.lmbda, step=state.step)
            _append(log, {"kind": "evaluation", **dataclasses.asdict(result)})
            if result.loss < best:
                best = result.loss
                save_weights(out / BEST, config, model, state.step)
        return result

    with locked_folder(out), _open_run_folder(config, out, state.step) as log:
        best = _best_loss(out / METRICS) if (out / BEST).exists() else math.inf
        for report in train(config, model, state, training, hooks=hooks):
            reports.append(report)
            yield report
            last = state.step >= settings.steps
            stop = last or should_stop()
            if stop or state.step % settings.log_every == 0:
                _append(log, _mean_report(reports, state.skipped))
                reports = []
            if last or state.step % settings.eval_every == 0:
                yield evaluate()
            if stop or state.step % settings.checkpoint_every == 0:
                save_checkpoint(out / CHECKPOINT, config, model, state, hooks)
            if last:  # by now modes have been found, and the checkpoint holds them
                (out / TRAJECTORIES).unlink(missing_ok=True)
            if stop:
                return


def load_run(out: Path | str, *, best: bool = False) -> tuple[AbstractCodecModel, RunConfig, int]:
    """Return the model, configuration and step of a run's latest checkpoint, or its best one.

    The weights are those that the run evaluates: averaged ones if it averages. Raises
    `CheckpointError` when there is no such checkpoint or it is damaged.
    """
    out = Path(out)
    if not out.is_dir():
        raise CheckpointError(f"{out}: no such run folder")
    path = out / (BEST if best else CHECKPOINT)
    if best and not path.exists():
        raise CheckpointError(
            f"{path}: there is no evaluation to have been the best; take the latest checkpoint"
        )
    content = read_checkpoint(path)
    config = checkpoint_config(content, path)
    model = build_model(config.model.name, config.model.hyperparameters)
    try:
        model.load_state_dict(content.get("evaluated") or content["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{path}: weights do not fit the model: {error}") from error
    return model, config, content["step"]
