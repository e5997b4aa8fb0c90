"""`lictor analyze ptq`: what quantization costs a codec, with real files."""

import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import Positional, arg

from lictor.cli.codec_file import Device, load_codec
from lictor.cli.messages import complain, printable, say
from lictor.cli.outputs import output_files
from lictor.errors import ConfigError
from lictor.files import json_ready, write_file

if TYPE_CHECKING:
    from lictor.codecs.learned import Codec
    from lictor.comparison.curve import ImageResult
    from lictor.data.folder import ImageFolder
    from lictor.evaluation.quantization import Cost, FamilyCost
    from lictor.ptq.scheme import Scheme

Codecs = Annotated[tuple[str, ...], arg(metavar="CODEC...", help_behavior_hint="")]
Texts = Annotated[tuple[str, ...], arg(help_behavior_hint="")]
Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]
_FORMAT = "lictor-ptq-1"
_OUTPUTS = ("ptq.json", "ptq.png")
_PIPE_WIDTH = 140
_Rows = dict[tuple[str, str | None], tuple["ImageResult", ...]]


def ptq(
    codecs: Positional[Codecs],
    /,
    *,
    data: Annotated[Path, arg(metavar="DIR")],
    out: Annotated[Path, arg(aliases=["-o"], metavar="DIR")],
    calibration: Folder = None,
    schemes: Texts = (),
    scopes: Texts = (),
    limit: int | None = None,
    lmbda: float | None = None,
    crops: int = 32,
    percentile: float = 100.0,
    balance: float | None = None,
    optimize: int = 0,
    seed: int = 0,
    device: Device = "cpu",
    force: bool = False,
) -> int:
    """Encode and decode pictures with quantized copies of a codec, and say what that costs.

    Rates are those of real files. Of one codec, the cost is told as the rise of the loss
    R + lmbda D and as the rate equivalent: the same rise in percent of the rate, which is what
    restoring the distortion by bits would cost at the slope dR/dD = -lmbda that the codec was
    trained for. It is no BD-rate. Four codecs and more of one model, of different lmbda, are a
    family, which has one.

    Args:
        codecs: Codec files, or `default` for the one that ships.
        data: Folder of the pictures to measure on.
        out: Folder for ptq.json and ptq.png.
        calibration: Folder of other photographs, to find the ranges of activations on; that of the
            measured pictures if not given, which flatters.
        schemes: Bits such as W8A8, W6A8, W8 (weights alone), A8; commas or spaces between. A choice
            of eight for the whole codec, and W8A8 for each part, if not given.
        scopes: Parts to quantize, each with every scheme: all, g_a, g_s, entropy.
        limit: Take the first pictures only.
        lmbda: Trade-off that the codecs were trained with, if their notes do not say.
        crops: Calibration crops of 256x256.
        percentile: Percent of the activations that a range must hold; 100 is min-max.
        balance: 0 gives all input channels of a layer one step (the plain scheme to compare
            training methods with), 1 each its own; 1 for weights of 8 bits and more, else 0.5, if
            not given.
        optimize: Round each copy's weights for the loss in so many steps; 0 for not.
        seed: Seed of the choice of crops.
        device: Where the networks run: auto, cpu, cuda, cuda:1, mps, xpu.
        force: Overwrite existing files.
    """
    from lictor.evaluation.quantization import FamilyCost, default_schemes
    from lictor.ptq.calibrate import calibration_pictures
    from lictor.runtime import choose_device

    if not codecs:
        complain("analyze ptq needs at least one codec file; see --help")
        return 2
    if min(crops, 1 if limit is None else limit) < 1 or min(optimize, seed) < 0:
        raise ConfigError("--crops and --limit must be at least 1, --optimize and --seed 0")
    if lmbda is not None and not 0 < lmbda < math.inf:
        raise ConfigError(f"lmbda must be positive, not {lmbda}")
    chosen = _schemes(schemes, scopes) or default_schemes()
    choose_device(device)
    targets = output_files(out, _OUTPUTS, force=force)
    loaded = _load(codecs, device)
    pictures = _pictures(data, limit)
    folder = calibration_pictures(calibration or data, most=256 if optimize else 64, seed=seed)
    flattering = _warn_if_flattering(pictures, folder)
    costs, rows = _measure(
        loaded,
        pictures,
        folder,
        chosen,
        crops=crops,
        optimize=optimize,
        seed=seed,
        lmbda=lmbda,
        ranges=(percentile, balance),
    )
    families: list[FamilyCost] = _families(loaded, rows, chosen, lmbda)
    settings = {
        "pictures": len(pictures),
        "crops": crops,
        "seed": seed,
        "percentile": percentile,
        "balance": balance,
        "optimize": optimize,
        "calibrated_on_the_measured_pictures": flattering,
    }
    _write(targets, costs, families, rows, settings)
    _show(costs, families)
    say(f"{out}  {', '.join(_OUTPUTS)}")
    return 0


