"""Tables of the noisy quadratic model: every closed form beside its simulation."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float64

from lictor.analysis.nqm.closed_forms import (
    PLAIN,
    Averaging,
    Quadratic,
    check_step,
    equal_risk_step,
    excess_risk,
    moments_feedback,
    moments_no_feedback,
    risk_curve,
    settling_updates,
    simulate,
    simulated_variance,
    spectrum,
    step_factor,
    v_sgd,
)
from lictor.analysis.nqm.modes import (
    ChainGradient,
    Mode,
    OwnGradient,
    bias_price,
    equal_mode,
    v_embedded,
)
from lictor.analysis.table import Cell, Table
from lictor.errors import ConfigError

_FORMAT = "lictor-nqm-1"
SIMULATED = ", simulated"  # ends the key of what stands beside a closed form
_UNIT = Quadratic(np.ones(1), np.ones(1))
_MEAN = "mean" + SIMULATED
_EXAMPLE_GAMMA = 0.2
# A simulation that needs more would run for minutes.
_MAX_STEPS = 200_000
_MAX_COORDINATE_STEPS = 20_000_000


@dataclass(frozen=True)
class Settings:
    """What is tabulated.

    `gamma` is the step of the ratios and modes, `gammas` are those of the spectrum of `dimensions`
    coordinates; `alphas` and `intervals` make the grid of ratios, `alpha` and `interval` are used
    everywhere else; `sizes` are those of modes; `particles` are simulated. Raises `ConfigError` on
    an empty list, a value out of range, or a step that diverges.
    """

    gamma: float = 0.1
    gammas: tuple[float, ...] = (0.1, 0.5, 1.0)
    alphas: tuple[float, ...] = (0.1, 0.25, 0.5, 0.8)
    intervals: tuple[int, ...] = (1, 5, 10, 50)
    alpha: float = 0.5
    interval: int = 5
    dimensions: int = 100
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 19, 20, 32)
    particles: int = 2000

    def __post_init__(self) -> None:
        for name in ("gammas", "alphas", "intervals", "sizes"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name} must be at least one value, none of them twice")
        for gamma in (self.gamma, *self.gammas):
            check_step(gamma, 1.0)
        for alpha in (self.alpha, *self.alphas):
            for interval in (self.interval, *self.intervals):
                Averaging(alpha, interval)
        spectrum(self.dimensions)
        for size in self.sizes:
            equal_mode(size)
        if self.particles < 100:
            raise ConfigError(f"a variance needs at least 100 particles, not {self.particles}")
        self._check_length()

    def _check_length(self) -> None:
        ratios = (Averaging(min(self.alphas), max(self.intervals), feedback=True), self.gamma, 1)
        flat = (self.averagings["feedback"], min(self.gammas), self.dimensions)
        for averaging, gamma, dimensions in (ratios, flat):
            steps = averaging.interval * settling_updates(gamma, 1 / dimensions, averaging)
            if steps > _MAX_STEPS or steps * dimensions > _MAX_COORDINATE_STEPS:
                raise ConfigError(
                    f"with gamma {gamma:g}, alpha {averaging.alpha:g} and interval "
                    f"{averaging.interval} a curvature of {1 / dimensions:g} takes {steps} steps "
                    "to settle, too many to simulate: take larger gammas and alphas, shorter "
                    "intervals, or fewer dimensions"
                )

    @property
    def averagings(self) -> Mapping[str, Averaging]:
        """The three that are compared, by name."""
        return {
            "sgd": PLAIN,
            "feedback": Averaging(self.alpha, self.interval, feedback=True),
            "no feedback": Averaging(self.alpha, self.interval, feedback=False),
        }


def all_tables(settings: Settings, seed: int) -> Iterator[Sequence[Table]]:
    """Yield the tables in `NUM_GROUPS` groups, each as soon as it is made.

    Each group draws from a generator of its own, so that none depends on another's settings.
    """
    for number, make in enumerate(_GROUPS):
        yield make(settings, np.random.default_rng([seed, number]))


def _settled(
    gamma: float,
    problem: Quadratic | OwnGradient | ChainGradient,
    averaging: Averaging,
    particles: int,
    generator: np.random.Generator,
) -> float:
    """Return the simulated steady variance of the first coordinate."""
    own = problem if isinstance(problem, Quadratic) else problem.reduced
    states = simulate(
        gamma,
        problem,
        averaging,
        start=np.zeros((particles, 1)),
        generator=generator,
    )
    skip = settling_updates(gamma, own.curvatures, averaging)
    return float(simulated_variance(states, skip=skip, num_updates=max(200, 4 * skip))[0])


def _ratios(settings: Settings, generator: np.random.Generator) -> list[Table]:
    """Compare both forms with plain descent, in one coordinate."""
    gamma, rows = settings.gamma, list[dict[str, Cell]]()
    descent, factor = v_sgd(gamma, 1.0, 1.0), step_factor(gamma, 1.0)
    for alpha in settings.alphas:
        for interval in settings.intervals:
            row: dict[str, Cell] = {"alpha": alpha, "interval": interval}
            for name, feedback in (("feedback", True), ("no feedback", False)):
                averaging = Averaging(alpha, interval, feedback)
                variance = _settled(gamma, _UNIT, averaging, settings.particles, generator)
                row[name] = float(averaging.ratio(factor))
                row[name + SIMULATED] = variance / float(descent)
            rows.append(row)
    title = f"Variance as a share of plain descent's {descent:.6f}, gamma h = {gamma:g}"
    return [Table("ratios", title, rows)]


def _transient(settings: Settings, generator: np.random.Generator) -> list[Table]:
    """Follow both forms from a start at 1 without variance."""
    ways, shown = {}, 6
    for name, averaging in settings.averagings.items():
        if name == "sgd":
            continue
        moments = moments_feedback if averaging.feedback else moments_no_feedback
        way = moments(settings.gamma, _UNIT, averaging, start=np.ones(1), num_updates=shown)
        states = simulate(
            settings.gamma,
            _UNIT,
            averaging,
            start=np.ones((10 * settings.particles, 1)),
            generator=generator,
        )
        ways[name] = (way, states)
    rows = list[dict[str, Cell]]()
    for update in range(1, shown + 1):
        for name, (way, states) in ways.items():
            state = next(states)
            rows.append(
                {
                    "form": name,
                    "update": update,
                    "step": update * settings.interval,
                    "mean": float(way.means[update, 0]),
                    _MEAN: float(state.mean()),
                    "variance": float(way.variances[update, 0]),
                    "variance, simulated": float(state.var()),
                }
            )
    rows.sort(key=lambda row: row["form"] != "feedback")
    title = (
        f"The first updates from 1, gamma h = {settings.gamma:g}, alpha {settings.alpha:g}, "
        f"every {settings.interval} steps"
    )
    return [Table("transient", title, rows)]


def start_of(problem: Quadratic) -> Float64[np.ndarray, " n"]:
    """Return where a spectrum's curves start: `sigma` in every coordinate, a risk of the floor."""
    return np.sqrt(problem.variances)


