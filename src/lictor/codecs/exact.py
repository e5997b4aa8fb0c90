"""A model's path in integers: made when it is frozen, put back when its file is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lictor.codecs.store import Stored
from lictor.codecs.trace import mean_tensors, trace
from lictor.coding.path_file import packed
from lictor.coding.program import FRACTION_BITS
from lictor.errors import CheckpointError, LictorError
from lictor.layers.entropy_network import EntropyNetwork
from lictor.layers.integer_network import IntegerNetwork
from lictor.models.base import AbstractCodecModel
from lictor.priors.channel import ChannelPrior
from lictor.ptq.integer import make_exact


@dataclass(frozen=True, eq=False)
class StoredPath:
    """A path as it lies in a codec file: plain values, and arrays by name."""

    entry: Mapping[str, Any]
    arrays: Mapping[str, Tensor]


def settle_means(model: AbstractCodecModel) -> None:
    """Round the means of z to multiples of 2^-10: an exact codec has them in these units."""
    for prior in model.priors().values():
        if isinstance(prior, ChannelPrior):
            prior.means.copy_(_in_units(prior.means))


def _in_units(means: Tensor) -> Tensor:
    return torch.round(means.double() * 2**FRACTION_BITS).div_(2**FRACTION_BITS).float()


def exact_path(model: AbstractCodecModel) -> StoredPath:
    """Make the entropy networks of a frozen model exact, and return what its file says of them.

    Raises `LictorError` when the model has no exact form.
    """
    for name, prior in model.priors().items():
        if isinstance(prior, ChannelPrior) and not torch.equal(_in_units(prior.means), prior.means):
            raise LictorError(
                f"the means of {name} are no multiples of 2^-10; freeze the codec's run anew"
            )
    sources = make_exact(model)
    entry, arrays = packed(trace(model), sources, mean_tensors(model))
    return StoredPath(entry, {name: torch.from_numpy(array) for name, array in arrays.items()})


def stored_path(content: Stored, model: AbstractCodecModel) -> StoredPath | None:
    """Give the entropy networks of a frozen model the integers of its file, and return these.

    None for a file of a former format: the networks run in float64. Raises `CheckpointError` when
    the file's path is damaged, not exact, or not the model's.
    """
    path = content.path()
    if path is None:
        return None
    found = {n: m for n, m in model.named_modules() if isinstance(m, EntropyNetwork)}
    if set(found) != set(path.networks):
        raise CheckpointError(
            f"damaged codec file: it has networks {sorted(path.networks)}, the model has "
            f"{sorted(found)}"
        )
    for name, module in found.items():
        module.integers = IntegerNetwork(path.networks[name], path.channels[name])
    return StoredPath(content.config["path"], content.path_arrays)