def _words(texts: Sequence[str]) -> list[str]:
    return [word for text in texts for word in text.split(",") if word]


def _schemes(schemes: Sequence[str], scopes: Sequence[str]) -> "list[Scheme]":
    """Return every scheme in every scope; empty if neither is given."""
    from lictor.ptq.scheme import ALL, parse_scheme

    if not schemes and not scopes:
        return []
    bits, parts = _words(schemes) or ["W8A8"], _words(scopes) or [ALL]
    return list(dict.fromkeys(parse_scheme(b, part) for b in bits for part in parts))


def _load(names: Sequence[str], device: str) -> "dict[str, Codec]":
    loaded = dict[str, Any]()
    for name in names:
        label = printable(Path(name).stem)
        if label in loaded:
            raise ConfigError(f"two codecs are called {label!r}; rename one")
        loaded[label] = load_codec(name, device)
        if loaded[label].model.quantization is not None:
            raise ConfigError(f"{name}: is quantized already; analyze the original")
    return loaded


def _pictures(folder: Path, limit: int | None) -> dict[str, np.ndarray]:
    from lictor.data.images import list_images, load_image

    paths = list_images(folder)[:limit]
    return {printable(path.relative_to(folder).as_posix()): load_image(path) for path in paths}


def _warn_if_flattering(pictures: dict[str, np.ndarray], folder: "ImageFolder") -> bool:
    """Tell, and say, whether a picture that is measured calibrates too, whatever its file."""
    from lictor.evaluation.rd import image_hash

    def hashed(image: np.ndarray) -> str:
        return image_hash(np.broadcast_to(image, (*image.shape[:2], 3)))

    calibrating = {hashed(folder.load(number)) for number in range(len(folder))}
    shared = calibrating.intersection(map(hashed, pictures.values()))
    if shared:
        print(
            f"lictor: warning: {len(shared)} of the measured pictures calibrate too, which "
            "flatters; add --calibration FOLDER with others",
            file=sys.stderr,
            flush=True,
        )
    return bool(shared)


def _measure(
    codecs: "dict[str, Codec]",
    pictures: dict[str, np.ndarray],
    folder: "ImageFolder",
    schemes: "Sequence[Scheme]",
    *,
    crops: int,
    optimize: int,
    seed: int,
    lmbda: float | None,
    ranges: tuple[float, float | None],
) -> "tuple[list[Cost], _Rows]":
    from lictor.cli.progress import follow
    from lictor.cli.quantize import improve
    from lictor.evaluation.quantization import codec_costs
    from lictor.ptq.calibrate import Ranges, calibration_crops

    calibrating = calibration_crops(folder, count=crops, seed=seed)
    better = partial(improve, pictures=folder, steps=optimize, seed=seed) if optimize else None
    costs, rows = list[Any](), dict[Any, Any]()
    for name, codec in codecs.items():
        measured = codec_costs(
            name,
            codec,
            pictures,
            calibrating,
            schemes,
            ranges=Ranges(*ranges),
            lmbda=lmbda,
            improve=better,
            device=codec.device,
        )
        # Optimizing has a bar of its own, and a terminal holds one at a time.
        shown = measured if optimize else follow(measured, 1 + len(schemes), f"measuring {name}")
        for cost, its_rows in shown:
            scheme = None if cost is None else f"{cost.scheme.label} {cost.scheme.scope}"
            rows[name, scheme] = its_rows
            if cost is not None:
                costs.append(cost)
    return costs, rows


