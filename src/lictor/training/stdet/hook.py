"""STDET: training ever fewer weights, by embedding the rest on lines of their modes' references.

While the first snapshots are taken all weights are trained. Then modes are found (`mode_lines`),
and from time to time a share of the weights is chosen (`selection`) that from there on are affine
functions of a few reference weights (`embedding`).

Source: Zhang, Duan, Huang and Zhu, TMLR 2025 (arXiv:2505.18107). Of that paper we know the abstract
and its set-up; the method section was not seen. What is here is a reconstruction on the modes of
Brokman et al. (arXiv:2312.13247), with a switch for each point that is open.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lictor.errors import CheckpointError, ConfigError
from lictor.layers.gdn import GDN
from lictor.priors.base import AbstractPrior
from lictor.runtime import Runtime
from lictor.training.sma import SMA
from lictor.training.stdet.flat import FlatParameters
from lictor.training.stdet.history import History
from lictor.training.stdet.mode_lines import LEAST_MODE_CORRELATION, ModeLines
from lictor.training.stdet.released import ENTRYWISE, ReleasedStates, state_bytes
from lictor.training.stdet.selection import DUMMIES, SELECTIONS, Schedule, quantiles, select
from lictor.training.stdet.sensitivity import KINDS, Sensitivity

_FREE_LAYERS = (
    GDN,
    AbstractPrior,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
)
_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")

_log = logging.getLogger(__name__)


def always_free(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are never embedded: they are bounded, or few and sensitive.

    These are the parameters of GDN, of normalization layers and of priors.
    """
    layers = (module for module in model.modules() if isinstance(module, _FREE_LAYERS))
    return [p for layer in layers for p in layer.parameters()]


@dataclass(frozen=True)
class Choices:
    """The open points of the method, each a switch.

    Args:
        modes: how many modes to look for, from 1.
        samples: how many weights are sampled to find them.
        sensitivity: a kind of `Sensitivity`.
        selection: what weights are chosen by: `both` (drift and sensitivity), `drift`,
            `sensitivity` or `random`.
        dummy: what happens to modal weights that are too sensitive to be embedded: `none`; `line`,
            they are put on their lines once and stay trainable; `window`, they stay there until the
            next event; `averaged`, they are there whenever the model is evaluated.
        reference: a reference moves by its `own` gradient, or also by the `chain` rule through the
            weights that depend on it.
        anchor: a weight's line keeps the fitted slope but goes through its present value.
        least_correlation: with the reference, of a weight that may be embedded.
        release_share: beyond this embedded share of a parameter, an entrywise optimizer such as
            Adam keeps no state for embedded entries.
        seed: of sampling and of random choice.

    Raises `ConfigError` on an unknown choice.
    """

    modes: int = 10
    samples: int = 1000
    sensitivity: str = "grad2"
    selection: str = "both"
    dummy: str = "line"
    reference: str = "own"
    anchor: bool = True
    least_correlation: float = 0.0
    release_share: float = 0.75
    seed: int = 0

    def __post_init__(self) -> None:
        for key, allowed in (
            ("sensitivity", KINDS),
            ("selection", SELECTIONS),
            ("dummy", DUMMIES),
            ("reference", ("own", "chain")),
        ):
            value = getattr(self, key)
            if value not in allowed:
                raise ConfigError(f"stdet.{key} = {value!r} must be one of {', '.join(allowed)}")
        if not 1 <= self.modes <= self.samples:
            raise ConfigError(
                f"stdet.modes = {self.modes} must be from 1 to stdet.samples = {self.samples}"
            )


