"""The README's table: made from `results/*.json`, never typed.

    python benchmarks/readme_table.py                  rewrite the table in README.md
    python benchmarks/readme_table.py --check          exit 1 if it is not what the results say
    python benchmarks/readme_table.py --measure DIR    measure the shipped codec and its peers first

Each results file is what `lictor evaluate --json` writes, or a list of such objects. Measuring runs
the shipped codec on the pictures of DIR, gives Pillow's WebP and JPEG as many bytes for each
picture as our file has, and writes `results/kodak.json` (another name with --name). The figures of
time are worth something only on a machine that does nothing else.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "results"
SHIPPED = ROOT / "src" / "lictor" / "assets" / "default.lcodec"
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"
MEASURED = "kodak"

HEADER = (
    "| pictures | codec | bpp | PSNR dB | MS-SSIM | encode s | decode s |\n"
    "|---|---|--:|--:|--:|--:|--:|\n"
)


def measure(folder: Path) -> list[dict[str, Any]]:
    """Measure the shipped codec and, at its bytes for each picture, Pillow's codecs."""
    from lictor.codec import Codec
    from lictor.data import list_images, load_image
    from lictor.evaluation.peers import PEERS, encode_to_size
    from lictor.evaluation.rd import evaluate_image, results_to_json

    codec = Codec.default()
    paths = list_images(folder)
    codec.decode(codec.encode(load_image(paths[0])))  # compiles the coder: not to be timed
    ours, peers = [], {name: [] for name in reversed(PEERS)}
    for path in paths:
        image = load_image(path)
        ours.append(evaluate_image(codec, image, path.name))
        line = [f"{path.name}  {ours[-1].bytes} bytes  lictor {ours[-1].psnr:.2f} dB"]
        for name, results in peers.items():
            peer, _ = encode_to_size(PEERS[name], image, ours[-1].bytes)
            results.append(evaluate_image(peer, image, path.name))
            line.append(f"{name} {results[-1].psnr:.2f} dB")
        print("  ".join(line), flush=True)
    measured = [results_to_json(codec, ours)]
    for name, results in peers.items():
        measured.append({**results_to_json(peer, results), "name": name})
    return [{**result, "cpu_cores": os.cpu_count()} for result in measured]


def load_results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the objects of each results file, by the file's name."""
    files = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        files[path.stem] = content if isinstance(content, list) else [content]
    if not files:
        sys.exit(f"{folder}: no results; make some with --measure DIR")
    return files


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _row(pictures: str, result: dict[str, Any]) -> str:
    mean = result["mean"]
    cells = [
        f"{pictures} ({len(result['images'])})",
        result["name"],
        _number(mean["bpp"], 3),
        _number(mean["psnr"], 2),
        _number(mean["ms_ssim"], 4),
        _number(mean["encode_s"], 3),
        _number(mean["decode_s"], 3),
    ]
    return "| " + " | ".join(cells) + " |\n"


def _notes(results: list[dict[str, Any]]) -> list[str]:
    """Say what a reader of the rows must know: the codec's training, the machine, lost budgets."""
    ours, notes = results[0], []
    if ours.get("codec"):
        steps = ours["codec"]["notes"].get("steps")
        trained = f", {steps} training steps" if steps is not None else ""
        notes.append(
            f"{ours['name']}: {ours['codec']['parameters'] / 1e6:.1f} million weights{trained}, "
            f"fingerprint `{ours['codec']['fingerprint']}`."
        )
    if len(results) > 1:
        notes.append(
            "The others got, picture by picture, the best quality whose file has at most our bytes."
        )
    for other in results[1:]:
        over = sum(
            theirs["bytes"] > mine["bytes"]
            for mine, theirs in zip(ours["images"], other["images"], strict=True)
        )
        if over:
            notes.append(
                f"{other['name']} needs more than that even at its lowest quality for {over} of "
                f"{len(other['images'])} pictures."
            )
    notes.append("Bpp counts every byte of the file; all columns are means over pictures.")
    if ours.get("cpu_cores"):
        notes.append(f"Times are of one machine with {ours['cpu_cores']} CPU cores.")
    return notes


def render(files: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table with its notes, between the markers."""
    rows = [_row(name, result) for name, results in files.items() for result in results]
    notes = [note for results in files.values() for note in _notes(results)]
    text = HEADER + "".join(rows) + "\n" + "\n".join(dict.fromkeys(notes))
    return f"{BEGIN}\n{text}\n{END}"


def with_table(readme: str, table: str) -> str:
    """Return the README with the table in place of what stands between the markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{README.name}: the markers {BEGIN} and {END} are missing")
    return before + table + after


def stale(files: dict[str, list[dict[str, Any]]], readme: str) -> str:
    """Say what is out of date; empty if nothing is."""
    with safe_open(SHIPPED, framework="numpy") as file:
        shipped = file.metadata()["fingerprint"]
    measured = files.get(MEASURED, [{}])[0].get("codec") or {}
    if measured.get("fingerprint") != shipped:
        return (
            f"results/{MEASURED}.json is of the codec {measured.get('fingerprint')}, but {shipped} "
            "ships; run: python benchmarks/readme_table.py --measure DIR"
        )
    if with_table(readme, render(files)) != readme:
        return "README.md is stale; run: python benchmarks/readme_table.py"
    return ""


def main() -> None:
    """Measure, check or rewrite."""
    parser = argparse.ArgumentParser(description="The README's table, from results/*.json.")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="exit 1 if the README is stale")
    group.add_argument("--measure", type=Path, metavar="DIR", help="measure on these pictures")
    parser.add_argument("--name", default=MEASURED, help="results file to write (kodak)")
    options = parser.parse_args()
    if options.measure is not None:
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(measure(options.measure), indent=1) + "\n"
        (RESULTS / f"{options.name}.json").write_text(text, encoding="utf-8")
    files = load_results(RESULTS)
    readme = README.read_text(encoding="utf-8")
    if options.check:
        sys.exit(stale(files, readme) or 0)
    README.write_text(with_table(readme, render(files)), encoding="utf-8")


if __name__ == "__main__":
    main()
