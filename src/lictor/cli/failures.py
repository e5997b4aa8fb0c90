"""What went wrong in an evaluation, told after its table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lictor.cli.messages import complain
from lictor.errors import LictorError

if TYPE_CHECKING:
    from lictor.comparison.curve import Curve
    from lictor.evaluation.sweep import Outcome

_SHOWN_ERRORS = 10


def report_failures(
    outcomes: "Sequence[Outcome]", curves: "Sequence[Curve]", failed_already: int
) -> int:
    """Say what failed, after the table; return the exit code."""
    from lictor.evaluation.rd import check_estimate

    errors = []
    for outcome in outcomes:
        if outcome.row is None:
            label = f"{outcome.task.contender} {outcome.task.setting.label}"
            errors.append(f"{label}: {outcome.error}")
    for row in (row for curve in curves for row in curve.rows):
        try:
            check_estimate(row)
        except LictorError as error:
            errors.append(str(error))
    for error in errors[:_SHOWN_ERRORS]:
        complain(error)
    if len(errors) > _SHOWN_ERRORS:
        complain(f"and {len(errors) - _SHOWN_ERRORS} more like these")
    failed = sum(outcome.row is None for outcome in outcomes)
    if failed:
        complain(f"{failed} of {len(outcomes)} measurements failed; settings with one are left out")
    return 1 if errors or failed_already else 0
