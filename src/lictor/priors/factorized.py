"""A learned, non-parametric density per channel, shared by all positions."""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lictor.coding.tables import CdfTables, build_tables
from lictor.errors import CheckpointError, LictorError
from lictor.priors.base import MIN_LIKELIHOOD, TAIL_MASS, AbstractPrior

_MAX_RADIUS = 2**14  # a row must leave every symbol at least one count in 2^16


class FactorizedPrior(AbstractPrior):
    """One univariate density per channel, as a small monotone network of the cumulative.

    Takes no params. Source: Balle et al., ICLR 2018 (arXiv:1802.01436), appendix 6.1: four layers
    `f_k(x) = g(softplus(H) x + b)` with `g(x) = x + tanh(a) * tanh(x)`, closed by a sigmoid.
    """

    def __init__(
        self, channels: int, *, filters: tuple[int, ...] = (3, 3, 3), init_scale: float = 10
    ):
        super().__init__()
        self.channels = channels
        sizes = (1, *filters, 1)
        scale = init_scale ** (1 / (len(filters) + 1))
        self.matrices = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.factors = nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            init = float(np.log(np.expm1(1 / scale / fan_out)))
            self.matrices.append(nn.Parameter(torch.full((channels, fan_out, fan_in), init)))
            self.biases.append(nn.Parameter(torch.rand(channels, fan_out, 1) - 0.5))
            if fan_out > 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, fan_out, 1)))

    def _logits(self, values: Float[Tensor, "c one l"]) -> Float[Tensor, "c one l"]:
        """Return the logit of the cumulative at `values`, channel by channel."""
        dtype = values.dtype
        for k, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            values = torch.baddbmm(bias.to(dtype), F.softplus(matrix.to(dtype)), values)
            if k < len(self.factors):
                values = values + torch.tanh(self.factors[k].to(dtype)) * torch.tanh(values)
        return values

    def _mass(self, values: Float[Tensor, "c one l"]) -> Float[Tensor, "c one l"]:
        """Return the mass on the unit interval around each value."""
        length = values.shape[-1]
        ends = self._logits(torch.cat([values - 0.5, values + 0.5], dim=-1))
        lower, upper = ends[..., :length], ends[..., length:]
        # Work in the tail where the two sigmoids are small, so that they subtract exactly.
        sign = torch.where(lower + upper > 0, -1.0, 1.0).to(lower.dtype)
        return (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()

    def residual(
        self, latent: Float[Tensor, "b c h w"], params: tuple[Tensor, ...]
    ) -> Float[Tensor, "b c h w"]:
        """Return the latent: symbols are the rounded values themselves."""
        assert not params
        return latent

    def restore(
        self, quantized: Float[Tensor, "b c h w"], params: tuple[Tensor, ...]
    ) -> Float[Tensor, "b c h w"]:
        """Return the quantized values."""
        assert not params
        return quantized

    def held(self, params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the params: there are none."""
        return params

    def bits(
        self, residual: Float[Tensor, "b c h w"], params: tuple[Tensor, ...]
    ) -> Float[Tensor, "b c h w"]:
        """Return the cost in bits of each element under its channel's density."""
        assert not params
        batch, channels, height, width = residual.shape
        with torch.autocast(residual.device.type, enabled=False):
            flat = residual.float().transpose(0, 1).reshape(channels, 1, -1)
            bits = -torch.log2(self._mass(flat).clamp_min(MIN_LIKELIHOOD))
        return bits.reshape(channels, batch, height, width).transpose(0, 1)

    @torch.no_grad()
    def _quantiles(self, mass: float) -> Int[np.ndarray, " c"]:
        """Find the least integer per channel with at least `mass` below its upper edge."""
        target = float(np.log(mass) - np.log1p(-mass))
        low = torch.full((self.channels, 1, 1), -_MAX_RADIUS, dtype=torch.float64)
        high = -low
        while bool((high - low > 1).any()):
            middle = torch.floor((low + high) / 2)
            enough = self._logits(middle + 0.5) >= target
            high = torch.where(enough, middle, high)
            low = torch.where(enough, low, middle)
        return high[:, 0, 0].numpy().astype(np.int64)

    @torch.no_grad()
    def tables(self) -> CdfTables:
        """Build one row per channel, its ends found by bisection of the cumulative.

        Raises `LictorError` when a channel's density is wider than a table can be.
        """
        first, last = self._quantiles(TAIL_MASS / 2), self._quantiles(1 - TAIL_MASS / 2)
        radius = int(max(-first.min(), last.max()))
        if radius >= _MAX_RADIUS - 1:  # the bisection ran into its ends
            raise LictorError(
                f"the factorized prior reaches beyond +-{_MAX_RADIUS}: the model has not been "
                "trained, or its training diverged"
            )
        values = torch.arange(-radius, radius + 1, dtype=torch.float64)
        mass = self._mass(values.expand(self.channels, 1, -1).contiguous())[:, 0].numpy()
        rows = [
            mass[c, first[c] + radius : last[c] + radius + 1].copy() for c in range(self.channels)
        ]
        tails = np.array([max(1 - float(row.sum()), 0.0) for row in rows])
        return build_tables(rows, tails, first.astype(np.int32))

    def check_tables(self, tables: CdfTables) -> None:
        """Raise `CheckpointError` when the channels have not a row each."""
        if len(tables.lengths) != self.channels:
            raise CheckpointError(
                f"tables: {self.channels} channels need a row each, not {len(tables.lengths)} rows"
            )

    def indexes(
        self, shape: tuple[int, int, int, int], params: tuple[Tensor, ...], tables: CdfTables
    ) -> Int[Tensor, "b c h w"]:
        """Return each element's channel number."""
        del tables
        assert not params
        return torch.arange(self.channels, dtype=torch.int32).view(1, -1, 1, 1).expand(shape)
