"""The table of models that recipes and codec files can name."""

from collections.abc import Callable, Mapping

from lictor.errors import ConfigError
from lictor.models.base import AbstractCodecModel
from lictor.models.context import CheckerboardModel
from lictor.models.hyperprior import FactorizedModel, HyperpriorModel, MeanScaleHyperpriorModel

MODELS: dict[str, Callable[..., AbstractCodecModel]] = {
    FactorizedModel.name: FactorizedModel,
    HyperpriorModel.name: HyperpriorModel,
    MeanScaleHyperpriorModel.name: MeanScaleHyperpriorModel,
    CheckerboardModel.name: CheckerboardModel,
}


def build_model(
    name: str,
    hyperparameters: Mapping[str, int],
    models: Mapping[str, Callable[..., AbstractCodecModel]] = MODELS,
) -> AbstractCodecModel:
    """Build a model of a table by its name.

    Raises `ConfigError` on an unknown name or a hyperparameter that the model does not take.
    """
    if name not in models:
        raise ConfigError(f"unknown model {name!r}: choose one of {', '.join(models)}")
    for key, value in hyperparameters.items():
        if not 1 <= value <= 4096:
            raise ConfigError(f"model {name!r}: {key} = {value} must be from 1 to 4096")
    try:
        return models[name](**hyperparameters)
    except (TypeError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            f"model {name!r} cannot be built from {dict(hyperparameters)}: {error}"
        ) from error
