"""`lictor analyze`: what goes on inside a model; one command for each question."""

from collections.abc import Callable

from lictor.cli.analyze_conflict import conflict
from lictor.cli.analyze_mismatch import mismatch
from lictor.cli.analyze_modes import modes
from lictor.cli.analyze_nqm import nqm
from lictor.cli.analyze_outliers import outliers
from lictor.cli.analyze_ptq import ptq
from lictor.cli.analyze_surrogates import surrogates

ANALYSES: dict[str, Callable[..., int]] = {
    "conflict": conflict,
    "mismatch": mismatch,
    "modes": modes,
    "nqm": nqm,
    "outliers": outliers,
    "ptq": ptq,
    "surrogates": surrogates,
}
