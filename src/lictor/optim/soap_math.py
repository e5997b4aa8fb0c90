"""The mathematics of SOAP as pure functions on stacks of equally shaped tensors.

A tensor of `n` entries is held flat, a stack of them as `b n`. A `Plan` says how `n` splits into
axes, and which axes have a factor: the running mean of the gradient's second moment along the axis,
and its eigenvectors, the basis. SOAP is Adam in the coordinates of these bases.

Source: Vyas et al., ICLR 2025 (arXiv:2409.11321).
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lictor.errors import ConfigError

# Neighbouring small axes are rotated by the Kronecker product of their bases: one matrix of up to
# this size is far cheaper than two passes of tiny products.
_MAX_JOINT = 64

# Relative to the largest eigenvalue; see `orthonormal_by_cholesky`.
_LEAST_EIGENVALUE = 3e-7

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mode:
    """Neighbouring axes with factors, rotated together: a view `before, prod(sizes), after`."""

    before: int
    sizes: tuple[int, ...]
    after: int

    @property
    def size(self) -> int:
        """Entries along the joint axis."""
        return math.prod(self.sizes)


@dataclass(frozen=True)
class Plan:
    """How a parameter is seen.

    `order` permutes its dimensions to the order they have in memory. The factors of `modes`, one
    after the other, are in that order too; `ranks` are their places among the dimensions as the
    parameter has them, in which a saved state lists them.
    """

    order: tuple[int, ...]
    modes: tuple[Mode, ...] = ()
    ranks: tuple[int, ...] = ()

    @property
    def factor_sizes(self) -> tuple[int, ...]:
        """Sides of the factors, in the order of the lists that hold them."""
        return tuple(size for mode in self.modes for size in mode.sizes)


def _split(shape: Sequence[int], max_factor: int) -> list[list[int]]:
    del max_factor
    return [[d] for d in range(len(shape))]


def _spatial(shape: Sequence[int], max_factor: int) -> list[list[int]]:
    if math.prod(shape[2:]) > max_factor:
        return _split(shape, max_factor)
    return [*_split(shape[:2], max_factor), list(range(2, len(shape)))]


def _matrix(shape: Sequence[int], max_factor: int) -> list[list[int]]:
    groups: list[list[int]] = []
    for d in reversed(range(1, len(shape))):
        if groups and shape[d] * math.prod(shape[i] for i in groups[0]) <= max_factor:
            groups[0].insert(0, d)
        else:
            groups.insert(0, [d])
    return [[0], *groups] if shape else []


POLICIES: dict[str, Callable[[Sequence[int], int], list[list[int]]]] = {
    "split": _split,
    "spatial": _spatial,
    "matrix": _matrix,
}


@functools.cache
def make_plan(
    shape: tuple[int, ...], *, shapes: str, max_factor: int, channels_last: bool = False
) -> Plan:
    """Decide which axes of a parameter get a factor.

    `split` gives each dimension its own, `spatial` joins those from the third on (the kernel of a
    convolution; one of more than `max_factor` entries is seen as by `split`), `matrix` joins from
    the right all but the first while the product stays within `max_factor`. A side above
    `max_factor` gets none (its basis is the identity); nor does a side of 1, nor a parameter that
    is a vector then. `channels_last` says that dimension 1 is the innermost in memory. Raises
    `ConfigError` on an unknown policy.
    """
    if shapes not in POLICIES:
        raise ConfigError(f"unknown shape policy {shapes!r}: choose one of {', '.join(POLICIES)}")
    order = tuple(range(len(shape)))
    groups = [[d for d in g if shape[d] > 1] for g in POLICIES[shapes](shape, max_factor)]
    groups = [g for g in groups if g]
    if channels_last and not any(1 in g and len(g) > 1 for g in groups):
        order = (0, *order[2:], 1)  # a joint axis with dimension 1 keeps the other order
    if len(groups) < 2:
        return Plan(order)
    modes: list[Mode] = []
    factored: list[int] = []
    before, left = 1, math.prod(shape)
    open_run = False  # whether the last axis has a factor, so that the next may join it
    for group in sorted(groups, key=lambda g: order.index(g[0])):
        side = math.prod(shape[d] for d in group)
        left //= side
        if side > max_factor:
            open_run = False
        else:
            if open_run and modes[-1].size * side <= _MAX_JOINT:
                modes[-1] = Mode(modes[-1].before, (*modes[-1].sizes, side), left)
            else:
                modes.append(Mode(before, (side,), left))
            factored.append(group[0])
            open_run = True
        before *= side
    return Plan(order, tuple(modes), tuple(sorted(factored).index(d) for d in factored))


def joint(matrices: Sequence[Float[Tensor, "b _ _"]], modes: Sequence[Mode]) -> list[Tensor]:
    """Return one matrix per mode: the Kronecker product of its axes' matrices."""
    remaining = iter(matrices)
    result = []
    for mode in modes:
        product = next(remaining)
        for _ in mode.sizes[1:]:
            other = next(remaining)
            side = product.shape[-1] * other.shape[-1]
            product = product[:, :, None, :, None] * other[:, None, :, None, :]
            product = product.reshape(-1, side, side)
        result.append(product)
    return result


