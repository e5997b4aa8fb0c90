"""A trained model in, a model of integers out."""

import copy
from collections.abc import Mapping

from lictor.errors import ConfigError
from lictor.models.base import AbstractCodecModel
from lictor.ptq.calibrate import MIN_MAX, Observed, Ranges, input_grid
from lictor.ptq.layer import QuantizedLayer
from lictor.ptq.scheme import Scheme, layers_of, replace_layer


def check_not_quantized(model: AbstractCodecModel) -> None:
    """Raise `ConfigError` for a model whose layers are of integers already."""
    if model.quantization is not None:
        raise ConfigError(
            f"the model is quantized already ({model.quantization}); quantize the original"
        )


def quantize(
    model: AbstractCodecModel,
    scheme: Scheme,
    observed: Mapping[str, Observed],
    *,
    ranges: Ranges = MIN_MAX,
) -> AbstractCodecModel:
    """Return a copy whose layers of the scheme's scope are `QuantizedLayer`s.

    `observed` is what `observe` says of the same model. Biases, and what `layers_of` leaves out,
    stay in floating point. The copy is frozen like any model. Raises `ConfigError` for a model
    that is frozen or quantized already.
    """
    check_not_quantized(model)
    result = copy.deepcopy(model).eval().requires_grad_(False)
    for name, layer in layers_of(result, scheme.scope).items():
        bits, steps = input_grid(name, layer, observed[name], scheme, ranges)
        replace_layer(result, name, QuantizedLayer(layer, bits, steps))
    result.quantization = f"{scheme.label} {scheme.scope}"
    return result
