"""What a path does to single values: its curve, and moments of its error and its jacobian."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lictor.analysis.surrogates.risk import uniform_draw
from lictor.layers.quantize.noise import Draw
from lictor.layers.quantize.paths import Path

_CHUNK = 2**17


def sampled(
    path: Path, y: Float[Tensor, " n"], draw: Draw
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return a path's value `v` and its jacobian `dv/dy` at each `y`, each with noise of its own.

    Each value is a picture of its own to the path: one that shares noise within a picture shares
    none here.
    """
    y = y.detach().reshape(-1, 1, 1, 1).requires_grad_()
    with torch.enable_grad():
        v = path(y, path.noise(y.detach(), draw))
        (jacobian,) = torch.autograd.grad(v.sum(), y)
    return v.detach().flatten(), jacobian.flatten()


@dataclass(frozen=True)
class Moments:
    """Means over a latent whose fractional part is uniform, and over the path's noise.

    Args:
        mismatch: `E (v - round(y))^2`: how far training is from coding.
        error: `E (v - y)^2`: the distortion that training sees; rounding's is 1/12.
        mean_jacobian: of `dv/dy`; 1 for every path that commutes with shifts by whole numbers.
        var_jacobian: what the path itself adds to the variance of a gradient.
        max_jacobian: the largest that was seen.
    """

    mismatch: float
    error: float
    mean_jacobian: float
    var_jacobian: float
    max_jacobian: float


def path_moments(path: Path, *, samples: int, seed: int) -> Moments:
    """Measure the moments of a path by simulation, in float64."""
    generator = torch.Generator().manual_seed(seed)
    draw = uniform_draw(generator)
    errors, jacobians = torch.zeros(2, dtype=torch.float64), list[Tensor]()
    for start in range(0, samples, _CHUNK):
        y = torch.rand(min(_CHUNK, samples - start), generator=generator, dtype=torch.float64)
        v, jacobian = sampled(path, y, draw)
        errors += torch.stack([(v - y.round()).square().sum(), (v - y).square().sum()])
        jacobians.append(jacobian)
    every = torch.cat(jacobians)
    mismatch, error = (errors / samples).tolist()
    return Moments(mismatch, error, float(every.mean()), float(every.var()), float(every.max()))


@dataclass(frozen=True)
class Curve:
    """A path's value and jacobian over a latent: mean over its noise, and the middle 80 %."""

    y: Float[Tensor, " n"]
    value: Float[Tensor, " n"]
    value_band: Float[Tensor, "2 n"]
    jacobian: Float[Tensor, " n"]
    jacobian_band: Float[Tensor, "2 n"]


def path_curve(path: Path, y: Float[Tensor, " n"], *, samples: int, seed: int) -> Curve:
    """Return a path's curve at the places `y`, from `samples` draws of noise at each."""
    draw = uniform_draw(torch.Generator().manual_seed(seed))
    v, jacobian = sampled(path, y.repeat_interleave(samples), draw)
    v, jacobian = v.reshape(-1, samples), jacobian.reshape(-1, samples)
    ends = torch.tensor([0.1, 0.9], dtype=y.dtype)
    return Curve(
        y,
        v.mean(1),
        torch.quantile(v, ends, dim=1),
        jacobian.mean(1),
        torch.quantile(jacobian, ends, dim=1),
    )
