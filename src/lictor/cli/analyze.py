"""`lictor analyze`: what goes on inside a model; one command for each question."""

from collections.abc import Callable

from lictor.cli.analyze_conflict import conflict

ANALYSES: dict[str, Callable[..., int]] = {
    "conflict": conflict,
}
