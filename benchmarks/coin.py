"""COIN beside a codec of signals: one network an item, its weights in real files, on equal items.

    python benchmarks/coin.py ITEMS.npy CODEC.lcodec --count 16 --json coin.json

ITEMS.npy holds pictures, "items rows columns 3". Networks of several sizes are fitted to all items
at once by Adam; their weights are rounded to several steps, and all of a size and a step make one
archive; of these points, those that no other beats are COIN's curve. The codec makes an archive of
the same items at every other of its qualities. Printed and written: bits per pixel and PSNR of
both, the BD-rate between them, and seconds of encoding an item.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lictor.codecs.signals.codec import SignalCodec
from lictor.codecs.signals.coin import CoinCodec
from lictor.comparison.bd import bd_rate
from lictor.data.signals.signal import Signal
from lictor.errors import DataError
from lictor.evaluation.provenance import cpu_name, versions
from lictor.files import json_ready, write_file
from lictor.implicit.coin import CoinFit, CoinSettings
from lictor.metrics import psnr
from lictor.rates import bpp

Point = dict[str, Any]


def point(data: bytes, decoded: list[Signal], items: np.ndarray, seconds: float) -> Point:
    """Return rate and mean PSNR of items in one archive."""
    (restored,) = decoded
    mean = np.mean([psnr(*pair) for pair in zip(items, restored.samples, strict=True)])
    count, rows, columns, _ = items.shape
    rate = bpp(len(data), count * rows, columns)
    return {"bpp": rate, "psnr": float(mean), "encode_s": seconds / len(items)}


def coin_points(signal: Signal, width: int, args: argparse.Namespace) -> list[Point]:
    """Return what networks of a width give at several steps of their weights."""
    fit = CoinFit(steps=args.steps, learning_rate=args.lr)
    codec = CoinCodec(CoinSettings(width, args.layers, args.w0), fit)
    begin = time.perf_counter()
    fitted = codec.fitted([signal])
    seconds = time.perf_counter() - begin
    found = []
    for q in args.steps_of_weights:
        data = codec.encode([signal], q, names=["items"], fitted=fitted)
        found.append(point(data, codec.decode(data), signal.samples, seconds))
        found[-1] |= {"width": width, "q": q}
        print("coin", found[-1], flush=True)
    return found


def hull(points: list[Point]) -> list[Point]:
    """Return the points that no other beats, from low rates to high."""
    kept: list[Point] = []
    for one in sorted(points, key=lambda p: p["bpp"]):
        if not kept or one["psnr"] > kept[-1]["psnr"] + 0.05:
            kept.append(one)
    return kept


def change_of_rate(anchor: list[Point], test: list[Point]) -> float:
    """Return the BD-rate in percent; NaN where the curves do not rise or share no PSNR."""
    columns = [[p[key] for p in points] for points in (anchor, test) for key in ("bpp", "psnr")]
    try:
        return bd_rate(*columns)
    except DataError as error:
        print(f"no BD-rate: {error}", file=sys.stderr)
        return math.nan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("items", type=Path)
    parser.add_argument("codec", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--widths", nargs="+", type=int, default=[5, 7, 10, 14])
    parser.add_argument("--layers", type=int, default=4, help="the output layer included")
    parser.add_argument("--w0", type=float, default=30.0)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument(
        "--steps-of-weights", nargs="+", type=int, default=[24, 28, 32, 36, 40], metavar="Q"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    items = np.load(args.items)[: args.count]
    signal = Signal(items, None, "image")
    points = [p for width in args.widths for p in coin_points(signal, width, args)]
    codec = SignalCodec.load(args.codec)
    ours = []
    first, last = codec.latents.qualities
    for q in range(first, last + 1, 2):
        begin = time.perf_counter()
        data = codec.encode([signal], q, names=["items"])
        seconds = time.perf_counter() - begin
        ours.append(point(data, codec.decode(data), items, seconds) | {"q": q})
        print("lictor", ours[-1])
    theirs = hull(points)
    change = change_of_rate(theirs, ours)
    print(f"BD-rate against COIN {change:+.1f} %, over PSNR that both reach")
    if args.json:
        settings = {k: v for k, v in vars(args).items() if not isinstance(v, Path)}
        record = {
            "settings": settings, "cpu": cpu_name(), "versions": versions(), "torch_threads":
            torch.get_num_threads(), "coin": points, "lictor": ours,
            "bd_rate": json_ready(change),
        }  # fmt: skip
        write_file(args.json, (json.dumps(record, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
