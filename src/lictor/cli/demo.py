"""`lictor demo`: the main job on real photographs, from pixels to files and back, in two minutes.

The photographs are those that travel inside the scikit-image wheel.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from lictor.cli.demo_data import photographs
from lictor.cli.demo_files import decode_elsewhere, demo_folder
from lictor.cli.progress import deadline, log_to_terminal, over, show_training, table
from lictor.codecs.learned import Codec
from lictor.data.images import load_image
from lictor.errors import LictorError
from lictor.evaluation.peers import PEERS, encode_to_size
from lictor.files import atomic_file, write_file
from lictor.metrics import ms_ssim, psnr
from lictor.rates import bpp
from lictor.training.recipe import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from lictor.training.run import run

_DETAIL, _ZOOM = 160, 2


@dataclass(frozen=True)
class _Row:
    """One picture through one codec."""

    codec: str
    num_bytes: int
    image: UInt8[np.ndarray, "h w c"]


# A picture (uint8, h w c; each of its own size) and what the codecs made of it.
_Compared = tuple[NDArray[np.uint8], list[_Row]]


def _compare(original: UInt8[np.ndarray, "h w c"], ours: _Row) -> list[_Row]:
    """Give JPEG and WebP as many bytes as our file has."""
    rows = [ours]
    for peer in (PEERS["jpeg"], PEERS["webp"]):
        codec, data = encode_to_size(peer.make, original, ours.num_bytes)
        over_budget = " (lowest)" if len(data) > ours.num_bytes else ""
        rows.append(_Row(f"{codec.name}{over_budget}", len(data), codec.decode(data)))
    return rows


def _busiest(image: UInt8[np.ndarray, "h w c"]) -> tuple[int, int]:
    """Find the corner of a square with much detail, where codecs differ."""
    grey = image.astype(np.float64).mean(2)
    energy = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    side = min(_DETAIL, *energy.shape)
    best, corner = -1.0, (0, 0)
    for top in range(0, energy.shape[0] - side + 1, 16):
        for left in range(0, energy.shape[1] - side + 1, 16):
            # The middle of the range of detail: pure texture hides artefacts from the eye.
            value = float(np.sqrt(energy[top : top + side, left : left + side]).mean())
            if value > best:
                best, corner = value, (top, left)
    return corner


def _side_by_side(
    pictures: list[_Compared],
) -> Image.Image:
    """Lay out one line a picture: the original's detail, then each codec's, with bytes and PSNR."""
    size, caption, gap = _DETAIL * _ZOOM, 40, 8
    columns = 1 + len(pictures[0][1])
    sheet = Image.new(
        "RGB",
        (columns * (size + gap) + gap, len(pictures) * (size + caption + gap) + gap),
        "white",
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for line, (original, rows) in enumerate(pictures):
        top, left = _busiest(original)
        cells = [("original", original)]
        for row in rows:
            caption_text = f"{row.codec}\n{row.num_bytes} bytes, {psnr(original, row.image):.2f} dB"
            cells.append((caption_text, row.image))
        for column, (text, image) in enumerate(cells):
            detail = Image.fromarray(image[top : top + _DETAIL, left : left + _DETAIL])
            x, y = gap + column * (size + gap), gap + line * (size + caption + gap)
            sheet.paste(detail.resize((size, size), Image.Resampling.NEAREST), (x, y + caption))
            draw.multiline_text((x, y), text, fill="black", font=font, spacing=2)
    return sheet


def _compress_and_compare(codec: Codec, out: Path, console: Console) -> list[_Compared]:
    """Encode here, decode in another process, check the two against each other, and measure."""
    codec_file = out / "default.lcodec"
    codec.save(codec_file)
    originals, encoded, files = [], [], []
    for path in over(photographs(), "compressing"):
        image = load_image(path)
        result = codec.encode_verbose(image)
        file = out / f"{path.stem}.lic"
        write_file(file, result.data)
        originals.append(image)
        encoded.append(result)
        files.append(file)
    decode_elsewhere(files, codec_file, out)

    pictures, lines = [], []
    for image, result, file in zip(originals, encoded, files, strict=True):
        decoded = load_image(file.with_suffix(".png"))
        if not np.array_equal(decoded, result.reconstruction):
            different = int((decoded != result.reconstruction).sum())
            raise LictorError(f"{file}: {different} samples decode otherwise than encoded")
        rows = _compare(image, _Row("lictor", len(result.data), decoded))
        pictures.append((image, rows))
        for number, row in enumerate(rows):
            similarity = ms_ssim(image, row.image)
            lines.append(
                {
                    "picture": file.stem if number == 0 else "",
                    "codec": row.codec,
                    "bytes": str(row.num_bytes),
                    "bpp": f"{bpp(row.num_bytes, *image.shape[:2]):.3f}",
                    "PSNR dB": f"{psnr(image, row.image):.2f}",
                    "MS-SSIM": "-" if math.isnan(similarity) else f"{similarity:.4f}",
                }
            )
    title = f"{codec.name} against Pillow's JPEG and WebP at its bytes"
    console.print(table(lines, title=title), crop=False)
    console.print(
        f"All {len(files)} files were decoded in another process: every symbol of every latent "
        "and every pixel is the encoder's.\n"
    )
    return pictures


def _train_a_little(out: Path, seconds: float, console: Console) -> None:
    """Train a small model on the same photographs, freeze it, and code with it."""
    folder = out / "photographs"
    folder.mkdir(exist_ok=True)
    for path in photographs():
        write_file(folder / path.name, path.read_bytes())
    config = RunConfig(
        model=ModelConfig("checkerboard", {"n": 32, "m": 64, "depth": 1}),
        loss=LossConfig(lmbda=0.0067),
        optim=OptimConfig(lr=1e-3, schedule="constant", settings={"beta2": 0.99}),
        data=DataConfig(crop_size=128, held_out=1),
        train=TrainConfig(steps=100_000, batch_size=8, eval_every=250, checkpoint_every=10**6),
    )
    console.print(f"Training a small model from nothing for {seconds:.0f} seconds ...")
    folder_out = out / "run"
    reports = run(config, folder, folder_out, should_stop=deadline(seconds))
    last = show_training(reports, total=None, log_every=config.train.log_every)
    assert last is not None
    from lictor.training.run import load_run

    model, _, step = load_run(folder_out)
    codec = Codec.freeze(model, notes={"steps": step})
    codec.save(out / "small.lcodec")
    image = load_image(photographs()[0])
    data = codec.encode(image)
    quality = psnr(image, codec.decode(data))
    rate = bpp(len(data), *image.shape[:2])
    console.print(
        f"After {step} steps it codes {photographs()[0].name} in {len(data)} bytes "
        f"({rate:.3f} bpp) at {quality:.2f} dB.\n"
    )


def run_demo(out: Path, *, train_s: float, force: bool) -> int:
    """Run the demo into the folder `out`; return the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    former = [Path("run") / name for name in ("checkpoint.pt", "metrics.jsonl", "config.json")]
    demo_folder(out, former, force=force)
    log_to_terminal()

    pictures = _compress_and_compare(Codec.default(), out, console)
    sheet = out / "comparison.png"
    with atomic_file(sheet) as file:
        _side_by_side(pictures).save(file, "PNG")
    if train_s > 0:
        _train_a_little(out, train_s, console)

    console.print(f"[bold]Look at {sheet}[/bold]: details of every picture, side by side.")
    console.print(
        f"Also in {out}/: the compressed files (*.lic), the decoded pictures (*.png), the codecs "
        "(*.lcodec)" + (", the training run (run/)." if train_s > 0 else ".")
    )
    return 0
