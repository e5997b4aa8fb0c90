"""A codec of points in a plane: the smallest that shows what a surrogate is worth.

Points lie along a bent strip. A codec of two latents learns them: networks of 64 hidden units or
affine maps for analysis and synthesis, and for each latent a mixture of three logistic densities.
Its loss is `J = bits + lmbda * squared error`, in training with a surrogate and in the test with
rounding. Several replicas, which differ in nothing but their random numbers, learn side by side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lictor.analysis.surrogates.risk import uniform_draw
from lictor.errors import ConfigError
from lictor.layers.quantize.surrogate import Surrogate
from lictor.ops import lower_bound

_LEAST_SCALE = 0.05
_FLOOR = 1e-9
_TURN = 0.5  # radians
_COMPONENTS = 3
_CHUNK = 10_000
# A training loss that is lower than the test's by this share of it tells of a leak. Pairs without
# one were seen within 0.07, those with one from 0.09 on.
_LEAK = 0.08


@dataclass(frozen=True)
class ToySettings:
    """How a toy codec is trained.

    Args:
        lmbda: weight of the squared error.
        hidden: units of the two hidden layers of either network; 0 for affine maps.
        steps: of Adam with 2e-3, a tenth of it in the last fifth.
        batch: points of a step.
        replicas: codecs that are trained side by side.
        test_points: that the trained codecs are tested on.

    Raises `ConfigError` when a count is too small or `lmbda` is not positive.
    """

    lmbda: float = 5.0
    hidden: int = 64
    steps: int = 8000
    batch: int = 512
    replicas: int = 3
    test_points: int = 100_000

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.replicas, self.test_points) < 1 or self.hidden < 0:
            raise ConfigError("a toy codec needs at least 1 step, point and replica")
        if not 0 < self.lmbda < math.inf:
            raise ConfigError(f"lmbda must be positive, not {self.lmbda}")


@dataclass(frozen=True)
class ToyResult:
    """Losses of each replica: with the surrogate at the end of training, and with rounding.

    `train` is a mean over the last sixteenth of the steps, while the weights move a little.
    """

    train: Sequence[float]
    test: Sequence[float]
    test_bits: Sequence[float]
    test_error: Sequence[float]

    @property
    def gap(self) -> float:
        """Mean of `train - test`: far below 0, the codec hides what it is not charged for."""
        return sum(self.train) / len(self.train) - self.mean

    @property
    def leaks(self) -> bool:
        """Whether training looks so much better than the test that something must be hidden."""
        return self.gap < -_LEAK * self.mean

    @property
    def mean(self) -> float:
        """Mean test loss of the replicas."""
        return sum(self.test) / len(self.test)

    @property
    def deviation(self) -> float:
        """Standard deviation of the test loss between replicas; NaN of a single one."""
        return (
            float(torch.tensor(self.test, dtype=torch.float64).std()) if self.test[1:] else math.nan
        )


def banana(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "*shape 2"]:
    """Draw points of the bent strip."""
    along, across = torch.randn((2, *shape), generator=generator)
    along, across = 3 * along, 0.5 * across
    bent = across + 0.1 * along.square() - 0.9
    cosine, sine = math.cos(_TURN), math.sin(_TURN)
    return torch.stack([cosine * along - sine * bent, sine * along + cosine * bent], -1)


class _Network(nn.Module):
    """The same layers for each replica, with weights of its own: two inputs, two outputs."""

    def __init__(self, replicas: int, hidden: int, generator: torch.Generator):
        super().__init__()
        sizes = (2, hidden, hidden, 2) if hidden else (2, 2)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            weight, bias = torch.empty(replicas, fan_in, fan_out), torch.empty(replicas, 1, fan_out)
            reach = 1 / math.sqrt(fan_in)
            for tensor in (weight, bias):
                tensor.uniform_(-reach, reach, generator=generator)
            if not hidden:
                weight, bias = torch.eye(2).repeat(replicas, 1, 1), torch.zeros_like(bias)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))

    def forward(self, x: Float[Tensor, "r b 2"]) -> Float[Tensor, "r b 2"]:
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, F.softplus(x) if number else x, weight)
        return x


class _MixturePrior(nn.Module):
    """Three logistic densities for each latent, whose mass on unit intervals is charged."""

    def __init__(self, replicas: int):
        super().__init__()
        shape = (replicas, 1, 2, _COMPONENTS)
        self.places = nn.Parameter(torch.linspace(-1, 1, _COMPONENTS).expand(shape).clone())
        self.log_scales = nn.Parameter(torch.full(shape, 0.5))
        self.logits = nn.Parameter(torch.zeros(shape))

    def residual(self, latent: Tensor, params: tuple[Tensor, ...]) -> Tensor:
        """Return the latent: it has no center."""
        del params
        return latent

    def restore(self, quantized: Tensor, params: tuple[Tensor, ...]) -> Tensor:
        """Return the quantized latent."""
        del params
        return quantized

    def held(self, params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the params: there are none."""
        return params

    def bits(self, residual: Float[Tensor, "n 2 1 1"], params: tuple[Tensor, ...]) -> Tensor:
        """Return the bits of each latent."""
        del params
        distance = (residual.reshape(len(self.places), -1, 2, 1) - self.places).abs()
        scales = lower_bound(self.log_scales.exp(), _LEAST_SCALE)
        upper = torch.sigmoid((0.5 - distance) / scales)
        mass = (upper - torch.sigmoid((-0.5 - distance) / scales)) * self.logits.softmax(-1)
        return -lower_bound(mass.sum(-1), _FLOOR).log2().reshape(residual.shape)


