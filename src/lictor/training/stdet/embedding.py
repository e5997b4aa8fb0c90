"""The embedded weights: each sits on the line `a w_ref + b` of its mode's reference, for good.

This keeps the lines and puts weights back on them; which weights to embed is decided elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lictor.training.stdet.flat import FlatParameters, edit_flat, flat


@dataclass(frozen=True)
class _Lines:
    """The embedded weights of one parameter: places in its flat vector, and their lines.

    They are where the parameter is.
    """

    places: Int[Tensor, " e"]
    mode: Int[Tensor, " e"]
    slope: Float[Tensor, " e"]
    offset: Float[Tensor, " e"]

    def values(self, references: Float[Tensor, " m"]) -> Float[Tensor, " e"]:
        return torch.addcmul(self.offset, self.slope, references[self.mode])


class Embedding:
    """A growing set of embedded weights.

    Args:
        parameters: the weights as one vector of length `n`.
        mode: each weight's mode, `n`.
        references: the place of each mode's reference in the vector, `m`; never embedded.
    """

    def __init__(
        self, parameters: FlatParameters, mode: Int[Tensor, " n"], references: Int[Tensor, " m"]
    ):
        self.references = references
        self.embedded = torch.zeros(len(parameters), dtype=torch.bool)
        self.slope = torch.zeros(0)
        self.offset = torch.zeros(0)
        self._parameters = parameters
        self._mode = mode
        self._located = [parameters.locate(place) for place in references.tolist()]
        self._lines: dict[int, _Lines] = {}

    def __len__(self) -> int:
        return int(self.embedded.sum())

    def add(
        self,
        chosen: Bool[Tensor, " n"],
        slope: Float[Tensor, " n"],
        offset: Float[Tensor, " n"],
    ) -> None:
        """Embed more weights; lines of those that are in already stay as they are."""
        if not len(self.slope):
            self.slope, self.offset = torch.zeros_like(slope), torch.zeros_like(offset)
        new = chosen & ~self.embedded
        self.slope = torch.where(new, slope, self.slope)
        self.offset = torch.where(new, offset, self.offset)
        self.embedded |= new
        self._rebuild()

    def _rebuild(self) -> None:
        sizes = self._parameters.sizes
        pieces = (t.split(sizes) for t in (self.embedded, self._mode, self.slope, self.offset))
        self._lines = {}
        for k, (inside, mode, slope, offset) in enumerate(zip(*pieces, strict=True)):
            places = torch.nonzero(inside).flatten()
            if len(places):
                own = (places, mode[places].long(), slope[places].clone(), offset[places].clone())
                device = self._parameters.parameters[k].device
                self._lines[k] = _Lines(*(t.to(device) for t in own))

    def share_of(self, number: int) -> float:
        """Return which share of a parameter's weights is embedded."""
        lines = self._lines.get(number)
        return len(lines.places) / self._parameters.sizes[number] if lines else 0.0

    def free_places(self, number: int) -> Int[Tensor, " f"]:
        """Return the places of a parameter's weights that are still trained, where it is."""
        start, end = self._parameters.offsets[number : number + 2]
        places = torch.nonzero(~self.embedded[start:end]).flatten()
        return places.to(self._parameters.parameters[number].device)

    @torch.no_grad()
    def project(self, value_of: Callable[[nn.Parameter], Tensor] = lambda p: p.detach()) -> None:
        """Put all embedded weights on their lines, in the model or in what `value_of` returns."""
        if not self._lines:
            return
        parameters = self._parameters.parameters
        references = torch.stack([flat(value_of(parameters[k]))[i] for k, i in self._located])
        for k, lines in self._lines.items():
            values = lines.values(references)
            edit_flat(
                value_of(parameters[k]),
                lambda vector, at=lines.places, values=values: vector.index_copy_(0, at, values),
            )

    @torch.no_grad()
    def zero(self, value_of: Callable[[nn.Parameter], Tensor | None]) -> None:
        """Set the entries of embedded weights to zero in what `value_of` returns."""
        for k, lines in self._lines.items():
            value = value_of(self._parameters.parameters[k])
            if value is not None:
                edit_flat(value, lambda vector, at=lines.places: vector.index_fill_(0, at, 0))

    @torch.no_grad()
    def chain(self) -> None:
        """Add to each reference's gradient what its embedded weights' gradients say of it.

        With `w_k = a_k w_ref + b_k` the loss' gradient by `w_ref` gets `a_k g_k` of each.
        """
        device = self._parameters.parameters[0].device
        sums = torch.zeros(len(self.references), device=device)
        for k, lines in self._lines.items():
            grad = self._parameters.parameters[k].grad
            if grad is not None:
                sums.index_add_(0, lines.mode, lines.slope * flat(grad)[lines.places].float())
        for (number, place), more in zip(self._located, sums, strict=True):
            grad = self._parameters.parameters[number].grad
            if grad is not None:
                edit_flat(grad, lambda vector, at=place, more=more: vector[at].add_(more))

    def state_dict(self) -> dict[str, Any]:
        """Return which weights are embedded, with their lines."""
        return {"embedded": self.embedded, "slope": self.slope, "offset": self.offset}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the set; the tensors are taken over."""
        self.embedded, self.slope = state["embedded"], state["slope"]
        self.offset = state["offset"]
        if len(self.slope):
            self._rebuild()
