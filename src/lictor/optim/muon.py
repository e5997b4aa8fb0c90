"""Muon for networks of any layers: torch's own, which takes matrices only, beside AdamW."""

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor, nn

from lictor.errors import ConfigError
from lictor.optim.soap_stack import is_channels_last


def _as_matrix(p: Tensor, *, channels_last: bool) -> Tensor:
    """View a weight as `first side, all others`, the others in the order they have in memory."""
    return (p.permute(0, *range(2, p.ndim), 1) if channels_last else p).flatten(1)


def _is_matrix(p: Tensor) -> bool:
    """Tell whether a parameter has two sides and can be seen as a matrix without a copy."""
    if p.ndim < 2 or not (p.is_contiguous() or is_channels_last(p)):
        return False
    return p.shape[0] > 1 and p[0].numel() > 1


class Muon(torch.optim.Optimizer):
    """Muon for each parameter that can be seen as a matrix, AdamW for the rest.

    Args:
        params: parameters or groups; a convolution is seen as `out, in * kernel`, a transposed one
            as `in, out * kernel`.
        lr: step size of both; Muon's updates are scaled to the size of AdamW's.
        betas: of AdamW.
        momentum: of Muon.
        weight_decay: of both, decoupled.

    Raises `ConfigError` where torch has no Muon (before 2.9).

    Source: Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024, as
    `torch.optim.Muon` has it; the scale is that of Liu et al., 2025 (arXiv:2502.16982).
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ):
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError(
                f"torch {torch.__version__} has no Muon; 2.9 was the first to have it"
            )
        self._matrices: dict[Tensor, nn.Parameter] = {}
        self._parts: list[tuple[torch.optim.Optimizer, torch.optim.Optimizer]] = []
        defaults = {"lr": lr, "betas": betas, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs."""
        own = {"_matrices": self._matrices, "_parts": self._parts}
        return super().__getstate__() | own

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own."""
        super().add_param_group(param_group)
        params = self.param_groups[-1]["params"]
        views = {p: nn.Parameter(p.detach()) for p in params if _is_matrix(p)}
        self._matrices |= views
        for p in views:
            self._point(p)
        rest = [p for p in params if p not in views]
        self._parts.append(
            (
                torch.optim.Muon(
                    [{"params": list(views.values())}], adjust_lr_fn="match_rms_adamw"
                ),
                torch.optim.AdamW([{"params": rest}], fused=True),
            )
        )

    def _point(self, p: Tensor) -> None:
        """Let a parameter's matrix share its memory, which may have moved, and its gradient's."""
        matrix, channels_last = self._matrices[p], is_channels_last(p)
        matrix.data = _as_matrix(p.detach(), channels_last=channels_last)
        matrix.grad = None if p.grad is None else _as_matrix(p.grad, channels_last=channels_last)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Any]) -> Any: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; `closure` may recompute the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, parts in zip(self.param_groups, self._parts, strict=True):
            for p in group["params"]:
                if p in self._matrices:
                    self._point(p)
            for part in parts:
                inner = part.param_groups[0]
                inner.update({k: v for k, v in group.items() if k != "params" and k in inner})
                part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the settings, and as state those of each group's two parts."""
        states = [[part.state_dict() for part in parts] for parts in self._parts]
        return super().state_dict() | {"state": {"parts": states}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; raises `ValueError` when it is of other parameters."""
        for parts, states in zip(self._parts, state_dict["state"]["parts"], strict=True):
            for part, state in zip(parts, states, strict=True):
                part.load_state_dict(state)
        super().load_state_dict({**state_dict, "state": {}})