class STDET:
    """A `TrainHook` that embeds weights on a schedule; the projection has its last word.

    Masking gradients would not be enough: momentum, weight decay, and an optimizer that mixes
    entries move a weight without a gradient. So after each step embedded weights are put back on
    their lines.

    Args:
        model: what is trained. `always_free` names the parameters that stay out.
        optimizer: what trains it, after the model's parameters were given to it.
        schedule: when weights are embedded.
        choices: how.
        sma: the run's moving average, if there is one. Snapshots are taken of it, lines are
            anchored in it, and its weights go to their lines together with the trained ones.
        history: file for the first snapshots, in memory if not given.
        record: takes each row of the run's story, a dictionary that is ready for JSON.
        runtime: of several processes the first one keeps the snapshots and finds the modes.

    Whatever is about all weights lies in the memory of the CPU; on a device, only the lines of
    embedded weights and the sums of sensitivities do.

    When a parameter is wholly embedded, it gets neither gradients nor optimizer state any more
    (unless the chain rule needs the gradients; Muon, which has no state in the usual place, keeps
    it).

    Raises `ConfigError` when there are fewer weights than samples.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        choices: Choices,
        *,
        sma: SMA | None = None,
        history: Path | None = None,
        record: Callable[[dict[str, Any]], None] = lambda _: None,
        runtime: Runtime | None = None,
    ):
        self._runtime = runtime or Runtime()
        self.schedule, self.choices, self.sma = schedule, choices, sma
        self.parameters = FlatParameters(model, always_free(model))
        self.total = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if choices.samples > len(self.parameters):
            raise ConfigError(
                f"stdet.samples = {choices.samples}, but only {len(self.parameters)} weights of "
                "this model can be embedded"
            )
        self.modes: ModeLines | None = None
        self._taken = 0  # snapshots that were due so far
        self._optimizer = optimizer
        self._record = record
        self._history = History(
            len(self.parameters),
            schedule.warmup + 1,
            history,
            keeps=self._runtime.is_first,
        )
        self._sensitivity = Sensitivity(self.parameters, choices.sensitivity)
        self._uses_sensitivity = choices.selection in ("both", "sensitivity")
        self._released = ReleasedStates(optimizer) if isinstance(optimizer, ENTRYWISE) else None

    @property
    def embedded(self) -> int:
        """How many weights are embedded."""
        return 0 if self.modes is None else len(self.modes.embedding)

    def before_step(self, step: int) -> None:
        """Read the sensitivities, then silence the gradients of embedded weights."""
        if self._uses_sensitivity and self._event_within(step // self.schedule.every + 1):
            self._sensitivity.add()
        if self.modes is None:
            return
        if self.choices.reference == "chain":
            self.modes.embedding.chain()
        self.modes.embedding.zero(lambda p: p.grad)

    def after_step(self, step: int) -> None:
        """Put embedded weights on their lines; take a snapshot if one is due.

        When the step of a snapshot was skipped, the next that is not takes it, and its event.
        Raises `ConfigError` when no modes can be found, `DataError` when the disk is full.
        """
        self.project()
        due = (step + 1) // self.schedule.every
        if self._taken < due <= self.schedule.snapshots:
            event = self._event_within(due)
            self._taken = due
            self._take_snapshot(step + 1, event=event)

    def _event_within(self, due: int) -> bool:
        """Return whether there is an event among the next snapshots, up to the `due`-th."""
        return any(map(self.schedule.is_event, range(self._taken, due)))

    def project(self) -> None:
        """Put embedded weights on their lines, in the model."""
        if self.modes is not None:
            self.modes.embedding.project()
            if self.choices.dummy == "window":
                self.modes.project_dummies(lambda p: p.detach())

    def _value(self, p: nn.Parameter) -> Tensor:
        return self.sma.average(p) if self.sma is not None else p.detach()

    def _take_snapshot(self, step: int, *, event: bool) -> None:
        weights = self.parameters.gather(self._value).float().cpu()
        row: dict[str, Any] = {"kind": "snapshot", "step": step}
        if self.modes is None:
            self._history.append(weights)
            if self._history.count == self._history.capacity:
                self.modes = self._find_modes(step)
        else:
            self.modes.stats.update(weights)
            if event:
                row |= self._event(self.modes, weights)
        row |= {
            "embedded": self.embedded,
            "trainable": self.total - self.embedded,
            "total": self.total,
            "optimizer_bytes": self._optimizer_bytes(),
        }
        self._record(row | ({} if self.modes is None else self.modes.measurements(weights)))

    def _optimizer_bytes(self) -> int:
        beside = self._released.size_bytes if self._released is not None else 0
        return state_bytes(self._optimizer) + beside

    def _find_modes(self, step: int) -> ModeLines:
        modes = self._find_in_history(step) if self._runtime.is_first else None
        found = self._runtime.from_first(None if modes is None else modes.state_dict())
        modes = modes or ModeLines.from_state(self.parameters, found)
        self._history.drop()
        means = modes.mean_correlations(modes.correlation)
        loose = [number for number, mean in enumerate(means) if mean < LEAST_MODE_CORRELATION]
        if loose:
            _log.warning("modes %s are loose: their weights stay free", loose)
        return modes

    def _find_in_history(self, step: int) -> ModeLines:
        choices = self.choices
        modes = ModeLines.find(
            self.parameters,
            self._history,
            modes=choices.modes,
            samples=choices.samples,
            seed=choices.seed,
        )
        row = {
            "kind": "modes",
            "step": step,
            "every": self.schedule.every,
            "history_bytes": self._history.size_bytes,
        }
        self._record(row | modes.description(self._history))
        return modes

    @torch.no_grad()
    def _event(self, modes: ModeLines, weights: Float[Tensor, " n"]) -> dict[str, Any]:
        """Embed what the selection chooses; return what is to be told about it."""
        choices = self.choices
        scores = modes.scores(weights, self._sensitivity.score, choices.least_correlation)
        wanted = self.schedule.target(len(self.parameters), self.embedded)
        true, dummies = select(
            scores,
            how=choices.selection,
            count=wanted,
            dummies=0 if choices.dummy == "none" else wanted,
            generator=torch.Generator().manual_seed(choices.seed + self.embedded),
        )
        modes.embed(true, dummies, weights, anchor=choices.anchor)
        self._sensitivity.reset()
        self._settle(modes)
        drifts = scores.drift[scores.candidates]
        return {"kind": "event", "drift": quantiles(drifts), "candidates": len(drifts)}

    def _settle(self, modes: ModeLines) -> None:
        """Move weights and averages to their lines, and free what needs no training any more."""
        modes.embedding.project()
        if self.sma is not None:
            modes.embedding.project(self.sma.average)
        if self.choices.dummy in ("line", "window"):
            modes.project_dummies(lambda p: p.detach())
        self._free(modes, loaded=False)
        if self._released is not None:
            for key in _MOMENTS:
                modes.embedding.zero(lambda p, key=key: self._dense_state(p, key))

    def _free(self, modes: ModeLines, *, loaded: bool) -> None:
        """Take parameters that are embedded, all or most, out of the optimizer's hands."""
        for number, p in enumerate(self.parameters.parameters):
            share = modes.embedding.share_of(number)
            if share == 1 and self.choices.reference == "own":
                p.requires_grad_(False)
                p.grad = None
                if self._released is not None:
                    self._released.forget(p)
                self._optimizer.state.pop(p, None)
            elif self._released is not None and share > self.choices.release_share:
                release = self._released.restore if loaded else self._released.release
                release(p, modes.embedding.free_places(number))

    def _dense_state(self, p: nn.Parameter, key: str) -> Tensor | None:
        value = self._optimizer.state[p].get(key) if p in self._optimizer.state else None
        return value if isinstance(value, Tensor) and value.shape == p.shape else None

    @contextlib.contextmanager
    def evaluated(self) -> Iterator[None]:
        """Give the model the weights that it is to be evaluated with, and then its own again."""
        if self.choices.dummy != "averaged" or self.modes is None:
            yield
            return
        kept = [p.detach().clone() for p in self.parameters.parameters]
        try:
            self.modes.project_dummies(lambda p: p.detach())
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(self.parameters.parameters, kept, strict=True):
                    p.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on."""
        return {
            "signature": self.parameters.signature(),
            "every": self.schedule.every,
            "taken": self._taken,
            "history": self._history.state_dict(),
            "sensitivity": self._sensitivity.state_dict(),
            "modes": None if self.modes is None else self.modes.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a run; model and optimizer have been restored already.

        Raises `CheckpointError` when it was another model's, or took its snapshots at other steps.
        """
        if not isinstance(state, dict) or "signature" not in state:
            raise CheckpointError("stdet: the checkpoint holds no state of STDET")
        self.parameters.check(state["signature"])
        every = state["every"]
        if every != self.schedule.every:
            raise CheckpointError(
                f"stdet: the run took a snapshot every {every} steps, now it would be "
                f"{self.schedule.every}: with stdet.snapshot_epochs, use the same pictures"
            )
        self._taken = state["taken"]
        self._history.load_state_dict(state["history"])
        self._sensitivity.load_state_dict(state["sensitivity"])
        if state["modes"] is not None:
            self.modes = ModeLines.from_state(self.parameters, state["modes"])
            self._free(self.modes, loaded=True)
