"""What every prior offers: a differentiable rate, and the integer tables that realise it."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor, nn

from lictor.coding.tables import CdfTables

# Mass left outside a table: one count in 2^16 is the least that the escape symbol gets anyway.
TAIL_MASS = 2.0**-16
# A likelihood never counts as less than this: what lies outside a table is coded as the escape
# symbol (16 bits) and a byte, so a surprise costs about 24 bits. It also keeps gradients finite.
MIN_LIKELIHOOD = 2.0**-24


class AbstractPrior(nn.Module, ABC):
    """A family of distributions of integer symbols, one member for each element of a latent.

    `params` are the tensors that a model computes for a latent of shape `b c h w`: `(means,
    scales)`, `(scales,)`, or none for a prior that depends on the channel alone.
    """

    @abstractmethod
    def residual(
        self, latent: Float[Tensor, "b c h w"], params: tuple[Tensor, ...]
    ) -> Float[Tensor, "b c h w"]:
        """Return what is rounded: the latent around its center, in steps of one."""

    @abstractmethod
    def restore(
        self, quantized: Float[Tensor, "b c h w"], params: tuple[Tensor, ...]
    ) -> Float[Tensor, "b c h w"]:
        """Return the latent whose residual is `quantized`; undoes `residual`."""

    @abstractmethod
    def held(self, params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the params so that no gradient reaches the center; themselves if there is none."""

    @abstractmethod
    def bits(
        self, residual: Float[Tensor, "b c h w"], params: tuple[Tensor, ...]
    ) -> Float[Tensor, "b c h w"]:
        """Return the cost in bits of each residual, differentiable in everything."""

    @abstractmethod
    def tables(self) -> CdfTables:
        """Build the integer tables of all members; needed once, when a codec is frozen."""

    def check_tables(self, tables: CdfTables) -> None:
        """Raise `CheckpointError` when tables cannot be this prior's."""
        del tables

    @abstractmethod
    def indexes(
        self, shape: tuple[int, int, int, int], params: tuple[Tensor, ...], tables: CdfTables
    ) -> Int[Tensor, "b c h w"]:
        """Return the table row of each element of a latent with the given shape.

        `tables` are a codec's, as `tables` once gave them: what chooses a row is in them, so that
        decoding computes no boundary anew. `params` are those of a frozen model.
        """
