"""A model's weights as one long vector of a fixed order.

Kernels are taken in the order output, rows, columns, input, which is how `channels_last` lays them
out: for such a model the vector's pieces are views, and for any other the order is the same.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lictor.errors import CheckpointError, ConfigError


def permuted(t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return a view with the axes in the order of the flat vector."""
    return t.permute(0, 2, 3, 1) if t.dim() == 4 else t


def flat(t: Float[Tensor, "..."]) -> Float[Tensor, " n"]:
    """Return a tensor as a vector: a view where its layout allows, else a copy."""
    return permuted(t).reshape(-1)


def edit_flat(t: Float[Tensor, "..."], edit: Callable[[Tensor], object]) -> None:
    """Change a tensor in place by a function that changes its flat vector in place."""
    view = permuted(t)
    vector = view.reshape(-1)
    edit(vector)
    if vector.data_ptr() != view.data_ptr():  # it was a copy
        view.copy_(vector.view(view.shape))


class FlatParameters:
    """The trainable parameters of a model, each once, but for those left out.

    `offsets[k]` is where parameter `k` starts in the vector, `offsets[-1]` its length `n`. Raises
    `ConfigError` when nothing is left.
    """

    def __init__(self, model: nn.Module, exclude: Iterable[nn.Parameter] = ()):
        left_out = {id(p) for p in exclude}
        named = [
            (name, p)
            for name, p in model.named_parameters()
            if p.requires_grad and id(p) not in left_out and p.numel()
        ]
        if not named:
            raise ConfigError("the model has no parameters that could be embedded")
        self.names = tuple(name for name, _ in named)
        self.parameters = tuple(p for _, p in named)
        self.sizes = tuple(p.numel() for p in self.parameters)
        self.offsets = (0, *accumulate(self.sizes))

    def __len__(self) -> int:
        return self.offsets[-1]

    def gather(
        self, value_of: Callable[[nn.Parameter], Tensor] = lambda p: p.detach()
    ) -> Float[Tensor, " n"]:
        """Return one vector of what a function says of each parameter, by default its value."""
        return torch.cat([flat(value_of(p)) for p in self.parameters])

    def split(self, vector: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield each parameter with its piece of a vector of length `n`."""
        yield from zip(self.parameters, vector.split(self.sizes), strict=True)

    def locate(self, index: int) -> tuple[int, int]:
        """Return the number of the parameter that an index falls into, and the place in it."""
        number = next(k for k, end in enumerate(self.offsets[1:]) if index < end)
        return number, index - self.offsets[number]

    def describe(self, index: int) -> str:
        """Return an index as the name of its parameter and the place in its flat vector."""
        number, place = self.locate(index)
        return f"{self.names[number]}[{place}]"

    def signature(self) -> list[tuple[str, int]]:
        """Return names and sizes: what a saved vector must fit."""
        return list(zip(self.names, self.sizes, strict=True))

    def check(self, signature: list[tuple[str, int]]) -> None:
        """Raise `CheckpointError` when a saved signature is another model's."""
        own = self.signature()
        saved = [(str(name), int(size)) for name, size in signature]
        if saved != own:
            odd = next((s for s, o in zip(saved, own, strict=False) if s != o), None)
            raise CheckpointError(
                f"stdet: the checkpoint is of another model (it has {odd or len(saved)}"
                f" where this one has other parameters)"
            )
