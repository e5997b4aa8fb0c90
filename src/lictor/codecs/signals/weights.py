"""How the weights of a network of signals stand in a codec file: as floats, or vectors in 8 bits.

The vectors of a linear part are nearly all of a network of signals. In 8 bits they are wrong by
some hundredth of what they add: far below the error of any file. A network without such a part is
kept in 16 bits.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from lictor.errors import CheckpointError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
_SCALES = ".scales"
_LARGEST = 127


def _is_vectors(tensor: Tensor) -> bool:
    """Tell whether a weight holds a vector on the grid for each entry of a latent, "n c latent"."""
    return tensor.dim() == 3


def packed(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors that stand for weights in a file.

    With int8, vectors are integers from -127 to 127, beside `NAME.scales`: a power of two for each
    entry of a latent, so that what was read packs to the same again. All else is float16 then.

    Args:
        weights: float32, the network's state.
        dtype: one of `DTYPES`.
    """
    if dtype != torch.int8:
        return {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not _is_vectors(tensor):
            tensors[name] = tensor.to(torch.float16).contiguous()
            continue
        most = tensor.abs().amax((0, 1)).clamp(min=torch.finfo(torch.float32).tiny * 2**8)
        # The least power of two with most <= 127 of it, without a logarithm that might be inexact.
        mantissa, exponent = torch.frexp(most / _LARGEST)
        exponent = exponent - (mantissa == 0.5).int()
        scales = torch.ldexp(torch.ones_like(most), exponent)
        tensors[name] = (tensor / scales).round().to(torch.int8).contiguous()
        tensors[name + _SCALES] = scales
    return tensors


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the float32 weights that tensors of a file stand for.

    Raises `CheckpointError` if integers have no scales, or others than one for each vector.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.removesuffix(_SCALES) in tensors and name.endswith(_SCALES):
            continue
        if tensor.dtype != torch.int8:
            weights[name] = tensor.float()
            continue
        scales = tensors.get(name + _SCALES)
        if scales is None or scales.shape != tensor.shape[-1:]:
            raise CheckpointError(f"{name} has no scales that fit it")
        weights[name] = tensor.float() * scales.float()
    return weights


def rounded(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return weights as a file of this dtype gives them back."""
    return unpacked(packed(weights, dtype))
