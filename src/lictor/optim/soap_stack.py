"""The state of parameters that SOAP updates as one stacked tensor, and how they are seen."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lictor.optim.soap_math import (
    Plan,
    first_basis,
    joint,
    make_plan,
    next_basis,
    reorder,
    rotate,
)


def is_channels_last(p: Tensor) -> bool:
    """Tell whether dimension 1 is the innermost in memory, and is not so in the usual order."""
    return not p.is_contiguous() and (
        (p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last))
        or (p.ndim == 5 and p.is_contiguous(memory_format=torch.channels_last_3d))
    )


def plan_of(p: Tensor, group: dict[str, Any]) -> Plan:
    """Return how a parameter is seen under its group's settings."""
    return make_plan(
        tuple(p.shape),
        shapes=group["shapes"],
        max_factor=group["max_factor"],
        channels_last=is_channels_last(p),
    )


def state_dtype(p: Tensor) -> torch.dtype:
    """Return the type of a parameter's statistics: float32, or float64 for float64."""
    return torch.float64 if p.dtype == torch.float64 else torch.float32


@dataclass
class Stack:
    """Parameters of one group and shape that are at the same step, updated as one tensor.

    The moments are flat, in the parameters' memory order. The optimizer's state holds views of
    them, so that it is always up to date; `rows` are those of the first moments.
    """

    params: list[Tensor]
    plan: Plan
    mean: Float[Tensor, "b n"]
    mean_square: Float[Tensor, "b n"]
    factors: list[Tensor]
    bases: list[Tensor]
    joint_bases: list[Tensor]
    rows: list[Tensor]

    @classmethod
    def build(cls, params: list[Tensor], plan: Plan, states: list[dict[str, Any]]) -> "Stack":
        """Copy the parameters' states into one; empty states, of new parameters, become zeros."""
        options: Any = {"dtype": state_dtype(params[0]), "device": params[0].device}

        def stacked(name: str, k: int, size: int) -> Tensor:
            if not states[0]:
                return torch.zeros(len(params), size, size, **options)
            return torch.stack([state[name][plan.ranks[k]] for state in states]).to(**options)

        zeros = torch.zeros(len(params), params[0].numel(), **options)
        sizes = list(enumerate(plan.factor_sizes))
        factors = [stacked("factors", k, size) for k, size in sizes]
        bases = [stacked("bases", k, size) for k, size in sizes]
        stack = cls(
            params, plan, zeros, zeros.clone(), factors, bases, joint(bases, plan.modes), []
        )
        if states[0]:
            stack.mean.copy_(stack.gather(state["exp_avg"] for state in states))
            stack.mean_square.copy_(stack.gather(state["exp_avg_sq"] for state in states))
        return stack

    def gather(self, tensors: Iterable[Tensor]) -> Float[Tensor, "b n"]:
        """Return tensors shaped like the parameters as flat rows; may be a view of them."""
        rows = [t.permute(self.plan.order).reshape(-1) for t in tensors]
        stacked = rows[0][None] if len(rows) == 1 else torch.stack(rows)
        return stacked.to(self.mean.dtype)

    def scatter(self, rows: Float[Tensor, "b n"]) -> list[Tensor]:
        """Return views of flat rows that are shaped like the parameters."""
        order = self.plan.order
        shape = [self.params[0].shape[d] for d in order]
        back = sorted(range(len(order)), key=order.__getitem__)
        return [row.view(shape).permute(back) for row in rows]

    def views(self) -> list[dict[str, Any]]:
        """Return each parameter's moments, factors and bases as views."""
        ordered = sorted(range(len(self.factors)), key=self.plan.ranks.__getitem__)
        moments = zip(self.scatter(self.mean), self.scatter(self.mean_square), strict=True)
        return [
            {
                "exp_avg": mean,
                "exp_avg_sq": mean_square,
                "factors": [self.factors[k][i] for k in ordered],
                "bases": [self.bases[k][i] for k in ordered],
            }
            for i, (mean, mean_square) in enumerate(moments)
        ]

    def begin(self) -> None:
        """Set every basis from its factor."""
        for factor, basis in zip(self.factors, self.bases, strict=True):
            basis.copy_(first_basis(factor))
        self.joint_bases = joint(self.bases, self.plan.modes)

    def refresh(self) -> None:
        """Turn every basis one power iteration further; the moments follow.

        The first moment is expressed in the new basis; the second is only reordered, which is
        SOAP's approximation.
        """
        turns, orders = [], []
        for factor, basis in zip(self.factors, self.bases, strict=True):
            new, order = next_basis(factor, basis)
            turns.append(basis.mT @ new)
            orders.append(order)
            basis.copy_(new)
        modes = self.plan.modes
        self.mean.copy_(rotate(self.mean, joint(turns, modes), modes))
        self.mean_square.copy_(reorder(self.mean_square, orders, modes))
        self.joint_bases = joint(self.bases, modes)
