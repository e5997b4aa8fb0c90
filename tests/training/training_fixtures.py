"""What the tests of training share: a run of a few steps, a hook with state."""

from dataclasses import dataclass, field

import torch

from conftest import tiny_model
from lictor.config import OptimConfig, RunConfig, config_from_dict
from lictor.models.base import AbstractCodecModel
from lictor.optim.factory import build_optimizer
from lictor.training.checkpoint import RunState
from lictor.training.loop import StepReport


def small_config(**train) -> RunConfig:
    tree = {
        "optim": {"lr": 1e-3, "warmup": 0.2},
        "data": {"crop_size": 64},
        "train": {"steps": 10, "batch_size": 1, **train},
    }
    return config_from_dict(tree, source="test")


def new_run(
    name: str = "bmshj2018-factorized", optimizer: str = "adam", seed: int = 0
) -> tuple[AbstractCodecModel, RunState]:
    model = tiny_model(name, seed)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    built = build_optimizer(model, OptimConfig(optimizer, lr=1e-3, beta2=0.99))
    return model, RunState(built, torch.Generator().manual_seed(seed))


def facts(report: StepReport) -> tuple:
    """All of a report but the times."""
    return tuple(v for k, v in vars(report).items() if not k.endswith("_s"))


def leaves(tree) -> list:
    """All leaves of nested containers, tensors as they are."""
    if isinstance(tree, dict):
        return [leaf for k in sorted(tree, key=str) for leaf in (k, *leaves(tree[k]))]
    if isinstance(tree, list | tuple):
        return [leaf for item in tree for leaf in leaves(item)]
    return [tree]


def identical(first, second) -> bool:
    pairs = list(zip(leaves(first), leaves(second), strict=True))
    return all(
        a.dtype == b.dtype and torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in pairs
    )


@dataclass
class Averaging:
    """A hook whose state matters: pulls the weights to their running mean after every step."""

    model: AbstractCodecModel
    mean: list[torch.Tensor] = field(default_factory=list)

    def before_step(self, step: int) -> None:
        if not self.mean:
            self.mean = [p.detach().clone() for p in self.model.parameters()]

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        for mean, p in zip(self.mean, self.model.parameters(), strict=True):
            mean.lerp_(p, 0.5)
            p.lerp_(mean, 0.3)

    def state_dict(self) -> dict:
        return {"mean": self.mean}

    def load_state_dict(self, state: dict) -> None:
        self.mean = state["mean"]


@dataclass
class Poison:
    """Makes the gradients of chosen steps not finite."""

    model: AbstractCodecModel
    steps: range | tuple[int, ...]
    value: float = float("nan")
    after: list[int] = field(default_factory=list)

    def before_step(self, step: int) -> None:
        if step in self.steps:
            next(iter(self.model.parameters())).grad[0] = self.value

    def after_step(self, step: int) -> None:
        self.after.append(step)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass
