"""Models that predict a latent from the part of it that is already decoded."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lictor.coders import LatentCoder, Shape
from lictor.config import Settings, between, option
from lictor.layers.blocks import ResidualBlock, conv1x1, conv3x3, damped, downsample, upsample
from lictor.layers.checkerboard import (
    CheckerboardConv,
    checkerboard_join,
    checkerboard_split,
)
from lictor.layers.entropy_network import EntropyNetwork
from lictor.layers.shortcut import LinearAnalysis, LinearSynthesis
from lictor.models.base import WIDTH, AbstractCodecModel, Latents, latent_shape
from lictor.priors.base import AbstractPrior
from lictor.priors.table import PriorSettings, build_priors, told_priors


@dataclass(frozen=True)
class CheckerboardWidths(Settings):
    """How wide and how deep; as the codec that ships is."""

    n: int = option(128, WIDTH)
    """Channels at 1/8 of the size; half as many at 1/4."""
    m: int = option(128, WIDTH)
    """Channels of the latent."""
    depth: int = option(3, between(1, 256))
    """checkerboard: residual blocks at 1/8 each way."""


@dataclass(frozen=True)
class CheckerboardSettings(PriorSettings, CheckerboardWidths):
    """The widths and the depth, and the densities of both latents."""


class CheckerboardModel(AbstractCodecModel):
    """A fast codec: work at 1/8 of the size, a hyperprior, and a two-step checkerboard context.

    ```
    x -> unshuffle 4 -> conv, block -> conv /2 -> blocks -> conv /2 -> (+) -> y            (g_a)
    x -> 16x16 DCT, learned further ---------------------------------^
    y -> h_a -> z -> code("z") -> h_s -> features
    code("y", even half | features)            -> y_even
    code("y", odd half  | features, y_even)    -> y_odd
    y_hat = join(y_even, y_odd)
    y_hat -> shuffle 2 -> blocks -> shuffle 2 -> block -> shuffle 4 -> (+) -> x_hat        (g_s)
    y_hat -> inverse 16x16 DCT, learned further ----------------------^
    ```

    `n` channels at 1/8, `m` latent channels at 1/16, `n / 2` at 1/4, `depth` residual blocks at 1/8
    each way. Source of the context: He et al., CVPR 2021 (arXiv:2103.15306); the transforms are our
    own, in the manner of codecs that work at a single low resolution.
    """

    name = "checkerboard"
    stride = 64

    def __init__(
        self,
        n: int = CheckerboardWidths.n,
        m: int = CheckerboardWidths.m,
        depth: int = CheckerboardWidths.depth,
        prior: str = PriorSettings.prior,
        prior_z: str = PriorSettings.prior_z,
        scale_bound: float | None = None,
        beta: float | None = None,
    ):
        super().__init__()
        self.n, self.m, self.depth = n, m, depth
        thin = n // 2
        analysis = nn.Sequential(
            nn.PixelUnshuffle(4),
            conv3x3(16 * self.in_channels, thin),
            ResidualBlock(thin),
            downsample(thin, n, kernel_size=3),
            *(ResidualBlock(n) for _ in range(depth)),
            damped(downsample(n, m, kernel_size=3)),
        )
        synthesis = nn.Sequential(
            conv1x1(m, 4 * n),
            nn.PixelShuffle(2),
            *(ResidualBlock(n) for _ in range(depth)),
            conv1x1(n, 4 * thin),
            nn.PixelShuffle(2),
            ResidualBlock(thin),
            damped(conv3x3(thin, 16 * self.in_channels)),
            nn.PixelShuffle(4),
        )
        self.g_a = LinearAnalysis(analysis, m, 16)
        self.g_s = LinearSynthesis(synthesis, m, 16)
        self.h_a = nn.Sequential(
            conv3x3(m, thin),
            nn.LeakyReLU(0.1),
            downsample(thin, thin),
            nn.LeakyReLU(0.1),
            downsample(thin, thin),
        )
        self.h_s = EntropyNetwork(
            nn.Sequential(
                upsample(thin, thin),
                nn.LeakyReLU(0.1),
                upsample(thin, n),
                nn.LeakyReLU(0.1),
                conv1x1(n, 2 * m),
            )
        )
        self.parameters_even = EntropyNetwork(
            nn.Sequential(conv1x1(2 * m, 2 * m), nn.LeakyReLU(0.1), conv1x1(2 * m, 2 * m))
        )
        self.context = EntropyNetwork(CheckerboardConv(m, m, 5))
        self.parameters_odd = EntropyNetwork(
            nn.Sequential(conv1x1(3 * m, 3 * m), nn.LeakyReLU(0.1), conv1x1(3 * m, 2 * m))
        )
        self.prior_y, self.prior_z = build_priors(thin, prior, prior_z, scale_bound, beta)

    def hyperparameters(self) -> Mapping[str, int | float | str]:
        """Return N, M and the depth, and the priors where they are not the customary ones."""
        widths = {"n": self.n, "m": self.m, "depth": self.depth}
        return {**widths, **told_priors(self.prior_y, self.prior_z)}

    def priors(self) -> Mapping[str, AbstractPrior]:
        """Return the priors of z and y."""
        return {"z": self.prior_z, "y": self.prior_y}

    def analyse(self, x: Float[Tensor, "b c hp wp"]) -> Latents:
        """Run g_a and h_a."""
        y = self.g_a(x)
        return {"z": self.h_a(y), "y": y}

    def code(self, coder: LatentCoder, latents: Latents | None, shape: Shape) -> Latents:
        """Quantize and code z, then one half of y, then the other half knowing the first."""
        batch, channels, height, width = latent_shape(shape, self.m, 16)
        half = (batch, channels, height, width // 2)
        z = None if latents is None else latents["z"]
        y_even, y_odd = (None, None) if latents is None else checkerboard_split(latents["y"])

        z_hat = coder.code("z", z, self.prior_z, shape=latent_shape(shape, self.n // 2, 64))
        features_even, features_odd = checkerboard_split(self.h_s(z_hat))

        means, scales = self.parameters_even(features_even).chunk(2, 1)
        even = coder.code("y", y_even, self.prior_y, means, scales, shape=half)

        context_odd = self.context(even).to(features_odd.dtype)
        features_odd = torch.cat([features_odd, context_odd], 1)
        means, scales = self.parameters_odd(features_odd).chunk(2, 1)
        odd = coder.code("y", y_odd, self.prior_y, means, scales, shape=half)

        return {"z": z_hat, "y": checkerboard_join(even, odd)}

    def synthesise(self, quantized: Latents) -> Float[Tensor, "b c hp wp"]:
        """Run g_s."""
        return self.g_s(quantized["y"])
