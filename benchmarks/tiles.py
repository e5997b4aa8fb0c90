"""What tiles cost and whether they are seen: time, memory, seams, and how far networks look.

growth   a process of its own encodes, another decodes, a picture of each size; with its wall and
         CPU seconds and the most memory it held (as /usr/bin/time -v says, too)
seams    a picture of 4 megapixels in tiles and in one piece: the greatest difference, and the PSNR
         of the pixels beside the seams and of all others. Where a seam lies is no matter to the
         picture in one piece, so its two figures show what the place alone does
margins  latents and pixels of a tile against those of the whole picture, by how much is seen around

Pictures are made of photographs put side by side.

    python benchmarks/tiles.py PHOTOGRAPHS [--megapixels 1 2 4 12 24 48] [--json FILE]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lictor.codecs.learned import Codec
from lictor.coding.container import Container
from lictor.data.images import image_to_tensor, list_images, load_image
from lictor.evaluation.provenance import cpu_name, versions
from lictor.files import write_file
from lictor.runtime import peak_rss_bytes

BESIDE = 8  # pixels on either side of a seam that count as beside it


def mosaic(folder: Path, height: int, width: int) -> np.ndarray:
    """Return a picture of photographs, one beside the other."""
    image, paths = np.zeros((height, width, 3), np.uint8), list_images(folder)
    side, number = 512, 0
    for y in range(0, height, side):
        for x in range(0, width, side):
            photo = load_image(paths[number % len(paths)])
            lacks = [(0, max(side - length, 0)) for length in photo.shape[:2]]
            photo = np.pad(photo, [*lacks, (0, 0)], mode="reflect")[:side, :side]
            place = image[y : y + side, x : x + side]
            place[:] = photo[: place.shape[0], : place.shape[1], :3]
            number += 1
    return image


def psnr(error: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / (error.astype(np.float64) ** 2).mean()))


def child(verb: str, source: Path, target: Path) -> None:
    """Encode or decode a file of raw pixels or of a picture, and tell what it took."""
    codec = Codec.default()
    codec.warm_up()
    before, begun, cpu = peak_rss_bytes(), time.perf_counter(), time.process_time()
    if verb == "encode":
        target.write_bytes(codec.encode(np.load(source)))
    else:
        np.save(target, codec.decode(source.read_bytes()))
    took = {"wall_s": time.perf_counter() - begun, "cpu_s": time.process_time() - cpu}
    print(json.dumps({**took, "peak_bytes": peak_rss_bytes(), "before_bytes": before}))


def growth(folder: Path, megapixels: list[float]) -> list[dict[str, Any]]:
    rows = []
    for size in megapixels:
        height = round((size * 1e6 * 3 / 4) ** 0.5)
        image = mosaic(folder, height, round(height * 4 / 3))
        row: dict[str, Any] = {"width": image.shape[1], "height": image.shape[0]}
        row["picture_bytes"] = image.nbytes
        with tempfile.TemporaryDirectory() as temporary:
            raw, file, back = (Path(temporary) / n for n in ("raw.npy", "a.lic", "back.npy"))
            np.save(raw, image)
            for verb, source, target in (("encode", raw, file), ("decode", file, back)):
                command = [sys.executable, __file__, "--child", verb, str(source), str(target)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                row[verb] = json.loads(done.stdout)
            row["bytes"], row["tiles"] = file.stat().st_size, len(_tiles_of(file))
            row["psnr"] = psnr(np.load(back).astype(np.int16) - image)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def _tiles_of(file: Path) -> tuple[Any, ...]:
    return tuple(Container.from_bytes(file.read_bytes()).tiles)


def seams(folder: Path) -> dict[str, Any]:
    # Photographs end elsewhere than tiles do.
    image = np.ascontiguousarray(mosaic(folder, 2560, 2560)[217:2265, 149:2197])
    codec = Codec.default()
    rows: dict[str, Any] = {}
    decoded = {}
    for name, side in (("tiles", None), ("tiles of 256", 256), ("one piece", 0)):
        data = codec.encode(image, tile_side=side)
        decoded[name] = codec.decode(data).astype(np.int16)
        rows[name] = {"bytes": len(data), "psnr": psnr(decoded[name] - image)}
        grid = Container.from_bytes(data).grid
        if side == 0:
            continue
        beside = np.zeros(image.shape[:2], bool)
        for tile in map(grid.tile, range(grid.count)):
            if tile.y:
                beside[tile.y - BESIDE : tile.y + BESIDE] = True
            if tile.x:
                beside[:, tile.x - BESIDE : tile.x + BESIDE] = True
        rows[name]["beside"] = beside
    for name in ("tiles", "tiles of 256"):
        beside = rows[name].pop("beside")
        off = np.abs(decoded[name] - decoded["one piece"])
        rows[name] |= {
            "largest_difference": int(off.max()),
            "mean_difference": float(off.mean()),
            "psnr_beside_seams": psnr((decoded[name] - image)[beside]),
            "psnr_elsewhere": psnr((decoded[name] - image)[~beside]),
            "one_piece_beside_seams": psnr((decoded["one piece"] - image)[beside]),
            "one_piece_elsewhere": psnr((decoded["one piece"] - image)[~beside]),
            # A step across the seam, against the steps a pixel before it and after it.
            "step_over_seam": _step(decoded[name], image),
            "one_piece_step": _step(decoded["one piece"], image),
        }
    return rows


def _step(decoded: np.ndarray, image: np.ndarray, at: int = 1024) -> float:
    """Return how much more the error changes over a seam than over its neighbours, in levels."""
    error = decoded - image.astype(np.int16)
    over = [np.abs(error[at + i] - error[at + i - 1]).mean() for i in range(-4, 5)]
    return float(over[4] - np.mean(over[:4] + over[5:]))


@torch.inference_mode()
def margins(folder: Path) -> list[dict[str, Any]]:
    model, rows = Codec.default().model, []
    x = image_to_tensor(mosaic(folder, 1152, 1152)).contiguous(memory_format=torch.channels_last)
    latents = model.analyse(x)
    y = {"y": latents["y"].round(), "z": latents["z"].round()}
    x_hat, low, high = model.synthesise(y), 384, 768
    for margin in (0, 64, 128, 192, 256):
        seen, row = slice(low - margin, high + margin), {"margin": margin}
        part = model.analyse(x[..., seen, seen].contiguous(memory_format=torch.channels_last))
        cut = {}
        for name, ratio in (("y", 16), ("z", 64)):
            inner = slice(margin // ratio, (margin + high - low) // ratio)
            whole = latents[name][..., low // ratio : high // ratio, low // ratio : high // ratio]
            mine = part[name][..., inner, inner]
            row[f"{name}_largest"] = float((mine - whole).abs().max())
            row[f"{name}_other_integers"] = float((mine.round() != whole.round()).float().mean())
            span = slice((low - margin) // ratio, (high + margin) // ratio)
            cut[name] = y[name][..., span, span].contiguous(memory_format=torch.channels_last)
        inner = slice(margin, margin + high - low)
        off = model.synthesise(cut)[..., inner, inner] - x_hat[..., low:high, low:high]
        row["pixels_largest"] = 255 * float(off.abs().max())
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("photographs", type=Path, nargs="?")
    parser.add_argument("--megapixels", type=float, nargs="*", default=[1, 2, 4, 12, 24, 48])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        verb, source, target = args.child
        return child(verb, Path(source), Path(target))
    found = {
        "machine": {"cpu": cpu_name(), "threads": torch.get_num_threads(), **versions()},
        "margins": margins(args.photographs),
        "seams": seams(args.photographs),
    }
    print(json.dumps(found, indent=1), flush=True)
    found["growth"] = growth(args.photographs, args.megapixels)
    if args.json:
        write_file(args.json, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
