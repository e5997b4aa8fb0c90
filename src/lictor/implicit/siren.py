"""A network of sines that gives values at points, shifted by what is known of one signal.

With h_0 the point, layer l < L is h_l = sin(w0 (A_l h_{l-1} + c_l + s_l)); the last is linear.
"""

import itertools
import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# Values at fixed points for a batch of shifts and, where the network has them, scales.
Shifted = Callable[
    [Float[Tensor, "b m"], Float[Tensor, "b m"] | None],
    Float[Tensor, "b n c"],
]

# Where the values of a signal scaled to [0, 1] are centred.
CENTRE = 0.5


class _SinCos(torch.autograd.Function):
    """Sine and cosine at once: each is the other's derivative, however often one differentiates.

    `torch.sin` computes a cosine when it is differentiated, and differentiated twice a sine again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sin(u), torch.cos(u)

    @staticmethod
    def setup_context(ctx, inputs, output):
        del inputs
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grads: Tensor | None) -> Tensor | None:
        of_sine, of_cosine = grads
        sine, cosine = ctx.saved_tensors
        if of_cosine is None:
            return None if of_sine is None else of_sine * cosine
        if of_sine is None:
            return -(of_cosine * sine)
        return torch.addcmul(of_sine * cosine, of_cosine, sine, value=-1)


def sine(u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the sine, made for being differentiated more than once."""
    if not u.requires_grad:
        return torch.sin(u)
    return _SinCos.apply(u)[0]  # pyright: ignore[reportOptionalSubscript]


class Siren(nn.Module):
    """Sines of affine maps, with room for a shift (and a scale) in each but the last.

    ```
    point --> A_1, c_1 --> * scale_1 + s_1 --> sin(w0 .) --> ... --> A_L, c_L --> + centre
    ```

    Shifts are added before w0 multiplies, and each layer has the same w0. Weights *and* biases of a
    layer begin uniform on +-r, with r = 1/in_features for the first and sqrt(6 / fan-in) / w0
    for the others.

    Args:
        in_features: dimensions of a point.
        out_features: channels of a value.
        width: of all layers but the last.
        layers: their number, the last included: at least 2.
        w0: frequency.
        centre: what is added to the output, which is about 0 at first.

    Source: Sitzmann et al. (arXiv:2006.09661); COIN++ (arXiv:2201.12904) in its official code.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int,
        layers: int,
        w0: float,
        centre: float = CENTRE,
    ):
        super().__init__()
        self.w0, self.centre, self.width = w0, centre, width
        features = [in_features, *[width] * (layers - 1), out_features]
        self.layers = nn.ModuleList(
            nn.Linear(fan_in, fan_out) for fan_in, fan_out in itertools.pairwise(features)
        )
        for i, layer in enumerate(self._linear()):
            fan_in = layer.in_features
            bound = 1 / fan_in if i == 0 else math.sqrt(6 / fan_in) / w0
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.uniform_(layer.bias, -bound, bound)

    def _linear(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    @property
    def num_modulations(self) -> int:
        """How many shifts there are: one for each sine, those of the first layer first."""
        return self.width * (len(self.layers) - 1)

    def silence(self) -> None:
        """Let the output layer give nothing but the centre, until it learns."""
        last = self._linear()[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def at(self, points: Float[Tensor, "n d"]) -> Shifted:
        """Return the network at these points, as a function of shifts and scales.

        What does not depend on them is computed here, once: the affine map of the points, and w0
        inside all weights. A layer is then one product of matrices with a row for each point of
        each item.
        """
        first, *hidden, last = self._linear()
        lifted = F.linear(points, self.w0 * first.weight, self.w0 * first.bias)
        inner = [((self.w0 * a.weight).t(), self.w0 * a.bias) for a in hidden]
        outer = last.weight.t(), last.bias + self.centre

        def values(shifts: Tensor, scales: Tensor | None) -> Tensor:
            items, n = len(shifts), len(points)
            added = (self.w0 * shifts).unflatten(1, (-1, 1, self.width)).unbind(1)
            if scales is None:
                factors = None
                u = lifted + added[0]
            else:
                factors = scales.unflatten(1, (-1, 1, self.width)).unbind(1)
                u = torch.addcmul(added[0], factors[0], lifted)
            h = sine(u).flatten(0, 1)
            for i, (weight, bias) in enumerate(inner, 1):
                if factors is None:  # both biases at once
                    u = torch.mm(h, weight).unflatten(0, (items, n)) + (added[i] + bias)
                else:
                    affine = torch.addmm(bias, h, weight).unflatten(0, (items, n))
                    u = torch.addcmul(added[i], factors[i], affine)
                h = sine(u).flatten(0, 1)
            return torch.addmm(outer[1], h, outer[0]).unflatten(0, (items, n))

        return values

    def forward(
        self,
        points: Float[Tensor, "n d"],
        shifts: Float[Tensor, "b m"],
        scales: Float[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """Return the values of each item at points that all share.

        Args:
            points: as the network was trained on; no range is asked.
            shifts: one for each sine, layer by layer.
            scales: one for each sine, which multiplies its affine map before the shift; 1 if None.
        """
        return self.at(points)(shifts, scales)
