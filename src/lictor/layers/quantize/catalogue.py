"""All paths and surrogates by name: what a recipe, an analysis or a refinement may ask for."""

from dataclasses import dataclass

from lictor.config import SHARE, Choice, Settings, at_least, one_of, option
from lictor.errors import ConfigError
from lictor.layers.quantize.gumbel import GumbelAnnealing
from lictor.layers.quantize.paths import (
    AdditiveNoise,
    AnnealedDither,
    DitheredRounding,
    ExpectedGradientNoise,
    Identity,
    Path,
    ShrinkingNoise,
    StochasticRounding,
    StraightThrough,
    UniversalQuantization,
)
from lictor.layers.quantize.schedule import ExponentialTemperature, LinearTemperature
from lictor.layers.quantize.soft import (
    DeterministicAnnealing,
    KumaraswamySoftRound,
    NoisySoftRound,
    SoftAssignment,
    SoftGradientRound,
    SoftRound,
    SoftRoundChannel,
)
from lictor.layers.quantize.surrogate import MEAN_GRADIENTS, Surrogate

# Single paths, with their default temperatures.
PATHS: dict[str, Choice[Path]] = {
    "identity": Choice(Identity),
    "noise": Choice(AdditiveNoise),
    "expected-noise": Choice(ExpectedGradientNoise),
    "straight-through": Choice(StraightThrough),
    "universal": Choice(UniversalQuantization),
    "stochastic": Choice(DitheredRounding),
    "stochastic-annealed": Choice(StochasticRounding),
    "sga": Choice(GumbelAnnealing),
    "deterministic-annealing": Choice(DeterministicAnnealing),
    "soft-round": Choice(SoftRound),
    "soft-round-noise": Choice(NoisySoftRound),
    "dsq": Choice(SoftGradientRound),
    "soft-to-hard": Choice(SoftAssignment),
    "kumaraswamy": Choice(KumaraswamySoftRound),
    "sua-a": Choice(ShrinkingNoise),
    "sua": Choice(AnnealedDither),
    "sua-c": Choice(SoftRoundChannel),
    "sua-d": Choice(DitheredRounding),
}
# Our readings of stochastic uniform annealing: which path a letter is.
SUA_VARIANTS = {"A": "sua-a", "B": "sua", "C": "sua-c", "D": "sua-d"}

Schedule = LinearTemperature | ExponentialTemperature
_SHAPES: dict[str, type[Schedule]] = {
    "linear": LinearTemperature,
    "exponential": ExponentialTemperature,
}


@dataclass(frozen=True)
class SurrogateSettings(Settings):
    """What all surrogates have."""

    mean_gradient: str = option("none", one_of(*MEAN_GRADIENTS))
    """What the distortion tells the means: none, recon (a level of reconstruction), full."""


@dataclass(frozen=True)
class AnnealedSettings(SurrogateSettings):
    """What surrogates with a temperature have besides; 0 is rounding."""

    temperature: float | None = option(None, at_least(0))
    """Temperature at the beginning; that of the surrogate if not given, as with all below."""
    temperature_end: float | None = option(None, at_least(0))
    """Temperature at the end."""
    anneal: str | None = option(None, one_of(*_SHAPES))
    """How it goes from one to the other: linear, exponential (in equal ratios)."""
    anneal_from: float | None = option(None, SHARE)
    """Share of the run at which it begins to move."""
    anneal_until: float | None = option(None, SHARE)
    """Share of the run from which on it is the one of the end."""


@dataclass(frozen=True)
class DsqSettings(AnnealedSettings):
    """What differentiable soft quantization, beside a rate with dither, has besides."""

    force: bool = False
    """Allow a pair that leaks."""


@dataclass(frozen=True)
class SuaSettings(AnnealedSettings):
    """What stochastic uniform annealing has besides."""

    variant: str = option("B", one_of(*SUA_VARIANTS))
    """sua: which of our readings: A (shrinking), B (dither), C (soft round), D (integers)."""
    shared: bool = False
    """sua: for the rate as well, the same sample, in place of additive noise."""
    force: bool = False
    """Allow a pair that leaks."""


@dataclass(frozen=True)
class PairSettings(AnnealedSettings):
    """What a pair of paths has besides."""

    synthesis: str = option("straight-through", one_of(*PATHS))
    """pair: the path whose values the synthesis and contexts see."""
    rate: str = option("noise", one_of(*PATHS))
    """pair: the path whose values the rate is charged for; an equal one is the same sample."""
    force: bool = False
    """Allow a pair that leaks."""


def _schedule(
    default: Schedule,
    temperature: float | None,
    temperature_end: float | None,
    anneal: str | None,
    anneal_from: float | None,
    anneal_until: float | None,
) -> Schedule:
    """Return a schedule: what is given, else what the default says."""
    shape = type(default) if anneal is None else _SHAPES[anneal]
    first = default.first if anneal_from is None else anneal_from
    last = default.last if anneal_until is None else anneal_until
    if first > last:
        raise ConfigError(f"anneal_until = {last} must not be before anneal_from = {first}")
    return shape(
        default.start if temperature is None else temperature,
        default.end if temperature_end is None else temperature_end,
        first,
        last,
    )


def noise(mean_gradient: str = SurrogateSettings.mean_gradient) -> Surrogate:
    """Add noise for both uses, one draw for both (Balle et al. 2017, section 3)."""
    return Surrogate(AdditiveNoise(), AdditiveNoise(), mean_gradient)


def straight_through(mean_gradient: str = SurrogateSettings.mean_gradient) -> Surrogate:
    """Round for both uses (Theis et al. 2017)."""
    return Surrogate(StraightThrough(), StraightThrough(), mean_gradient)


