"""Compare the order of our rows with the order of the paper's rows, for every pair of rows and every column."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import combinations

from fpn_lightning.metric_names import proposal_count
from fpn_lightning.paper import Column
from fpn_lightning.reporting.grids import Grid, number, with_spread
from fpn_lightning.reporting.seeds import FACTOR, difference
from fpn_lightning.reporting.summary import RowSummary, TableSummary, minus

AS_IN_PAPER, REVERSED, WITHIN_NOISE, NOT_COMPARED = "✓", "✗", "·", "n/a"
RULE = (
    f"A sign compares the order of two rows with their order in the paper: {AS_IN_PAPER} same order, {REVERSED} "
    f"reversed order, {WITHIN_NOISE} our difference is within noise, {NOT_COMPARED} not comparable. A difference is "
    f"within noise if the absolute value of its mean over seeds is at most {FACTOR} times its sample standard "
    "deviation. Two rows are compared only if they have at least two seeds in common."
)


@dataclass(frozen=True)
class Agreement:
    """The order of our rows, compared with the paper's.

    Attributes:
        counts: a sentence, ``Of 40 comparisons of two rows, 27 agree with the paper, …``.
        signs: one line for each pair of rows, with a sign in each column.
        differences: the lines and columns of ``signs``, with our and the paper's difference of the two rows.
    """

    counts: str
    signs: Grid
    differences: Grid


def agreement(summary: TableSummary) -> Agreement | None:
    """Compare all pairs of rows that were run; ``None`` if the paper's numbers do not order any of these pairs."""
    rows = [row for row in summary.run if row.row.metrics]
    pairs = list(combinations(rows, 2))
    columns = [column for column in summary.columns if any(_paper(summary, column, *pair) for pair in pairs)]
    if not columns:
        return None
    signs, differences = [], []
    for first, second in pairs:
        names = [short(first), short(second)]
        compared = [_compared(summary, column, first, second) for column in columns]
        signs.append([*names, *(sign for sign, _ in compared)])
        differences.append([*names, *(text for _, text in compared)])
    header = ["row", "against", *(column.full_heading for column in columns)]
    return Agreement(
        _counts(summary, columns, Counter(sign for line in signs for sign in line[2:])),
        Grid("Agreement with the paper", header, signs, left=2),
        Grid("First row minus second row in points: ours (the paper's in brackets)", header, differences, left=2),
    )


def short(row: RowSummary) -> str:
    """The letter at the start of a row's label (``(c)``). For a label without a letter, the whole label."""
    letter = re.match(r"\(\w\)(?= )", row.row.label)
    return letter[0] if letter else row.row.label


def _paper(summary: TableSummary, column: Column, first: RowSummary, second: RowSummary) -> float | None:
    """The paper's difference of two rows in points; ``None`` if a number is missing or the two numbers are equal.

    If the paper does not print a recall (AR10), its numbers in the table's main column (AR100) are used.
    """
    key = summary.table.main.key if column in summary.extra and proposal_count(column.key) else column.key
    return minus(first.row.metrics.get(key), second.row.metrics.get(key)) or None


def _compared(summary: TableSummary, column: Column, first: RowSummary, second: RowSummary) -> tuple[str, str]:
    """The sign and the differences of two rows in one column."""
    paper, ours = _paper(summary, column, first, second), difference(first.records, second.records, column.key)
    text = f"{with_spread(ours.mean, ours.std, sign=True) or 'n/a'} ({number(paper, sign=True) or 'n/a'})"
    if paper is None or ours.sign is None:
        return NOT_COMPARED, text
    if ours.sign == 0:
        return WITHIN_NOISE, text
    return (AS_IN_PAPER if ours.sign * paper > 0 else REVERSED), text


def _counts(summary: TableSummary, columns: list[Column], signs: Counter[str]) -> str:
    compared = signs[AS_IN_PAPER] + signs[REVERSED] + signs[WITHIN_NOISE]
    if not compared:
        return "No pair of rows has two seeds in common, so the order is not compared."
    text = (
        f"Of {compared} comparisons of two rows, {signs[AS_IN_PAPER]} agree with the paper. The others are reversed "
        f"({signs[REVERSED]}) or within noise ({signs[WITHIN_NOISE]})."
    )
    text += f" Not comparable: {signs[NOT_COMPARED]}." if signs[NOT_COMPARED] else ""
    if extra := [column.heading for column in columns if column in summary.extra]:
        text += f" The paper does not print {' and '.join(extra)}; its {summary.table.main.heading} is used instead."
    return text
