"""Small tensor operations with a gradient rule or a geometry of their own.

Everything here is a pure function: no parameters, no state.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        (grad,) = grad_outputs
        # A step against the gradient that would lift x back over the bound must get through,
        # otherwise an element below the bound could never return.
        return grad * ((x >= ctx.bound) | (grad < 0)), None


def lower_bound(x: Float[Tensor, "*shape"], bound: float) -> Float[Tensor, "*shape"]:
    """Clamp `x` from below, letting through gradients that point back to the allowed range."""
    result = _LowerBound.apply(x, bound)
    assert isinstance(result, Tensor)
    return result


def round_ste(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Round to the nearest integer (ties to even) with the gradient of the identity."""
    return x + (x.round() - x).detach()


def pad_to_multiple(x: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c hp wp"]:
    """Extend the right and bottom edge by replication until both sides divide by `multiple`."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def crop(x: Float[Tensor, "b c hp wp"], height: int, width: int) -> Float[Tensor, "b c h w"]:
    """Keep the top left `height` x `width` pixels; undoes `pad_to_multiple`."""
    return x[..., :height, :width]
