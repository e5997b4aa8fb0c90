"""The networks that turn a small latent into the values of a patch on its grid, and their table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lictor.config import POSITIVE, SHARE, Choice, Settings, at_least, between, option, write
from lictor.errors import DataError
from lictor.implicit.meta import Decode, Rates
from lictor.implicit.modulation import Modulation
from lictor.implicit.pca import Pca
from lictor.implicit.siren import CENTRE, Siren


class Linear(nn.Module):
    """A mean and a basis on the grid: principal components at first, then whatever is learned.

    The latent has the unit of the values: a basis of PCA is scaled so that the mean square of each
    component over the grid is 1. So an entry of a latent is the root mean square of what it adds,
    and the inner loss is curved alike in all directions: a step of rate 1/2 finds the least squares
    solution. The projection is the mean product with vectors of the same scale, so that one
    learning rate suits all weights.

    Args:
        n: points of the grid.
        channels: of a value.
        latent: entries of a latent.
    """

    def __init__(self, n: int, channels: int, latent: int):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(n, channels))
        self.basis = nn.Parameter(torch.zeros(n, channels, latent))
        self.projection = nn.Parameter(torch.zeros(n, channels, latent))

    def start_from(self, pca: Pca) -> None:
        """Become principal components; raises `DataError` if they are of another shape."""
        if pca.basis.shape != self.basis.shape:
            raise DataError(
                f"components of {pca.basis.shape} (points, channels, latent) do not fit a network "
                f"of {tuple(self.basis.shape)}"
            )
        scale = self.mean.numel() ** 0.5
        with torch.no_grad():
            self.mean.copy_(torch.from_numpy(pca.mean))
            self.basis.copy_(torch.from_numpy(pca.basis * scale))
            self.projection.copy_(torch.from_numpy(pca.basis * scale))

    def project(
        self, y: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None
    ) -> Float[Tensor, "b latent"]:
        """Return the first latent of each item; a masked point counts as the mean."""
        rest = y - self.mean
        if mask is not None:
            rest = torch.where(mask[..., None], rest, 0.0)
        return torch.mm(rest.flatten(1), self.projection.flatten(0, 1)) / self.mean.numel()

    def at(self, points: Int[Tensor, " k"] | None) -> Decode:
        """Return the values at some points of the grid (None: all) as a function of latents."""
        mean, basis = self.mean, self.basis
        if points is not None:
            mean, basis = mean[points], basis[points]
        flat_mean, rows = mean.flatten(), basis.flatten(0, 1).t()
        return lambda z: torch.addmm(flat_mean, z, rows).unflatten(1, mean.shape)


class ModulatedSiren(nn.Module):
    """A network of sines whose shifts, and perhaps scales, come from a latent."""

    def __init__(self, siren: Siren, modulation: Modulation):
        super().__init__()
        self.siren, self.modulation = siren, modulation

    def at(self, points: Float[Tensor, "k d"]) -> Decode:
        """Return the values at these points as a function of latents."""
        values, modulation = self.siren.at(points), self.modulation
        return lambda z: values(*modulation(z))


class ImplicitModel(nn.Module):
    """A network of signals while it learns: from a latent to values at the points of a fixed grid.

    ```
    z --> modulation --> shifts --> sines at the points --+--> y_hat
    z --> mean + basis z on the grid ---------------------+
    ```

    It has one of the two parts or both. The linear part also gives the first latent: its projection
    of the signal, 0 where there is none.

    Args:
        name: in `IMPLICIT`.
        hyperparameters: the settings it was built from.
        coordinates: of the grid; a buffer, but not part of the state: a file has the grid.
        channels: of a value.
        rates: of the inner loop.
        siren: the network of sines, or None.
        linear: the linear part, or None.

    Source: COIN++ (arXiv:2201.12904); the linear part is ours.
    """

    coordinates: Float[Tensor, "n d"]

    def __init__(
        self,
        name: str,
        hyperparameters: Mapping[str, Any],
        coordinates: Float[Tensor, "n d"],
        channels: int,
        rates: Rates,
        siren: ModulatedSiren | None,
        linear: Linear | None,
    ):
        super().__init__()
        self.name, self.channels = name, channels
        self.hyperparameters = dict(hyperparameters)
        self.latent = rates.rates.numel()
        self.register_buffer("coordinates", coordinates, persistent=False)
        self.rates, self.siren, self.linear = rates, siren, linear

    def at(self, points: Int[Tensor, " k"] | None = None) -> Decode:
        """Return the model as a function of latents, bound to some points of its grid.

        What does not depend on a latent is computed here, once.

        Args:
            points: places in the grid; all of it if None.
        """
        parts: list[Decode] = []
        if self.linear is not None:
            parts.append(self.linear.at(points))
        if self.siren is not None:
            where = self.coordinates if points is None else self.coordinates[points]
            parts.append(self.siren.at(where))

        def decode(z: Tensor) -> Tensor:
            y_hat = parts[0](z)
            for part in parts[1:]:
                y_hat = y_hat + part(z)
            return y_hat

        return decode

    def decode(
        self, z: Float[Tensor, "b latent"], points: Int[Tensor, " k"] | None = None
    ) -> Float[Tensor, "b k c"]:
        """Return the values of each item, about in [0, 1] and not clamped.

        Args:
            z: latents.
            points: places in the grid; all of it if None.
        """
        return self.at(points)(z)

    def forward(
        self, z: Float[Tensor, "b latent"], points: Int[Tensor, " k"] | None = None
    ) -> Float[Tensor, "b k c"]:
        """Decode, so that `torch.func.functional_call` can."""
        return self.decode(z, points)

    def first(
        self, y: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b latent"]:
        """Return where the inner loop begins for each item.

        Args:
            y: values on the whole grid; those outside the mask may be anything.
            mask: where there is a value; everywhere if None.
        """
        if self.linear is None:
            return torch.zeros(len(y), self.latent, dtype=y.dtype, device=y.device)
        return self.linear.project(y, mask)

    def start_from(self, pca: Pca) -> None:
        """Let the linear part become principal components.

        Raises `DataError` if there is no such part, or if they are of another shape.
        """
        if self.linear is None:
            raise DataError(f"{self.name!r} has no linear part to start from components")
        self.linear.start_from(pca)


@dataclass(frozen=True)
class LatentSettings(Settings):
    """What is sent for each patch."""

    latent: int = option(64, between(1, 65536))
    """Entries of a latent."""


@dataclass(frozen=True)
class CoinppSettings(LatentSettings):
    """The paper's network; its largest form, for photographs."""

    width: int = option(512, between(1, 4096))
    """Of each layer of sines."""
    layers: int = option(10, at_least(2))
    """The linear output layer included."""
    w0: float = option(50.0, POSITIVE)
    """Frequency of the sines."""
    scales: bool = option(False)
    """Whether a latent says scales beside shifts."""
    rate: float = option(0.01, SHARE)
    """Of the inner loop."""
    learned_rates: bool = option(False)
    """Whether each entry of a latent has a rate of its own, which is learned."""


