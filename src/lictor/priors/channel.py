"""A learned center and scale per channel, shared by all positions: the parametric prior of z."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lictor.coding.tables import CdfTables
from lictor.errors import CheckpointError, LictorError
from lictor.ops import lower_bound
from lictor.priors.base import AbstractPrior
from lictor.priors.conditional import checked_bound
from lictor.priors.families import Family, interval_bits, table_rows


class ChannelPrior(AbstractPrior):
    """One density of a family per channel, with a learned mean (0 at first) and scale (1).

    Takes no params: what is quantized is `z - mean`, so that most symbols are 0 (our reading of the
    "zero-center quantization" of Zhang, Li and Liu, arXiv:2309.17051, of which the abstract was
    seen). A mean is a stored weight, added to an integer in float32: encoder and decoder have the
    same number, and so the same sum. Each channel has a table row of its own.

    Args:
        channels: of the latent.
        family: a symmetric density of scale 1.
        scale_bound: the least scale, 0.01 to 16, the family's own if None.

    Raises:
        ConfigError: the bound is outside of its range.
    """

    def __init__(self, channels: int, family: Family, *, scale_bound: float | None = None):
        super().__init__()
        self.family = family
        self.scale_bound = checked_bound(family, scale_bound)
        self.means = nn.Parameter(torch.zeros(channels))
        self.scales = nn.Parameter(torch.ones(channels))

    def _center(self, params: tuple[Tensor, ...]) -> Tensor:
        """Return the means, or those that `held` gave."""
        return params[0] if params else self.means.view(1, -1, 1, 1)

    def residual(
        self, latent: Float[Tensor, "b c h w"], params: tuple[Tensor, ...]
    ) -> Float[Tensor, "b c h w"]:
        """Subtract the channels' means."""
        return latent - self._center(params)

    def restore(
        self, quantized: Float[Tensor, "b c h w"], params: tuple[Tensor, ...]
    ) -> Float[Tensor, "b c h w"]:
        """Add the channels' means."""
        return quantized + self._center(params)

    def held(self, params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the means, cut off from gradients, as params."""
        return (self._center(params).detach(),)

    def bits(
        self, residual: Float[Tensor, "b c h w"], params: tuple[Tensor, ...]
    ) -> Float[Tensor, "b c h w"]:
        """Return the cost in bits of each element under its channel's scale, at least the bound."""
        del params
        scales = lower_bound(self.scales, self.scale_bound).view(1, -1, 1, 1)
        return interval_bits(residual, scales.expand_as(residual), self.family)

    @torch.no_grad()
    def tables(self) -> CdfTables:
        """Build one row per channel.

        Raises `LictorError` when a channel's density is wider than a table can be.
        """
        scales = lower_bound(self.scales.double(), self.scale_bound)
        if not bool(torch.isfinite(scales).all()):
            raise LictorError("a scale of z is not finite: the model's training diverged")
        return table_rows(self.family, scales.tolist())

    def check_tables(self, tables: CdfTables) -> None:
        """Raise `CheckpointError` when the channels have not a row each."""
        if len(tables.lengths) != len(self.means):
            raise CheckpointError(
                f"tables: {len(self.means)} channels need a row each, "
                f"not {len(tables.lengths)} rows"
            )

    def indexes(
        self, shape: tuple[int, int, int, int], params: tuple[Tensor, ...], tables: CdfTables
    ) -> Int[Tensor, "b c h w"]:
        """Return each element's channel number."""
        del params, tables
        return torch.arange(shape[1], dtype=torch.int32).view(1, -1, 1, 1).expand(shape)
