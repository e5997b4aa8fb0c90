"""The table of models that recipes and codec files can name, with the settings of each."""

from collections.abc import Callable, Mapping
from typing import Any

from lictor.config import Choice, read
from lictor.errors import ConfigError
from lictor.models.base import AbstractCodecModel
from lictor.models.context import CheckerboardModel, CheckerboardSettings
from lictor.models.hyperprior import (
    FactorizedModel,
    HyperpriorModel,
    HyperpriorSettings,
    MeanScaleHyperpriorModel,
    Widths,
)

_TINY = {"n": 8, "m": 8}

MODELS: dict[str, Choice[AbstractCodecModel]] = {
    FactorizedModel.name: Choice(
        FactorizedModel, Widths, tiny=_TINY, recipe="bmshj2018-factorized.toml"
    ),
    HyperpriorModel.name: Choice(
        HyperpriorModel, HyperpriorSettings, tiny=_TINY, recipe="bmshj2018-hyperprior.toml"
    ),
    MeanScaleHyperpriorModel.name: Choice(
        MeanScaleHyperpriorModel, HyperpriorSettings, tiny=_TINY, recipe="mbt2018-mean.toml"
    ),
    CheckerboardModel.name: Choice(
        CheckerboardModel, CheckerboardSettings, tiny={**_TINY, "depth": 1}, recipe="default.toml"
    ),
}


def build_model(
    name: str,
    hyperparameters: Mapping[str, Any],
    models: Mapping[str, Callable[..., AbstractCodecModel]] = MODELS,
) -> AbstractCodecModel:
    """Build a model of a table by its name; a table of your own may hold plain classes.

    Raises `ConfigError` on an unknown name or a hyperparameter that the model does not take.
    """
    if name not in models:
        raise ConfigError(f"unknown model {name!r}: choose one of {', '.join(models)}")
    line = models[name]
    try:
        if isinstance(line, Choice):
            return line.make(read(line.settings, dict(hyperparameters), "", ""))
        return line(**hyperparameters)
    except (ConfigError, TypeError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            f"model {name!r} cannot be built from {dict(hyperparameters)}: {error}"
        ) from error
