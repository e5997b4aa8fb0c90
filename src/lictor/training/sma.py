"""SMA: a moving average of weights that are sampled along the training trajectory.

Every `interval` steps the averaged weights `phi` move towards the trained ones `theta`:

    phi <- phi + alpha (theta - phi)

and, with feedback, training goes on from there (`theta <- phi`). Training sees `theta`; evaluating,
freezing and choosing a checkpoint see `phi`.

Source: Zhang, Duan, Huang and Zhu, TMLR 2025 (arXiv:2505.18107). Of that paper we know the abstract
and its set-up, not its method section: whether `phi` feeds back, the interval and `alpha` are our
reading, hence switches.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lictor.errors import CheckpointError, ConfigError


def _nothing() -> None:
    return None


class SMA:
    """A `TrainHook` that keeps averaged weights beside a model's trained ones.

    Args:
        model: what is trained; each of its floating-point parameters is averaged once, however
            often it is used. Buffers stay as they are in the model.
        interval: optimizer steps between samples, at least 1.
        alpha: weight of a new sample, in (0, 1], or 0 for the plain mean of all samples, which
            needs `debias`.
        feedback: continue training from the averaged weights at each sample.
        start: for so many steps the average is the trained weights themselves, so that the random
            start leaves it.
        debias: the t-th sample after the start weighs `max(alpha, 1 / (t + 1))`: the plain mean of
            start and samples until that is long enough.
        after_feedback: called when feedback has changed the model's weights.

    Special cases, none of them with `debias` but the second: an exponential average of decay `beta`
    (interval 1, alpha `1 - beta`); the mean of samples, SWA (alpha 0); Lookahead (feedback); plain
    training (alpha 1).

    Raises `ConfigError` on an argument out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        interval: int = 10,
        alpha: float = 0.02,
        feedback: bool = False,
        start: int = 0,
        debias: bool = True,
        after_feedback: Callable[[], None] = _nothing,
    ):
        if interval < 1 or start < 0:
            raise ConfigError("sma: the interval must be at least 1, the start at least 0")
        if not 0 <= alpha <= 1 or (alpha == 0 and not debias):
            raise ConfigError(
                f"sma: alpha = {alpha} must be above 0 and at most 1; 0 is for a plain mean, "
                "with debias"
            )
        self.interval, self.alpha, self.feedback = interval, alpha, feedback
        self.start, self.debias = start, debias
        self.after_feedback = after_feedback
        self.samples = 0
        self._model = model
        self._names = [name for name, p in model.named_parameters() if p.is_floating_point()]
        self._theta = [p for p in model.parameters() if p.is_floating_point()]
        self._phi = [p.detach().clone() for p in self._theta]
        self._place = {id(p): k for k, p in enumerate(self._theta)}
        self._swapped = False

    def average(self, p: Tensor) -> Tensor:
        """Return the averaged value of one of the model's parameters: the thing itself, no copy."""
        return self._phi[self._place[id(p)]]

    def before_step(self, step: int) -> None:
        """Do nothing."""

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Take a sample if one is due; `step` counts from 0."""
        done = step + 1
        if done <= self.start and not self.samples:  # a resumed run may be longer than it was
            # Only the last of these steps leaves a trace, but a run may be evaluated at any.
            for phi, theta in zip(self._phi, self._theta, strict=True):
                phi.copy_(theta)
        elif (done - self.start) % self.interval == 0:
            self.samples += 1
            weight = self.alpha
            if self.debias:
                weight = max(weight, 1 / (self.samples + 1))
            for phi, theta in zip(self._phi, self._theta, strict=True):
                phi.lerp_(theta, weight)
            if self.feedback:
                self._set(self._phi)
                self.after_feedback()

    @contextlib.contextmanager
    def averaged(self, model: nn.Module) -> Iterator[None]:
        """Give the model its averaged weights for as long as the context lasts.

        The trained ones come back bit for bit. Raises `ConfigError` for another model, or when the
        model has its averaged weights already.
        """
        if model is not self._model:
            raise ConfigError("sma: these averages belong to another model")
        if self._swapped:
            raise ConfigError("sma: the model has its averaged weights already")
        kept = [p.detach().clone() for p in self._theta]
        self._swapped = True
        try:
            self._set(self._phi)
            yield
        finally:
            self._set(kept)
            self._swapped = False

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for theta, value in zip(self._theta, values, strict=True):
            theta.copy_(value)

    def evaluated(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which the model is to be evaluated and frozen."""
        return self.averaged(self._model)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages by parameter name, and the count of samples."""
        return {
            "samples": self.samples,
            "phi": dict(zip(self._names, self._phi, strict=True)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the averages; raises `CheckpointError` when they are another model's."""
        try:
            saved, samples = state["phi"], state["samples"]
            shapes = {name: tuple(value.shape) for name, value in saved.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError("sma: the checkpoint holds no averaged weights") from error
        own = {name: tuple(p.shape) for name, p in zip(self._names, self._phi, strict=True)}
        if shapes != own or not isinstance(samples, int):
            odd = sorted(set(shapes.items()) ^ set(own.items()))
            raise CheckpointError(f"sma: averaged weights of another model ({odd[:1]})")
        for name, phi in zip(self._names, self._phi, strict=True):
            phi.copy_(saved[name])
        self.samples = samples
