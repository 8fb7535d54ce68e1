"""A table read out in sentences: where the rows stand in the paper's order, where not, and what the seeds leave open.

Everything is said from numbers: the paper's from ``paper.yaml``, ours from the records.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from fpn_lightning.paper import Column
from fpn_lightning.reporting.grids import number
from fpn_lightning.reporting.keys import size_keys
from fpn_lightning.reporting.ordering import Pair, our_size, outcomes, pairs, paper_size, ranks
from fpn_lightning.reporting.pairs import FACTOR, Difference, chance
from fpn_lightning.reporting.summary import RowSummary, TableSummary

NARROW = 1.0
"""A difference in the paper, in points, that another training run might turn round."""


@dataclass(frozen=True)
class Reading:
    """Sentences: ``opening`` paragraphs, then one item for each column, and one for each row beside the reference."""

    opening: list[str]
    columns: list[str]
    rows: list[str]


def short(row: RowSummary) -> str:
    """The row's letter in the paper, ``(c)``, or its name where it has none."""
    letter = re.match(r"\(\w\)(?= )", row.row.label)
    return letter[0] if letter else f"“{row.row.label}”"


def amount(found: Difference, sign: bool = True) -> str:
    """A difference as text, ``+1.2 ± 0.3``."""
    spread = "" if found.std is None else f" ± {number(found.std)}"
    return number(found.mean, sign=sign) + spread


def read(summary: TableSummary) -> Reading | None:
    """Read a table out; ``None`` if it has no two rows that can be compared."""
    found = pairs(summary)
    if not found:
        return None
    if all(pair.ours.sign is None for pair in found):
        return Reading(["No two rows were run with two seeds in common, so nothing is said of their order."], [], [])
    opening = [_rule(found), _counts(summary, found)]
    if alone := [row for row in summary.run if len(row.records) < 2]:
        opening.append(
            f"There is no spread for {listed(short(row) for row in alone)}, run with one seed; "
            "no pair with such a row is judged."
        )
    opening += [text for text in (_moved(summary, found), _largest_lead(summary)) if text]
    columns = [_column_item(summary, column, found) for column in summary.columns]
    rows = [_against_reference(summary, row, found) for row in summary.run]
    return Reading(opening, [item for item in columns if item], [item for item in rows if item])


def _rule(found: list[Pair]) -> str:
    seeds = sorted({len(pair.ours.values) for pair in found if len(pair.ours.values) > 1})
    text = (
        "Two rows are compared seed by seed. Their difference counts when its mean is larger than "
        f"{FACTOR} times its sample standard deviation over the seeds; otherwise the seeds do not tell the two apart. "
        "Differences are in points, mean ± sample standard deviation; the paper's, in the same direction, is in "
        "brackets."
    )
    if seeds:
        odds = listed(f"{100 * chance(count):.2g} % of cases with {count} seeds" for count in seeds)
        text += f" Two rows that are equal in truth would still be told apart in {odds}."
    return text


def _counts(summary: TableSummary, found: list[Pair]) -> str:
    columns = len({pair.column.key for pair in found})
    agree, reverse, open_, unjudged = outcomes(found)
    text = (
        f"Comparisons of two rows, over {columns} {'column' if columns == 1 else 'columns'}: {len(found)}. As in the "
        f"paper: {len(agree)}; the other way round: {len(reverse)}; not told apart: {len(open_)}"
    )
    text += f"; not judged for want of seeds: {len(unjudged)}." if unjudged else "."
    if reverse:
        narrow = sum(abs(pair.paper) <= NARROW + 1e-6 for pair in reverse)
        text += (
            f" Of those the other way round, {narrow} {'rests' if narrow == 1 else 'rest'} on a difference of "
            f"{NARROW:g} point or less in the paper, which prints no spread."
        )
    compared = {pair.column.key for pair in found}
    if extra := [column.heading for column in summary.extra if column.key in compared]:
        verb = "is" if len(extra) == 1 else "are"
        text += f" {listed(extra)}, which the paper does not have, {verb} held against its {summary.main.heading}."
    return text


def _column_item(summary: TableSummary, column: Column, found: list[Pair]) -> str:
    here = [pair for pair in found if pair.column == column]
    agree, reverse, open_, unjudged = outcomes(here)
    if not here or len(unjudged) == len(here):
        return ""
    name = column.heading if not column.group else f"{column.group} {column.heading}"
    text = f"{name}: {len(agree)} of {len(here)} pairs as in the paper."
    if reverse:
        text += f" The other way round: {'; '.join(_reversed(pair) for pair in reverse)}."
    if open_:
        told = (
            f"{short(pair.first)} less {short(pair.second)} {amount(pair.ours)} (paper {number(pair.paper, sign=True)})"
            for pair in open_
        )
        text += f" Not told apart: {'; '.join(told)}."
    return text


