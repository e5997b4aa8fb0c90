"""Tables that an analysis makes: rows for people, and as CSV for programs."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Cell = float | int | str | None


@dataclass(frozen=True)
class Table:
    """Rows of equal keys under a name, for files, and a title, for people; None is no number."""

    name: str
    title: str
    rows: Sequence[Mapping[str, Cell]]


def table_to_csv(table: Table) -> str:
    """Return one table as CSV with a header; empty fields where there is no number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table.rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows)
    return text.getvalue()
