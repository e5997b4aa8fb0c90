"""Averages of sampled weights: known methods as special cases, and a swap that leaves no trace."""

import contextlib
import copy

import pytest
import torch
from torch import nn

from lictor.errors import CheckpointError, ConfigError
from lictor.training.sma import SMA


class Path:
    """A model that an outside hand moves: `theta` after step `k` is `walk[k]`."""

    def __init__(self, **options):
        self.model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        self.sma = SMA(self.model, **options)
        self.step = 0
        self.generator = torch.Generator().manual_seed(1)

    @property
    def theta(self) -> torch.Tensor:
        return nn.utils.parameters_to_vector(self.model.parameters()).detach().clone()

    @property
    def phi(self) -> torch.Tensor:
        return torch.cat([self.sma.average(p).flatten() for p in self.model.parameters()]).clone()

    def walk(self, steps: int = 1) -> list[torch.Tensor]:
        """Take random steps; return where training was after each, before any feedback."""
        visited = []
        for _ in range(steps):
            self.sma.before_step(self.step)
            with torch.no_grad():
                for p in self.model.parameters():
                    p.add_(torch.randn(p.shape, generator=self.generator))
            visited.append(self.theta)
            self.sma.after_step(self.step)
            self.step += 1
        return visited


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=2e-6)


def test_sampling_every_step_is_the_exponential_average():
    path = Path(interval=1, alpha=0.1, debias=False)
    average = path.phi
    for theta in path.walk(30):
        average = 0.9 * average + 0.1 * theta
    assert close(path.phi, average)


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("feedback", [False, True])
def test_a_weight_of_one_is_plain_training(feedback, debias):
    path = Path(interval=2, alpha=1.0, feedback=feedback, debias=debias)
    for visited in path.walk(6)[-1:]:
        assert torch.equal(path.phi, path.theta)
        assert torch.equal(path.theta, visited)


def test_a_weight_of_zero_is_the_mean_of_the_start_and_all_samples():
    path = Path(interval=3, alpha=0.0)
    start = path.theta
    samples = [start, *path.walk(15)[2::3]]
    assert len(samples) == 6
    assert close(path.phi, torch.stack(samples).mean(0))


def test_debiased_the_mean_goes_over_into_the_exponential_average():
    path = Path(interval=1, alpha=0.25)
    average, weights = path.phi, [1 / 2, 1 / 3, 1 / 4, 1 / 4, 1 / 4]
    for weight in weights:
        average = average + weight * (path.walk()[0] - average)
    assert close(path.phi, average)


def test_feedback_is_lookahead_on_a_sequence_computed_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    sma = SMA(model, interval=2, alpha=0.5, feedback=True, debias=False)
    seen = []
    for step, move in enumerate([1.0, 2.0, -1.0, 4.0]):
        with torch.no_grad():
            model.weight.add_(move)
        sma.after_step(step)
        seen.append((model.weight.item(), sma.average(model.weight).item()))
    # 1 -> 2 -> 4, half way back: 2.5; -> 1.5 -> 5.5, half way to 2.5: 4
    assert seen == [(2, 1), (2.5, 2.5), (1.5, 2.5), (4, 4)]


def test_feedback_calls_back_only_when_it_has_moved_the_weights():
    calls = []
    path = Path(interval=2, alpha=0.5, feedback=True, after_feedback=lambda: calls.append(1))
    path.walk(5)
    assert len(calls) == 2
    quiet = Path(interval=2, after_feedback=lambda: calls.append(1))
    quiet.walk(5)
    assert len(calls) == 2


def test_between_samples_averages_stay_and_before_the_start_they_are_the_weights():
    path = Path(interval=4, alpha=0.5, start=3)
    for _ in range(3):
        path.walk()
        assert torch.equal(path.phi, path.theta)
    start = path.phi
    path.walk(3)
    assert torch.equal(path.phi, start)
    sample = path.walk()[0]  # the fourth step since the start
    assert close(path.phi, (start + sample) / 2)
    assert path.sma.samples == 1


