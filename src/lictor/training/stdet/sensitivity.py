"""How much the loss minds a weight being moved, from the gradients that training computes anyway.

The formula of STDET's paper was not seen; these are the candidates.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lictor.errors import ConfigError
from lictor.training.stdet.flat import FlatParameters, flat

KINDS = ("grad2", "gradabs", "snip", "delta_fisher")


class Sensitivity:
    """Means over training steps of what a kind says of each weight.

    `grad2` is the mean squared gradient (the diagonal of the empirical Fisher information),
    `gradabs` the mean of its absolute value, `snip` that of gradient times weight, and
    `delta_fisher` estimates by how much the loss rises when the weight moves to its line.

    Raises `ConfigError` on an unknown kind.
    """

    def __init__(self, parameters: FlatParameters, kind: str):
        if kind not in KINDS:
            raise ConfigError(f"unknown sensitivity {kind!r}: choose one of {', '.join(KINDS)}")
        self.kind = kind
        self.steps = 0
        self._parameters = parameters
        self._sum: Tensor | None = None

    @torch.no_grad()
    def add(self) -> None:
        """Take in the gradients of a step, where there are any, before they are changed.

        A step with a gradient that is not finite is left out, as it is for training.
        """
        grads = [p.grad for p in self._parameters.parameters if p.grad is not None]
        if not grads or not torch.nn.utils.get_total_norm(grads).isfinite():
            return
        if self._sum is None:
            self._sum = torch.zeros(len(self._parameters), device=grads[0].device)
        self.steps += 1
        for p, total in self._parameters.split(self._sum):
            if p.grad is None:
                continue
            grad = flat(p.grad).float()
            if self.kind == "gradabs":
                total.add_(grad.abs())
            elif self.kind == "snip":
                total.add_((grad * flat(p.detach())).abs_())
            else:
                total.addcmul_(grad, grad)

    def score(self, move: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the sensitivities; `move` is how far each weight is from its line."""
        if self._sum is None:
            return torch.zeros_like(move)
        mean = self._sum.to(move.device) / max(self.steps, 1)
        return 0.5 * mean * move.square() if self.kind == "delta_fisher" else mean

    def reset(self) -> None:
        """Forget everything, and the memory with it."""
        self.steps, self._sum = 0, None

    def state_dict(self) -> dict[str, int | Tensor | None]:
        """Return the sums."""
        return {"steps": self.steps, "sum": self._sum}

    def load_state_dict(self, state: dict[str, int | Tensor | None]) -> None:
        """Restore the sums."""
        steps, total = state["steps"], state["sum"]
        assert isinstance(steps, int)
        assert not isinstance(total, int)
        place = self._parameters.parameters[0].device
        self.steps, self._sum = steps, None if total is None else total.to(place)
