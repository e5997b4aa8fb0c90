"""`lictor quantize`: a codec of integers from a codec of floats."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from lictor.cli.codec_file import Device, load_codec
from lictor.cli.messages import say
from lictor.cli.outputs import check_output_file
from lictor.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lictor.codecs.learned import Codec
    from lictor.data.folder import ImageFolder
    from lictor.models.base import AbstractCodecModel, Output

Bits = Annotated[int | None, arg(metavar="BITS", help_behavior_hint="")]
_MOST_PICTURES = 256
_BATCH, _CROP = 4, 256


def quantize(
    codec: Positional[str],
    /,
    *,
    out: Annotated[Path, arg(aliases=["-o"])],
    data: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None,
    weights: Bits = 8,
    activations: Bits = 8,
    scope: Literal["all", "g_a", "g_s", "entropy"] = "all",
    optimize: bool = False,
    steps: int = 300,
    lmbda: float | None = None,
    crops: int = 32,
    percentile: float = 100.0,
    balance: float | None = None,
    seed: int = 0,
    device: Device = "cpu",
    force: bool = False,
) -> int:
    """Make a codec of integer weights and activations, in a file of a quarter of the size.

    The new codec is another codec: it has its own fingerprint, and reads only its own files.

    Args:
        codec: Codec file, or `default` for the one that ships with lictor.
        out: Codec file to write, ending in .lcodec.
        data: Folder of photographs to find the ranges of activations on; not those that you
            evaluate on.
        weights: Bits of weights, 2 to 16; None keeps them in floating point.
        activations: Bits of activations, 2 to 16; None keeps them in floating point.
        scope: Which part to quantize: g_a, g_s, entropy (all other networks), or all.
        optimize: Then round weights for the least rate-distortion loss on the photographs.
        steps: Steps of that, about a second each.
        lmbda: Trade-off to optimize for; what the codec was trained with if not given.
        crops: Calibration crops of 256x256.
        percentile: Percent of the activations that a range must hold; 100 is min-max.
        balance: 0 gives all input channels of a layer one step, 1 each its own; 1 for weights of 8
            bits and more, else 0.5, if not given.
        seed: Seed of the choice of crops.
        device: Where the networks run: auto, cpu, cuda, cuda:1, mps, xpu.
        force: Overwrite an existing file.
    """
    from lictor.codecs.learned import Codec
    from lictor.ptq.calibrate import Ranges, calibration_crops, calibration_pictures, observe
    from lictor.ptq.quantize import quantize as quantize_model
    from lictor.ptq.scheme import Scheme
    from lictor.runtime import choose_device

    scheme, ranges = Scheme(weights, activations, scope), Ranges(percentile, balance)
    if crops < 1 or steps < 1 or seed < 0:
        raise ConfigError("--crops and --steps must be at least 1, --seed at least 0")
    place = choose_device(device)
    check_output_file(out, force=force)
    needs_pictures = activations is not None or optimize
    if data is None and needs_pictures:
        raise ConfigError(
            "quantizing activations needs photographs to find their ranges on: add --data FOLDER "
            "(a few dozen, not those you evaluate on)"
        )
    source = load_codec(codec)
    model = source.thaw()
    slope = _lmbda(source, lmbda) if optimize else None
    pictures, observed = None, {}
    if data is not None and needs_pictures:
        pictures = calibration_pictures(data, most=_MOST_PICTURES if optimize else 64, seed=seed)
        calibrating = calibration_crops(pictures, count=crops, seed=seed)
        observed = observe(model.to(place), calibrating)
        model.cpu()
    quantized = quantize_model(model, scheme, observed, ranges=ranges)
    if slope is not None and pictures is not None:
        improve(quantized.to(place), model.to(place), slope, pictures, steps=steps, seed=seed)
    about = {
        "of": source.fingerprint.hex(),
        "crops": crops if observed else 0,
        "seed": seed,
        "percentile": percentile,
        "balance": ranges.exponent(weights),
        "optimize_steps": steps if optimize else 0,
        "optimize_lmbda": slope,
    }
    notes = {**source.notes, "quantization": about}
    result = Codec.freeze(quantized, weight_dtype=source.weight_dtype, notes=notes)
    result.save(out)
    size = out.stat().st_size
    say(f"{codec} -> {out}  {quantized.quantization}  {size} bytes  {result.fingerprint.hex()}")
    return 0


def improve(
    quantized: "AbstractCodecModel",
    original: "AbstractCodecModel",
    lmbda: float,
    pictures: "ImageFolder",
    *,
    steps: int,
    seed: int = 0,
) -> None:
    """Optimize a quantized model in place, with a progress bar, and say what became of the loss."""
    from lictor.cli.progress import follow, stderr
    from lictor.ptq.calibrate import crop_batches
    from lictor.ptq.optimize import Settings, optimize
    from lictor.training.loss import rate_distortion

    def loss(x: "Float[Tensor, 'b 3 h w']", out: "Output") -> "Float[Tensor, '']":
        return rate_distortion(x, out, lmbda).total

    batches = crop_batches(pictures, size=_CROP, batch_size=_BATCH, seed=seed + 1)
    progress = optimize(quantized, original, batches, loss, Settings(steps=steps, seed=seed))
    losses = [p.loss for p in follow(progress, steps, "optimizing")]
    tenth = max(1, steps // 10)
    first, last = (sum(part) / tenth for part in (losses[:tenth], losses[-tenth:]))
    stderr.print(f"loss on the crops: {first:.4f} at first, {last:.4f} at last")


def _lmbda(codec: "Codec", wanted: float | None) -> float:
    from lictor.evaluation.quantization import lmbda_of

    value = lmbda_of(codec) if wanted is None else wanted
    if value is None:
        raise ConfigError(
            "the codec's notes do not say which lmbda it was trained with: add --lmbda"
        )
    if not 0 < value < float("inf"):
        raise ConfigError(f"lmbda must be positive, not {value}")
    return value
