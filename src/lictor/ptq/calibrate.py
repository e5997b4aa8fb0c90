"""Ranges of activations, observed while a model compresses calibration crops."""

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lictor.data.crops import Crops, batch_to_tensor
from lictor.data.folder import ImageFolder
from lictor.data.images import list_images, load_image
from lictor.errors import ConfigError, DataError
from lictor.models.base import AbstractCodecModel
from lictor.ptq.fake_quant import ActivationGrid, Layer, output_axis
from lictor.ptq.layer import LayerBits, channel_axis, input_channels
from lictor.ptq.scheme import Scheme, layers_of, scope_of

_log = logging.getLogger(__name__)
_BINS = 4096
# How far from the grid k/255 a float32 picture may be.
_PICTURE_SLACK = 1e-3
_LEAST_SHARE = 1e-3
# Weights of so many bits and more bear to take over what makes activations hard to quantize.
_FINE = 8
# Large photographs are not held in memory by the dozen; a few have crops enough.
_MOST_BYTES = 2**30


def calibration_pictures(folder: Path, *, most: int = 64, seed: int = 0) -> ImageFolder:
    """Read up to `most` pictures of a folder tree, chosen by the seed, into 1 GiB of memory.

    What cannot be read is named in the log and left out. Raises `DataError` when nothing is left.
    """
    paths = list_images(folder)
    order = np.random.default_rng(seed).permutation(len(paths))
    names, images = list[str](), list[np.ndarray]()
    for number in order:
        try:
            image = load_image(paths[number])
        except DataError as error:
            _log.warning("skipped: %s", error)
            continue
        images.append(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))))
        names.append(str(paths[number].relative_to(folder)))
        if len(images) == most or sum(each.nbytes for each in images) >= _MOST_BYTES:
            break
    if not images:
        raise DataError(f"{folder}: none of its {len(paths)} pictures can be read")
    return ImageFolder(tuple(names), images.__getitem__)


def calibration_crops(
    folder: ImageFolder, *, count: int = 32, size: int = 256, seed: int = 0, batch_size: int = 4
) -> list[Tensor]:
    """Return `count` random crops in batches `b 3 size size`: a pure function of its arguments."""
    crops = Crops(folder, size, count, seed=seed).batch(0)
    return [batch_to_tensor(crops[i : i + batch_size]) for i in range(0, count, batch_size)]


def crop_batches(
    folder: ImageFolder, *, size: int, batch_size: int, seed: int = 0
) -> Iterator[Float[Tensor, "b 3 size size"]]:
    """Yield batches of random crops for ever, to optimize on."""
    crops = Crops(folder, size, batch_size, seed=seed)
    for step in itertools.count():
        yield batch_to_tensor(crops.batch(step))


@dataclass
class Observed:
    """What the input of a layer was like: extremes of each channel, and a histogram of all values.

    `integers` says that all values were whole numbers, `picture` that all were multiples of 1/255
    from 0 to 1, `latent` that the layer is of g_s and looks at the decoded latent itself.
    `crop_lows` and `crop_highs` are the extremes of each crop, `crops channels`.
    """

    low: Float[Tensor, " c"] = field(default_factory=lambda: torch.tensor([math.inf]))
    high: Float[Tensor, " c"] = field(default_factory=lambda: torch.tensor([-math.inf]))
    integers: bool = True
    picture: bool = True
    latent: bool = False
    crop_lows: list[Float[Tensor, " c"]] = field(default_factory=list)
    crop_highs: list[Float[Tensor, " c"]] = field(default_factory=list)
    counts: Float[Tensor, " bins"] = field(
        default_factory=lambda: torch.zeros(_BINS, dtype=torch.float64)
    )

    def see_extremes(self, x: Float[Tensor, "..."], axis: int) -> None:
        """Widen the extremes by a tensor with channels along an axis."""
        crops = x.movedim(axis, 1).flatten(2) if x.dim() > 2 else x.T[None]
        self.crop_lows.extend(crops.amin(2).cpu())
        self.crop_highs.extend(crops.amax(2).cpu())
        self.low = torch.stack(self.crop_lows).amin(0)
        self.high = torch.stack(self.crop_highs).amax(0)
        self.integers = self.integers and bool((x == x.round()).all())
        if self.picture:
            levels = x * 255
            close = (levels - levels.round()).abs().max() < _PICTURE_SLACK
            self.picture = bool(close) and bool(x.min() >= 0) and bool(x.max() <= 1)

    def see_values(self, x: Float[Tensor, "..."], axis: int) -> None:
        """Count a tensor's values; the extremes are known by now."""
        del axis
        low, high = self.range(100)
        if high > low:
            self.counts += torch.histc(x.float(), _BINS, low, high).cpu().double()

    def reach(self, headroom: float) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """Return each channel's extremes; with headroom where the layer looks at the latent.

        Headroom is in standard deviations of the crops' extremes: a channel whose extremes differ
        much from crop to crop has not shown its largest yet.
        """
        if not self.latent or len(self.crop_lows) < 2:
            return self.low, self.high
        lows, highs = torch.stack(self.crop_lows), torch.stack(self.crop_highs)
        return self.low - headroom * lows.std(0), self.high + headroom * highs.std(0)

    def range(self, percentile: float) -> tuple[float, float]:
        """Return the range that `percentile` percent of the values lie in, equal tails cut off."""
        low, high = float(self.low.min()), float(self.high.max())
        if percentile >= 100 or high <= low:
            return low, high
        shares = torch.cumsum(self.counts, 0) / self.counts.sum()
        tail = (1 - percentile / 100) / 2
        first = int(torch.searchsorted(shares, tail))
        last = min(int(torch.searchsorted(shares, 1 - tail)), _BINS - 1)
        step = (high - low) / _BINS
        return low + first * step, low + (last + 1) * step


