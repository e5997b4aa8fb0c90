"""The way of the symbols through a codec: which latent is read when, and what tells its rows.

A path is a list of steps on numbered values, arrays `c h w` of integers in units of 2^-10. A step
takes values and adds one or more behind the last:

- `Get` reads the symbols of a latent, or of a part of it;
- `Run` hands a value to a network of integers (`program`);
- `Split` and `Join` take a value apart into the two colours of a checkerboard, and undo that;
- `Concatenate` and `Slice` do so along the channels.

`reference` follows a path with nothing but NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lictor.coding.program import Integers, Op
from lictor.errors import CheckpointError

MOST_STRIDE = 1 << 12


@dataclass(frozen=True, eq=False)
class Get:
    """Read the symbols of `channels` at 1/strides of the padded picture's height and width.

    With one input, or two, the last are scales, which choose the rows by the tables' thresholds;
    without, a channel has the row of its number. The value is `symbol * 2^10` plus the first of two
    inputs, or `means` of the channels.

    Args:
        latent: whose tables are used.
        channels: 1 or more.
        strides: of rows and of columns.
        inputs: none, scales, or means and scales.
        means: `[channels]` in units of 2^-10, None for none.
    """

    latent: str
    channels: int
    strides: tuple[int, int]
    inputs: tuple[int, ...]
    means: Integers | None = None


@dataclass(frozen=True)
class Run:
    """Hand a value to a network."""

    network: str
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """Take a value apart: in row `r` columns `2 j + r % 2` are the even half, the rest the odd."""

    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Join:
    """Put an even and an odd half together."""

    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Concatenate:
    """Put values behind each other along the channels."""

    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Slice:
    """Take the channels from `start` to `stop`."""

    start: int
    stop: int
    inputs: tuple[int, ...]


Step = Get | Run | Split | Join | Concatenate | Slice
STEPS: dict[str, type[Step]] = {
    "get": Get,
    "run": Run,
    "split": Split,
    "join": Join,
    "concatenate": Concatenate,
    "slice": Slice,
}


@dataclass(frozen=True, eq=False)
class Path:
    """What decides the symbols of a codec, whole.

    Args:
        networks: chains of operations, by name.
        channels: of the input of each network.
        steps: in order; each refers to values that are there.
        results: the value of each latent, by name.
        stride: a picture's sides are padded to multiples of it; all steps' strides divide it.

    Raises:
        CheckpointError: a step refers to what is not there, or takes another number of values.
    """

    networks: Mapping[str, Sequence[Op]]
    channels: Mapping[str, int]
    steps: Sequence[Step]
    results: Mapping[str, int]
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= MOST_STRIDE:
            raise CheckpointError(f"a path's stride must be 1 to {MOST_STRIDE}, not {self.stride}")
        counts = {Run: (1,), Split: (1,), Join: (2,), Slice: (1,), Get: (0, 1, 2)}
        values = 0
        for number, step in enumerate(self.steps):
            place = f"step {number + 1} ({type(step).__name__.lower()})"
            takes = counts.get(type(step))
            fits = len(step.inputs) > 0 if takes is None else len(step.inputs) in takes
            if not fits or not all(0 <= i < values for i in step.inputs):
                raise CheckpointError(f"{place}: it cannot take the values {list(step.inputs)}")
            if isinstance(step, Run) and step.network not in self.networks:
                raise CheckpointError(f"{place}: there is no network {step.network!r}")
            if isinstance(step, Get):
                fits = all(n >= 1 and self.stride % n == 0 for n in step.strides)
                if step.channels < 1 or not fits:
                    raise CheckpointError(f"{place}: {step.channels} channels at {step.strides}")
                if step.means is not None and step.means.shape != (step.channels,):
                    raise CheckpointError(f"{place}: means are {step.means.shape}")
            values += 2 if isinstance(step, Split) else 1
        if not all(0 <= value < values for value in self.results.values()):
            raise CheckpointError(f"the path's results {dict(self.results)} are not there")