def _families(
    codecs: "dict[str, Codec]",
    rows: "_Rows",
    schemes: "Sequence[Scheme]",
    lmbda: float | None,
) -> "list[FamilyCost]":
    """Return BD-rates where codecs of one model have enough different trade-offs."""
    from lictor.evaluation.quantization import MIN_RATES, family_cost, lmbda_of

    groups = dict[str, list[str]]()
    for name, codec in codecs.items():
        model = codec.model
        groups.setdefault(f"{model.name} {model.hyperparameters()}", []).append(name)
    found = []
    for names in groups.values():
        slopes = {lmbda_of(codecs[name]) for name in names}
        if len(names) < MIN_RATES or len(slopes) < len(names) or lmbda is not None:
            continue
        family = codecs[names[0]].model.name
        for scheme in schemes:
            label = f"{scheme.label} {scheme.scope}"
            if (names[0], label) not in rows:  # a part that this model has not
                continue
            original, quantized = (
                [row for name in names for row in rows[name, key]] for key in (None, label)
            )
            found.append(family_cost(family, scheme, original, quantized))
    return found


def _set_hash(rows: "_Rows") -> str:
    lines = sorted({f"{row.image} {row.sha256}" for its in rows.values() for row in its})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _write(
    targets: dict[str, Path],
    costs: "Sequence[Cost]",
    families: "Sequence[FamilyCost]",
    rows: "_Rows",
    settings: dict[str, Any],
) -> None:
    from lictor.comparison.curve import row_to_json
    from lictor.evaluation import quantization
    from lictor.evaluation.provenance import provenance
    from lictor.reporting.ptq_chart import save_cost_chart

    def entry(cost: "Cost | FamilyCost") -> dict[str, Any]:
        return json_ready({**asdict(cost), **asdict(cost.scheme), "scheme": cost.scheme.label})

    content = {
        "format": _FORMAT,
        "what": quantization.__doc__,
        "settings": settings,
        "provenance": provenance(images=settings["pictures"], images_sha256=_set_hash(rows)),
        "costs": [entry(cost) for cost in costs],
        "families": [entry(cost) for cost in families],
        "images": [
            {"codec": name, "scheme": scheme, **row_to_json(row)}
            for (name, scheme), its_rows in rows.items()
            for row in its_rows
        ],
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    write_file(targets["ptq.json"], text.encode())
    save_cost_chart(targets["ptq.png"], costs, families)


def _show(costs: "Sequence[Cost]", families: "Sequence[FamilyCost]") -> None:
    from rich.console import Console

    from lictor.cli.progress import table

    def number(value: float, digits: int) -> str:
        return f"{value:+.{digits}f}" if math.isfinite(value) else "-"

    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    several = len({cost.codec for cost in costs}) > 1
    lines = [
        {
            "scheme": f"{cost.codec} {cost.scheme.label}" if several else cost.scheme.label,
            "scope": cost.scheme.scope,
            "bpp": f"{cost.bpp:.4f}",
            "PSNR dB": f"{cost.psnr:.3f}",
            "bpp %": number(cost.delta_bpp_percent, 2),
            "PSNR diff": number(cost.delta_psnr, 3),
            "loss %": number(cost.rise, 2),
            "rate equivalent %": number(cost.rate_equivalent, 2),
        }
        for cost in costs
    ]
    title = costs[0].codec if not several else "each codec"
    console.print(
        table(lines, title=f"{title}, quantized, against itself in floating point"), crop=False
    )
    if families:
        lines = [
            {
                "family": f"{cost.family} {cost.scheme.label}",
                "scope": cost.scheme.scope,
                "BD-rate %": number(cost.bd_rate, 2),
                "BD-PSNR dB": number(cost.bd_psnr, 3),
            }
            for cost in families
        ]
        console.print(
            table(lines, title="each family, against itself in floating point"), crop=False
        )
        for remark in dict.fromkeys(remark for cost in families for remark in cost.remarks):
            console.print(remark, markup=False)
