"""What a training step does, and what it does when it cannot."""

import dataclasses
import math
import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import combined, photo_tensor, tiny_model
from lictor.errors import ConfigError, DataError, LictorError
from lictor.layers.quantize.catalogue import mixed
from lictor.layers.quantize.noise import Noise
from lictor.models.zoo import MODELS
from lictor.optim.factory import OPTIMIZERS
from lictor.training import loop
from lictor.training.checkpoint import RunState
from lictor.training.hooks import TrainHook
from lictor.training.loop import StepReport, train, train_step
from lictor.training.loss import rate_distortion
from lictor.training.schedule import flat_cosine, learning_rate
from lictor.training.task import Task, TaskLoss

from training_fixtures import Averaging, Given, Poison, facts, go, new_run, small_config  # isort: skip


def weights(model) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def take_step(model, optimizer, x, *, precision="float32", **options) -> StepReport:
    task = Given(model, precision=precision)
    return train_step(task, [x], **({"step": 0, "optimizer": optimizer} | options))


def test_the_loss_is_bpp_plus_lambda_times_squared_grey_levels():
    model, x = tiny_model("mbt2018-mean"), photo_tensor(2, 40, 70)
    with torch.no_grad():
        out = model(x)
    loss = rate_distortion(x, out, 0.02)
    assert float(loss.bpp) == pytest.approx(float(out.total_bits.sum()) / (2 * 40 * 70))
    assert float(loss.distortion) == pytest.approx(float(((out.x_hat - x) ** 2).mean()))
    grey_levels = float(((255 * out.x_hat - 255 * x) ** 2).mean())
    assert float(loss.total) == pytest.approx(float(loss.bpp) + 0.02 * grey_levels, rel=1e-5)