def mixed(mean_gradient: str = SurrogateSettings.mean_gradient) -> Surrogate:
    """Round for the synthesis, add noise for the rate (Minnen & Singh 2020, section 3.3)."""
    return Surrogate(StraightThrough(), AdditiveNoise(), mean_gradient)


def universal(mean_gradient: str = SurrogateSettings.mean_gradient) -> Surrogate:
    """Dither and round for both uses, one dither a picture (Choi et al. 2019)."""
    return Surrogate(UniversalQuantization(), UniversalQuantization(), mean_gradient)


def expected(mean_gradient: str = SurrogateSettings.mean_gradient) -> Surrogate:
    """Round for the synthesis; for the rate add noise, with the mean gradient over it."""
    return Surrogate(StraightThrough(), ExpectedGradientNoise(), mean_gradient)


@dataclass(frozen=True)
class _Annealed:
    """Builds a surrogate of a path with a temperature that falls; for both uses, or beside `rate`.

    One path for both never leaks, and has no need of `force`.
    """

    path: str
    schedule: Schedule
    rate: str = ""

    def __call__(
        self,
        mean_gradient: str,
        temperature: float | None,
        temperature_end: float | None,
        anneal: str | None,
        anneal_from: float | None,
        anneal_until: float | None,
        force: bool = False,
    ) -> Surrogate:
        schedule = _schedule(
            self.schedule, temperature, temperature_end, anneal, anneal_from, anneal_until
        )
        rate = PATHS[self.rate or self.path]()
        return Surrogate(PATHS[self.path](), rate, mean_gradient, schedule, force)


def sua(
    mean_gradient: str = SuaSettings.mean_gradient,
    temperature: float | None = None,
    temperature_end: float | None = None,
    anneal: str | None = None,
    anneal_from: float | None = None,
    anneal_until: float | None = None,
    variant: str = SuaSettings.variant,
    shared: bool = SuaSettings.shared,
    force: bool = SuaSettings.force,
) -> Surrogate:
    """Anneal uniform noise to rounding for the synthesis, and add noise for the rate.

    Our reading of stochastic uniform annealing (Zhang, Li and Liu, arXiv:2309.17051), of which only
    the abstract was seen: the variants, the paths and the schedule are our choice. A temperature of
    1 is additive noise.
    """
    schedule = _schedule(
        LinearTemperature(), temperature, temperature_end, anneal, anneal_from, anneal_until
    )
    synthesis = PATHS[SUA_VARIANTS[variant]]()
    rate = synthesis if shared else AdditiveNoise()
    return Surrogate(synthesis, rate, mean_gradient, schedule, force)


def pair(
    mean_gradient: str = PairSettings.mean_gradient,
    temperature: float | None = None,
    temperature_end: float | None = None,
    anneal: str | None = None,
    anneal_from: float | None = None,
    anneal_until: float | None = None,
    synthesis: str = PairSettings.synthesis,
    rate: str = PairSettings.rate,
    force: bool = PairSettings.force,
) -> Surrogate:
    """Pair any two paths; without a temperature each keeps the one it has by itself.

    A temperature without an end stays.
    """
    given = (temperature, temperature_end, anneal, anneal_from, anneal_until)
    schedule = None
    if any(value is not None for value in given):
        if temperature is None:
            raise ConfigError("a pair whose temperature moves needs temperature = where it begins")
        schedule = _schedule(LinearTemperature(temperature, temperature, 0.0, 0.95), *given)
    return Surrogate(PATHS[synthesis](), PATHS[rate](), mean_gradient, schedule, force)


# The schedules of annealed ones are our choice: of what was seen of them in public code, the shapes
# were kept, and the ends were moved to where small runs still learn.
SURROGATES: dict[str, Choice[Surrogate]] = {
    "noise": Choice(noise, SurrogateSettings),
    "straight-through": Choice(straight_through, SurrogateSettings),
    "mixed": Choice(mixed, SurrogateSettings),
    "universal": Choice(universal, SurrogateSettings),
    "expected-noise": Choice(expected, SurrogateSettings),
    "sua": Choice(sua, SuaSettings),
    "sga": Choice(_Annealed("sga", ExponentialTemperature(0.5, 0.1, 0.0, 1.0)), AnnealedSettings),
    "soft-round-noise": Choice(
        _Annealed("soft-round-noise", ExponentialTemperature(1.0, 0.15, 0.0, 0.95)),
        AnnealedSettings,
    ),
    "kumaraswamy": Choice(
        _Annealed("kumaraswamy", LinearTemperature(0.3, 0.1, 0.0, 0.95)), AnnealedSettings
    ),
    "dsq": Choice(_Annealed("dsq", LinearTemperature(10.0, 10.0), rate="universal"), DsqSettings),
    "stochastic-annealed": Choice(
        _Annealed("stochastic-annealed", ExponentialTemperature(0.5, 0.05, 0.0, 0.95)),
        AnnealedSettings,
    ),
    "deterministic-annealing": Choice(
        _Annealed("deterministic-annealing", ExponentialTemperature(0.2, 0.02, 0.0, 0.95)),
        AnnealedSettings,
    ),
    "soft-round": Choice(
        _Annealed("soft-round", ExponentialTemperature(1.0, 0.08, 0.0, 0.95)), AnnealedSettings
    ),
    "soft-to-hard": Choice(
        _Annealed("soft-to-hard", ExponentialTemperature(1.0, 0.05, 0.0, 0.95)), AnnealedSettings
    ),
    "pair": Choice(pair, PairSettings),
}
