"""The table of optimizers that recipes can name."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from lictor.errors import ConfigError


def _adam(parameters: Iterable[nn.Parameter], lr: float, beta2: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr, betas=(0.9, beta2), fused=True)


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float, float], torch.optim.Optimizer]] = {
    "adam": _adam,
}


def build_optimizer(
    name: str, model: nn.Module, *, lr: float, beta2: float
) -> torch.optim.Optimizer:
    """Build an optimizer of `OPTIMIZERS` over a model; raises `ConfigError` on an unknown name."""
    if name not in OPTIMIZERS:
        raise ConfigError(f"unknown optimizer {name!r}: choose one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name](model.parameters(), lr, beta2)
