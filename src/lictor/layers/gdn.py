"""Generalized divisive normalization, with a backward pass that touches memory few times."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lictor.ops import lower_bound

_PEDESTAL = 2.0**-36
_BETA_MIN = 1e-6


def _mix(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Mix channels at every pixel: a 1x1 convolution, channels last."""
    return F.conv2d(x, weight[:, :, None, None], bias)


class _Normalize(torch.autograd.Function):
    """`x * (beta + gamma x^2)^(-1/2)`, or `^(+1/2)` for the inverse, as one node.

    Autograd's own graph of this expression keeps five feature maps; this keeps two, and computes
    the gradient in place. At 128 channels and half resolution these maps are what a step waits for.
    """

    @staticmethod
    def forward(ctx, x: Tensor, gamma: Tensor, beta: Tensor, inverse: bool) -> Tensor:
        norm = _mix(x.square(), gamma, beta)
        root = norm.sqrt_() if inverse else norm.rsqrt_()
        ctx.save_for_backward(x, gamma, root)
        ctx.inverse = inverse
        return x * root

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, gamma, root = ctx.saved_tensors
        (grad,) = grad_outputs
        # d root / d norm is +1/2 root^-1 for the inverse, -1/2 root^3 otherwise.
        grad_norm = grad * x
        if ctx.inverse:
            grad_norm.div_(root).mul_(0.5)
        else:
            grad_norm.mul_(root).mul_(root).mul_(root).mul_(-0.5)
        channels = x.shape[1]
        rows = grad_norm.permute(0, 2, 3, 1).reshape(-1, channels)
        squares = x.square()
        grad_gamma = rows.T @ squares.permute(0, 2, 3, 1).reshape(-1, channels)
        grad_beta = rows.sum(0)
        grad_x = _mix(grad_norm, gamma.T.contiguous()).mul_(x).mul_(2)
        grad_x.addcmul_(grad, root)
        return grad_x, grad_gamma, grad_beta, None


class GDN(nn.Module):
    """Divide each channel by a learned norm of all channels at the same pixel.

    Forward: `x_i / sqrt(beta_i + sum_j gamma_ij x_j^2)`; with `inverse=True` it multiplies instead.
    Source: Balle, Laparra, Simoncelli, ICLR 2016 (arXiv:1511.06281), equation 1 with the exponents
    fixed at 2 and 1/2; the square reparametrization keeps beta and gamma non-negative.
    """

    def __init__(self, channels: int, *, inverse: bool = False):
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter((torch.ones(channels) + _PEDESTAL).sqrt())
        self.gamma = nn.Parameter((0.1 * torch.eye(channels) + _PEDESTAL).sqrt())

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalize `x`; shape and dtype stay."""
        beta = lower_bound(self.beta, (_BETA_MIN + _PEDESTAL) ** 0.5).square() - _PEDESTAL
        gamma = lower_bound(self.gamma, _PEDESTAL**0.5).square() - _PEDESTAL
        result = _Normalize.apply(x, gamma.to(x.dtype), beta.to(x.dtype), self.inverse)
        assert isinstance(result, Tensor)
        return result
