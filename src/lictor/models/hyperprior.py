"""The hyperprior family of the literature, with its layers and widths.

`n` and `m` are the papers' N (hidden channels) and M (latent channels).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from lictor.coders import LatentCoder, Shape
from lictor.config import Settings, option
from lictor.layers.blocks import conv3x3, downsample, upsample
from lictor.layers.entropy_network import EntropyNetwork
from lictor.layers.gdn import GDN
from lictor.models.base import WIDTH, AbstractCodecModel, Latents, latent_shape
from lictor.priors.base import AbstractPrior
from lictor.priors.factorized import FactorizedPrior
from lictor.priors.table import PriorSettings, build_priors, told_priors


@dataclass(frozen=True)
class Widths(Settings):
    """The papers' N and M; their values at low rates."""

    n: int = option(128, WIDTH)
    """Hidden channels."""
    m: int = option(192, WIDTH)
    """Channels of the latent."""


@dataclass(frozen=True)
class HyperpriorSettings(PriorSettings, Widths):
    """The widths, and the densities of both latents."""


def _analysis(in_channels: int, n: int, m: int) -> nn.Sequential:
    return nn.Sequential(
        downsample(in_channels, n),
        GDN(n),
        downsample(n, n),
        GDN(n),
        downsample(n, n),
        GDN(n),
        downsample(n, m),
    )


def _synthesis(out_channels: int, n: int, m: int) -> nn.Sequential:
    return nn.Sequential(
        upsample(m, n),
        GDN(n, inverse=True),
        upsample(n, n),
        GDN(n, inverse=True),
        upsample(n, n),
        GDN(n, inverse=True),
        upsample(n, out_channels),
    )


class FactorizedModel(AbstractCodecModel):
    """Transform coding with one learned density per latent channel.

    ```
    x --> g_a: conv 5x5 /2, 3 x [GDN, conv] --> y --> code("y") --> y_hat
    y_hat --> g_s: deconv 5x5 x2, 3 x [IGDN, deconv] --> x_hat
    ```

    Source: Balle et al., ICLR 2017 (arXiv:1611.01704) in the form that Balle et al., ICLR 2018
    (arXiv:1802.01436) compare with: N=128, M=192 at low rates, N=192, M=320 at high ones.
    """

    name = "bmshj2018-factorized"
    stride = 16

    def __init__(self, n: int = Widths.n, m: int = Widths.m):
        super().__init__()
        self.n, self.m = n, m
        self.g_a = _analysis(self.in_channels, n, m)
        self.g_s = _synthesis(self.in_channels, n, m)
        self.prior_y = FactorizedPrior(m)

    def hyperparameters(self) -> Mapping[str, int | float | str]:
        """Return N and M."""
        return {"n": self.n, "m": self.m}

    def priors(self) -> Mapping[str, AbstractPrior]:
        """Return the prior of y."""
        return {"y": self.prior_y}

    def analyse(self, x: Float[Tensor, "b c hp wp"]) -> Latents:
        """Run g_a."""
        return {"y": self.g_a(x)}

    def code(self, coder: LatentCoder, latents: Latents | None, shape: Shape) -> Latents:
        """Quantize and code y."""
        y = None if latents is None else latents["y"]
        return {"y": coder.code("y", y, self.prior_y, shape=latent_shape(shape, self.m, 16))}

    def synthesise(self, quantized: Latents) -> Float[Tensor, "b c hp wp"]:
        """Run g_s."""
        return self.g_s(quantized["y"])


