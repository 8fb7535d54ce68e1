"""What a person says of a table's records, shown below what is worked out from them.

Remarks explain where numbers can not. They lie beside the records, ``records/<preset>/<table>/remarks.md``, and their
first line names the commits whose records they were written of: with records of another commit they are left out, since
they may no longer be true.
"""

from __future__ import annotations

import re
from pathlib import Path

from fpn_lightning.errors import InputError
from fpn_lightning.reporting.summary import TableSummary

_FIRST_LINE = re.compile(r"Written of the records of commits? (?P<commits>[0-9a-f]{7,40}(?:, [0-9a-f]{7,40})*)\.")


def remarks_of(summary: TableSummary, records_root: Path) -> str | None:
    """The remarks on a table, Markdown without their first line; ``None`` without any, or if they are of other records.

    Args:
        summary: the table.
        records_root: ``reports/records``.

    Raises:
        InputError: the first line does not say which records the remarks are of; names the file.
    """
    path = records_root / summary.preset / summary.name / "remarks.md"
    if not path.is_file():
        return None
    first, _, text = path.read_text(encoding="utf-8").partition("\n")
    if (match := _FIRST_LINE.fullmatch(first)) is None:
        raise InputError(f"{path}: the first line has to be: Written of the records of commit <commit>.")
    written_of = match["commits"].split(", ")
    current = not summary.mixed and all(record.commit in written_of for record in summary.records)
    return text.strip() if current else None