class ToyCodec(nn.Module):
    """Replicas of a codec: `g_a`, a prior and `g_s` each."""

    def __init__(self, replicas: int, hidden: int, generator: torch.Generator):
        super().__init__()
        self.g_a = _Network(replicas, hidden, generator)
        self.g_s = _Network(replicas, hidden, generator)
        self.prior = _MixturePrior(replicas)

    def forward(
        self, x: Float[Tensor, "r b 2"], surrogate: Surrogate | None, generator: torch.Generator
    ) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
        """Return mean bits and mean squared error of each replica; rounds without a surrogate."""
        # To a path each point is a picture of its own.
        y = self.g_a(x).reshape(-1, 2, 1, 1)
        if surrogate is None:
            y_hat = y.round()
            bits = self.prior.bits(y_hat, ())
        else:
            y_hat, bits = surrogate.charge(y, self.prior, (), uniform_draw(generator))
        error = (self.g_s(y_hat.reshape(x.shape)) - x).square()
        return bits.reshape(x.shape).sum(-1).mean(1), error.sum(-1).mean(1)


def train_toy(surrogate: Surrogate, settings: ToySettings, *, seed: int) -> ToyResult:
    """Train replicas of a toy codec with a surrogate and test them with rounding."""
    generator = torch.Generator().manual_seed(seed)
    codec = ToyCodec(settings.replicas, settings.hidden, generator)
    optimizer = torch.optim.Adam(codec.parameters(), 2e-3, fused=True)
    last = max(1, settings.steps // 16)
    train = torch.zeros(settings.replicas)
    for step in range(settings.steps):
        if step == settings.steps * 4 // 5:
            optimizer.param_groups[0]["lr"] *= 0.1
        x = banana((settings.replicas, settings.batch), generator)
        bits, error = codec(x, surrogate.at(step / settings.steps), generator)
        losses = bits + settings.lmbda * error
        if step >= settings.steps - last:
            train += losses.detach() / last
        optimizer.zero_grad()
        losses.sum().backward()  # replicas share nothing: each gets the gradient of its own
        optimizer.step()
    bits, error = _tested(codec, settings, generator)
    test = bits + settings.lmbda * error
    return ToyResult(train.tolist(), test.tolist(), bits.tolist(), error.tolist())


@torch.no_grad()
def _tested(
    codec: ToyCodec, settings: ToySettings, generator: torch.Generator
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
    """Return bits and squared error with rounding, of points that no training has seen."""
    sums = torch.zeros(2, settings.replicas)
    for start in range(0, settings.test_points, _CHUNK):
        count = min(_CHUNK, settings.test_points - start)
        x = banana((settings.replicas, count), generator)
        sums += torch.stack(codec(x, None, generator)) * (count / settings.test_points)
    return sums[0], sums[1]
