"""Remarks that a person wrote about a table's records.

They are in ``records/<preset>/<table>/remarks.md``. Their first line names the commits of the records they are about.
With records of another commit they are left out, since they may no longer be true.
"""

from __future__ import annotations

import re
from pathlib import Path

from fpn_lightning.errors import InputError
from fpn_lightning.reporting.summary import TableSummary

_FIRST_LINE = re.compile(
    r"(?:About|Written of) the records of commits? (?P<commits>[0-9a-f]{7,40}(?:, [0-9a-f]{7,40})*)\."
)


def remarks_of(summary: TableSummary, records_root: Path) -> str | None:
    """The remarks on a table, Markdown without their first line; ``None`` without any or if the records are others.

    Args:
        summary: the table.
        records_root: ``reports/records``.

    Raises:
        InputError: the first line does not name commits. Names the file.
    """
    path = records_root / summary.preset / summary.name / "remarks.md"
    if not path.is_file():
        return None
    first, _, text = path.read_text(encoding="utf-8").partition("\n")
    if (match := _FIRST_LINE.fullmatch(first)) is None:
        raise InputError(f"{path}: the first line has to be: About the records of commit <commit>.")
    commits = match["commits"].split(", ")
    current = not summary.mixed and all(record.commit in commits for record in summary.records)
    return text.strip() if current else None