def _reversed(pair: Pair) -> str:
    """The pair with the row that leads here first."""
    leads = pair.ours.sign == 1
    ahead, behind = (pair.first, pair.second) if leads else (pair.second, pair.first)
    ours = pair.ours if leads else -pair.ours
    return f"{short(ahead)} above {short(behind)} by {amount(ours, sign=False)} (paper {number(-abs(pair.paper))})"


def _moved(summary: TableSummary, found: list[Pair]) -> str:
    """The rows behind the reversed pairs: the one in most of them, then the one in most of the rest, and so on.

    A row whose rank is the paper's did not move. A single pair does not say which of its two rows moved.
    """
    left = outcomes(found)[1]
    rows = [(row, ranks(summary, row)) for row in summary.run]
    rows = [(row, places) for row, places in rows if places is None or places[0] != places[1]]
    parts: list[str] = []
    while rows:
        counts = Counter(row.id for pair in left for row in (pair.first, pair.second))
        moved, places = max(rows, key=lambda item: counts[item[0].id])  # the first of several with as many
        count = counts[moved.id]
        if count < 2:
            break
        among = f"the other {len(left)}" if parts else f"the {len(left)} pairs that are the other way round"
        share = among if count == len(left) else f"{count} of {among}"
        parts.append(
            f"{short(moved)} is in {share}"
            + (f" ({summary.main.heading}: {places[0]} in the paper, {places[1]} here)" if places else "")
        )
        left = [pair for pair in left if moved.id not in (pair.first.id, pair.second.id)]
    return f"Which rows moved: {', '.join(parts)}." if parts else ""


def _against_reference(summary: TableSummary, row: RowSummary, found: list[Pair]) -> str:
    """One row against the reference, column by column: what the paper says, what the seeds say."""
    reference = summary.reference
    mine = [pair for pair in found if reference and {pair.first.id, pair.second.id} == {row.id, reference.id}]
    if reference is None or row.id == reference.id or not mine:
        return ""
    turned = [(pair, -1 if pair.first.id == reference.id else 1) for pair in mine]

    def places(signs: list[tuple[str, int | None]]) -> str:
        named = {1: "above in", -1: "below in", 0: "not told apart in", None: "not judged in"}
        groups = ((word, [key for key, sign in signs if sign == wanted]) for wanted, word in named.items())
        return ", ".join(
            f"{word} {'every column' if len(keys) == len(signs) > 1 else listed(keys)}" for word, keys in groups if keys
        )

    paper: list[tuple[str, int | None]] = [
        (pair.column.heading, 1 if turn * pair.paper > 0 else -1)
        for pair, turn in turned
        if pair.column not in summary.extra
    ]
    ours = [(pair.column.heading, None if pair.ours.sign is None else turn * pair.ours.sign) for pair, turn in turned]
    return f"{short(row)} against {short(reference)}: in the paper {places(paper)}; here {places(ours)}."


def _largest_lead(summary: TableSummary) -> str:
    """Where the reference row leads by most or trails by least, for every metric that our records part by size."""
    reference = summary.reference
    if reference is None:
        return ""
    others = [row for row in summary.run if row.row.metrics and row.id != reference.id]
    sentences = []
    for column in summary.table.columns:
        keys = size_keys(column.key)
        if not keys:
            continue
        paper = {short(row): paper_size(summary, row, keys) for row in others}
        ours = {short(row): our_size(summary, row, keys) for row in others}
        if told := _by_size(ours):
            theirs = _by_size(paper)
            sentences.append(f"{column.heading}, {f'in the paper: {theirs}; ' if theirs else ''}here: {told}.")
    if not sentences:
        return ""
    return f"On which objects {short(reference)} is furthest ahead, or least behind. {' '.join(sentences)}"


def _by_size(sizes: dict[str, str | None]) -> str:
    """``small objects against (a) and (b), large objects against (f)``."""
    groups: dict[str, list[str]] = {}
    for row, size in sizes.items():
        if size is not None:
            groups.setdefault(size, []).append(row)
    return ", ".join(f"{size} against {listed(rows)}" for size, rows in groups.items())


def listed(words: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    items = list(words)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
