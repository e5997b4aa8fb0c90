"""Training networks of signals: the rate, the task, and what a step does not depend on."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from lictor.errors import ConfigError
from lictor.implicit.coordinates import COORDINATES
from lictor.implicit.model import IMPLICIT
from lictor.implicit.pca import fit_pca
from lictor.runtime import Runtime
from lictor.training.implicit.learner import Learner
from lictor.training.implicit.task import SignalTask, bit_price
from lictor.training.signal_sections import FitConfig, RateConfig

SHAPE, CHANNELS = (4, 3), 2
N = math.prod(SHAPE)


class Drawn:
    """Patches that are a pure function of step and position; some points may lack a value."""

    items = 100

    def __init__(self, masked: bool = False):
        self.masked = masked

    def batch(self, step: int, positions: range) -> tuple[np.ndarray, np.ndarray | None]:
        rows = [np.random.default_rng((step, i)) for i in positions]
        values = np.stack([rng.random((N, CHANNELS), np.float32) for rng in rows])
        mask = np.stack([rng.random(N) < 0.8 for rng in rows])
        return values, mask if self.masked else None


def learner(name: str = "linear-coinpp") -> Learner:
    torch.manual_seed(0)
    settings = IMPLICIT[name].settings(**IMPLICIT[name].tiny)
    net = IMPLICIT[name].make(settings, COORDINATES["unit"](SHAPE), CHANNELS)
    model = Learner(net)
    if net.linear is not None:
        pca = fit_pca([(Drawn().batch(0, range(64))[0], None)], net.latent)
        net.start_from(pca)
        model.start_rates(torch.from_numpy(pca.variances / pca.mean.size).float())
    return model


def task_of(model: Learner, **changes) -> SignalTask:
    held_out = Drawn(masked=True).batch(99, range(6))
    task = SignalTask(
        model,
        Drawn(),
        held_out,
        batch_size=8,
        fit=FitConfig(steps=2),
        rate=RateConfig(lowest=-4, highest=8),
        seed=3,
    )
    return dataclasses.replace(task, **changes)


def gradients(task: SignalTask, step: int) -> list[torch.Tensor]:
    task.model.zero_grad()
    pieces = task.batch(step)
    for piece in pieces:
        (task.loss(piece, step=step, progress=0.0).total / len(pieces)).backward()
    return [p.grad.clone() for p in task.model.parameters() if p.grad is not None]


# -------------------------------------------------------------------------------------- rate


@pytest.mark.parametrize("scale", [0.02, 0.3, 3.0])
@pytest.mark.parametrize("step", [0.01, 0.3, 4.0])
@torch.no_grad()
def test_the_masses_of_all_steps_sum_to_one(step, scale):
    model = Learner(IMPLICIT["pca"](COORDINATES["unit"](SHAPE), CHANNELS, latent=1))
    model.log_scales.fill_(math.log(scale))
    reach = torch.arange(-4000, 4001).float()[:, None] * step
    bits = model.bits(reach, torch.full((len(reach), 1), step))
    # What is impossible has a least mass.
    assert float((-bits).exp2().sum()) == pytest.approx(1, abs=1e-4)


@torch.no_grad()
def test_a_narrow_step_costs_what_its_density_says():
    model = learner()
    z, step = torch.tensor([[0.1, -0.2, 0.03, 0.0]]), torch.tensor([[1e-3]])
    scales = model.log_scales.exp()
    density = (-(z.abs() / scales)).exp() / (2 * scales)
    expected = -(density * step).log2().sum(1)
    assert model.bits(z, step) == pytest.approx(expected, rel=5e-3)


def test_what_is_impossibly_far_has_a_finite_cost_and_gradient():
    model = learner()
    bits = model.bits(torch.full((1, 4), 1e4, requires_grad=True), torch.tensor([[0.1]]))
    bits.sum().backward()
    assert torch.isfinite(bits).all()
    assert torch.isfinite(model.log_scales.grad).all()


def test_a_bit_is_worth_what_high_rate_theory_says():
    # d(step^2 / 12) for a step that is halved by a bit, at its limit.
    step = torch.tensor(0.3, dtype=torch.float64)
    small = 1e-6
    less = step * 2.0**-small
    assert bit_price(step) == pytest.approx(float((step**2 - less**2) / 12 / small), rel=1e-5)


# -------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("name", IMPLICIT)
def test_a_step_is_a_function_of_its_number(name):
    model = learner(name)
    first, again = (gradients(task_of(model), 5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = gradients(task_of(model), 6)
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("points", [0, 5])
@pytest.mark.parametrize(("processes", "pieces"), [(1, 4), (2, 2), (4, 1)])
def test_a_split_step_has_the_gradient_of_the_whole(processes, pieces, points):
    model = learner()
    fit = FitConfig(steps=2, points=points)
    whole = gradients(task_of(model, fit=fit), 5)
    parts = [
        gradients(
            task_of(
                model, fit=fit, pieces=pieces, runtime=Runtime(rank=rank, world_size=processes)
            ),
            5,
        )
        for rank in range(processes)
    ]
    for g, *shares in zip(whole, *parts, strict=True):
        assert (torch.stack(shares).mean(0) - g).norm() <= 1e-4 * g.norm() + 1e-7


def test_a_step_that_does_not_split_is_refused():
    with pytest.raises(ConfigError, match=r"train\.batch_size = 8 does not split into 3"):
        task_of(learner(), pieces=3)


def test_what_a_mask_hides_does_not_matter():
    class Hidden(Drawn):
        def __init__(self, filler: float):
            super().__init__(masked=True)
            self.filler = np.float32(filler)

        def batch(self, step, positions):
            values, mask = super().batch(step, positions)
            return np.where(mask[..., None], values, self.filler), mask

    model = learner()
    told = [gradients(task_of(model, patches=Hidden(filler)), 2) for filler in (0.0, 0.7)]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*told, strict=True))


def test_without_a_weight_of_the_rate_the_loss_is_the_distortion():
    model = learner()
    task = task_of(model, rate=RateConfig(weight=0.0))
    loss = task.loss(task.batch(0)[0], step=0, progress=0.0)
    assert loss.total == loss.metrics["mse"]
    assert set(loss.metrics) == {"mse"}
    loss.total.backward()
    assert model.log_scales.grad is None


# --------------------------------------------------------------------------------- evaluation


def test_the_evaluation_is_shared_and_all_say_the_same(monkeypatch):
    model = learner()
    alone = task_of(model).evaluate()
    monkeypatch.setattr("lictor.training.implicit.task._BLOCK", 2)
    blocks = task_of(model).evaluate()
    assert blocks == pytest.approx(alone, rel=1e-6)


def test_components_learn_their_rates_and_nothing_else():
    model = learner("pca")
    assert gradients(task_of(model), 0)[0].abs().max() > 0
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["log_scales"]
    with pytest.raises(ConfigError, match="learns nothing but rates"):
        task_of(model, rate=RateConfig(weight=0.0))


def test_finer_steps_cost_more_and_show_more():
    told = task_of(learner("pca")).evaluate()
    assert told["psnr_-4"] < told["psnr_2"] < told["psnr_8"] <= told["psnr"] + 1e-6
    assert told["bits_-4"] < told["bits_2"] < told["bits_8"]


def test_components_are_a_start_that_training_improves():
    model = learner()
    task = task_of(model, rate=RateConfig(lowest=0, highest=8))
    adam = torch.optim.Adam(model.parameters(), 2e-3)
    before = task.evaluate()["loss"]
    for step in range(150):
        adam.zero_grad()
        task.loss(task.batch(step)[0], step=step, progress=0.0).total.backward()
        adam.step()
    assert task.evaluate()["loss"] < before