class HyperpriorModel(AbstractCodecModel):
    """A hyper-latent tells the scale of every latent.

    ```
    x --> g_a --> y -------------------------+
                  |                          v
                 |y| --> h_a --> z       code("y", scales) --> y_hat --> g_s --> x_hat
                             |               ^
                         code("z") --> h_s --+
    ```

    Source: Balle et al., ICLR 2018 (arXiv:1802.01436), figure 4: h_a and h_s have three layers
    with rectifiers, N=128, M=192 at low rates, N=192, M=320 at high ones.
    """

    name = "bmshj2018-hyperprior"
    stride = 64

    def __init__(
        self,
        n: int = Widths.n,
        m: int = Widths.m,
        prior: str = PriorSettings.prior,
        prior_z: str = PriorSettings.prior_z,
        scale_bound: float | None = None,
        beta: float | None = None,
    ):
        super().__init__()
        self.n, self.m = n, m
        self.g_a = _analysis(self.in_channels, n, m)
        self.g_s = _synthesis(self.in_channels, n, m)
        self.h_a = nn.Sequential(
            conv3x3(m, n), nn.ReLU(), downsample(n, n), nn.ReLU(), downsample(n, n)
        )
        self.h_s = EntropyNetwork(
            nn.Sequential(
                upsample(n, n), nn.ReLU(), upsample(n, n), nn.ReLU(), conv3x3(n, m), nn.ReLU()
            )
        )
        self.prior_y, self.prior_z = build_priors(n, prior, prior_z, scale_bound, beta)

    def hyperparameters(self) -> Mapping[str, int | float | str]:
        """Return N and M, and the priors where they are not the customary ones."""
        return {"n": self.n, "m": self.m, **told_priors(self.prior_y, self.prior_z)}

    def priors(self) -> Mapping[str, AbstractPrior]:
        """Return the priors of z and y."""
        return {"z": self.prior_z, "y": self.prior_y}

    def analyse(self, x: Float[Tensor, "b c hp wp"]) -> Latents:
        """Run g_a and h_a."""
        y = self.g_a(x)
        return {"z": self.h_a(y.abs()), "y": y}

    def code(self, coder: LatentCoder, latents: Latents | None, shape: Shape) -> Latents:
        """Quantize and code z, then y with the scales that z tells."""
        z, y = (None, None) if latents is None else (latents["z"], latents["y"])
        z_hat = coder.code("z", z, self.prior_z, shape=latent_shape(shape, self.n, 64))
        scales = self.h_s(z_hat)
        y_hat = coder.code("y", y, self.prior_y, scales, shape=latent_shape(shape, self.m, 16))
        return {"z": z_hat, "y": y_hat}

    def synthesise(self, quantized: Latents) -> Float[Tensor, "b c hp wp"]:
        """Run g_s."""
        return self.g_s(quantized["y"])


class MeanScaleHyperpriorModel(AbstractCodecModel):
    """A hyper-latent tells the mean and the scale of every latent.

    ```
    x --> g_a --> y -----------------------------+
                  |                              v
                  h_a --> z              code("y", means, scales) --> y_hat --> g_s --> x_hat
                          |                      ^
                      code("z") --> z_hat --> h_s
    ```

    Source: Minnen, Balle, Toderici, NeurIPS 2018 (arXiv:1809.02736), the variant without the
    autoregressive model: leaky rectifiers in h_a and h_s, h_s widens to 3/2 M and 2 M.
    """

    name = "mbt2018-mean"
    stride = 64

    def __init__(
        self,
        n: int = Widths.n,
        m: int = Widths.m,
        prior: str = PriorSettings.prior,
        prior_z: str = PriorSettings.prior_z,
        scale_bound: float | None = None,
        beta: float | None = None,
    ):
        super().__init__()
        self.n, self.m = n, m
        self.g_a = _analysis(self.in_channels, n, m)
        self.g_s = _synthesis(self.in_channels, n, m)
        self.h_a = nn.Sequential(
            conv3x3(m, n), nn.LeakyReLU(), downsample(n, n), nn.LeakyReLU(), downsample(n, n)
        )
        self.h_s = EntropyNetwork(
            nn.Sequential(
                upsample(n, m),
                nn.LeakyReLU(),
                upsample(m, m * 3 // 2),
                nn.LeakyReLU(),
                conv3x3(m * 3 // 2, 2 * m),
            )
        )
        self.prior_y, self.prior_z = build_priors(n, prior, prior_z, scale_bound, beta)

    def hyperparameters(self) -> Mapping[str, int | float | str]:
        """Return N and M, and the priors where they are not the customary ones."""
        return {"n": self.n, "m": self.m, **told_priors(self.prior_y, self.prior_z)}

    def priors(self) -> Mapping[str, AbstractPrior]:
        """Return the priors of z and y."""
        return {"z": self.prior_z, "y": self.prior_y}

    def analyse(self, x: Float[Tensor, "b c hp wp"]) -> Latents:
        """Run g_a and h_a."""
        y = self.g_a(x)
        return {"z": self.h_a(y), "y": y}

    def code(self, coder: LatentCoder, latents: Latents | None, shape: Shape) -> Latents:
        """Quantize and code z, then y with the means and scales that z tells."""
        z, y = (None, None) if latents is None else (latents["z"], latents["y"])
        z_hat = coder.code("z", z, self.prior_z, shape=latent_shape(shape, self.n, 64))
        scales, means = self.h_s(z_hat).chunk(2, 1)
        y_hat = coder.code(
            "y", y, self.prior_y, means, scales, shape=latent_shape(shape, self.m, 16)
        )
        return {"z": z_hat, "y": y_hat}

    def synthesise(self, quantized: Latents) -> Float[Tensor, "b c hp wp"]:
        """Run g_s."""
        return self.g_s(quantized["y"])
