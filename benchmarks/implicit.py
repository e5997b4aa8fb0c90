"""Networks of signals against a plain rendering of the paper's loop, and against COIN.

The plain loop goes through the items of a batch one by one, as published code of the method does
when it fits a signal: an `nn.Module` a layer, sines of shifted affine maps, `autograd.grad` with a
graph for each inner step, all points. Both sides train the same network on the same items with
Adam; bursts alternate, and a figure is the best burst.

- `train`: items a second of outer steps, second order and first order;
- `encode`: items a second of finding latents;
- `recipe train`, `recipe encode`: ours as the recipes have it, against the same plain loop (second
  order in training): a linear part whose projection is the first latent, no inner steps, a quarter
  of the points in training. Another method, not a faster rendering of the paper's;
- `decode`: samples a second, and the share of what the machine's matrix products reach;
- `coin`: seconds to fit one item as COIN does, per 1000 iterations, with as many items at once.

    python benchmarks/implicit.py [--threads 2] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lictor.evaluation.provenance import cpu_name, versions
from lictor.implicit.coin import CoinFit, CoinSettings, fit_coin
from lictor.implicit.coordinates import COORDINATES
from lictor.implicit.meta import InnerLoop, Target, fit
from lictor.implicit.model import IMPLICIT

ALPHA, INNER, LR = 1e-2, 3, 1e-5


class PlainSiren(nn.Module):
    """The paper's network as one would write it down, for one item at a time."""

    def __init__(self, d_in: int, d_out: int, width: int, layers: int, latent: int, w0: float):
        super().__init__()
        sides = [d_in, *[width] * (layers - 1), d_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sides))
        self.map = nn.Linear(latent, width * (layers - 1))
        self.w0, self.width = w0, width

    def forward(self, x: Tensor, z: Tensor) -> Tensor:  # noqa: D102
        shifts = self.map(z)
        *hidden, last = self.layers
        for i, layer in enumerate(hidden):
            x = torch.sin(self.w0 * (layer(x) + shifts[i * self.width : (i + 1) * self.width]))
        return last(x) + 0.5


def plain_latent(net: PlainSiren, x: Tensor, y: Tensor, latent: int, graph: bool) -> Tensor:
    z = torch.zeros(latent, requires_grad=True)
    for _ in range(INNER):
        loss = (net(x, z) - y).square().mean()
        (gradient,) = torch.autograd.grad(loss, z, create_graph=graph)
        z = z - ALPHA * gradient
        if not graph:
            z = z.detach().requires_grad_()
    return z


def plain_step(net: PlainSiren, adam: torch.optim.Optimizer, x: Tensor, items: Tensor,
               latent: int, order: str) -> None:  # fmt: skip
    adam.zero_grad()
    for y in items:
        z = plain_latent(net, x, y, latent, graph=order == "second")
        ((net(x, z) - y).square().mean() / len(items)).backward()
    adam.step()


def our_step(
    net: Any, adam: torch.optim.Optimizer, items: Tensor, loop: InnerLoop, points: Tensor | None
) -> None:
    adam.zero_grad()
    decode, target = net.at(points), Target.of(items, points=points)
    z = fit(decode, target, net.first(items), net.rates(), loop)
    target.distortion(decode(z)).mean().backward()
    adam.step()


def alternate(
    sides: dict[str, Callable[[], None]], rounds: int, least_s: float
) -> dict[str, float]:
    """Return the best seconds a call of each side, over bursts that take turns."""
    best: dict[str, float] = {}
    for side in sides.values():
        side()  # warm
    for _ in range(rounds):
        for name, side in sides.items():
            calls, begin = 0, time.perf_counter()
            while (spent := time.perf_counter() - begin) < least_s or not calls:
                side()
                calls += 1
            best[name] = min(best.get(name, 1e9), spent / calls)
    return best


