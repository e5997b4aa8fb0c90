"""The update of all of SOAP's stacks as one CUDA graph: launched at once, not kernel by kernel.

A step of SOAP is hundreds of short kernels. On a graphics processor the Python code that launches
them takes four times as long as they do, and as long as the network's forward and backward pass.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lictor.optim.soap_math import adam_direction, rotate, second_moments
from lictor.optim.soap_stack import Stack


def update(
    stack: Stack, grads: Sequence[Tensor], group: dict[str, Any], step_size: Any, shrink: Any
) -> None:
    """Move the parameters of a stack by one step, and their statistics.

    `step_size` is a number or a scalar tensor, `shrink` what weight decay multiplies weights by,
    None for no decay.
    """
    modes, betas = stack.plan.modes, group["betas"]
    grad = stack.gather(grads)
    # With no axis to rotate this would be the parameters' own gradient, and is written to.
    rotated = rotate(grad, stack.joint_bases, modes) if modes else grad.clone()
    direction = adam_direction(
        rotated, stack.mean, stack.mean_square, betas=betas, eps=group["eps"]
    )
    direction = rotate(direction, stack.joint_bases, modes, back=True)
    for p, d in zip(stack.params, stack.scatter(direction), strict=True):
        if isinstance(step_size, Tensor):
            p.addcmul_(d, step_size, value=-1)
        else:
            p.add_(d, alpha=-step_size)
        if shrink is not None:
            p.mul_(shrink)
    learn_factors(stack, grad, group)


def learn_factors(stack: Stack, grad: Tensor, group: dict[str, Any]) -> None:
    """Let the factors of a stack follow its gradients, which are flat."""
    factor_beta = group["betas"][1] if group["factor_beta"] is None else group["factor_beta"]
    moments = second_moments(grad, stack.plan.modes)
    for factor, moment in zip(stack.factors, moments, strict=True):
        factor.lerp_(moment, 1 - factor_beta)


# Group, stack, step size, shrinking factor: what an update is made of.
Work = tuple[dict[str, Any], Stack, float, float | None]


class CapturedUpdate:
    """The update of some stacks, captured when it was first made; sizes of steps may change.

    The gradients are copied to where the graph expects them. Any other change (of a stack, a
    setting, a shape) needs a new one: it has another key.
    """

    def __init__(self, work: Sequence[Work]):
        self.key = key_of(work)
        self._stacks = [stack for _, stack, *_ in work]
        self._grads = [[torch.empty_like(g) for g in _grads(stack)] for stack in self._stacks]
        self._numbers = torch.zeros(2, len(work), device=self._stacks[0].mean.device)
        self._fill(work)
        self._graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(self._graph):
            for k, (group, stack, _, shrink) in enumerate(work):
                decay = None if shrink is None else self._numbers[1, k]
                update(stack, self._grads[k], group, self._numbers[0, k], decay)

    @staticmethod
    def possible(work: Sequence[Work]) -> bool:
        """Tell whether there is one device, a CUDA one, and nothing else that would not do."""
        places = {stack.mean.device for _, stack, *_ in work}
        return len(places) == 1 and next(iter(places)).type == "cuda"

    def _fill(self, work: Sequence[Work]) -> None:
        numbers = [[size for *_, size, _ in work], [shrink or 1.0 for *_, shrink in work]]
        self._numbers.copy_(torch.tensor(numbers).pin_memory(), non_blocking=True)

    def replay(self, work: Sequence[Work]) -> None:
        """Make the update with the present gradients and sizes of steps."""
        self._fill(work)
        kept = [t for grads in self._grads for t in grads]
        torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
            kept, [g for stack in self._stacks for g in _grads(stack)]
        )
        self._graph.replay()


def _grads(stack: Stack) -> list[Tensor]:
    return [p.grad for p in stack.params if p.grad is not None]


def key_of(work: Sequence[Work]) -> tuple:
    """Return what must stay the same: stacks, where parameters lie, settings."""
    settings = ("betas", "eps", "factor_beta")
    return tuple(
        (
            id(stack),
            tuple(
                (p.data_ptr(), g.dtype) for p, g in zip(stack.params, _grads(stack), strict=True)
            ),
            tuple(group[name] for name in settings),
            shrink is None,
        )
        for group, stack, _, shrink in work
    )