def test_a_later_start_does_not_undo_an_average_that_has_begun():
    path = Path(interval=2, alpha=0.5, start=3)
    path.walk(7)
    before, saved = path.phi, path.sma.state_dict()
    path.sma = SMA(path.model, interval=2, alpha=0.5, start=20)
    path.sma.load_state_dict(saved)
    path.walk()
    assert path.sma.samples == 3
    assert not torch.equal(path.phi, path.theta)
    assert not torch.equal(path.phi, before)


def test_the_swap_is_exact_and_undone_after_an_exception():
    path = Path(interval=1, alpha=0.3)
    path.walk(5)
    theta, phi = path.theta, path.phi
    buffers = [b.clone() for b in path.model.buffers()]
    with path.sma.averaged(path.model):
        assert torch.equal(path.theta, phi)
        for p in path.model.parameters():
            p.data.add_(1.0)  # whatever happens in here leaves neither of them changed
    assert torch.equal(path.theta, theta)
    assert torch.equal(path.phi, phi)
    with contextlib.suppress(RuntimeError), path.sma.evaluated():
        assert torch.equal(path.theta, phi)
        raise RuntimeError
    assert torch.equal(path.theta, theta)
    with path.sma.averaged(path.model):
        assert torch.equal(path.theta, phi)
    assert all(torch.equal(a, b) for a, b in zip(buffers, path.model.buffers(), strict=True))


def test_buffers_are_the_models_own_at_any_time():
    path = Path(interval=1)
    path.walk(2)
    norm = path.model[1]
    assert isinstance(norm.running_mean, torch.Tensor)
    norm.running_mean.fill_(3.0)
    with path.sma.averaged(path.model):
        assert (norm.running_mean == 3).all()


def test_swapping_twice_or_another_model_is_an_error():
    path = Path(interval=1)
    with path.sma.averaged(path.model):
        inner = path.sma.averaged(path.model)
        with pytest.raises(ConfigError, match="already"):
            inner.__enter__()
    with pytest.raises(ConfigError, match="another model"):
        path.sma.averaged(copy.deepcopy(path.model)).__enter__()


def test_averages_keep_a_line_that_the_weights_are_on():
    """Weights that sum to one commute with an affine map: projected once, averages stay there."""
    model = nn.Linear(2, 1, bias=False).double()
    sma = SMA(model, interval=2, alpha=0.07, feedback=True)
    a, b = -1.7, 0.4
    for average in (False, True):
        weight = sma.average(model.weight) if average else model.weight.data
        weight[0, 1] = a * weight[0, 0] + b
    for step in range(40):
        with torch.no_grad():
            model.weight[0, 0] += torch.randn(())
            model.weight[0, 1] = a * model.weight[0, 0] + b
        sma.after_step(step)
        phi = sma.average(model.weight)[0]
        assert abs(float(phi[1] - (a * phi[0] + b))) < 1e-14


def test_a_restored_average_goes_on_and_another_models_is_an_error():
    whole, first = Path(interval=2), Path(interval=2)
    first.model.load_state_dict(whole.model.state_dict())
    first.sma = SMA(first.model, interval=2)
    whole.walk(7)
    first.walk(3)
    again = SMA(first.model, interval=2)
    again.load_state_dict(copy.deepcopy(first.sma.state_dict()))
    first.sma = again
    first.walk(4)
    assert torch.equal(first.phi, whole.phi)
    other = SMA(nn.Linear(3, 3))
    for state in (
        other.state_dict(),
        {},
        {"phi": 3, "samples": 0},
        {**again.state_dict(), "samples": "x"},
    ):
        with pytest.raises(CheckpointError, match=r"sma: .*(another model|no averaged weights)"):
            again.load_state_dict(state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"interval": 0},
        {"start": -1},
        {"alpha": -0.1},
        {"alpha": 1.1},
        {"alpha": float("nan")},
        {"alpha": 0.0, "debias": False},
    ],
)
def test_arguments_out_of_range_are_errors(wrong):
    with pytest.raises(ConfigError, match="sma: "):
        SMA(nn.Linear(1, 1), **wrong)