def peak_flops(rounds: int) -> float:
    """Return what the machine's products of large float32 matrices reach, operations a second."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / alternate({"mm": lambda: torch.mm(a, b)}, rounds, 0.3)["mm"]  # pyright: ignore


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=32, help="items are pictures of this side")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--latent", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--burst", type=float, default=1.0, help="seconds of a burst, at least")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    grid = (args.side, args.side)
    x = COORDINATES["unit"](grid)
    items = torch.rand(args.batch, len(x), 3)
    settings = {"latent": args.latent, "width": args.width, "layers": args.layers, "w0": 30.0,
                "rate": ALPHA, "learned_rates": False}  # fmt: skip
    net = IMPLICIT["coinpp"](x, 3, **settings)
    plain = PlainSiren(2, 3, args.width, args.layers, args.latent, 30.0)
    record: dict[str, Any] = {"settings": vars(args) | {"json": None}, "cpu": cpu_name(),
                              "versions": versions(), "ratios": {}}  # fmt: skip

    def tell(what: str, seconds: dict[str, float], per_call: float, unit: str) -> None:
        ratio = seconds["plain"] / seconds["lictor"]
        record[what] = {k: per_call / v for k, v in seconds.items()} | {"unit": unit}
        record["ratios"][what] = ratio
        ours, theirs = (per_call / seconds[side] for side in ("lictor", "plain"))
        print(f"{what:14} lictor {ours:10.1f} {unit}  plain {theirs:10.1f}  ratio {ratio:5.2f}")

    for order in ("second", "first"):
        ours, theirs = (torch.optim.Adam(m.parameters(), LR) for m in (net, plain))
        loop = InnerLoop(INNER, order)
        sides: dict[str, Callable[[], None]] = {
            "lictor": lambda a=ours, loop=loop: our_step(net, a, items, loop, None),
            "plain": lambda o=order, a=theirs: plain_step(plain, a, x, items, args.latent, o),
        }
        seconds = alternate(sides, args.rounds, args.burst)
        tell(f"train {order}", seconds, args.batch, "items/s")

    @torch.no_grad()
    def encode(model: Any, loop: InnerLoop) -> None:
        fit(model.at(), Target.of(items), model.first(items), model.rates(), loop)

    def plain_encode() -> None:
        for y in items:
            plain_latent(plain, x, y, args.latent, graph=False)

    recipe = IMPLICIT["linear-coinpp"](x, 3, **settings)
    ours, theirs = (torch.optim.Adam(m.parameters(), LR) for m in (recipe, plain))
    none, some = InnerLoop(0), torch.randperm(len(x))[: max(1, len(x) // 4)].sort().values
    descent = InnerLoop(INNER, "first")
    for what, sides in (
        ("encode", {"lictor": lambda: encode(net, descent), "plain": plain_encode}),
        ("recipe encode", {"lictor": lambda: encode(recipe, none), "plain": plain_encode}),
        ("recipe train", {
            "lictor": lambda: our_step(recipe, ours, items, none, some),
            "plain": lambda: plain_step(plain, theirs, x, items, args.latent, "second"),
        }),
    ):  # fmt: skip
        tell(what, alternate(sides, args.rounds, args.burst), args.batch, "items/s")

    z = torch.randn(args.batch, args.latent) * 0.01

    @torch.no_grad()
    def decode() -> None:
        net.decode(z)

    @torch.no_grad()
    def plain_decode() -> None:
        for row in z:
            plain(x, row)

    seconds = alternate({"lictor": decode, "plain": plain_decode}, args.rounds, args.burst)
    samples = args.batch * len(x)
    tell("decode", seconds, samples, "samples/s")
    macs = args.width * (2 + args.width * (args.layers - 2) + 3)
    reached = 2 * macs * samples / seconds["lictor"]
    peak = peak_flops(args.rounds)
    record["decode"]["share_of_peak"] = reached / peak
    print(f"decode: {macs / 1e3:.1f} kMAC a sample, {reached / 1e9:.1f} Gflop/s, "
          f"{100 * reached / peak:.0f} % of the {peak / 1e9:.1f} of matrix products")  # fmt: skip
    coin = CoinSettings(width=20, layers=6)
    begin = time.perf_counter()
    fit_coin(items, COORDINATES["pixels"](grid), coin, CoinFit(steps=100))
    record["coin_s_per_item_and_1000_steps"] = 10 * (time.perf_counter() - begin) / args.batch
    print(f"coin: {record['coin_s_per_item_and_1000_steps']:.2f} s an item and 1000 iterations")
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
