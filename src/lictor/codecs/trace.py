"""What a model does with symbols, written down: the path of a frozen codec, by watching it once.

The model's own `code` runs on small tensors of zeros that note what becomes of them. So the path
that the reference decoder follows is not a second statement of the model, which could differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lictor.coders import Shape
from lictor.coding.path import Concatenate, Get, Join, Path, Run, Slice, Split, Step
from lictor.coding.program import FRACTION_BITS
from lictor.errors import LictorError
from lictor.layers.checkerboard import checkerboard_join, checkerboard_split
from lictor.layers.entropy_network import EntropyNetwork
from lictor.models.base import AbstractCodecModel
from lictor.priors.base import AbstractPrior
from lictor.priors.channel import ChannelPrior
from lictor.priors.conditional import AbstractConditionalPrior
from lictor.priors.factorized import FactorizedPrior

# A latent of one row at a stride could not be told from one of a larger stride: two strides a side.
_SIDES = 2


def trace(model: AbstractCodecModel) -> Path:
    """Return the path of a frozen model whose entropy networks are exact.

    Raises `LictorError` when its `code` does something with tensors that a path cannot say.
    """
    names = {id(module): name for name, module in model.named_modules()}
    side = _SIDES * model.stride
    watch = _Watch(names, side)
    found = model.code(watch, None, (1, model.in_channels, side, side))
    results = {name: watch.number_of(value) for name, value in found.items()}
    networks, channels = {}, {}
    for name, module in model.named_modules():
        if isinstance(module, EntropyNetwork):
            assert module.integers is not None
            networks[name], channels[name] = module.integers.ops, module.integers.channels
    return Path(networks, channels, watch.steps, results, model.stride)


def mean_tensors(model: AbstractCodecModel) -> Mapping[str, str]:
    """Return the name of the weights that are the channels' means, by latent."""
    names = {id(module): name for name, module in model.named_modules()}
    return {
        latent: f"{names[id(prior)]}.means"
        for latent, prior in model.priors().items()
        if isinstance(prior, ChannelPrior)
    }


class _Watch:
    """A coder that reads zeros, and notes what is asked for."""

    def __init__(self, names: Mapping[int, str], side: int):
        self.steps: list[Step] = []
        self._names, self._side, self._values = names, side, 0

    def code(
        self,
        name: str,
        latent: Tensor | None,
        prior: AbstractPrior,
        *params: Tensor,
        shape: Shape,
    ) -> Tensor:
        """Note that a latent, or a part of one, is read."""
        assert latent is None
        _, channels, height, width = shape
        if self._side % height or self._side % width:
            raise LictorError(f"{name}: {shape} is no whole fraction of the picture")
        means = None
        if isinstance(prior, ChannelPrior):
            units = np.ldexp(prior.means.detach().double().numpy(), FRACTION_BITS)
            means = np.rint(units).astype(np.int64)
        elif not isinstance(prior, FactorizedPrior | AbstractConditionalPrior):
            raise LictorError(f"{name}: a {type(prior).__name__} has no integer form")
        inputs = tuple(self.number_of(value) for value in params)
        strides = (self._side // height, self._side // width)
        return self.note(Get(name, channels, strides, inputs, means), torch.zeros(shape))

    def number_of(self, value: Tensor) -> int:
        """Return which value of the path a tensor is."""
        if not isinstance(value, _Noted):
            raise LictorError("a tensor steers the coder that does not come from decoded symbols")
        return value.number

    def note(self, step: Step, value: Tensor) -> Tensor:
        """Add a step with one value."""
        self.steps.append(step)
        return self.added(value)

    def added(self, value: Tensor) -> Tensor:
        """Give a tensor the next number."""
        noted = value.detach().as_subclass(_Noted)
        noted.watch, noted.number = self, self._values
        self._values += 1
        return noted

    def network(self, module: EntropyNetwork, value: Tensor) -> Tensor:
        """Note that a network runs."""
        name = self._names[id(module)]
        return self.note(Run(name, (self.number_of(value),)), module(_plain(value)))


def _plain(value: Any) -> Any:
    """Return the tensor itself, which notes nothing."""
    return value.as_subclass(Tensor) if isinstance(value, _Noted) else value


def _channels(value: _Noted, parts: tuple[Tensor, ...], dim: int) -> tuple[Tensor, ...]:
    if dim % value.dim() != 1:
        raise LictorError("a path can take values apart along the channels only")
    at, found = 0, []
    for part in parts:
        stop = at + part.shape[1]
        found.append(value.watch.note(Slice(at, stop, (value.number,)), part))
        at = stop
    return tuple(found)


def _chunk(value: _Noted, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    return _channels(value, _plain(value).chunk(chunks, dim), dim)


def _split_channels(value: _Noted, sizes: int | list[int], dim: int = 0) -> tuple[Tensor, ...]:
    return _channels(value, torch.split(_plain(value), sizes, dim), dim)


def _item(value: _Noted, index: Any) -> Tensor:
    index = index if isinstance(index, tuple) else (index,)
    whole = slice(None)
    if len(index) != 2 or index[0] != whole or not isinstance(index[1], slice):
        raise LictorError("a path can take channels out of a value as x[:, a:b], nothing else")
    start, stop, step = index[1].indices(value.shape[1])
    if step != 1:
        raise LictorError("a path can take out channels that lie side by side only")
    return value.watch.note(Slice(start, stop, (value.number,)), _plain(value)[index])


def _cat(values: list[Tensor], dim: int = 0) -> Tensor:
    first = next(value for value in values if isinstance(value, _Noted))
    if dim % first.dim() != 1:
        raise LictorError("a path can join values along the channels only")
    numbers = tuple(first.watch.number_of(value) for value in values)
    return first.watch.note(Concatenate(numbers), torch.cat([_plain(v) for v in values], 1))


def _halves(value: _Noted) -> tuple[Tensor, Tensor]:
    value.watch.steps.append(Split((value.number,)))
    even, odd = checkerboard_split(_plain(value))
    return value.watch.added(even), value.watch.added(odd)


def _whole(even: _Noted, odd: _Noted) -> Tensor:
    step = Join((even.watch.number_of(even), even.watch.number_of(odd)))
    return even.watch.note(step, checkerboard_join(_plain(even), _plain(odd)))


def _run(module: EntropyNetwork, value: _Noted) -> Tensor:
    return value.watch.network(module, value)


def _same(value: _Noted, *_: Any, **__: Any) -> Tensor:
    return value


_KNOWN: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.cat: _cat,
    torch.chunk: _chunk,
    Tensor.chunk: _chunk,
    torch.split: _split_channels,
    Tensor.split: _split_channels,
    Tensor.__getitem__: _item,
    Tensor.to: _same,
    Tensor.float: _same,
    Tensor.contiguous: _same,
    checkerboard_split: _halves,
    checkerboard_join: _whole,
    EntropyNetwork.forward: _run,
}
# What tells of a tensor, and makes none.
_ABOUT = {Tensor.dim, Tensor.size, Tensor.numel, Tensor.is_contiguous, Tensor.stride}


class _Noted(Tensor):
    """A tensor that notes what becomes of it."""

    watch: _Watch
    number: int

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _KNOWN:
            return _KNOWN[func](*args, **kwargs)
        if func in _ABOUT or getattr(func, "__name__", "") in ("__get__", "__repr__"):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        name = getattr(func, "__qualname__", getattr(func, "__name__", str(func)))
        raise LictorError(
            f"`code` calls {name} on what steers the coder, which has no integer form; put it into "
            "an EntropyNetwork, or use torch.cat, chunk, split, x[:, a:b] and the checkerboard"
        )
