"""Tables of stand-ins for rounding: moments, risk, rates, gradients of means, toy codecs."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from lictor.analysis.surrogates.means import mean_gradient
from lictor.analysis.surrogates.moments import path_curve, path_moments
from lictor.analysis.surrogates.rate import (
    SOURCES,
    SPREADS,
    best_scales,
    bounded_rates,
    gaussian_log_bits,
    noise_rate,
    round_rate,
)
from lictor.analysis.surrogates.risk import (
    LINEAR,
    ROUGH,
    RateLoss,
    gradient_risk,
    thetas,
    through,
)
from lictor.analysis.surrogates.toy import ToyResult, ToySettings, train_toy
from lictor.analysis.table import Cell, Table
from lictor.config import pick
from lictor.errors import ConfigError
from lictor.files import json_ready
from lictor.layers.quantize.catalogue import PATHS, SURROGATES
from lictor.layers.quantize.paths import AdditiveNoise, Path
from lictor.layers.quantize.schedule import LinearTemperature
from lictor.layers.quantize.soft import SoftRound
from lictor.layers.quantize.surrogate import MEAN_GRADIENTS, Surrogate

_FORMAT = "lictor-surrogates-1"
DEFAULT_PATHS = (
    *("noise", "expected-noise", "universal", "straight-through", "sua", "sua-a"),
    *("sga", "soft-round", "soft-round-noise", "dsq"),
)
# Where a path has a temperature it is looked at from warm to cold, and drawn at one of them.
TEMPERATURES = (1.0, 0.75, 0.5, 0.3, 0.2, 0.15, 0.1, 0.05)
DRAWN_AT = 0.2
_SHOWN_AT = (0.5, 0.2)
BATCHES = (1, 16, 256)
SPREADS_OF_RISK = (1.0, 0.3)
DECODERS = {"linear": LINEAR, "rough": ROUGH}
_RATE_SCALES = (1.0, 0.5, 0.3, 0.2, 0.11, 0.05)
_SCALES = (
    *(0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.095, 0.11, 0.12, 0.13, 0.15, 0.175, 0.2, 0.25, 0.3),
    *(0.4, 0.5, 0.6, 0.75, 1.0, 1.5, 2.0, 3.0),
)
_BOUNDS = (1e-6, 0.05, 0.08, 0.095, 0.11, 0.12, 0.13, 0.15, 0.175, 0.2, 0.25, 0.3)
_SPREADS_SHOWN = (0.033, 0.061, 0.111, 0.202, 0.369)
_MEAN_CASES = ((0.15, 0.1), (0.15, 0.25), (0.3, 0.25), (1.0, 0.3))
_MEAN_PATHS: dict[str, float | None] = {
    "noise": None,
    "straight-through": None,
    "sga": 0.5,
    "soft-round-noise": 0.2,
}
ENDS = (1.0, 0.75, 0.5, 0.25, 0.1, 0.0)


@dataclass(frozen=True)
class Settings:
    """What is tabulated.

    `paths` are names of `PATHS`; `samples` are drawn at each place of a simulation; toy codecs take
    `steps`, and there are `replicas` of each. Raises `ConfigError` on an unknown or repeated name
    and on a count that is too small.
    """

    paths: tuple[str, ...] = DEFAULT_PATHS
    samples: int = 10_000
    steps: int = 2000
    replicas: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.paths or len(set(self.paths)) < len(self.paths):
            raise ConfigError("paths must be at least one name, none of them twice")
        for name in self.paths:
            pick(PATHS, name, "path")
        if self.samples < 100:
            raise ConfigError(f"a risk needs at least 100 samples, not {self.samples}")
        if min(self.steps, self.replicas) < 1 or self.seed < 0:
            raise ConfigError("steps and replicas must be at least 1, the seed at least 0")

    @property
    def toy(self) -> ToySettings:
        """The toy codec that all pairs are tried with."""
        return ToySettings(steps=self.steps, replicas=self.replicas)


def all_tables(settings: Settings) -> Iterator[Table]:
    """Yield `num_tables(settings)` tables; one that grows comes again with each row it gains."""
    for make in (_curves, _moments, _risks, _rate_risks, _rates, _means, _toys):
        yield from make(settings)


def num_tables(settings: Settings) -> int:
    """Return how often `all_tables` yields."""
    return 2 + 2 * len(settings.paths) + 3 + 1 + len(_pairs()) + len(ENDS)


def versions(name: str, temperatures: Sequence[float]) -> list[tuple[float | None, Path]]:
    """Return a path at each temperature, or once, with None, where it has no temperature."""
    path = PATHS[name]()
    assert dataclasses.is_dataclass(path)
    if all(field.name != "temperature" for field in dataclasses.fields(path)):
        return [(None, path)]
    return [(t, dataclasses.replace(path, temperature=t)) for t in temperatures]


def _curves(settings: Settings) -> Iterator[Table]:
    y = torch.linspace(-1.5, 1.5, 241, dtype=torch.float64)
    rows = list[dict[str, Cell]]()
    for name in settings.paths:
        for temperature, path in versions(name, (DRAWN_AT,)):
            curve = path_curve(path, y, samples=400, seed=settings.seed)
            columns = {
                "y": curve.y,
                "value": curve.value,
                "value 10 %": curve.value_band[0],
                "value 90 %": curve.value_band[1],
                "jacobian": curve.jacobian,
                "jacobian 10 %": curve.jacobian_band[0],
                "jacobian 90 %": curve.jacobian_band[1],
            }
            head: dict[str, Cell] = {"path": name, "temperature": temperature}
            for values in zip(*(column.tolist() for column in columns.values()), strict=True):
                rows.append(head | dict(zip(columns, values, strict=True)))
    yield Table("curves", "Value and jacobian over a latent", rows)


def _moments(settings: Settings) -> Iterator[Table]:
    rows = list[dict[str, Cell]]()
    for name in settings.paths:
        for temperature, path in versions(name, TEMPERATURES):
            found = path_moments(path, samples=20 * settings.samples, seed=settings.seed)
            rows.append(
                {
                    "path": name,
                    "temperature": temperature,
                    "E (v - round y)^2": found.mismatch,
                    "E (v - y)^2": found.error,
                    "E J": found.mean_jacobian,
                    "Var J": found.var_jacobian,
                    "max J": found.max_jacobian,
                }
            )
    yield Table("moments", "Moments, for a latent of uniform fractional part", rows)


def _risks(settings: Settings) -> Iterator[Table]:
    rows = list[dict[str, Cell]]()
    for name in settings.paths:
        for temperature, path in versions(name, TEMPERATURES):
            for decoder, loss in DECODERS.items():
                for spread in SPREADS_OF_RISK:
                    found = gradient_risk(
                        through(path),
                        loss,
                        spread,
                        places=thetas(),
                        samples=settings.samples,
                        seed=settings.seed,
                    )
                    rows.append(
                        {
                            "path": name,
                            "temperature": temperature,
                            "decoder": decoder,
                            "spread": spread,
                            "mismatch": found.mismatch,
                            "bias^2": found.relative_bias,
                            "error of bias^2": found.bias_error / found.scale,
                            "variance": found.relative_variance,
                            **{f"risk of {n}": found.relative_risk(n) for n in BATCHES},
                            "rms gradient": found.scale**0.5,
                        }
                    )
        title = "Squared bias, variance and risk of the distortion's gradient, relative"
        yield Table("risk", title, list(rows))


def _rate_risks(settings: Settings) -> Iterator[Table]:
    rows = list[dict[str, Cell]]()
    places = thetas(20, 0.5) + 0.0125
    for name in settings.paths:
        for temperature, path in versions(name, _SHOWN_AT):
            for scale in _RATE_SCALES:
                found = gradient_risk(
                    through(path),
                    RateLoss(scale),
                    scale,
                    places=places,
                    samples=settings.samples,
                    seed=settings.seed,
                )
                rows.append(
                    {
                        "path": name,
                        "temperature": temperature,
                        "scale": scale,
                        "rms gradient": found.scale**0.5,
                        "rms bias": max(found.squared_bias, 0.0) ** 0.5,
                        "deviation": found.variance**0.5,
                        "mismatch": found.mismatch,
                    }
                )
        title = "Gradient of the rate, in bits, of a Gaussian latent under its own scale"
        yield Table("rate-risk", title, list(rows))


def _rates(settings: Settings) -> Iterator[Table]:
    del settings
    gaussian, rows = SOURCES["gaussian"], list[dict[str, Cell]]()
    inner = torch.linspace(-0.5, 0.5, 2001, dtype=torch.float64)
    symbols = torch.arange(3, dtype=torch.float64)
    for scale in _SCALES:
        noisy, rounded = (rate(gaussian, scale, scale) for rate in (noise_rate, round_rate))
        zero, one, two = gaussian_log_bits(symbols, scale).tolist()
        rows.append(
            {
                "scale": scale,
                "noise": noisy,
                "rounding": rounded,
                "gap": noisy - rounded,
                "at the mean, noise": float(
                    torch.trapezoid(gaussian_log_bits(inner, scale), inner)
                ),
                "of 0": zero,
                "of 1": one,
                "of 2": two,
            }
        )
    yield Table("rates", "Bits of a Gaussian latent under its own scale", rows)
    spreads = np.unique(np.concatenate([SPREADS, _SPREADS_SHOWN]))
    best = {name: best_scales(source, spreads) for name, source in SOURCES.items()}
    yield Table(
        "scales",
        "The scale that codes a latent best, with noise and with rounding",
        [
            {"source": name, "spread": float(s), "noise": float(a), "rounding": float(b)}
            for name, found in best.items()
            for s, a, b in zip(found.spreads, found.noise, found.rounding, strict=True)
            if s in _SPREADS_SHOWN
        ],
    )
    counted = np.isin(spreads, SPREADS)
    rates = {
        name: bounded_rates(
            SOURCES[name],
            dataclasses.replace(
                found,
                spreads=found.spreads[counted],
                noise=found.noise[counted],
                rounding=found.rounding[counted],
            ),
            np.array(_BOUNDS),
        )
        for name, found in best.items()
    }
    yield Table(
        "bounds",
        "Mean bits with rounding, of scales that are best with noise, by their lower bound",
        [
            {"bound": bound} | {name: float(rates[name][i]) for name in rates}
            for i, bound in enumerate(_BOUNDS)
        ],
    )


def _means(settings: Settings) -> Iterator[Table]:
    rows = list[dict[str, Cell]]()
    for spread, offset in _MEAN_CASES:
        for name, at in _MEAN_PATHS.items():
            ((temperature, path),) = versions(name, (at or 0.0,))
            for mode in MEAN_GRADIENTS:
                found = mean_gradient(
                    Surrogate(path, path, mode),
                    spread,
                    offset,
                    samples=20 * settings.samples,
                    seed=settings.seed,
                )
                rows.append(
                    {
                        "path": name,
                        "temperature": temperature,
                        "mean_gradient": mode,
                        "spread": spread,
                        "offset": offset,
                        "true": found.truth,
                        "mean": found.mean,
                        "deviation": found.deviation,
                        "standard error": found.standard_error,
                    }
                )
    yield Table("means", "Gradient of the squared error in a mean", rows)


def _pairs() -> dict[str, Callable[[], Surrogate]]:
    """Return the pairs that a toy codec is tried with; the last one leaks."""
    names = ("noise", "straight-through", "mixed", "sga", "soft-round-noise")
    pairs: dict[str, Callable[[], Surrogate]] = {name: SURROGATES[name] for name in names}
    return pairs | {"soft-round, noise for the rate": _leaking}


def _leaking() -> Surrogate:
    schedule = LinearTemperature(1.0, 0.1, 0.0, 0.95)
    return Surrogate(SoftRound(), AdditiveNoise(), temperature=schedule, force=True)


def annealed(end: float) -> Surrogate:
    """Return noise for the rate; for the synthesis noise that becomes dither of `end`, late."""
    return SURROGATES["sua"](temperature_end=end)


def _toys(settings: Settings) -> Iterator[Table]:
    rows = list[dict[str, Cell]]()
    for name, make in _pairs().items():
        found = train_toy(make(), settings.toy, seed=settings.seed)
        rows.append({"pair": name} | _losses(found))
        yield Table("pairs", f"Toy codecs after {settings.steps} steps, by surrogate", list(rows))
    rows = []
    for end in ENDS:
        found = train_toy(annealed(end), settings.toy, seed=settings.seed)
        rows.append({"tau_end": end} | _losses(found))
        title = f"Toy codecs after {settings.steps} steps of sua, by the temperature at the end"
        yield Table("annealing", title, list(rows))


def _losses(found: ToyResult) -> dict[str, Cell]:
    deviation = found.deviation if found.test[1:] else None
    return {
        "J train": found.mean + found.gap,
        "J test": found.mean,
        "between replicas": deviation,
        "train - test": found.gap,
        "leaks": "yes" if found.leaks else "no",
    }


def tables_to_json(settings: Settings, tables: Sequence[Table]) -> str:
    """Return tables, with the settings they came from, as one JSON object."""
    tree = {
        "format": _FORMAT,
        "settings": asdict(settings),
        "tables": {
            table.name: {"title": table.title, "rows": [dict(row) for row in table.rows]}
            for table in tables
        },
    }
    return json.dumps(json_ready(tree), indent=1, allow_nan=False) + "\n"
