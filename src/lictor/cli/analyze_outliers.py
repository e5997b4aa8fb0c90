"""`lictor analyze outliers`: how far single values stick out of latents and activations."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from lictor.cli.codec_file import Device, load_codec
from lictor.cli.messages import complain, printable, say
from lictor.cli.outputs import output_files
from lictor.errors import ConfigError
from lictor.files import json_ready, write_file

if TYPE_CHECKING:
    import torch

    from lictor.analysis.outliers import CodecReport, Outliers
    from lictor.codecs.learned import Codec

Codecs = Annotated[tuple[str, ...], arg(metavar="CODEC...", help_behavior_hint="")]
_FORMAT = "lictor-outliers-1"
_OUTPUTS = ("outliers.json", "outliers.csv", "outliers.png")
_PIPE_WIDTH = 160
_LABELS = {
    "channel_kurtosis": "channel kurtosis",
    "max_median_mean": "max/median",
    "max_median_median": "its median",
    "element_kurtosis": "kurtosis",
    "range_over_sigma": "range/sigma",
    "beyond": "beyond 6 sigma ppm",
    "sqnr": "8-bit SQNR dB",
}


def outliers(
    codecs: Positional[Codecs],
    /,
    *,
    data: Annotated[Path, arg(metavar="DIR")],
    out: Annotated[Path, arg(aliases=["-o"], metavar="DIR")],
    limit: int | None = None,
    layers: bool = False,
    device: Device = "cpu",
    force: bool = False,
) -> int:
    """Measure outliers of latents and of every layer's output, for several codecs side by side.

    A codec is a .lcodec file, `default`, or a run folder of `lictor train`. Compare codecs at equal
    rate and distortion: a latent that is uneven across channels is no defect.

    Args:
        codecs: What to look into.
        data: Folder of pictures.
        out: Folder for outliers.json, outliers.csv and outliers.png.
        limit: Take the first pictures only.
        layers: Show every layer in the terminal too, not only the worst of each network.
        device: Where the networks run: auto, cpu, cuda, cuda:1, mps, xpu.
        force: Overwrite existing files.
    """
    from lictor.analysis.outliers import codec_outliers
    from lictor.cli.progress import over
    from lictor.data.images import list_images, load_image
    from lictor.reporting.outliers_chart import save_outlier_chart
    from lictor.runtime import choose_device

    if not codecs:
        complain("analyze outliers needs at least one codec file or run folder; see --help")
        return 2
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit must be at least 1, not {limit}")
    place = choose_device(device)
    targets = output_files(out, _OUTPUTS, force=force)
    loaded = _load(codecs, place)
    pictures = [load_image(path) for path in list_images(data)[:limit]]
    reports = [
        codec_outliers(name, codec, pictures)
        for name, codec in over(list(loaded.items()), "measuring")
    ]
    write_file(targets["outliers.json"], _json(reports).encode())
    write_file(targets["outliers.csv"], _csv(reports).encode())
    save_outlier_chart(targets["outliers.png"], reports)
    _show(reports, layers=layers)
    say(f"{out}  {', '.join(_OUTPUTS)}")
    return 0


def _load(names: Sequence[str], place: "torch.device") -> "dict[str, Codec]":
    from lictor.codecs.learned import Codec
    from lictor.training.run import load_run

    loaded = dict[str, Any]()
    for name in names:
        path = Path(name)
        label = printable(path.resolve().name if path.is_dir() else path.stem)
        if label in loaded:
            raise ConfigError(f"two codecs are called {label!r}; rename one")
        codec = Codec.freeze(load_run(path)[0]) if path.is_dir() else load_codec(name)
        loaded[label] = codec.to(place)
    return loaded


def _json(reports: "Sequence[CodecReport]") -> str:
    from lictor.analysis import outliers as module

    content = {
        "format": _FORMAT,
        "measures": {name: getattr(module, name).__doc__ for name in module.MEASURES},
        "codecs": [
            {
                "codec": report.codec,
                "pictures": report.num_pictures,
                "escapes_per_picture": dict(report.escapes),
                "tensors": [
                    {"name": t.name, "part": t.part, "channels": t.channels}
                    | json_ready(asdict(t.measures))
                    for t in report.tensors
                ],
                "worst": {part: json_ready(asdict(report.worst(part))) for part in report.parts},
            }
            for report in reports
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False)


def _csv(reports: "Sequence[CodecReport]") -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["codec", "tensor", "part", "channels", *_LABELS])
    for report in reports:
        for t in report.tensors:
            values = (f"{value:.6g}" for value in asdict(t.measures).values())
            writer.writerow([report.codec, t.name, t.part, t.channels, *values])
    return text.getvalue()


def _show(reports: "Sequence[CodecReport]", *, layers: bool) -> None:
    """Print the codecs' rows of each tensor one below the other."""
    from rich.console import Console

    from lictor.cli.progress import table

    rows: dict[str, list[tuple[str, Outliers]]] = {}
    for report in reports:
        for t in report.tensors:
            if layers or t.part == "latent":
                rows.setdefault(t.name, []).append((report.codec, t.measures))
        if not layers:
            for part in report.parts:
                rows.setdefault(f"{part}, worst", []).append((report.codec, report.worst(part)))
    lines = [
        {"tensor": tensor, "codec": codec} | _cells(measures)
        for tensor, measured in rows.items()
        for codec, measures in measured
    ]
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    count = reports[0].num_pictures
    console.print(table(lines, title=f"outliers, means over {count} pictures"), crop=False)
    for report in reports:
        counts = ", ".join(f"{latent} {count:.1f}" for latent, count in report.escapes.items())
        console.print(f"{report.codec}: escape symbols in a picture: {counts}", markup=False)


def _cells(measures: "Outliers") -> dict[str, str]:
    cells = {}
    for key, value in asdict(measures).items():
        if key == "beyond":
            cells[_LABELS[key]] = f"{1e6 * value:.0f}"
        else:
            cells[_LABELS[key]] = f"{value:.2f}" if value < 1e5 else f"{value:.2g}"
    return cells