def rotate(
    x: Float[Tensor, "b n"], bases: Sequence[Tensor], modes: Sequence[Mode], *, back: bool = False
) -> Float[Tensor, "b n"]:
    """Express tensors in the bases (columns) of their modes, or with `back` undo that."""
    stack = x.shape[0]
    for basis, mode in zip(bases, modes, strict=True):
        left = basis if back else basis.mT
        if mode.before == 1:
            x = left @ x.reshape(stack, mode.size, mode.after)
        elif mode.after == 1:
            x = x.reshape(stack, mode.before, mode.size) @ left.mT
        else:
            x = left[:, None] @ x.reshape(stack, mode.before, mode.size, mode.after)
    return x.reshape(stack, -1)


def second_moments(x: Float[Tensor, "b n"], modes: Sequence[Mode]) -> list[Tensor]:
    """Return `X X^T` of the unfolding along each axis with a factor, in the order of the factors.

    For axes rotated together the joint matrix is computed once; each axis' own is a partial trace.
    """
    stack = x.shape[0]
    result: list[Tensor] = []
    for mode in modes:
        if mode.before == 1:
            rows = x.reshape(stack, mode.size, mode.after)
            moment = rows @ rows.mT
        elif mode.after == 1:
            columns = x.reshape(stack, mode.before, mode.size)
            moment = columns.mT @ columns
        else:
            blocks = x.reshape(stack, mode.before, mode.size, mode.after)
            moment = (blocks @ blocks.mT).sum(1)
        result += _partial_traces(moment, mode.sizes)
    return result


def _partial_traces(moment: Float[Tensor, "b s s"], sizes: tuple[int, ...]) -> list[Tensor]:
    """Split a joint second moment into one for each of its axes."""
    if len(sizes) == 1:
        return [moment]
    result, before, after = [], 1, math.prod(sizes)
    for size in sizes:
        after //= size
        axes = moment.reshape(-1, before, size, after, before, size, after)
        result.append(torch.einsum("bpiqpjq->bij", axes))
        before *= size
    return result


def _scaled(factor: Float[Tensor, "b s s"]) -> Float[Tensor, "b s s"]:
    """Scale to a largest entry of 1, so that tiny gradients do not underflow in the routines."""
    return factor / factor.abs().amax((-2, -1), keepdim=True).clamp_min(
        torch.finfo(factor.dtype).tiny
    )


def first_basis(factor: Float[Tensor, "b s s"]) -> Float[Tensor, "b s s"]:
    """Return the eigenvectors of symmetric matrices as columns, largest eigenvalue first.

    Where the routine does not converge it is tried again on the CPU in float64. Where that fails,
    or the matrix is not finite, the identity stands in.
    """
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    usable = factor.isfinite().all((-2, -1))[:, None, None]
    scaled = _scaled(torch.where(usable, factor, identity))
    try:
        vectors = torch.linalg.eigh(scaled)[1]
    except RuntimeError:  # torch.linalg.LinAlgError is one
        try:
            vectors = torch.linalg.eigh(scaled.cpu().double())[1].to(factor)
        except RuntimeError:
            vectors = torch.full_like(factor, torch.nan)
    usable = usable & vectors.isfinite().all((-2, -1))[:, None, None]
    if not usable.all():
        _log.warning("no eigenvectors for a factor of side %d: identity used", factor.shape[-1])
    return torch.where(usable, vectors.flip(-1), identity).contiguous()


