"""Generalized divisive normalization, with few passes over memory in both directions."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lictor.ops import lower_bound

_PEDESTAL = 2.0**-36
_BETA_MIN = 1e-6


def _pixels(x: Tensor) -> Tensor:
    """View a channels-last map as a matrix, `pixels channels`."""
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1])


class _Normalize(torch.autograd.Function):
    """`x * (beta + gamma x^2)^(-1/2)`, or `^(+1/2)` for the inverse, as one node.

    At 128 channels and half resolution a step waits here for memory, and on a CPU most of all for
    fresh memory: writing to a new map costs three times a pass over an old one. So maps are
    reused. Pieces that fit into cache are faster still on an idle machine, but their many short
    parallel loops are up to 14 times slower where another program wants the same cores.
    """

    @staticmethod
    def forward(ctx, x: Tensor, gamma: Tensor, beta: Tensor, inverse: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        squares = x.square()
        root = torch.empty_like(x)
        torch.addmm(beta.to(x.dtype), _pixels(squares), gamma.to(x.dtype).T, out=_pixels(root))
        _ = root.sqrt_() if inverse else root.rsqrt_()
        ctx.save_for_backward(x, gamma, root)
        ctx.inverse = inverse
        return torch.mul(x, root, out=squares)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, gamma, root = ctx.saved_tensors
        grad = grad_outputs[0].contiguous(memory_format=torch.channels_last)
        # d root / d norm is +1/2 root^-1 for the inverse, -1/2 root^3 otherwise. The halves wait
        # for the small matrices, where they are free; so does the sign.
        half = 0.5 if ctx.inverse else -0.5
        grad_x = torch.mul(grad, root, out=torch.empty_like(x))
        grad_norm = (grad * x).div_(root) if ctx.inverse else (grad_x * x).mul_(root).mul_(root)
        squares = x.square()
        rows = _pixels(grad_norm)
        grad_gamma = (rows.T @ _pixels(squares)).to(gamma.dtype).mul_(half)
        grad_beta = rows.sum(0).to(gamma.dtype).mul_(half)
        mixed = torch.mm(rows, gamma.to(x.dtype).mul(2 * half), out=_pixels(squares))
        _pixels(grad_x).addcmul_(mixed, _pixels(x))
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
        if torch.compiler.is_compiling():  # the compiler sees to memory itself
            norm = F.conv2d(x.square(), gamma.to(x.dtype)[:, :, None, None], beta.to(x.dtype))
            return x * (norm.sqrt() if self.inverse else norm.rsqrt())
        with torch.autocast(x.device.type, enabled=False):  # on CUDA it would square in float32
            result = _Normalize.apply(x, gamma, beta, self.inverse)
        assert isinstance(result, Tensor)
        return result