def _spectrum(settings: Settings, generator: np.random.Generator) -> list[Table]:
    """Follow the excess risk of a spectrum to its steady state."""
    curves, steady = list[dict[str, Cell]](), list[dict[str, Cell]]()
    for gamma in settings.gammas:
        ends: dict[str, Cell] = {"gamma": gamma}
        for name in settings.averagings:
            rows, closed, simulated = _curve(gamma, name, settings, generator)
            curves += rows
            ends |= {name: closed, name + SIMULATED: simulated}
        steady.append(ends)
    what = (
        f"a spectrum h = 1/i of {settings.dimensions} above the floor of "
        f"{settings.dimensions / 2:g}, alpha {settings.alpha:g}, every {settings.interval} steps"
    )
    return [
        Table("spectrum", f"Steady excess risk of {what}", steady),
        Table("curves", f"Excess risk of {what}, from sigma in every coordinate", curves),
    ]


def _curve(
    gamma: float, name: str, settings: Settings, generator: np.random.Generator
) -> tuple[list[dict[str, Cell]], float, float]:
    """Return rows at updates a factor apart; the steady excess risk, closed and simulated."""
    problem, averaging = spectrum(settings.dimensions), settings.averagings[name]
    start = start_of(problem)
    settled = settling_updates(gamma, problem.curvatures, averaging)
    closed = risk_curve(gamma, problem, averaging, start=start, num_updates=settled)
    # Coordinates are as independent as particles are: the more there are, the fewer will do.
    share = min(1.0, 10 / settings.dimensions)
    num_particles = max(10, round(share * settings.particles))
    states = simulate(
        gamma,
        problem,
        averaging,
        start=np.tile(start, (num_particles, 1)),
        generator=generator,
    )
    shown = {round(settled ** (i / 12)) for i in range(13)}
    rows = list[dict[str, Cell]]()
    for update in range(1, settled + 1):
        state = next(states)
        if update in shown:
            rows.append(
                {
                    "gamma": gamma,
                    "form": name,
                    "step": update * averaging.interval,
                    "excess risk": float(closed[update]),
                    "excess risk, simulated": _risk((state**2).mean(axis=0), problem),
                }
            )
    variances = simulated_variance(states, skip=0, num_updates=max(settled // 4, 200))
    return rows, excess_risk(gamma, problem, averaging), _risk(variances, problem)


def _risk(squares: Float64[np.ndarray, " n"], problem: Quadratic) -> float:
    return float(squares @ problem.curvatures) / 2


def _equal_risk(settings: Settings, generator: np.random.Generator) -> list[Table]:
    """Give each form the step at which it is as noisy as plain descent, and compare speeds."""
    del generator
    rows = list[dict[str, Cell]]()
    for problem in (_UNIT, spectrum(settings.dimensions)):
        risk = excess_risk(settings.gamma, problem)
        for name, averaging in settings.averagings.items():
            row: dict[str, Cell] = {"coordinates": problem.curvatures.size, "form": name}
            try:
                gamma = equal_risk_step(risk, problem, averaging)
                speed = steps_per_decade(gamma, problem, averaging)
            except ConfigError:  # an average may have less risk at every step
                gamma = speed = None
            rows.append(row | {"gamma": gamma, "steps per decade": speed})
    title = (
        f"Steps until the slowest error is a tenth, at the excess risk that plain descent has with "
        f"gamma {settings.gamma:g}"
    )
    return [Table("equal-risk", title, rows)]


def steps_per_decade(gamma: float, problem: Quadratic, averaging: Averaging) -> float:
    """Return how many steps make the slowest error a tenth, in the long run.

    Raises `ConfigError` when the step diverges.
    """
    slowest = float(np.max(averaging.contraction(step_factor(gamma, problem.curvatures))))
    return averaging.interval * math.log(0.1) / math.log(slowest) if slowest > 0 else 0.0


def example_mode() -> Mode:
    """Return the mode of the embedding table: four coordinates that differ in everything."""
    return Mode(
        slopes=np.array([1.0, 0.8, -0.5, 1.2]),
        curvatures=np.array([0.5, 0.4, 0.6, 0.3]),
        variances=np.array([1.0, 1.5, 0.7, 2.0]),
        misses=np.array([0.0, 0.1, -0.2, 0.05]),
    )


def _references(
    gamma: float, mode: Mode
) -> Mapping[str, tuple[float, OwnGradient | ChainGradient]]:
    """Return step and reference gradient of every kind of embedding, by name."""
    return {
        "own": (gamma, OwnGradient(mode)),
        "chain": (gamma, ChainGradient(mode)),
        "chain, divided": (gamma / mode.divisor, ChainGradient(mode)),
    }


def _embedding(settings: Settings, generator: np.random.Generator) -> list[Table]:
    """Show what embedding does to each of four coordinates, alone and with averaging."""
    mode, rows = example_mode(), list[dict[str, Cell]]()
    alone = np.asarray(v_sgd(_EXAMPLE_GAMMA, mode.curvatures, mode.variances))
    for name, (step, reference) in _references(_EXAMPLE_GAMMA, mode).items():
        prices = bias_price(reference)
        simulated = {
            form: _settled(step, reference, averaging, settings.particles, generator)
            for form, averaging in settings.averagings.items()
        }
        for k, slope in enumerate(mode.slopes):
            row: dict[str, Cell] = {
                "gradient": name,
                "coordinate": k,
                "slope": float(slope),
                "not embedded": float(alone[k]),
            }
            for form, averaging in settings.averagings.items():
                row[form] = float(v_embedded(step, reference, averaging)[k])
                row[form + SIMULATED] = float(slope**2) * simulated[form]
            row["bias price"] = float(prices[k])
            rows.append(row)
    title = f"Variance of four embedded coordinates, gamma {_EXAMPLE_GAMMA:g}"
    return [Table("embedding", title, rows)]


def _is_stable(gamma: float, reference: OwnGradient | ChainGradient) -> bool:
    return gamma * float(reference.reduced.curvatures[0]) < 2


def _modes(settings: Settings, generator: np.random.Generator) -> list[Table]:
    """Let a mode of alike coordinates grow; None where descent diverges."""
    rows = list[dict[str, Cell]]()
    for size in settings.sizes:
        row: dict[str, Cell] = {"size": size}
        for name, (step, reference) in _references(settings.gamma, equal_mode(size)).items():
            row[name] = row[name + SIMULATED] = None
            if _is_stable(step, reference):
                row[name] = float(v_embedded(step, reference)[0])
                row[name + SIMULATED] = _settled(
                    step, reference, PLAIN, settings.particles, generator
                )
        rows.append(row)
    title = f"Variance of each coordinate of a mode, gamma h = {settings.gamma:g}; - diverges"
    return [Table("modes", title, rows)]


_GROUPS: tuple[Callable[[Settings, np.random.Generator], list[Table]], ...] = (
    _ratios,
    _transient,
    _spectrum,
    _equal_risk,
    _embedding,
    _modes,
)
NUM_GROUPS = len(_GROUPS)


def deviations(table: Table) -> list[float]:
    """Return how far each simulated variance, ratio or risk is from its closed form, as a share.

    Means are left out: they go to 0, and a share of nothing says nothing.
    """
    found = []
    for row in table.rows:
        for key, simulated in row.items():
            closed = row[key.removesuffix(SIMULATED)]
            if key.endswith(SIMULATED) and isinstance(simulated, float) and key != _MEAN:
                assert isinstance(closed, float)
                found.append(abs(simulated / closed - 1))
    return found


def tables_to_json(settings: Settings, seed: int, tables: Sequence[Table]) -> str:
    """Return all tables, with the settings and the seed they came from, as one JSON object."""
    tree = {
        "format": _FORMAT,
        "settings": asdict(settings) | {"seed": seed},
        "tables": {
            table.name: {
                "title": table.title,
                "largest_deviation": max(deviations(table), default=None),
                "rows": [dict(row) for row in table.rows],
            }
            for table in tables
        },
    }
    return json.dumps(tree, indent=1, allow_nan=False) + "\n"