def next_basis(
    factor: Float[Tensor, "b s s"], basis: Float[Tensor, "b s s"]
) -> tuple[Float[Tensor, "b s s"], Int[Tensor, "b s"]]:
    """Refine a basis by one step of the power iteration, reordered by estimated eigenvalue.

    Returns the new basis and the old columns' order in it. The sign of each column is fixed by a
    non-negative diagonal of R. A factor that is not finite leaves its basis as it was.
    """
    finite = factor.isfinite().all((-2, -1))
    power = _scaled(torch.where(finite[:, None, None], factor, 0)) @ basis
    estimates = (basis * power).sum(-2)
    order = torch.sort(estimates, dim=-1, descending=True, stable=True).indices
    places = order[:, None].expand_as(power)
    if power.is_cuda:
        new = orthonormal_by_cholesky(power.gather(-1, places), basis.gather(-1, places))
    else:
        q, r = torch.linalg.qr(power.gather(-1, places))
        signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q.dtype)
        new = q * signs[:, None]
    finite = finite & new.isfinite().all((-2, -1))
    # Elsewhere one would have to wait for the device, only to look.
    if finite.is_cpu and not finite.all():
        _log.warning("a factor of side %d is not finite: its basis stays", factor.shape[-1])
    new = torch.where(finite[:, None, None], new, basis)
    same = torch.arange(order.shape[-1], device=order.device)
    return new, torch.where(finite[:, None], order, same)


def orthonormal_by_cholesky(
    power: Float[Tensor, "b s s"], basis: Float[Tensor, "b s s"]
) -> Float[Tensor, "b s s"]:
    """Return the Q of `power = F basis` that QR with a positive diagonal of R gives, near enough.

    A graphics processor takes 20 times as long for Householder's QR of small matrices as for
    products and Cholesky factors, so Q is `power R^-1`, made twice, with R the Cholesky factor of
    `power^T power` in float64. For that the matrix F gets a small multiple of the identity: it
    moves no eigenvector, and eigenvalues below it are rounding errors of float32 anyway.
    """
    q, old = power.double(), basis.double()
    largest = torch.linalg.vector_norm(q, dim=-2, keepdim=True).amax(-1, keepdim=True)
    q = q + (_LEAST_EIGENVALUE * largest).clamp_min(torch.finfo(torch.float32).tiny) * old
    q = q / torch.linalg.vector_norm(q, dim=-2, keepdim=True)
    for _ in range(2):
        lower, _ = torch.linalg.cholesky_ex(q.mT @ q)
        q = torch.linalg.solve_triangular(lower.mT, q, upper=True, left=False)
    return q.to(power.dtype)


def reorder(
    x: Float[Tensor, "b n"], orders: Sequence[Int[Tensor, "b _"]], modes: Sequence[Mode]
) -> Float[Tensor, "b n"]:
    """Permute the entries along each axis with a factor."""
    shape = x.shape
    remaining = iter(orders)
    for mode in modes:
        before, after = mode.before, mode.size * mode.after
        for size in mode.sizes:
            after //= size
            x = x.reshape(shape[0], before, size, after)
            index = next(remaining)[:, None, :, None]
            x = x.gather(2, index.expand_as(x))
            before *= size
    return x.reshape(shape)


def adam_direction(
    grad: Float[Tensor, "b n"],
    mean: Float[Tensor, "b n"],
    mean_square: Float[Tensor, "b n"],
    *,
    betas: tuple[float, float],
    eps: float,
) -> Float[Tensor, "b n"]:
    """Update Adam's two moments in place and return `mean / (sqrt(mean_square) + eps)` in `grad`.

    `grad` is overwritten; the bias correction is left to the step size. Source: Kingma and Ba,
    ICLR 2015 (arXiv:1412.6980), algorithm 1, with epsilon beside the uncorrected root.
    """
    mean.lerp_(grad, 1 - betas[0])
    mean_square.mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
    root = torch.sqrt(mean_square, out=grad).add_(eps)
    return torch.div(mean, root, out=root)
