"""The table of optimizers that recipes can name."""

from collections.abc import Callable

import torch
from torch import nn

from lictor.config import OptimConfig
from lictor.errors import ConfigError
from lictor.optim.muon import Muon
from lictor.optim.soap import SOAP


def _adam(model: nn.Module, settings: OptimConfig) -> torch.optim.Optimizer:
    return torch.optim.Adam(
        model.parameters(),
        settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _adamw(model: nn.Module, settings: OptimConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(),
        settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _soap(model: nn.Module, settings: OptimConfig) -> torch.optim.Optimizer:
    return SOAP(
        model.named_parameters(),
        settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        factor_beta=settings.factor_beta,
        precondition_every=settings.precondition_every,
        shapes=settings.shapes,
        max_factor=settings.max_factor,
    )


def _muon(model: nn.Module, settings: OptimConfig) -> torch.optim.Optimizer:
    return Muon(
        model.named_parameters(),
        settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )


OPTIMIZERS: dict[str, Callable[[nn.Module, OptimConfig], torch.optim.Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "soap": _soap,
    "muon": _muon,
}


def build_optimizer(model: nn.Module, settings: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimizer that the settings name; raises `ConfigError` on an unknown name."""
    if settings.name not in OPTIMIZERS:
        raise ConfigError(
            f"unknown optimizer {settings.name!r}: choose one of {', '.join(OPTIMIZERS)}"
        )
    return OPTIMIZERS[settings.name](model, settings)