@contextmanager
def _watching(layers: dict[str, Layer], see: dict[str, Observed], what: str) -> Iterator[None]:
    """Show each layer's input to its `Observed`."""

    def hook(name: str):
        def show(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach()
            getattr(see[name], what)(x, channel_axis(module, x))

        return show

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def observe(model: AbstractCodecModel, crops: Sequence[Tensor]) -> dict[str, Observed]:
    """Run a model, latents rounded, and return what the input of each layer was like.

    `crops` are batches `b 3 h w` in [0, 1]; the model may be on a device. Raises
    `DataError` without crops, or where an input is not finite.
    """
    if not crops:
        raise DataError("calibration needs at least one crop")
    device = next(model.parameters()).device
    layers = layers_of(model)
    seen = {name: Observed() for name in layers}
    latents = _layers_at_the_latent(model, crops[0].to(device))
    for name in latents:
        seen[name].latent = True
    training = model.training
    model.eval()
    try:
        for what in (Observed.see_extremes.__name__, Observed.see_values.__name__):
            with _watching(layers, seen, what):
                for x in crops:
                    model(x.to(device))
            _check_finite(seen)
    finally:
        model.train(training)
    return seen


def _check_finite(seen: Mapping[str, Observed]) -> None:
    for name, observed in seen.items():
        if not np.isfinite(observed.range(100)).all():
            raise DataError(f"the input of {name} is not finite, or no crop gets there")


def _layers_at_the_latent(model: AbstractCodecModel, x: Float[Tensor, "b 3 h w"]) -> list[str]:
    """Return the layers of g_s whose input has the shape of the decoded latent."""
    shapes = dict[str, torch.Size]()

    def hook(name: str):
        def show(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            del module
            shapes[name] = args[0].shape

        return show

    watched = {"g_s": model.get_submodule("g_s"), **layers_of(model, "g_s")}
    handles = [module.register_forward_pre_hook(hook(name)) for name, module in watched.items()]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    latent = shapes.pop("g_s")
    return [name for name, shape in shapes.items() if shape == latent]


@dataclass(frozen=True)
class Ranges:
    """How grids are made of what was observed.

    `percentile` is how many percent of the values a grid must hold, above 50; 100 is min-max.
    `balance` is the exponent `a`, 0 to 1, in the step of input channel `c`, proportional to
    `max|x_c|^a / max|w_c|^(1-a)`: 0 gives all channels one step, 1 each a step of its own range,
    which moves unequal ranges from the activations to the weights. None is 1 for weights of 8 bits
    and more, else 0.5, which fewer bits bear better. The formula is SmoothQuant's (Xiao et al.
    2022, arXiv:2211.10438), which we know from general knowledge. `split` is the share of a layer's
    input channels, 0 to 1, that may be added to give the channels whose rounding hurts most a finer
    step; only balanced channels are split. `latent_split` is the same for layers of the synthesis
    that see the decoded latent: channels cost little at its resolution, and a coarse step there is
    as bad as coarse quantization of the latent itself. With weights under 8 bits `split` holds
    there, too. `headroom`, at least 0, is what balanced channels of the decoded latent get beyond
    what was seen: what is clipped there, a linear synthesis lacks for good. Raises `ConfigError`
    outside of these ranges.
    """

    percentile: float = 100.0
    balance: float | None = None
    split: float = 0.05
    latent_split: float = 0.5
    headroom: float = 2.5

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise ConfigError(f"percentile must be above 50 and at most 100, not {self.percentile}")
        if self.balance is not None and not 0 <= self.balance <= 1:
            raise ConfigError(f"balance must be from 0 to 1, not {self.balance}")
        for share in (self.split, self.latent_split):
            if not 0 <= share <= 1:
                raise ConfigError(f"split must be from 0 to 1, not {share}")
        if not 0 <= self.headroom < math.inf:
            raise ConfigError(f"headroom must be at least 0, not {self.headroom}")

    def exponent(self, weight_bits: int | None) -> float:
        """Return the balance that holds for weights of so many bits."""
        if self.balance is not None:
            return self.balance
        return 1.0 if weight_bits is None or weight_bits >= _FINE else 0.5


MIN_MAX = Ranges()


@dataclass(frozen=True)
class InputGrid:
    """The arguments of a `QuantizedLayer` but for the layer."""

    bits: LayerBits
    steps: Float[Tensor, " c"] | None
    copies: Float[Tensor, " c"] | None = None


def input_grid(
    name: str, layer: Layer, observed: Observed, scheme: Scheme, ranges: Ranges
) -> InputGrid:
    """Return the grids of a layer's input channels; activations have bits.

    The picture is on a grid of 8 bits already, which it keeps at any number of bits. Whole numbers
    (a decoded hyper-latent) get a whole step, so that they stay exact where the bits suffice.
    """
    channels = input_channels(layer)
    bits = scheme.activations
    assert bits is not None
    if observed.picture and scope_of(name) == "g_a":
        return InputGrid(LayerBits(scheme.weights, 8, 0), torch.full((channels,), 1 / 255))
    low, high = observed.range(ranges.percentile)
    if observed.integers:
        grid = _whole_grid(low, high, bits)
        steps = torch.full((channels,), grid.scale)
        return InputGrid(LayerBits(scheme.weights, bits, grid.zero), steps)
    lows, highs = observed.reach(ranges.headroom)
    balance = _balance(layer, torch.maximum(highs, -lows), ranges.exponent(scheme.weights))
    if len(set(balance.tolist())) > 1:  # ranges of the balanced input, its tails cut off alike
        share = (high - low) / max(float(observed.high.max() - observed.low.min()), 1e-30)
        low = share * float((lows / balance).min())
        high = share * float((highs / balance).max())
    grid = ActivationGrid.from_range(low, high, bits)
    steps = balance * grid.scale
    # With few bits the weights mind it more than the latent gains.
    fine = scheme.weights is None or scheme.weights >= _FINE
    share = ranges.latent_split if observed.latent and fine else ranges.split
    copies = _copies(layer, steps, share)
    return InputGrid(LayerBits(scheme.weights, bits, grid.zero), steps / copies, copies)


def _whole_grid(low: float, high: float, bits: int) -> ActivationGrid:
    """Return a grid of whole steps with the seen range in its middle."""
    low, high, top = min(low, 0.0), max(high, 0.0), 2**bits - 1
    step = max(1, math.ceil((high - low) / top))
    zero = round((top - (high + low) / step) / 2)
    return ActivationGrid(bits, float(step), min(max(zero, 0), top))


def _copies(layer: Layer, steps: Float[Tensor, " c"], split: float) -> Float[Tensor, " c"]:
    """Return how often each input channel should enter the layer: the noisiest ones more often.

    The noise of a channel's rounding in the output goes with its squared step times the energy of
    the weights that hear it.
    """
    copies = torch.ones_like(steps)
    if len(set(steps.tolist())) == 1:
        return copies
    axis = 1 - output_axis(layer)
    weight = layer.weight.detach().float()
    heard = weight.square().sum([i for i in range(weight.dim()) if i != axis])
    for _ in range(int(split * len(steps))):
        noise = (steps / copies).square() * heard
        copies[noise.argmax()] += 1
    return copies


def _balance(layer: Layer, reach: Float[Tensor, " c"], exponent: float) -> Float[Tensor, " c"]:
    """Return the relative step of each input channel, 1 the largest, for ranges up to `reach`."""
    if exponent == 0 or getattr(layer, "groups", 1) != 1 or float(reach.max()) == 0:
        return torch.ones_like(reach)
    axis = 1 - output_axis(layer)
    weight = layer.weight.detach().float()
    largest = weight.abs().amax([i for i in range(weight.dim()) if i != axis])
    # A channel that is silent, or that nothing listens to, must not have a step near zero.
    reach = reach.clamp_min(_LEAST_SHARE * float(reach.max()))
    largest = largest.clamp_min(max(_LEAST_SHARE * float(largest.max()), 1e-30))
    balance = reach**exponent / largest ** (1 - exponent)
    return balance / balance.max()
