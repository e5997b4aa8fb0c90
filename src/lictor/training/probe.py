"""A probe for the conflict between the gradients of rate and distortion while a model trains.

The probe is a hook, so it lives here and not in `analysis`, which only reads what it has recorded.
It looks and touches nothing: weights, gradients, optimizer, buffers and random generators are bit
for bit what they are without it.
"""

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from lictor.errors import ConfigError
from lictor.layers.quantize.noise import Noise
from lictor.layers.quantize.surrogate import Surrogate
from lictor.models.base import AbstractCodecModel
from lictor.optim.precondition import check_linear_map, precondition
from lictor.training.alignment import cosines, dots, ratios
from lictor.training.loss import rate_distortion

# The same for every probe of every run: only the weights differ from one to the next.
_NOISE = Noise()
# The smaller gradient of a tensor (rate or distortion) must be at least this share of the larger,
# else it is one that cancels out but for rounding.
_SHARED = 1e-6

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Gradients:
    """Gradients of the shared parameters at one point; `*_pre` are preconditioned."""

    rate: list[Tensor]
    distortion: list[Tensor]
    rate_pre: list[Tensor]
    distortion_pre: list[Tensor]
    bpp: float
    mse: float

    def totals(self) -> dict[str, list[Tensor]]:
        """Return the gradient of the loss, raw and preconditioned: both maps are linear."""
        return {
            "raw": _sums(self.rate, self.distortion),
            "pre": _sums(self.rate_pre, self.distortion_pre),
        }