@dataclass(frozen=True)
class LinearCoinppSettings(CoinppSettings):
    """A network that a CPU trains in minutes."""

    width: int = option(64, between(1, 4096))
    layers: int = option(5, at_least(2))
    w0: float = option(30.0, POSITIVE)
    rate: float = option(0.1, SHARE)
    learned_rates: bool = option(True)


@dataclass(frozen=True)
class LinearSettings(LatentSettings):
    """A mean and a basis; the inner loop has something to do only where points are masked."""

    rate: float = option(0.5, SHARE)
    """Of the inner loop; with 1/2, a step is that of Newton where no point is masked."""


@dataclass(frozen=True)
class _Sines:
    """Builds a network of sines, by itself or beside a linear part, where it gives 0 at first."""

    name: str
    settings: type[CoinppSettings]
    beside_linear: bool

    def __call__(
        self, coordinates: Float[Tensor, "n d"], channels: int, **settings: Any
    ) -> ImplicitModel:
        own = self.settings(**settings)
        siren = Siren(
            coordinates.shape[1],
            channels,
            own.width,
            own.layers,
            own.w0,
            0.0 if self.beside_linear else CENTRE,
        )
        linear = Linear(len(coordinates), channels, own.latent) if self.beside_linear else None
        if linear is not None:
            siren.silence()
        modulation = Modulation(own.latent, siren.num_modulations, own.scales)
        rates = Rates(own.latent, own.rate, own.learned_rates)
        modulated = ModulatedSiren(siren, modulation)
        return ImplicitModel(self.name, write(own), coordinates, channels, rates, modulated, linear)


@dataclass(frozen=True)
class _Linear:
    """Builds a linear part alone, which learns or stays what it starts from."""

    name: str
    learns: bool

    def __call__(
        self, coordinates: Float[Tensor, "n d"], channels: int, latent: int, rate: float
    ) -> ImplicitModel:
        settings = LinearSettings(latent, rate)
        linear = Linear(len(coordinates), channels, latent).requires_grad_(self.learns)
        rates = Rates(latent, rate, learned=False)
        return ImplicitModel(self.name, write(settings), coordinates, channels, rates, None, linear)


_TINY = {"latent": 4, "width": 8, "layers": 3}
# `IMPLICIT[name](coordinates, channels, **settings)` builds one. Linear parts give 0 until
# `start_from` tells them the components, or a state is loaded.
IMPLICIT: dict[str, Choice[ImplicitModel]] = {
    "coinpp": Choice(_Sines("coinpp", CoinppSettings, False), CoinppSettings, tiny=_TINY),
    "linear-coinpp": Choice(
        _Sines("linear-coinpp", LinearCoinppSettings, True), LinearCoinppSettings, tiny=_TINY
    ),
    "linear": Choice(_Linear("linear", learns=True), LinearSettings, tiny={"latent": 4}),
    "pca": Choice(_Linear("pca", learns=False), LinearSettings, tiny={"latent": 4}),
}
