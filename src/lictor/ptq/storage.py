"""How a quantized model lies in a codec file: its layers, and weights of their own few bits.

The layers are an entry of the file's configuration, so the fingerprint covers them. Everything
here leaves a model that is not quantized as it is.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lictor.coding.packing import pack_codes, unpack_codes
from lictor.errors import CheckpointError
from lictor.models.base import AbstractCodecModel
from lictor.ptq.layer import LayerBits, QuantizedLayer, input_channels
from lictor.ptq.scheme import layers_of, replace_layer

_FACTORS = ("scales", "steps", "copies")


def quantized_layers(model: AbstractCodecModel) -> dict[str, QuantizedLayer]:
    """Return the layers of integers, by name."""
    return {n: module for n, module in model.named_modules() if isinstance(module, QuantizedLayer)}


def quantization_entry(model: AbstractCodecModel) -> dict[str, Any] | None:
    """Return what `rebuild` needs to know, as plain values; None if nothing is quantized."""
    if model.quantization is None:
        return None
    layers = {
        name: {"weights": layer.bits.weights, "inputs": layer.bits.inputs, "zero": layer.bits.zero}
        for name, layer in quantized_layers(model).items()
    }
    return {"scheme": model.quantization, "layers": layers}


def rebuild(model: AbstractCodecModel, entry: Mapping[str, Any]) -> None:
    """Give a freshly built model the layers of an entry; their numbers are yet to be loaded.

    Raises `CheckpointError` when the entry does not fit the model.
    """
    layers = layers_of(model)
    for name, values in entry["layers"].items():
        if name not in layers:
            raise CheckpointError(f"the model has no layer {name!r} to quantize")
        bits = LayerBits(values["weights"], values["inputs"], values["zero"])
        layer = layers[name]
        steps = None if bits.inputs is None else torch.ones(input_channels(layer))
        replace_layer(model, name, QuantizedLayer(layer, bits, steps))
    model.quantization = str(entry["scheme"])


def exact_names(model: AbstractCodecModel) -> set[str]:
    """Return the names of the model's state that must not be rounded to the file's float type."""
    names = set()
    for name, layer in quantized_layers(model).items():
        names |= {f"{name}.{factor}" for factor in _FACTORS}
        if layer.bits.weights is not None:
            names.add(f"{name}.layer.weight")
    return names


def stored_state(model: AbstractCodecModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the state as stored: codes packed, their factors float32, the rest as `dtype`."""
    packed = {
        f"{name}.layer.weight": layer.bits.weights
        for name, layer in quantized_layers(model).items()
        if layer.bits.weights is not None
    }
    exact, result = exact_names(model), dict[str, Tensor]()
    for name, tensor in model.state_dict().items():
        if name in packed:
            codes = tensor.detach().cpu().contiguous().to(torch.int64).numpy()
            result[name] = torch.from_numpy(pack_codes(codes, packed[name]))
        else:
            result[name] = tensor.to(torch.float32 if name in exact else dtype).contiguous()
    return result


def loaded_state(
    model: AbstractCodecModel, stored: Mapping[str, Tensor]
) -> dict[str, Float[Tensor, "..."]]:
    """Return the state that `stored_state` stored, float32; `model` has been rebuilt.

    Raises `CheckpointError` when packed weights do not have the size of their layer.
    """
    state = {name: tensor.float() for name, tensor in stored.items()}
    for layer_name, layer in quantized_layers(model).items():
        name, bits = f"{layer_name}.layer.weight", layer.bits.weights
        if bits is None:
            continue
        shape = layer.layer.weight.shape
        codes = unpack_codes(stored[name].numpy(), bits, shape.numel())
        state[name] = torch.from_numpy(codes).float().view(shape)
    return state
