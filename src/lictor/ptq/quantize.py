"""A trained model in, a model of integers out."""

import copy
from collections.abc import Mapping

from lictor.errors import ConfigError
from lictor.layers.entropy_network import EntropyNetwork
from lictor.models.base import AbstractCodecModel
from lictor.ptq.calibrate import MIN_MAX, InputGrid, Observed, Ranges, input_grid
from lictor.ptq.layer import LayerBits, QuantizedLayer, input_channels
from lictor.ptq.scheme import Scheme, layers_of, replace_layer


def _check_float(model: AbstractCodecModel) -> None:
    if model.quantization is not None:
        raise ConfigError(f"the model is quantized already ({model.quantization}); take another")
    if any(isinstance(m, EntropyNetwork) and m.frozen for m in model.modules()):
        raise ConfigError("the model is frozen; quantize what Codec.thaw gives")


def _check_observed(
    model: AbstractCodecModel, scheme: Scheme, observed: Mapping[str, Observed]
) -> None:
    for name, layer in layers_of(model, scheme.scope).items():
        if name not in observed or len(observed[name].low) != input_channels(layer):
            raise ConfigError(f"the input of {name} was not observed, or in another model")


def quantize(
    model: AbstractCodecModel,
    scheme: Scheme,
    observed: Mapping[str, Observed],
    *,
    ranges: Ranges = MIN_MAX,
) -> AbstractCodecModel:
    """Return a copy whose layers of the scheme's scope are `QuantizedLayer`s.

    `observed` is what `observe` says of the same model; it may be empty if activations stay float.
    Biases, and what `layers_of` leaves out, stay in floating point. The copy is frozen like any
    model. Raises `ConfigError` for a model that is frozen or quantized already or has no layer in
    the scope, and when `observed` is not of this model.
    """
    _check_float(model)
    if not layers_of(model, scheme.scope):
        raise ConfigError(f"{model.name} has no layers in the scope {scheme.scope!r}")
    if scheme.activations is not None:
        _check_observed(model, scheme, observed)
    result = copy.deepcopy(model).eval().requires_grad_(False)
    for name, layer in layers_of(result, scheme.scope).items():
        if scheme.activations is None:
            grid = InputGrid(LayerBits(scheme.weights, None), None)
        else:
            grid = input_grid(name, layer, observed[name], scheme, ranges)
        quantized = QuantizedLayer(layer, grid.bits, grid.steps, grid.copies)
        replace_layer(result, name, quantized)
    result.quantization = f"{scheme.label} {scheme.scope}"
    return result
