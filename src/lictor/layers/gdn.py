"""Generalized divisive normalization, computed in pieces that stay in the processor's cache."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lictor.ops import lower_bound

_PEDESTAL = 2.0**-36
_BETA_MIN = 1e-6
# Bytes of each piece on a CPU: several fit into a core's second-level cache.
_CHUNK_BYTES = 2**20


def _chunks(x: Tensor) -> tuple[Tensor, ...]:
    """Cut a channels-last map into views `pixels channels`, small ones on a CPU."""
    rows = x.permute(0, 2, 3, 1).view(-1, x.shape[1])
    if x.device.type != "cpu":
        return (rows,)
    return rows.split(max(1, _CHUNK_BYTES // (x.shape[1] * x.element_size())))


class _Normalize(torch.autograd.Function):
    """`x * (beta + gamma x^2)^(-1/2)`, or `^(+1/2)` for the inverse, as one node.

    At 128 channels and half resolution a training step waits for memory here: each full-size
    intermediate costs about as much as the matrix product. Piece by piece, only the input, the
    root and the results are ever full size.
    """

    @staticmethod
    def forward(ctx, x: Tensor, gamma: Tensor, beta: Tensor, inverse: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        root = torch.empty_like(x, memory_format=torch.channels_last)
        result = torch.empty_like(x, memory_format=torch.channels_last)
        mix, shift = gamma.to(x.dtype).T, beta.to(x.dtype)
        for x_k, root_k, out_k in zip(*map(_chunks, (x, root, result)), strict=True):
            torch.addmm(shift, x_k.square(), mix, out=root_k)
            _ = root_k.sqrt_() if inverse else root_k.rsqrt_()
            torch.mul(x_k, root_k, out=out_k)
        ctx.save_for_backward(x, gamma, root)
        ctx.inverse = inverse
        return result

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, gamma, root = ctx.saved_tensors
        grad = grad_outputs[0].contiguous(memory_format=torch.channels_last)
        grad_x = torch.empty_like(x, memory_format=torch.channels_last)
        grad_gamma, grad_beta = torch.zeros_like(gamma), gamma.new_zeros(len(gamma))
        mix = gamma.to(x.dtype)
        # d root / d norm is +1/2 root^-1 for the inverse, -1/2 root^3 otherwise. The halves wait
        # for the end, the sign for the additions.
        sign = 1 if ctx.inverse else -1
        for x_k, root_k, grad_k, out_k in zip(*map(_chunks, (x, root, grad, grad_x)), strict=True):
            direct = grad_k * root_k
            if ctx.inverse:
                grad_norm = (grad_k * x_k).div_(root_k)
            else:
                grad_norm = (direct * x_k).mul_(root_k).mul_(root_k)
            grad_gamma.add_(grad_norm.T @ x_k.square(), alpha=sign / 2)
            grad_beta.add_(grad_norm.sum(0), alpha=sign / 2)
            torch.addcmul(direct, grad_norm @ mix, x_k, value=sign, out=out_k)
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
        result = _Normalize.apply(x, gamma, beta, self.inverse)
        assert isinstance(result, Tensor)
        return result