@pytest.mark.parametrize(("name", "optimizer"), combined(MODELS, OPTIMIZERS))
def test_a_model_learns_one_picture(name, optimizer):
    model, x = tiny_model(name), photo_tensor(1, 64, 64)
    built = OPTIMIZERS[optimizer](model, 3e-3, beta2=0.99)
    losses = [take_step(model, built, x, step=i).loss for i in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_reports_the_loss_before_it_and_the_norm_before_clipping(precision):
    model, x = tiny_model("checkerboard"), photo_tensor(1, 64, 64)
    optimizer = OPTIMIZERS["adam"](model, 1e-3)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    with torch.no_grad(), autocast:
        out = model(x, surrogate=mixed(), noise=Noise())
    before = rate_distortion(x, out, 0.01)
    report = take_step(model, optimizer, x, max_grad_norm=1e-3, precision=precision)
    assert report.loss == float(before.total)
    assert report.metrics == {"bpp": float(before.bpp), "mse": float(before.distortion)}
    clipped = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert report.grad_norm > 1e-3
    assert float(clipped) == pytest.approx(1e-3, rel=1e-2)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


class Recorder:
    """Notes when it is called, with which weights, and whether there are gradients."""

    def __init__(self, name: str, model, journal: list):
        self.name, self.model, self.journal = name, model, journal

    def before_step(self, step: int) -> None:
        assert all(p.grad is not None for p in self.model.parameters())
        self.journal.append((self.name, "before", step, weights(self.model)))

    def after_step(self, step: int) -> None:
        self.journal.append((self.name, "after", step, weights(self.model)))

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def test_hooks_run_in_order_before_with_old_weights_and_after_with_new_ones():
    model, state = new_run()
    journal: list = []
    hooks = {name: Recorder(name, model, journal) for name in ("first", "second")}
    assert all(isinstance(hook, TrainHook) for hook in hooks.values())
    old = weights(model)
    take_step(model, state.optimizer, photo_tensor(1, 64, 64), hooks=hooks, step=7)
    assert [entry[:3] for entry in journal] == [
        ("first", "before", 7),
        ("second", "before", 7),
        ("first", "after", 7),
        ("second", "after", 7),
    ]
    new = weights(model)
    assert not same(old, new)
    assert same(journal[0][3], old)
    assert same(journal[1][3], old)
    assert same(journal[2][3], new)


def test_a_hook_has_the_last_word_on_the_weights():
    model, state = new_run()
    plain, _ = new_run()
    x = photo_tensor(1, 64, 64)
    hook = Averaging(model)
    take_step(model, state.optimizer, x, hooks={"hook": hook})
    take_step(plain, OPTIMIZERS["adam"](plain, 1e-3, beta2=0.99), x)
    assert not same(weights(model), weights(plain))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_without_a_finite_gradient_changes_nothing_and_says_so(value):
    model, state = new_run()
    x = photo_tensor(1, 64, 64)
    take_step(model, state.optimizer, x)
    weights_before = weights(model)
    moments = [s["exp_avg"].clone() for s in state.optimizer.state.values()]
    poison = Poison(model, (1,), value)
    report = take_step(model, state.optimizer, x, hooks={"poison": poison}, step=1)
    assert report.skipped
    assert report.not_finite == (next(name for name, _ in model.named_parameters()),)
    assert not math.isfinite(report.grad_norm)
    assert same(weights_before, weights(model))
    assert same(moments, [s["exp_avg"] for s in state.optimizer.state.values()])
    assert poison.after == []
    after = take_step(model, state.optimizer, x, hooks={"poison": poison}, step=2)
    assert (after.skipped, after.not_finite) == (False, ())
    assert all(torch.isfinite(w).all() for w in weights(model))


def test_a_gradient_whose_square_is_not_finite_is_named_too():
    model, state = new_run()
    report = take_step(
        model, state.optimizer, photo_tensor(1, 64, 64), hooks={"poison": Poison(model, (0,), 1e25)}
    )
    assert report.skipped
    assert report.not_finite == (next(name for name, _ in model.named_parameters()),)


def test_a_step_that_the_optimizer_refuses_is_skipped():
    model, state = new_run(optimizer="soap")
    x = photo_tensor(1, 64, 64)
    for step in range(2):
        take_step(model, state.optimizer, x, step=step)
    before = weights(model)

    class AfterClipping(torch.optim.Optimizer):
        """Makes a gradient not finite when the step has looked at them already."""

        def __init__(self, inner):
            self.inner, self.param_groups = inner, inner.param_groups

        @property
        def skipped_steps(self) -> int:
            return self.inner.skipped_steps

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.inner.zero_grad(set_to_none)

        def step(self):
            list(model.parameters())[3].grad.fill_(math.inf)
            self.inner.step()

    poison = Poison(model, ())
    report = take_step(model, AfterClipping(state.optimizer), x, hooks={"poison": poison}, step=2)
    assert report.skipped
    assert report.not_finite == ([name for name, _ in model.named_parameters()][3],)
    assert poison.after == []
    assert same(before, weights(model))


def test_a_message_names_three_parameters_and_counts_the_rest():
    report = StepReport(0, 1.0, {}, math.nan, skipped=True)
    assert report.where_not_finite == ""
    for count, text in ((1, " in a"), (3, " in a, b, c"), (5, " in a, b, c and 2 more")):
        named = dataclasses.replace(report, not_finite=tuple("abcde"[:count]))
        assert named.where_not_finite == text


# ----------------------------------------------------------------------------------------- train


def test_training_runs_to_its_last_step_and_no_further(folder):
    config = small_config(steps=4)
    model, state = new_run()
    reports = []
    for report in go(config, model, state, folder):
        assert state.step == report.step + 1  # up to date at every yield
        reports.append(report)
    assert [r.step for r in reports] == [0, 1, 2, 3]
    assert list(go(config, model, state, folder)) == []
    for r in reports:
        assert r.lr == learning_rate(
            (r.step + 1) / 4, shape=flat_cosine, peak=1e-3, warmup=0.2, final=0.01
        )
        assert r.step_s >= r.wait_s >= 0


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_differ(folder):
    def reports(seed: int) -> list:
        model, state = new_run(seed=seed)
        return [facts(r) for r in go(small_config(steps=3, seed=seed), model, state, folder)]

    assert reports(0) == reports(0)
    assert reports(0) != reports(1)


def test_skipped_steps_are_counted_and_do_not_end_a_run(folder, monkeypatch):
    monkeypatch.setattr(loop, "MAX_SKIPPED_IN_A_ROW", 3)
    model, state = new_run()
    poison = Poison(model, (1, 2, 4, 5, 7))
    reports = list(go(small_config(), model, state, folder, hooks={"poison": poison}))
    assert [r.step for r in reports if r.skipped] == [1, 2, 4, 5, 7]
    assert state.skipped == 5
    assert poison.after == [0, 3, 6, 8, 9]


def test_too_many_skipped_steps_in_a_row_end_the_run_with_advice(folder, monkeypatch):
    monkeypatch.setattr(loop, "MAX_SKIPPED_IN_A_ROW", 3)
    model, state = new_run()
    hooks = {"poison": Poison(model, range(2, 99))}
    reports = []
    name = next(name for name, _ in model.named_parameters())
    advice = rf"step 5: 3 steps in a row .*, the last in {re.escape(name)}; lower optim\.lr"
    with pytest.raises(LictorError, match=advice):
        reports.extend(go(small_config(), model, state, folder, hooks=hooks))
    assert state.step == 5


def test_an_unknown_name_is_a_config_error_as_soon_as_it_is_said():
    config = small_config()
    for section, change, kind in (
        (config.surrogate, {"name": "x"}, "surrogate"),
        (config.model, {"name": "x"}, "model"),
        (config.optim, {"name": "x"}, "optimizer"),
        (config.optim, {"schedule": "x"}, "schedule"),
    ):
        with pytest.raises(ConfigError, match=f"unknown {kind} 'x': choose one of"):
            dataclasses.replace(section, **change)


def test_a_picture_that_vanishes_during_training_is_a_data_error(folder):
    def vanished(number: int):
        raise DataError("a.png: no such file")

    folder = dataclasses.replace(folder, load=vanished)
    with pytest.raises(DataError, match=r"a\.png"):
        next(go(small_config(), *new_run(), folder))


# ---------------------------------------------------------------------------- what a step costs


class _Transfers(TorchDispatchMode):
    """Counts how often a value is asked for on the host."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_asks_for_values_once(monkeypatch, optimizer):
    model, state = new_run("mbt2018-mean", optimizer=optimizer)
    asked = []
    original = loop._on_the_host
    monkeypatch.setattr(
        loop, "_on_the_host", lambda runtime, *s: asked.append(len(s)) or original(runtime, *s)
    )
    x = photo_tensor(1, 64, 64)
    take_step(model, state.optimizer, x)
    with _Transfers() as transfers:
        take_step(model, state.optimizer, x)
    assert asked == [4, 4]  # loss, norm, bpp and mse together
    assert transfers.count == 0


def test_resting_parameters_neither_move_nor_count_nor_get_a_state():
    model, state = new_run("mbt2018-mean")
    resting = list(model.g_s.parameters())
    others = [p for p in model.parameters() if all(p is not r for r in resting)]
    before, before_others = weights(model.g_s), [p.detach().clone() for p in others]
    report = take_step(model, state.optimizer, photo_tensor(1, 64, 64), resting=resting)
    assert same(before, weights(model.g_s))
    moved = [not torch.equal(a, b) for a, b in zip(before_others, others, strict=True)]
    assert sum(moved) > 0.8 * len(moved)
    assert all(p not in state.optimizer.state for p in resting)
    assert all(p in state.optimizer.state for p in others)
    full = take_step(*_fresh(), photo_tensor(1, 64, 64))
    assert report.loss == full.loss
    assert report.grad_norm < full.grad_norm


def _fresh():
    model, state = new_run("mbt2018-mean")
    return model, state.optimizer


def test_a_task_that_knows_no_picture_is_trained_all_the_same():
    class Line:
        """Fit y = 2 x + 1: two numbers, no codec."""

        def __init__(self):
            self.model = torch.nn.Linear(1, 1)
            self.items = 8

        def batch(self, step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
            x = torch.rand(8, 1, generator=torch.Generator().manual_seed(step))
            return [(x, 2 * x + 1)]

        def loss(self, piece, *, step: int, progress: float) -> TaskLoss:
            x, y = piece
            error = (self.model(x) - y).square().mean()
            return TaskLoss(error, {"progress": torch.tensor(progress)})

        def evaluate(self) -> dict[str, float]:
            weight, bias = (float(p.detach()) for p in self.model.parameters())
            return {"loss": abs(weight - 2) + abs(bias - 1)}

    task = Line()
    assert isinstance(task, Task)
    state = RunState(torch.optim.Adam(task.model.parameters()))
    config = small_config(steps=200)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=0.1))
    reports = list(train(config, task, state))
    assert task.evaluate()["loss"] < 0.05
    assert [r.metrics["progress"] for r in reports[::50]] == pytest.approx(
        [(1 + step) / 200 for step in range(0, 200, 50)]
    )


def test_a_device_with_too_little_memory_says_what_was_asked_for_and_what_to_lower():
    model, state = new_run("mbt2018-mean")

    class Greedy(Given):
        def loss(self, piece, *, step, progress):
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has"
            )

    with pytest.raises(LictorError, match=r"2\.50 GiB more.*train\.accumulate.*train\.batch_size"):
        next(train(small_config(), Greedy(model), state))


def test_a_cpu_with_too_little_memory_says_so_too_and_other_errors_stay_what_they_are():
    model, state = new_run("mbt2018-mean")

    class Greedy(Given):
        def loss(self, piece, *, step, progress):
            return torch.empty(2**60, dtype=torch.uint8)

    class Wrong(Given):
        def loss(self, piece, *, step, progress):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(LictorError, match=rf"{2**60} bytes more.*train\.accumulate"):
        next(train(small_config(), Greedy(model), state))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        next(train(small_config(), Wrong(model), state))
