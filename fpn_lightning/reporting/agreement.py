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
    f"A sign compares the order of two rows here with their order in the paper: {AS_IN_PAPER} same order, {REVERSED} "
    f"reversed order, {WITHIN_NOISE} our difference of the two rows is within noise, {NOT_COMPARED} not compared. A "
    f"difference is within noise if the absolute value of its mean over seeds is at most {FACTOR} times its sample "
    "standard deviation. Two rows are compared only if they share at least two seeds and the paper gives them "
    "different numbers."
)


@dataclass(frozen=True)
class Agreement:
    """Result of comparing the order of our rows with the order of the paper's rows.

    Attributes:
        counts: text that says how many comparisons of two rows give the paper's order.
        signs: table with one line for each pair of rows. Each cell is a sign that ``RULE`` explains.
        differences: table with the same lines and columns as ``signs``. Each cell has our difference of the two rows
            and, in brackets, the paper's difference.
    """

    counts: str
    signs: Grid
    differences: Grid


def agreement(summary: TableSummary) -> Agreement | None:
    """Compare all pairs of rows that were run. Return ``None`` if the paper gives no order for any of these pairs."""
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
        Grid(
            "First row minus second row, in points: ours (the paper's in brackets)",
            header,
            differences,
            left=2,
        ),
    )


def short(row: RowSummary) -> str:
    """The letter at the start of a row's label, such as ``(c)``. A label without a letter is returned whole."""
    letter = re.match(r"\(\w\)(?= )", row.row.label)
    return letter[0] if letter else row.row.label


def _paper(summary: TableSummary, column: Column, first: RowSummary, second: RowSummary) -> float | None:
    """The paper's difference of two rows in points; ``None`` if a number is missing or the two numbers are equal.

    For a recall that the paper does not print, such as AR10, the paper's numbers in the table's main column, such as
    AR100, are used.
    """
    key = summary.table.main.key if column in summary.extra and proposal_count(column.key) else column.key
    return minus(first.row.metrics.get(key), second.row.metrics.get(key)) or None


def _compared(summary: TableSummary, column: Column, first: RowSummary, second: RowSummary) -> tuple[str, str]:
    """Compare two rows in one column.

    Returns:
        A sign that ``RULE`` explains, and a text with our difference of the two rows and, in brackets, the paper's.
    """
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
        f"Of {compared} comparisons of two rows in one column, {signs[AS_IN_PAPER]} give the paper's order. The "
        f"others give the reversed order ({signs[REVERSED]}) or a difference within noise ({signs[WITHIN_NOISE]})."
    )
    text += f" Not compared: {signs[NOT_COMPARED]}." if signs[NOT_COMPARED] else ""
    if extra := [column.heading for column in columns if column in summary.extra]:
        text += f" The paper does not print {' and '.join(extra)}; its {summary.table.main.heading} is used instead."
    return text
