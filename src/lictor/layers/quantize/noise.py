"""The random numbers of a training step: a pure function of its number, of nothing else."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

# Draws noise of U(-1/2, 1/2) for a tensor: of its shape, its type, its device.
Draw = Callable[[Tensor], Tensor]


def draw_anew(like: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Draw from torch's own generator."""
    return torch.empty_like(like).uniform_(-0.5, 0.5)


@runtime_checkable
class NoiseSource(Protocol):
    """Where a model's noise comes from."""

    def uniform(
        self, like: Float[Tensor, "b *shape"], name: str, number: int
    ) -> Float[Tensor, "b *shape"]:
        """Return U(-1/2, 1/2) noise for the `number`-th draw that is called `name`."""
        ...


@dataclass(frozen=True)
class Noise:
    """Where the noise of one step comes from.

    No generator has to be kept: a run that is resumed draws what it would have drawn. Nor does it
    matter in how many pieces a step is taken, beside each other or one after the other: each draws
    for all pictures of the step and keeps the part of its own.

    Args:
        seed: the run's.
        step: counts from 0.
        first: the place of the first picture here among those of the step.
        total: how many pictures the step has in all; those that are here if not given.
    """

    seed: int = 0
    step: int = 0
    first: int = 0
    total: int | None = None

    def uniform(
        self, like: Float[Tensor, "b *shape"], name: str, number: int
    ) -> Float[Tensor, "b *shape"]:
        """Return U(-1/2, 1/2) noise for the `number`-th draw that is called `name`."""
        total = len(like) if self.total is None else self.total
        return _uniform(like.detach(), self.seed, self.step, name, number, self.first, total)

    def drawn(self, draws: "NotedDraws") -> "DrawnNoise":
        """Draw at once what a model was seen to draw."""
        return DrawnNoise(
            {key: self.uniform(like, *_parts(key)) for key, like in draws.likes.items()}
        )


@dataclass(frozen=True)
class DrawnNoise:
    """Noise that is there before the model is called: an input, for a model that is compiled."""

    tensors: Mapping[str, Tensor]

    def uniform(
        self, like: Float[Tensor, "b *shape"], name: str, number: int
    ) -> Float[Tensor, "b *shape"]:
        """Return the noise for the `number`-th draw that is called `name`."""
        del like
        return self.tensors[f"{name} {number}"]


@dataclass(frozen=True)
class NotedDraws:
    """Notes what a model draws noise for, and gives it none."""

    likes: dict[str, Tensor] = field(default_factory=dict)

    def uniform(
        self, like: Float[Tensor, "b *shape"], name: str, number: int
    ) -> Float[Tensor, "b *shape"]:
        """Return zeros for the `number`-th draw that is called `name`."""
        self.likes[f"{name} {number}"] = like.detach()
        return torch.zeros_like(like)


def _parts(key: str) -> tuple[str, int]:
    name, _, number = key.rpartition(" ")
    return name, int(number)


def _all_pictures(like: Tensor, total: int) -> Tensor:
    """Return an empty tensor for more pictures, which come one after the other in memory."""
    channels_last = like.dim() == 4 and like.stride(1) == 1
    layout = torch.channels_last if channels_last else torch.contiguous_format
    shape = (total, *like.shape[1:])
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


# An operation of its own: a compiler takes it as it is, and need not know hashes and generators.
@torch.library.custom_op("lictor::uniform", mutates_args=())
def _uniform(
    like: Tensor, seed: int, step: int, name: str, number: int, first: int, total: int
) -> Tensor:
    text = f"{seed} {step} 0 {name} {number}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    # The CPU's generator looks at the lower 32 bits only, others refuse a sign.
    generator = torch.Generator(like.device).manual_seed(int.from_bytes(digest, "little") >> 1)
    drawn = _all_pictures(like, total).uniform_(-0.5, 0.5, generator=generator)
    return drawn if total == len(like) else drawn[first : first + len(like)].clone()


@_uniform.register_fake
def _(like: Tensor, seed: int, step: int, name: str, number: int, first: int, total: int) -> Tensor:
    del seed, step, name, number, first, total
    return _all_pictures(like, len(like))
