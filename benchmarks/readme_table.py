"""The README's table: made from `results/kodak/*.json`, never typed.

    python benchmarks/readme_table.py           rewrite the table in README.md
    python benchmarks/readme_table.py --check   exit 1 if it is not what the results say

The results are those of

    lictor evaluate KODAK --codecs default jpeg jpeg-444 jpeg2000 webp avif jpegxl -o results/kodak
    lictor evaluate KODAK --codecs ... -o results/kodak --jobs 1 --speed     (on a quiet machine)

The shipped codec has one rate. The others are read at that rate and at its PSNR, between their own
points (PCHIP over the logarithm of the rate); published curves likewise.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

import numpy as np
from safetensors import safe_open
from scipy.interpolate import PchipInterpolator

from lictor.comparison.anchors import load_anchor
from lictor.comparison.curve import Curve, load_curve
from lictor.evaluation.peers import PEERS

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "results" / "kodak"
SHIPPED = ROOT / "src" / "lictor" / "assets" / "default.lcodec"
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"

OURS, MEASURED = "default", ("jpeg", "webp", "jpeg2000", "jpegxl", "avif")
PUBLISHED = ("bpg-444", "mbt2018-mean", "vtm-18.0")
HEADER = (
    "| codec | PSNR dB at {bpp:.3f} bpp | bpp at {psnr:.2f} dB | MS-SSIM at {bpp:.3f} bpp "
    "| encode s | decode s |\n|---|--:|--:|--:|--:|--:|\n"
)


def between(x: np.ndarray, y: np.ndarray, at: float) -> float | None:
    """Interpolate rising points; None outside of them."""
    if not x[0] <= at <= x[-1]:
        return None
    return float(PchipInterpolator(x, y)(at))


def seconds(curve: Curve, key: str) -> float | None:
    """Return the median over settings of what was measured one call at a time."""
    speed = curve.codec.get("speed")
    return median(entry[key] for entry in speed.values()) if speed else None


def number(value: float | None, digits: int) -> str:
    """Show what exists."""
    return "-" if value is None else f"{value:.{digits}f}"


def row(label: str, curve: Curve, bpp: float, psnr: float) -> str:
    """Return a codec's line, read at the shipped codec's rate and PSNR."""
    rate, quality = np.log(curve.bpp), curve.quality("psnr")
    needed = between(quality, rate, psnr)
    similarity = between(rate, curve.columns["ms-ssim"], np.log(bpp)) if curve.rows else None
    cells = [
        label,
        number(between(rate, quality, np.log(bpp)), 2),
        number(None if needed is None else float(np.exp(needed)), 3),
        number(similarity, 4),
        number(seconds(curve, "encode_s"), 3),
        number(seconds(curve, "decode_s"), 3),
    ]
    return "| " + " | ".join(cells) + " |\n"


def render(ours: Curve, peers: dict[str, Curve]) -> str:
    """Return the table with its notes, between the markers."""
    bpp, psnr = float(ours.bpp[0]), float(ours.quality("psnr")[0])
    lines = [HEADER.format(bpp=bpp, psnr=psnr)]
    times = [number(seconds(ours, key), 3) for key in ("encode_s", "decode_s")]
    similarity = float(ours.columns["ms-ssim"][0])
    cells = ["**lictor default**", f"{psnr:.2f}", f"{bpp:.3f}", f"{similarity:.4f}", *times]
    lines.append("| " + " | ".join(cells) + " |\n")
    lines += [row(PEERS[name].label, peer, bpp, psnr) for name, peer in peers.items()]
    lines += [row(f"{name} (published)", load_anchor(name), bpp, psnr) for name in PUBLISHED]
    config = ours.codec["settings"][OURS]
    machine = ours.provenance["machine"]
    notes = (
        f"Kodak, {len(ours.images)} pictures, means over pictures; every byte of a file counts. "
        f"lictor default: {config['parameters'] / 1e6:.1f} million weights, "
        f"{config['notes']['steps']} training steps on a CPU, measured as "
        f"`{config['fingerprint']}`.\nThe others are read between their own points. Times are "
        f"medians of warm calls on {machine['cores']} cores ({machine['cpu']}), a 768x512 picture "
        "at a time."
    )
    return f"{BEGIN}\n{''.join(lines)}\n{notes}\n{END}"


def stale(table: str, ours: Curve, readme: str) -> str:
    """Say what is out of date; empty if nothing is."""
    with safe_open(SHIPPED, framework="numpy") as file:
        metadata = file.metadata()
    shipped = metadata["fingerprint"]
    measured = ours.codec["settings"][OURS]["fingerprint"]
    # A converted codec makes the files of the former one, but for the fingerprint in them.
    if measured not in (shipped, *json.loads(metadata["replaces"])):
        return f"results are of the codec {measured}, but {shipped} ships: evaluate it again"
    if table not in readme:
        return "README.md is stale; run: python benchmarks/readme_table.py"
    return ""


def main() -> None:
    """Check or rewrite."""
    parser = argparse.ArgumentParser(description="The README's table, from results/kodak/*.json.")
    parser.add_argument("--check", action="store_true", help="exit 1 if the README is stale")
    options = parser.parse_args()
    ours = load_curve(RESULTS / f"{OURS}.json")
    table = render(ours, {name: load_curve(RESULTS / f"{name}.json") for name in MEASURED})
    readme = README.read_text(encoding="utf-8")
    if options.check:
        sys.exit(stale(table, ours, readme) or 0)
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{README.name}: the markers {BEGIN} and {END} are missing")
    README.write_text(before + table + after, encoding="utf-8")


if __name__ == "__main__":
    main()
