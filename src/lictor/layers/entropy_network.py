"""The one place where networks become the parameters of a probability.

Encoder and decoder must reach the same means and scales to the last bit, or the entropy decoder
reads noise. Whatever a model computes from decoded symbols to steer the coder (hyper-synthesis,
context models) is therefore wrapped in an `EntropyNetwork`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from lictor.coding.program import FRACTION_BITS
from lictor.layers.integer_network import IntegerNetwork


class EntropyNetwork(nn.Module):
    """Run `net` as it is while training; reproducibly once frozen.

    A frozen network that has `integers` is those: sums, products and shifts of integers, the same
    on every machine, with a proof (`coding.program`). `net` then is only what they were made from.

    One without, of a codec file of a former format, runs in float64, and its output is rounded to
    multiples of 2^-10. Two machines then disagree only if a sum lands within about 1e-13 of a
    rounding boundary. That is rare, not impossible: the file's symbol checksum turns it into a
    `DesyncError`.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.frozen = False
        self.integers: IntegerNetwork | None = None

    def freeze(self) -> None:
        """Switch to the reproducible evaluation; there is no way back."""
        self.frozen = True
        self.net.double().requires_grad_(False).eval()

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hd wd"]:
        """Map decoded features to parameters, float32 when frozen."""
        if has_torch_function_unary(features):  # a tensor that notes what becomes of it
            return handle_torch_function(EntropyNetwork.forward, (features,), self, features)
        if not self.frozen:
            return self.net(features)
        if self.integers is not None:
            return self.integers(features)
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            output = self.net(features.double())
            return torch.round(output * 2**FRACTION_BITS).div_(2**FRACTION_BITS).float()
