"""What an optimizer makes of a gradient when its momentum is off: one linear map per parameter.

An adaptive optimizer divides the gradient by statistics of earlier ones. With the statistics held
still this is linear in the gradient, so that it can be applied to a part of the gradient alone,
such as that of the rate.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lictor.errors import ConfigError


@runtime_checkable
class Preconditioner(Protocol):
    """An optimizer that knows its linear map, as `SOAP` does."""

    def precondition(self, p: Tensor, grad: Tensor) -> Tensor:
        """Return what `grad` becomes; raises `ConfigError` before the first update of `p`."""
        ...


def check_linear_map(optimizer: torch.optim.Optimizer) -> None:
    """Raise `ConfigError` for an optimizer without a known linear map; Muon, for one, has none."""
    known = torch.optim.SGD | torch.optim.Adam | torch.optim.AdamW
    if not isinstance(optimizer, known | Preconditioner):
        raise ConfigError(
            f"{type(optimizer).__name__}: no linear map from gradient to update is known, which a "
            "probe of conflicts needs; use adam, adamw, soap, SGD, or set train.conflict_every=0"
        )


@torch.no_grad()
def precondition(optimizer: torch.optim.Optimizer, p: Tensor, grad: Tensor) -> Tensor | None:
    """Return what a gradient becomes with momentum off and all statistics as they are.

    The learning rate, weight decay and the clipping of gradients are left out. `grad` has the shape
    of the parameter `p`, as has the result. None before the optimizer has statistics of `p`.
    Nothing is changed. Adam's map is `grad / (sqrt(v_hat) + eps)` (Kingma and Ba, ICLR 2015,
    arXiv:1412.6980, algorithm 1), that of stochastic gradient descent the identity.

    Raises `ConfigError` for an optimizer without a known linear map; one of your own may have it as
    a method (see `Preconditioner`).
    """
    check_linear_map(optimizer)
    if isinstance(optimizer, torch.optim.SGD):
        return grad.clone()
    if isinstance(optimizer, Preconditioner):
        try:
            return optimizer.precondition(p, grad)
        except ConfigError:  # only it knows when it has statistics
            return None
    state = optimizer.state.get(p, {})
    if not state:
        return None
    group = next(g for g in optimizer.param_groups if any(p is q for q in g["params"]))
    square = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    correction = 1 - float(group["betas"][1]) ** float(state["step"])
    return grad / (square.sqrt() / math.sqrt(correction) + group["eps"])
