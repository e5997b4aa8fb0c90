"""The table of optimizers that recipes can name, with the settings of each."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from lictor.config import SHARE_BELOW_ONE, Choice, Settings, at_least, one_of, option
from lictor.optim.muon import Muon
from lictor.optim.soap import SOAP
from lictor.runtime import Runtime


@runtime_checkable
class SharingOptimizer(Protocol):
    """An optimizer whose processes can share work, as those of `SOAP` can."""

    def share_work(self, runtime: Runtime) -> None:
        """Do so from now on."""
        ...


@dataclass(frozen=True)
class MomentSettings(Settings):
    """What all optimizers here have."""

    beta1: float = option(0.9, SHARE_BELOW_ONE, may_change=True)
    """Memory of the gradient."""
    beta2: float = option(0.999, SHARE_BELOW_ONE, may_change=True)
    """Memory of the squared gradient; 0.99 recovers sooner from a sudden large gradient."""
    weight_decay: float = option(0.0, at_least(0), may_change=True)
    """Pull of the weights towards zero: added to the gradient by adam, decoupled in all others."""


@dataclass(frozen=True)
class SoapSettings(MomentSettings):
    """What SOAP has besides."""

    factor_beta: float = option(0.95, SHARE_BELOW_ONE, may_change=True)
    """soap: memory of the factors, which the bases follow."""
    precondition_every: int = option(10, at_least(1), may_change=True)
    """soap: steps between refreshes of the bases."""
    shapes: str = option("split", one_of("split", "spatial", "matrix"))
    """soap: which axes of a weight get a factor."""
    max_factor: int = option(2048, at_least(1))
    """soap: an axis longer than this gets no factor."""


def _adam(
    model: nn.Module, lr: float, *, beta1: float, beta2: float, weight_decay: float
) -> torch.optim.Optimizer:
    betas = (beta1, beta2)
    return torch.optim.Adam(
        model.parameters(), lr, betas=betas, weight_decay=weight_decay, fused=True
    )


def _adamw(
    model: nn.Module, lr: float, *, beta1: float, beta2: float, weight_decay: float
) -> torch.optim.Optimizer:
    betas = (beta1, beta2)
    return torch.optim.AdamW(
        model.parameters(), lr, betas=betas, weight_decay=weight_decay, fused=True
    )


def _soap(
    model: nn.Module,
    lr: float,
    *,
    beta1: float,
    beta2: float,
    weight_decay: float,
    factor_beta: float,
    precondition_every: int,
    shapes: str,
    max_factor: int,
) -> torch.optim.Optimizer:
    return SOAP(
        model.named_parameters(),
        lr,
        betas=(beta1, beta2),
        weight_decay=weight_decay,
        factor_beta=factor_beta,
        precondition_every=precondition_every,
        shapes=shapes,
        max_factor=max_factor,
    )


def _muon(
    model: nn.Module, lr: float, *, beta1: float, beta2: float, weight_decay: float
) -> torch.optim.Optimizer:
    betas = (beta1, beta2)
    return Muon(model.named_parameters(), lr, betas=betas, weight_decay=weight_decay)


# Called with a model and a learning rate, and with settings as keywords.
OPTIMIZERS: dict[str, Choice[torch.optim.Optimizer]] = {
    "adam": Choice(_adam, MomentSettings),
    "adamw": Choice(_adamw, MomentSettings),
    "soap": Choice(_soap, SoapSettings),
    "muon": Choice(_muon, MomentSettings),
}
