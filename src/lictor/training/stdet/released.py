"""Optimizer state for the free entries of a weight only.

Adam treats every entry alike and alone. So a weight most of whose entries are embedded can hand the
optimizer a vector of its free entries instead: the moments of the others are not kept at all. The
vector and the places of its entries take room too, so this pays where more than 60 % are embedded.
"""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lictor.training.stdet.flat import edit_flat, flat

# Optimizers whose update of an entry depends on nothing but that entry's own history.
ENTRYWISE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the memory of an optimizer's state, bytes."""
    return _bytes(optimizer.state_dict()["state"])


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    parts = value.values() if isinstance(value, dict) else value
    return sum(map(_bytes, parts)) if isinstance(value, dict | list | tuple) else 0


class ReleasedStates:
    """Stands between an optimizer and the weights that it sees only the free entries of.

    The exchange happens inside of `optimizer.step()`: after clipping the free entries of the
    gradient go to the optimizer, after the step the free entries of the weight come back.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer
        self._free: dict[int, tuple[nn.Parameter, nn.Parameter, Tensor]] = {}
        optimizer.register_step_pre_hook(lambda *_: self._lend())
        optimizer.register_step_post_hook(lambda *_: self._take_back())

    @property
    def size_bytes(self) -> int:
        """Bytes beside the optimizer's state: the free entries' values and their places."""
        return sum(_bytes([smaller, places]) for _, smaller, places in self._free.values())

    def __contains__(self, p: nn.Parameter) -> bool:
        return id(p) in self._free

    def release(self, p: nn.Parameter, places: Int[Tensor, " f"]) -> None:
        """Let the optimizer see only these places of a weight, and keep state for no others."""
        seen, before = p, torch.arange(p.numel(), device=p.device)
        if p in self:
            _, seen, before = self._free[id(p)]
        kept = torch.isin(before, places, assume_unique=True)
        state = self.optimizer.state.pop(seen, {})
        smaller = self._replace(p, seen, places)
        if state:
            self.optimizer.state[smaller] = {
                key: flat(value)[kept].clone() if _is_entrywise(value, len(before)) else value
                for key, value in state.items()
            }

    def restore(self, p: nn.Parameter, places: Int[Tensor, " f"]) -> None:
        """Do the same for an optimizer whose state, just loaded, is that of these places."""
        state = self.optimizer.state.pop(p, {})
        smaller = self._replace(p, p, places)
        if state:
            self.optimizer.state[smaller] = state

    def forget(self, p: nn.Parameter) -> None:
        """Give a weight back to the optimizer whole, but without any state."""
        if p in self:
            _, seen, _ = self._free.pop(id(p))
            self.optimizer.state.pop(seen, None)
            self._swap(seen, p)

    def _swap(self, old: nn.Parameter, new: nn.Parameter) -> None:
        for group in self.optimizer.param_groups:
            group["params"] = [new if q is old else q for q in group["params"]]

    def _replace(self, p: nn.Parameter, seen: nn.Parameter, places: Tensor) -> nn.Parameter:
        smaller = nn.Parameter(flat(p.detach())[places].clone())
        self._swap(seen, smaller)
        self._free[id(p)] = (p, smaller, places)
        return smaller

    @torch.no_grad()
    def _lend(self) -> None:
        for p, smaller, places in self._free.values():
            smaller.grad = None if p.grad is None else flat(p.grad)[places].to(smaller.dtype)
            smaller.copy_(flat(p)[places])  # feedback or a dummy embedding may have moved it

    @torch.no_grad()
    def _take_back(self) -> None:
        for p, smaller, places in self._free.values():
            new = smaller.detach()
            edit_flat(p.detach(), lambda v, at=places, new=new: v.index_copy_(0, at, new))
            smaller.grad = None  # no second copy of it beyond the step


def _is_entrywise(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.numel() == size