def _sums(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    return [a + b for a, b in zip(first, second, strict=True)]


def _differences(new: Sequence[Tensor], old: Sequence[Tensor]) -> list[Tensor]:
    return [a.detach() - b for a, b in zip(new, old, strict=True)]


class ConflictProbe:
    """Records how far gradients of rate and distortion, and of successive steps, agree.

    Args:
        model: what is trained.
        optimizer: what trains it: SGD, Adam, AdamW, SOAP, or one with a method `precondition`.
        x: the probe's pictures, always the same, in [0, 1].
        surrogate: stand-in for rounding; its noise is the same at every probe.
        lmbda: weight of the distortion.
        every: steps between rows; needs three steps for each.
        record: takes each row, a dictionary that is ready for JSON.
        lag: also compare gradients so many steps apart; 0 for not.

    A row of step `n` has, for all shared parameters together and for each by its name in `layers`:

    - `intra_raw`: the rate's gradient against that of the weighted distortion, after `n` steps;
    - `intra_pre`: the same two, each preconditioned with momentum off;
    - `intra_h`: their cosine in the preconditioner's metric, `g_R P g_D` over the root of
      `(g_R P g_R) (g_D P g_D)`;
    - `inter_raw`, `inter_pre`: the loss' gradient after `n - 1` steps against that after `n`;
    - `inter_upd`: the last two updates of the weights as they were, with momentum and clipping;
    - `inter_raw_lag`, `inter_pre_lag`: the gradient after `n - lag` steps against that after `n`.

    Besides it has `bpp` and `mse` of the probe's pictures and the norms of both raw gradients. What
    is not finite is None. Steps that were skipped give no row, nor do those before the optimizer
    has statistics.

    Shared parameters are those that get both gradients, found at the first probe: those where the
    smaller norm is at least 1e-6 of the larger. For most models that is `g_a`: the synthesis gets
    no gradient from the rate, and means and scales cancel out of the distortion. Everything is
    computed in float32, whatever the training runs in.

    Raises `ConfigError` for an optimizer whose linear map is not known, and for an `every` below 1
    or a `lag` below 0.
    """

    def __init__(
        self,
        model: AbstractCodecModel,
        optimizer: torch.optim.Optimizer,
        x: Float[Tensor, "b c h w"],
        *,
        surrogate: Surrogate,
        lmbda: float,
        every: int,
        record: Callable[[dict[str, Any]], None],
        lag: int = 0,
    ):
        check_linear_map(optimizer)
        if every < 1 or lag < 0:
            raise ConfigError(
                f"a probe every {every} steps with a lag of {lag}: every must be at least 1, "
                "lag at least 0"
            )
        self._model, self._optimizer, self._x = model, optimizer, x
        self._surrogate, self._lmbda = surrogate, lmbda
        self._every, self._lag, self._record = every, lag, record
        self._names: list[str] | None = None
        # By the number of steps made: weights, and gradients (raw and pre), of coming rows.
        self._weights: dict[int, list[Tensor]] = {}
        self._totals: dict[int, dict[str, list[Tensor]]] = {}

    def before_step(self, step: int) -> None:
        """Do nothing: everything is known after a step."""

    def after_step(self, step: int) -> None:
        """Keep what a coming row needs; record a row if one is due."""
        done = step + 1

        def due(steps_ahead: int) -> bool:
            return (done + steps_ahead) % self._every == 0

        keep_weights = due(1) or due(2)
        measure = due(0) or due(1) or (self._lag and due(self._lag))
        if self._names is None and (keep_weights or measure):
            self._choose()
        if not self._names:
            return
        if keep_weights:
            self._weights[done] = [p.detach().clone() for p in self._shared().values()]
        if measure:
            gradients = self._measure()
            if gradients is not None:
                if due(0):
                    self._add_row(done, gradients)
                self._totals[done] = gradients.totals()
        coming = done - done % self._every + self._every
        self._weights = {k: v for k, v in self._weights.items() if k >= coming - 2}
        oldest = coming - max(self._lag, 1)
        self._totals = {k: v for k, v in self._totals.items() if k >= oldest}

    def state_dict(self) -> dict[str, Any]:
        """Return the shared parameters' names, and what the coming row needs of steps made."""
        names = [] if self._names is None else self._names
        return {
            "chosen": self._names is not None,
            "names": list(names),
            "weights": dict(self._weights),
            "totals": dict(self._totals),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; an empty state starts anew."""
        names = list(state["names"]) if state.get("chosen") else None
        parameters = dict(self._model.named_parameters())
        places = [parameters[name].device for name in names or ()]

        def own(tensors: list[Tensor]) -> list[Tensor]:
            return [t.to(device) for t, device in zip(tensors, places, strict=True)]

        self._names = names
        self._weights = {k: own(v) for k, v in state.get("weights", {}).items()}
        self._totals = {
            k: {kind: own(tensors) for kind, tensors in v.items()}
            for k, v in state.get("totals", {}).items()
        }

    def _shared(self) -> dict[str, Tensor]:
        parameters = dict(self._model.named_parameters())
        return {name: parameters[name] for name in self._names or ()}

    def _choose(self) -> None:
        """Find the parameters that get both gradients; without any the probe is silent.

        Where a gradient is not finite nothing is known yet, and the next probe tries again.
        """
        named = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        rate, distortion, _, _ = self._differentiate(list(named.values()))
        squares = list(zip(dots(rate, rate), dots(distortion, distortion), strict=True))
        if not all(map(math.isfinite, itertools.chain.from_iterable(squares))):
            _log.warning(
                "a gradient of the probe's pictures is not finite: no conflict is recorded"
            )
            return
        self._names = [
            name
            for name, (a, b) in zip(named, squares, strict=True)
            if min(a, b) > 0 and min(a, b) >= _SHARED**2 * max(a, b)
        ]
        if not self._names:
            _log.warning(
                "no parameter gets a gradient from both rate and distortion: "
                "no conflict is recorded"
            )

    def _differentiate(
        self, parameters: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], float, float]:
        """Return the gradients of rate and weighted distortion, bpp and mse of the pictures."""
        device = parameters[0].device if parameters else self._x.device
        x = self._x.to(device)
        # The forward pass works on copies of the buffers and on a random state of its own.
        buffers = {name: b.detach().clone() for name, b in self._model.named_buffers()}
        devices = [] if device.type == "cpu" else [device]
        with (
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"),
        ):
            torch.manual_seed(_NOISE.seed)
            arguments = {"surrogate": self._surrogate, "noise": _NOISE}
            loss = rate_distortion(
                x, functional_call(self._model, buffers, (x,), arguments), self._lmbda
            )
            rate = torch.autograd.grad(loss.bpp, parameters, retain_graph=True, allow_unused=True)
            # The weighted distortion is what the loss has beside the rate: lambda is not used here.
            weighted = loss.total - loss.bpp
            distortion = torch.autograd.grad(weighted, parameters, allow_unused=True)

        def dense(gradients: Sequence[Tensor | None]) -> list[Tensor]:
            pairs = zip(gradients, parameters, strict=True)
            return [torch.zeros_like(p) if g is None else g for g, p in pairs]

        bpp, mse = float(loss.bpp.detach()), float(loss.distortion.detach())
        return dense(rate), dense(distortion), bpp, mse

    def _measure(self) -> _Gradients | None:
        """Return the gradients of now; None while the optimizer has no statistics."""
        parameters = list(self._shared().values())
        rate, distortion, bpp, mse = self._differentiate(parameters)
        rate_pre = self._precondition(parameters, rate)
        distortion_pre = self._precondition(parameters, distortion)
        if rate_pre is None or distortion_pre is None:
            return None
        return _Gradients(rate, distortion, rate_pre, distortion_pre, bpp, mse)

    def _precondition(
        self, parameters: list[Tensor], gradients: list[Tensor]
    ) -> list[Tensor] | None:
        pairs = zip(parameters, gradients, strict=True)
        mapped = [precondition(self._optimizer, p, g) for p, g in pairs]
        known = [m for m in mapped if m is not None]
        return known if len(known) == len(mapped) else None

    def _add_row(self, done: int, now: _Gradients) -> None:
        """Record the row of a step, if it and the two before it were made."""
        before, earlier = self._totals.get(done - 1), self._totals.get(done - self._lag)
        old, older = self._weights.get(done - 1), self._weights.get(done - 2)
        if before is None or old is None or older is None:
            return
        totals, weights = now.totals(), list(self._shared().values())
        scores = {
            "intra_raw": cosines(now.rate, now.distortion),
            "intra_pre": cosines(now.rate_pre, now.distortion_pre),
            "intra_h": ratios(
                dots(now.rate, now.distortion_pre),
                dots(now.rate, now.rate_pre),
                dots(now.distortion, now.distortion_pre),
            ),
            "inter_raw": cosines(before["raw"], totals["raw"]),
            "inter_pre": cosines(before["pre"], totals["pre"]),
            "inter_upd": cosines(_differences(old, older), _differences(weights, old)),
        }
        if self._lag and earlier is not None:
            scores["inter_raw_lag"] = cosines(earlier["raw"], totals["raw"])
            scores["inter_pre_lag"] = cosines(earlier["pre"], totals["pre"])
        layers = {
            name: {score: _number(each[i]) for score, (_, each) in scores.items()}
            for i, name in enumerate(self._names or ())
        }
        self._record(
            {
                "kind": "conflict",
                "step": done,
                "bpp": _number(now.bpp),
                "mse": _number(now.mse, digits=9),
                "rate_norm": _number(_norm(now.rate), digits=9),
                "distortion_norm": _number(_norm(now.distortion), digits=9),
                **{score: _number(total) for score, (total, _) in scores.items()},
                "layers": layers,
            }
        )


def _norm(gradients: Sequence[Tensor]) -> float:
    return math.sqrt(math.fsum(dots(gradients, gradients)))


def _number(value: float, *, digits: int = 6) -> float | None:
    return round(value, digits) if math.isfinite(value) else None
