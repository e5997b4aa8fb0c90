"""How far single values and single channels stick out of latents and activations.

Outliers are what quantization feels: a grid that holds them is coarse for all the rest. A tensor is
looked at as `n` samples of `c` channels; a feature map has a sample at each pixel. Latents are
legitimately uneven across channels (a transform that compacts energy makes them so): compare codecs
at equal rate and distortion.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from lictor.codecs.learned import Codec
from lictor.coders import RateCoder, Shape
from lictor.coding.tables import CdfTables
from lictor.data.images import image_to_tensor
from lictor.errors import DataError
from lictor.models.base import AbstractCodecModel
from lictor.ops import pad_to_multiple
from lictor.priors.base import AbstractPrior
from lictor.priors.conditional import AbstractConditionalPrior
from lictor.ptq.fake_quant import LAYERS, ActivationGrid
from lictor.ptq.layer import QuantizedLayer, channel_axis

Samples = Float[Tensor, "n c"]
_LEAST = 1e-12
FAR = 6.0


def channel_kurtosis(x: Samples) -> float:
    """Return `mean_j s_j^4 / (mean_j s_j^2)^2`, `s_j` being channel j's root mean square.

    From 1 (all channels alike) to `c` (one channel only); NaN for zeros. Source: He et al., NeurIPS
    2024 (arXiv:2405.19279), whose formula we know from general knowledge. Nothing is centred.
    """
    squares = x.double().square().mean(0)
    return float(squares.square().mean() / squares.mean().square())


def max_median_ratios(x: Samples) -> Float[Tensor, " n"]:
    """Return each sample's `max_j |x_j| / median_j |x_j|`.

    The median is at least 1e-12, so that silent channels give a huge ratio, not a division by
    zero; the mean over samples suffers from them, the median does not. Source: He et al. as above.
    """
    sizes, count = x.abs(), x.shape[1]
    middle = sizes.kthvalue((count + 1) // 2, 1).values + sizes.kthvalue(count // 2 + 1, 1).values
    return sizes.amax(1) / (middle / 2).clamp_min(_LEAST)


def element_kurtosis(x: Float[Tensor, "..."]) -> float:
    """Return `E[(x - mu)^4] / Var^2` over all elements: 3 for a Gaussian, 6 for a Laplacian."""
    centred = x.double() - x.double().mean()
    return float(centred.pow(4).mean() / centred.square().mean().square())


def range_over_sigma(x: Float[Tensor, "..."]) -> float:
    """Return the largest distance from the mean in standard deviations, over all elements."""
    centred = x.double() - x.double().mean()
    return float(centred.abs().max() / centred.square().mean().sqrt())


def share_beyond(x: Float[Tensor, "..."], sigmas: float = FAR) -> float:
    """Return the share of elements, 0 to 1, further from the mean than so many deviations."""
    centred = x.double() - x.double().mean()
    return float((centred.abs() > sigmas * centred.square().mean().sqrt()).double().mean())


def sqnr(x: Float[Tensor, "..."], bits: int = 8) -> float:
    """Return the signal-to-noise ratio in dB of a min-max grid over the tensor; infinite at none.

    The signal is the mean square, nothing subtracted.
    """
    grid = ActivationGrid.from_range(float(x.min()), float(x.max()), bits)
    noise = float((grid.fake_quantize(x.double()) - x).square().mean())
    return math.inf if noise == 0 else 10 * math.log10(float(x.double().square().mean()) / noise)


@dataclass(frozen=True)
class Outliers:
    """All measures of one tensor; `beyond` is the share beyond six deviations, `sqnr` in dB."""

    channel_kurtosis: float
    max_median_mean: float
    max_median_median: float
    element_kurtosis: float
    range_over_sigma: float
    beyond: float
    sqnr: float


METRICS = tuple(field.name for field in fields(Outliers))
MEASURES = (
    "channel_kurtosis",
    "max_median_ratios",
    "element_kurtosis",
    "range_over_sigma",
    "share_beyond",
    "sqnr",
)


def outliers(x: Samples) -> Outliers:
    """Measure a tensor."""
    ratios = max_median_ratios(x)
    return Outliers(
        channel_kurtosis(x),
        float(ratios.mean()),
        float(ratios.median()),
        element_kurtosis(x),
        range_over_sigma(x),
        share_beyond(x),
        sqnr(x),
    )


@dataclass(frozen=True)
class TensorReport:
    """What a tensor was like: a latent, or the output of a layer.

    Each measure is the mean over the pictures for which it is finite (a constant tensor has no
    kurtosis), and what the first picture gives if there is none. `part` is `latent` or the network
    that the layer is in, such as g_a.
    """

    name: str
    part: str
    channels: int
    measures: Outliers


@dataclass(frozen=True)
class CodecReport:
    """All tensors of a codec, in the order of the data path; escape symbols of each picture."""

    codec: str
    tensors: tuple[TensorReport, ...]
    escapes: Mapping[str, float]
    num_pictures: int

    def worst(self, part: str) -> Outliers:
        """Return the largest of each measure over a part's tensors (of SQNR, the smallest).

        A tensor for which a measure is NaN does not count; NaN if that is all of them.
        """
        rows = [asdict(t.measures) for t in self.tensors if t.part == part]
        most = {key: float(np.fmax.reduce([row[key] for row in rows])) for key in METRICS}
        return Outliers(**{**most, "sqnr": float(np.fmin.reduce([row["sqnr"] for row in rows]))})

    @property
    def parts(self) -> tuple[str, ...]:
        """The networks, in order."""
        return tuple(dict.fromkeys(t.part for t in self.tensors if t.part != "latent"))


class _Recorder:
    """A coder that rounds as a codec does and remembers what it was given."""

    def __init__(self, tables: Mapping[str, CdfTables]):
        self._coder, self._tables = RateCoder(), tables
        self.latents: dict[str, list[Tensor]] = {}
        self.escapes: dict[str, int] = {}

    def code(
        self,
        name: str,
        latent: Float[Tensor, "b c h w"] | None,
        prior: AbstractPrior,
        *params: Tensor,
        shape: Shape,
    ) -> Float[Tensor, "b c h w"]:
        """Round a latent; see `LatentCoder`."""
        assert latent is not None
        residual = prior.residual(latent, params)
        centered = residual is not latent
        self._keep(name, latent)
        if centered:
            self._keep(f"{name} - mu", residual)
        if isinstance(prior, AbstractConditionalPrior):
            self._keep(
                f"({name} - mu) / sigma" if centered else f"{name} / sigma",
                residual / prior.deviations(params[-1]),
            )
        table = self._tables[name]
        rows = prior.indexes(shape, params, table).contiguous().numpy()
        symbols = residual.round().numpy() - table.offset[rows]
        outside = (symbols < 0) | (symbols >= table.lengths[rows] - 1)
        self.escapes[name] = self.escapes.get(name, 0) + int(outside.sum())
        return self._coder.code(name, latent, prior, *params, shape=shape)

    def _keep(self, name: str, latent: Tensor) -> None:
        self.latents.setdefault(name, []).append(_samples(latent, 1))


def _samples(x: Float[Tensor, "..."], axis: int) -> Samples:
    return x.movedim(axis, -1).reshape(-1, x.shape[axis])


def _watched(model: AbstractCodecModel) -> dict[str, nn.Module]:
    """Return the layers whose outputs count: of integers or not, but not the inside of one."""
    layers = dict[str, nn.Module]()
    for name, module in model.named_modules():
        inside = name.rpartition(".")[0] in layers
        if isinstance(module, (QuantizedLayer, *LAYERS)) and not inside:
            layers[name] = module
    return layers


@contextmanager
def _measuring(
    layers: Mapping[str, nn.Module], into: Callable[[str, Samples], None]
) -> Iterator[None]:
    def hook(name: str):
        def show(module: nn.Module, args: object, out: Tensor) -> None:
            del args
            into(name, _samples(out.cpu(), channel_axis(module, out)))

        return show

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def codec_outliers(name: str, codec: Codec, pictures: Sequence[NDArray[np.uint8]]) -> CodecReport:
    """Compress whole pictures and return what latents and layers' outputs were like.

    Pictures are uint8 arrays `h w c`, each of its own size. Raises `DataError` without pictures.
    """
    if not pictures:
        raise DataError("outliers are measured on pictures; there is none")
    model = codec.model
    sums: dict[str, list[Outliers]] = {}
    channels: dict[str, int] = {}
    escapes: dict[str, list[int]] = {}

    def add(tensor: str, x: Samples) -> None:
        channels[tensor] = x.shape[1]
        sums.setdefault(tensor, []).append(outliers(x))

    layers = _watched(model)
    for image in pictures:
        recorder = _Recorder(codec.tables)
        x = pad_to_multiple(image_to_tensor(image), model.stride)
        x = x.contiguous(memory_format=torch.channels_last)
        with _measuring(layers, add):
            shape = model.padded_shape(1, *image.shape[:2])
            latents = {n: t.cpu() for n, t in model.analyse(x.to(codec.device)).items()}
            quantized = model.code(recorder, latents, shape)
            model.synthesise({n: t.to(codec.device) for n, t in quantized.items()})
        for latent, parts in recorder.latents.items():
            add(latent, torch.cat(parts))
        for latent, count in recorder.escapes.items():
            escapes.setdefault(latent, []).append(count)
    order = [*(n for n in sums if n not in layers), *(n for n in layers if n in sums)]
    tensors = [
        TensorReport(n, n.split(".")[0] if n in layers else "latent", channels[n], _mean(sums[n]))
        for n in order
    ]
    means = {latent: float(np.mean(counts)) for latent, counts in escapes.items()}
    return CodecReport(name, tuple(tensors), means, len(pictures))


def _mean(measured: Sequence[Outliers]) -> Outliers:
    def mean(values: Sequence[float]) -> float:
        finite = [value for value in values if math.isfinite(value)]
        return float(np.mean(finite)) if finite else values[0]

    rows = [asdict(each) for each in measured]
    return Outliers(**{key: mean([row[key] for row in rows]) for key in METRICS})
