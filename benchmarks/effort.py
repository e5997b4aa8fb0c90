"""What `lictor compress --effort` saves, and what it costs: bits at equal quality, and CPU seconds.

Every picture is compressed plainly and with each effort, and decoded again. The refined file has
other bits and another quality than the plain one, so three figures are given:

* bits and dB as they are;
* `saving`: the change of `bits + lmbda * 255^2 * MSE * pixels`, over the plain bits. To first order
  that is the change of bits at equal quality, `lmbda` being the slope of the codec's trade-off;
* with `--bracket`, each effort of it is repeated with other values of `lmbda` until the quality is
  on the other side of the plain file's; bits are interpolated, linearly over dB, at its PSNR.

Seconds are CPU seconds of this process, all threads, as other programs may be running beside it.
Results are written after each picture; those that are in the file already are not made again.

    python benchmarks/effort.py PICTURES... [--efforts 1 2 3] [--bracket 3] [--json FILE]
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from lictor.codecs.learned import Codec
from lictor.codecs.refinement import Refinement, effort
from lictor.data.images import load_image
from lictor.evaluation.provenance import cpu_name, versions
from lictor.files import write_file

_FACTOR, _MOST = 0.88, 5


def measured(codec: Codec, image: np.ndarray, refinement: Refinement | None) -> dict[str, float]:
    """Compress and decode a picture; raises `AssertionError` if another picture comes back."""
    begun = time.process_time()
    encoded = codec.encode_verbose(image, refinement=refinement)
    cpu_s = time.process_time() - begun
    np.testing.assert_array_equal(codec.decode(encoded.data), encoded.reconstruction)
    mse = float(((encoded.reconstruction.astype(np.float64) - image) ** 2).mean())
    return {
        "bits": 8 * len(encoded.data),
        "mse": mse,
        "psnr": float(10 * np.log10(255**2 / mse)),
        "cpu_s": cpu_s,
    }


def saving(plain: dict[str, float], refined: dict[str, float], weight: float) -> float:
    """Return the change of the cost over the plain bits, per cent; `weight` is lmbda * pixels."""
    change = refined["bits"] - plain["bits"] + weight * (refined["mse"] - plain["mse"])
    return 100 * change / plain["bits"]


def at_equal_psnr(
    codec: Codec, image: np.ndarray, plain: dict[str, float], level: int, first: dict[str, float]
) -> float | None:
    """Return the change of bits at the plain PSNR, per cent; None if it is not bracketed."""
    assert codec.lmbda is not None
    better = first["psnr"] >= plain["psnr"]
    near, lmbda = first, codec.lmbda
    for _ in range(_MOST):
        lmbda *= _FACTOR if better else 1 / _FACTOR
        far = measured(codec, image, effort(level, lmbda=lmbda))
        if (far["psnr"] >= plain["psnr"]) != better:
            way = (plain["psnr"] - near["psnr"]) / (far["psnr"] - near["psnr"])
            bits = near["bits"] + way * (far["bits"] - near["bits"])
            return 100 * (bits - plain["bits"]) / plain["bits"]
        near = far
    return None


def of_picture(codec: Codec, path: Path, levels: list[int], bracket: list[int]) -> dict[str, Any]:
    image = load_image(path)
    assert codec.lmbda is not None
    weight = codec.lmbda * image.shape[0] * image.shape[1]
    plain = measured(codec, image, None)
    row: dict[str, Any] = {"plain": plain, "efforts": {}}
    for level in levels:
        refined = measured(codec, image, effort(level))
        refined["saving"] = saving(plain, refined, weight)
        entry: dict[str, Any] = dict(refined)
        if level in bracket:
            entry["at_equal_psnr"] = at_equal_psnr(codec, image, plain, level, refined)
        row["efforts"][str(level)] = entry
        print(f"{path.stem} effort {level}: {entry}", flush=True)
    return row


def table(pictures: dict[str, Any], levels: list[int]) -> list[str]:
    """Return the means over pictures, a line of Markdown for each effort."""
    lines = []
    for level in levels:
        rows = [(p["plain"], p["efforts"][str(level)]) for p in pictures.values()]
        bits = np.mean([100 * (r["bits"] / p["bits"] - 1) for p, r in rows])
        gained = np.mean([r["psnr"] - p["psnr"] for p, r in rows])
        saved = [r["saving"] for _, r in rows]
        equal = [r["at_equal_psnr"] for _, r in rows if r.get("at_equal_psnr") is not None]
        exact = f"{np.mean(equal):.1f} %" if len(equal) == len(rows) else "-"
        lines.append(
            f"| {level} | {np.mean([r['cpu_s'] for _, r in rows]):.1f} | {bits:.1f} % | "
            f"{gained:+.2f} dB | {np.mean(saved):.1f} % | {max(saved):.1f} % | {exact} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--efforts", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--bracket", nargs="*", type=int, default=[])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    codec = Codec.default()
    codec.warm_up()
    known = args.json is not None and args.json.exists()
    pictures: dict[str, Any] = json.loads(args.json.read_text())["pictures"] if known else {}
    for path in args.pictures:
        if path.stem in pictures:
            continue
        pictures[path.stem] = of_picture(codec, path, args.efforts, args.bracket)
        if args.json is not None:
            result = {
                "codec": codec.fingerprint.hex(),
                "cpu": cpu_name(),
                "versions": versions(),
                "pictures": pictures,
            }
            args.json.parent.mkdir(parents=True, exist_ok=True)
            write_file(args.json, json.dumps(result, indent=1).encode())
    print("| effort | CPU s | bits | PSNR | saving | least | at equal PSNR |")
    for line in table(pictures, args.efforts):
        print(line)


if __name__ == "__main__":
    main()
