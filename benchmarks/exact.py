"""What the integers of the entropy networks cost: bytes and time against floating point.

Each codec codes pictures as it is, with exact integers, and as its twins do whose entropy networks
run in float32 and in float64 (rounded, as codecs of former formats do). Bytes are those of whole
files. A decoding is split into the integer coder, the entropy networks and the rest, which is the
synthesis. Times are the best of several rounds in which the three take turns, so that what else the
machine does touches all of them.

    python benchmarks/exact.py PICTURE... [--codecs default FILE...] [--rounds 7] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lictor.codecs.learned import Codec
from lictor.codecs.shipped import find_codec
from lictor.coding.stopwatch import time_coding
from lictor.data.images import load_image
from lictor.evaluation.provenance import cpu_name, versions
from lictor.layers.entropy_network import EntropyNetwork

EXACT, SINGLE, DOUBLE = "integers", "float32", "float64"


class Timed:
    """Adds up the seconds of the entropy networks of a codec."""

    def __init__(self, codec: Codec):
        self.seconds = 0.0
        for module in codec.model.modules():
            if isinstance(module, EntropyNetwork):
                module.forward = self._timed(module.forward)

    def _timed(self, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(features: Tensor) -> Tensor:
            start = time.perf_counter()
            result = forward(features)
            self.seconds += time.perf_counter() - start
            return result

        return run


def twins(codec: Codec) -> dict[str, Codec]:
    """Return the codec with its entropy networks in integers, in float32 and in float64."""
    found = {EXACT: codec, SINGLE: copy.deepcopy(codec), DOUBLE: copy.deepcopy(codec)}
    for name in (SINGLE, DOUBLE):
        for module in found[name].model.modules():
            if isinstance(module, EntropyNetwork):
                module.integers = None
                if name == SINGLE:
                    module.net.float()
                    module.frozen = False
    return found


def measure(codec: Codec, pictures: list[Path], rounds: int) -> dict[str, Any]:
    """Return bytes of all pictures and the times of decoding the first."""
    images = [load_image(path) for path in pictures]
    row: dict[str, Any] = {"codec": codec.name, "fingerprint": codec.fingerprint.hex()}
    sides = twins(codec)
    files = {name: side.encode(images[0]) for name, side in sides.items()}
    for name, side in sides.items():
        row[f"bytes_{name}"] = sum(len(side.encode(image)) for image in images)
    row["bytes_over_float"] = row[f"bytes_{EXACT}"] / row[f"bytes_{SINGLE}"] - 1
    clocks = {name: Timed(side) for name, side in sides.items()}
    best = {name: (float("inf"), 0.0, 0.0) for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            clocks[name].seconds = 0.0
            start = time.perf_counter()
            with time_coding() as coder:
                side.decode(files[name])
            took = time.perf_counter() - start
            best[name] = min(best[name], (took, coder.seconds, clocks[name].seconds))
    for name, (took, coder_s, networks_s) in best.items():
        row[f"decode_s_{name}"] = took
        row[f"coder_s_{name}"], row[f"networks_s_{name}"] = coder_s, networks_s
    row["decode_over_float32"] = best[EXACT][0] / best[SINGLE][0]
    margins = [margin.spare_bits for ops in codec.margins.values() for margin in ops]
    row["spare_bits"] = min(margins, default=None)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--codecs", nargs="+", default=["default"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for name in args.codecs:
        row = measure(Codec.load(find_codec(name)), args.pictures, args.rounds)
        rows.append({"file": Path(name).name, **row})
        split = ", ".join(
            f"{part} {1e3 * row[f'{part}_s_{EXACT}']:.1f}" for part in ("coder", "networks")
        )
        print(
            f"{Path(name).name}: bytes {row['bytes_over_float']:+.4%}; decode "
            f"{1e3 * row[f'decode_s_{EXACT}']:.0f} ms ({split}), {row['decode_over_float32']:.2f} "
            f"of float32, float64 {1e3 * row[f'decode_s_{DOUBLE}']:.0f} ms; "
            f"spare bits {row['spare_bits']}"
        )
        sys.stdout.flush()
    if args.json:
        about = {"cpu": cpu_name(), "threads": args.threads, **versions()}
        args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
