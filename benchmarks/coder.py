"""Speed and size of the symbol coder beside constriction's ANS coder, in one run on one thread.

The input is like one Kodak latent: 491,520 Gaussian integers of mean 0, each with an index into 64
scales from 0.11 to 256, at a low, a middle and a high rate. lictor is measured as a codec uses it:
`SymbolEncoder.put` + `finish` and `SymbolDecoder.get` + `finish`, checksum and checks included,
tables prepared. constriction codes the same symbols with per-symbol Gaussians, as its manual shows;
it computes them from float scales as it goes, which is what it is made for.

    python benchmarks/coder.py [--runs 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lictor.coding.stream import SymbolDecoder, SymbolEncoder
from lictor.coding.tables import CdfTables, build_tables
from lictor.evaluation.provenance import cpu_name

NUM_SYMBOLS = 320 * 32 * 48
SCALES = np.exp(np.linspace(math.log(0.11), math.log(256), 64))
RATES = {"low": 0.13, "mid": 1.0, "high": 2.6}  # bits per symbol


def gaussian_tables() -> CdfTables:
    pmf, tail, offset = [], [], []
    for scale in SCALES:
        reach = math.ceil(4.5 * scale) + 1
        edges = (np.arange(-reach, reach + 2) - 0.5) / (scale * math.sqrt(2))
        pmf.append(np.diff([0.5 * math.erfc(-x) for x in edges]))
        tail.append(math.erfc(edges[-1]))
        offset.append(-reach)
    return build_tables(pmf, np.array(tail), np.array(offset))


def latent(rate: float, tables: CdfTables) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Symbols and indexes of about `rate` bits per symbol: indexes are a clipped normal draw."""
    rng = np.random.default_rng(0)
    spread, noise = rng.normal(0, 8, NUM_SYMBOLS), rng.normal(0, 1, NUM_SYMBOLS)
    low, high = -40.0, 80.0
    symbols = indexes = np.zeros(0, np.int32)
    for _ in range(12):
        centre = (low + high) / 2
        indexes = np.clip(np.rint(spread + centre), 0, 63).astype(np.int32)
        symbols = np.rint(noise * SCALES[indexes]).astype(np.int32)
        if tables.bits(symbols, indexes).mean() > rate:
            high = centre
        else:
            low = centre
    return symbols, indexes


def lictor_coder(symbols, indexes, tables) -> tuple[Callable, Callable]:
    def encode() -> bytes:
        encoder = SymbolEncoder()
        encoder.put(symbols, indexes, tables)
        return encoder.finish()

    def decode(payload: bytes) -> NDArray[np.int32]:
        decoder = SymbolDecoder(payload)
        out = decoder.get(indexes, tables)
        decoder.finish()
        return out

    return encode, decode


def constriction_coder(symbols, indexes) -> tuple[Callable, Callable]:
    from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]

    family = stream.model.QuantizedGaussian(-1300, 1300)
    means, scales = np.zeros(len(symbols)), SCALES[indexes]

    def encode() -> bytes:
        coder = stream.stack.AnsCoder()
        coder.encode_reverse(symbols, family, means, scales)
        return coder.get_compressed().tobytes()

    def decode(payload: bytes) -> NDArray[np.int32]:
        coder = stream.stack.AnsCoder(np.frombuffer(payload, np.uint32))
        return coder.decode(family, means, scales)

    return encode, decode


def seconds(function: Callable[[], object], runs: int) -> list[float]:
    function()
    out = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        out.append(time.perf_counter() - start)
    return out


def measure(name: str, coder: tuple[Callable, Callable], symbols, runs: int) -> dict[str, object]:
    encode, decode = coder
    payload = encode()
    if not np.array_equal(decode(payload), symbols):
        raise SystemExit(f"{name} does not round-trip")
    result: dict[str, object] = {"coder": name, "bytes": len(payload)}
    for verb, took in [
        ("encode", seconds(encode, runs)),
        ("decode", seconds(lambda: decode(payload), runs)),
    ]:
        result[f"{verb}_best_msym_s"] = round(len(symbols) / min(took) / 1e6, 1)
        result[f"{verb}_median_msym_s"] = round(len(symbols) / statistics.median(took) / 1e6, 1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the symbol coder beside constriction.")
    parser.add_argument("--runs", type=int, default=15, help="timed runs of each; default 15")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    args = parser.parse_args()

    tables = gaussian_tables()
    results = []
    print("coder         rate  bit/sym    bytes  over entropy   enc best/median   dec best/median")
    for name, rate in RATES.items():
        symbols, indexes = latent(rate, tables)
        entropy_bytes = tables.bits(symbols, indexes).sum() / 8
        coders = {
            "lictor": lictor_coder(symbols, indexes, tables),
            "constriction": constriction_coder(symbols, indexes),
        }
        for coder_name, coder in coders.items():
            row = measure(coder_name, coder, symbols, args.runs)
            row |= {
                "rate": name,
                "bits_per_symbol": round(8 * entropy_bytes / NUM_SYMBOLS, 4),
                "entropy_bytes": round(entropy_bytes, 1),
            }
            results.append(row)
            print(
                f"{coder_name:13} {name:5} {row['bits_per_symbol']:7.3f} {row['bytes']:8d}"
                f" {100 * (row['bytes'] / entropy_bytes - 1):+12.2f} %"
                f" {row['encode_best_msym_s']:9.1f} / {row['encode_median_msym_s']:5.1f}"
                f" {row['decode_best_msym_s']:9.1f} / {row['decode_median_msym_s']:5.1f}  Msym/s"
            )
    if args.json:
        report = {
            "command": " ".join(["python", *sys.argv]),
            "num_symbols": NUM_SYMBOLS,
            "machine": {
                "cpu": cpu_name(),
                "cpus": os.cpu_count(),
                "system": platform.platform(),
                "python": platform.python_version(),
            },
            "versions": {name: version(name) for name in ("numpy", "numba", "constriction")},
            "results": results,
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
