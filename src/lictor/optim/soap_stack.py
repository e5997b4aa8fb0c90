"""The state of parameters that SOAP updates as one stacked tensor, and how they are seen."""

from collections.abc import Iterable, Sequence
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
        self.join()

    def join(self) -> None:
        """Bring the joint bases up to date, where they are: a captured graph may know them."""
        for kept, new in zip(self.joint_bases, joint(self.bases, self.plan.modes), strict=True):
            if kept is not new:
                kept.copy_(new)

    def turn(self, bases: list[Tensor], orders: list[Tensor]) -> None:
        """Take over new bases, and the old columns' orders in them; the moments follow.

        The first moment is expressed in the new basis; the second is only reordered, which is
        SOAP's approximation.
        """
        turns = [old.mT @ new for old, new in zip(self.bases, bases, strict=True)]
        for old, new in zip(self.bases, bases, strict=True):
            old.copy_(new)
        modes = self.plan.modes
        self.mean.copy_(rotate(self.mean, joint(turns, modes), modes))
        self.mean_square.copy_(reorder(self.mean_square, orders, modes))
        self.join()


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def refresh(stacks: Sequence[Stack]) -> None:
    """Turn every basis of some stacks one power iteration further.

    On a device all factors of a side are worked on at once: there the calls count, not the work.
    """
    together: dict[tuple, list[tuple[int, int]]] = {}
    for i, stack in enumerate(stacks):
        for k, factor in enumerate(stack.factors):
            alone = (i, k) if factor.is_cpu else ()
            key = (factor.shape[-1], factor.dtype, factor.device, *alone)
            together.setdefault(key, []).append((i, k))
    turned: list[list[tuple[Tensor, Tensor]]] = [
        [(basis, basis) for basis in stack.bases] for stack in stacks
    ]
    for places in together.values():
        factors = _joined([stacks[i].factors[k] for i, k in places])
        bases = _joined([stacks[i].bases[k] for i, k in places])
        new, order = next_basis(factors, bases)
        counts = [len(stacks[i].bases[k]) for i, k in places]
        for (i, k), *both in zip(places, new.split(counts), order.split(counts), strict=True):
            turned[i][k] = (both[0], both[1])
    for stack, pairs in zip(stacks, turned, strict=True):
        stack.turn([new for new, _ in pairs], [order for _, order in pairs])
