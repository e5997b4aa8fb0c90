"""What changes a BD-rate, and by how much: the table of docs/comparing.md, from `results/kodak`.

    python benchmarks/compare_effects.py            rewrite the table
    python benchmarks/compare_effects.py --check    exit 1 if it is not what the results say

Every row changes one thing about a comparison and leaves the rest.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lictor.comparison.bd import compare
from lictor.comparison.curve import Curve, ImageResult, curve_from_rows, load_curve
from lictor.rates import bpp

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "comparing.md", ROOT / "results" / "kodak"
BEGIN, END = "<!-- effects:begin -->", "<!-- effects:end -->"
PAIRS = (("webp", "avif"), ("jpeg", "webp"))


def value(anchor: Curve, test: Curve, **options: object) -> float:
    """Return the BD-rate in percent, whatever there is to be said against it."""
    return compare(anchor, test, bootstrap=None, force=True, **options).bd_rate  # pyright: ignore[reportArgumentType]


def keep(curve: Curve, chosen: Callable[[ImageResult], bool]) -> Curve:
    """Return a curve of some of the rows."""
    return curve_from_rows(curve.name, [row for row in curve.rows if chosen(row)])


def points(curve: Curve, numbers: Sequence[int]) -> Curve:
    """Return a curve of some of the points."""
    settings = [curve.settings[i] for i in numbers]
    return keep(curve, lambda row: row.setting in settings)


def without_bytes(curve: Curve, num_bytes: int) -> Curve:
    """Return the curve of files that are shorter by a header."""

    def shorter(row: ImageResult) -> ImageResult:
        left = row.bytes - num_bytes
        return replace(row, bytes=left, bpp=bpp(left, row.height, row.width))

    return curve_from_rows(curve.name, [shorter(row) for row in curve.rows])


def effects(anchor: Curve, test: Curve) -> list[tuple[str, float]]:
    """Return the BD-rate after each change, the unchanged one first."""
    images = sorted(anchor.images)
    half = len(images) // 2
    first, last = set(images[:half]), set(images[half:])
    low, high = range(4), range(len(anchor.settings) - 4, len(anchor.settings))

    def on(chosen: set[str]) -> float:
        return value(*(keep(c, lambda row: row.image in chosen) for c in (anchor, test)))

    return [
        ("nothing: PSNR of RGB, mean of dB, PCHIP, all points, all pictures", value(anchor, test)),
        ("PSNR of the mean squared error", value(anchor, test, aggregation="mean-mse")),
        ("PSNR of luma", value(anchor, test, metric="psnr-y")),
        ("MS-SSIM in dB", value(anchor, test, metric="ms-ssim-db")),
        ("Akima interpolation", value(anchor, test, method="akima")),
        ("one cubic polynomial", value(anchor, test, method="cubic")),
        ("the four lowest rates only", value(points(anchor, low), points(test, low))),
        ("the four highest rates only", value(points(anchor, high), points(test, high))),
        ("the first half of the pictures", on(first)),
        ("the second half of the pictures", on(last)),
        ("100 bytes of each test file not counted", value(anchor, without_bytes(test, 100))),
    ]


def render(curves: dict[str, Curve]) -> str:
    """Return the table between its markers."""
    tables = [effects(curves[anchor], curves[test]) for anchor, test in PAIRS]
    head = "".join(f" {test} against {anchor} |" for anchor, test in PAIRS)
    lines = [f"| what is changed |{head}", "|---|" + "--:|" * len(PAIRS)]
    for row in zip(*tables, strict=True):
        shown = [f"{v:+.1f} %" for _, v in row]
        if row is not None and row[0][0] != tables[0][0][0]:
            moved = [v - table[0][1] for (_, v), table in zip(row, tables, strict=True)]
            shown = [f"{s} ({m:+.1f})" for s, m in zip(shown, moved, strict=True)]
        lines.append(f"| {row[0][0]} | " + " | ".join(shown) + " |")
    return "\n".join([BEGIN, *lines, END])


def main() -> None:
    """Check or rewrite."""
    parser = argparse.ArgumentParser(description="The table of docs/comparing.md.")
    parser.add_argument("--check", action="store_true", help="exit 1 if the page is stale")
    options = parser.parse_args()
    names = {name for pair in PAIRS for name in pair}
    table = render({name: load_curve(RESULTS / f"{name}.json") for name in names})
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{PAGE.name}: the markers {BEGIN} and {END} are missing")
    if options.check:
        stale = f"{PAGE.name} is stale; run: python benchmarks/compare_effects.py"
        sys.exit(0 if before + table + after == page else stale)
    PAGE.write_text(before + table + after, encoding="utf-8")


if __name__ == "__main__":
    main()
