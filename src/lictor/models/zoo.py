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


def build_model(name: str, hyperparameters: Mapping[str, int]) -> AbstractCodecModel:
    """Build a model of `MODELS`; raises `ConfigError` on an unknown name or hyperparameter."""
    if name not in MODELS:
        raise ConfigError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}")
    try:
        return MODELS[name](**hyperparameters)
    except (TypeError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            f"model {name!r} cannot be built from {dict(hyperparameters)}: {error}"
        ) from error
