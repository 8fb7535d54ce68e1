"""Learning rates tried, row by row: ``reports/<preset>/tuning.md``.

The records are those of ``experiment.table: tuning/<table>/lr<value>``, made with a seed and on a split of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fpn_lightning.errors import InputError
from fpn_lightning.files import write_whole
from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting.grids import Grid, measured, number
from fpn_lightning.reporting.keys import proposal_count, size_keys
from fpn_lightning.reporting.mixing import set_apart
from fpn_lightning.reporting.page import FOOTER
from fpn_lightning.reporting.reading import listed
from fpn_lightning.reporting.summary import Statistic, statistic
from fpn_lightning.reporting.tables import bullets, section, warned
from fpn_lightning.runs.record import Record

PREFIX = "tuning/"
_NAME = re.compile(r"tuning/(?P<table>[\w-]+)/lr(?P<lr>\d+(?:\.\d+)?(?:e-?\d+)?)")


@dataclass(frozen=True)
class Tried:
    """The learning rates tried for the rows of one table.

    Attributes:
        table: ``table1``.
        key: the metric that decides: the table's first that is parted by object size.
        runs: records by row and learning rate, rows in the paper's order.
    """

    table: str
    key: str
    runs: dict[str, dict[float, list[Record]]]

    @property
    def rates(self) -> list[float]:
        """All learning rates, ascending."""
        return sorted({rate for by_rate in self.runs.values() for rate in by_rate})

    @property
    def records(self) -> list[Record]:
        """All records."""
        return [record for by_rate in self.runs.values() for records in by_rate.values() for record in records]

    @property
    def beside(self) -> list[str]:
        """Metrics shown with the one that decides: recall at fewer proposals, where that one is a recall."""
        most = proposal_count(self.key)
        if most is None:
            return []
        recalls = {key: proposal_count(key) or most for record in self.records for key in record.metrics}
        return sorted((key for key, count in recalls.items() if count < most), key=recalls.__getitem__)

    def label(self, row: str) -> str:
        """The row's name in the paper."""
        rows = paper_tables()[self.table].rows
        return rows[row].label if row in rows else row

    def measured(self, row: str, rate: float, key: str) -> Statistic | None:
        """A metric of a row at a learning rate."""
        return statistic([record.metrics for record in self.runs[row].get(rate, [])], key)

    def ranked(self, row: str) -> list[tuple[float, float]]:
        """Learning rates and the deciding metric in percent, best first."""
        found = [(rate, self.measured(row, rate, self.key)) for rate in sorted(self.runs[row])]
        known = [(rate, value.mean) for rate, value in found if value is not None and value.mean is not None]
        return sorted(known, key=lambda item: -item[1])


def tried(records: list[Record]) -> list[Tried]:
    """What was tried, by table.

    Raises:
        InputError: a record of ``tuning/...`` whose table does not name a table of the paper and a learning rate.
    """
    found: dict[str, dict[str, dict[float, list[Record]]]] = {}
    for record in records:
        if record.experiment.table.startswith(PREFIX):
            match = _NAME.fullmatch(record.experiment.table)
            if match is None or match["table"] not in paper_tables():
                raise InputError(
                    f"{record.experiment}: experiment.table: {record.experiment.table!r} is not of the form "
                    "tuning/<table>/lr<value>, as tuning/table1/lr0.006"
                )
            by_rate = found.setdefault(match["table"], {}).setdefault(record.experiment.row, {})
            by_rate.setdefault(float(match["lr"]), []).append(record)
    return [_tried(name, found[name]) for name in paper_tables() if name in found]


def _tried(name: str, runs: dict[str, dict[float, list[Record]]]) -> Tried:
    table = paper_tables()[name]
    order = list(table.rows)
    rows = sorted(runs, key=lambda row: (order.index(row) if row in order else len(order), row))
    key = next((column.key for column in table.columns if size_keys(column.key)), table.columns[0].key)
    return Tried(name, key, {row: runs[row] for row in rows})


def write(preset: str, records: list[Record], folder: Path) -> Path | None:
    """Write ``<folder>/tuning.md`` if any learning rate was tried, and return its path."""
    kept, mixed = set_apart(records)
    found = tried(kept)
    warnings = [row.warning for row in mixed if row.table.startswith(PREFIX)]
    if not (found or warnings):
        return None
    write_whole(folder / "tuning.md", page(preset, found, kept, warnings))
    return folder / "tuning.md"


def page(preset: str, found: list[Tried], records: list[Record], warnings: Sequence[str] = ()) -> str:
    """The page as Markdown.

    Args:
        preset: its name.
        found: what was tried.
        records: all of the preset, among them those of the tables.
        warnings: of rows whose runs differ, which are left out.
    """
    parts = [f"# Learning rates tried, preset {preset}"]
    parts += warned([*warnings, *(text for one in found for text in _warnings(one))])
    parts += [_separation(found, records)] if found else []
    for one in found:
        parts += [f"## {_title(one)}", _conditions(one)]
        reported = [record for record in records if record.experiment.table == one.table]
        parts += section(_deciding(one, reported), level=3)
        for key in one.beside:
            parts += section(_grid(one, key), level=3)
        if remarks := list(_remarks(one)):
            parts.append(bullets(remarks))
    return "\n\n".join([*parts, FOOTER]) + "\n"


def _title(one: Tried) -> str:
    return f"Table {one.table.removeprefix('table')}"


def _seeds(records: list[Record]) -> set[int]:
    return {record.experiment.seed for record in records}


def _splits(records: list[Record]) -> set[str]:
    return {record.data.split for record in records}


def _separation(found: list[Tried], records: list[Record]) -> str:
    """Whether seed and split are kept apart from those of the reported tables."""
    tuning = [record for one in found for record in one.records]
    reported = [record for record in records if not record.experiment.table.startswith(PREFIX)]
    seeds, splits = _seeds(tuning), _splits(tuning)
    shared = [f"seed {seed}" for seed in sorted(seeds & _seeds(reported))]
    shared += [f"split {split}" for split in sorted(splits & _splits(reported))]
    named = (
        f"{'seed' if len(seeds) == 1 else 'seeds'} {listed(map(str, sorted(seeds)))} and "
        f"{'split' if len(splits) == 1 else 'splits'} {listed(sorted(splits))}"
    )
    if shared:
        return f"> **Warning.** Tuned with {named}; {listed(shared)} also in reported tables, which they favour."
    return f"Tuned with {named}. Neither seed nor split is used in a reported table."


def _conditions(one: Tried) -> str:
    def each(values: set[int]) -> str:
        return " or ".join(f"{value:,}" for value in sorted(values))

    steps = each({record.train.steps for record in one.records})
    batch = each({record.train.total_batch for record in one.records})
    images = each({record.data.num_images for record in one.records})
    recalls = "AP" if proposal_count(one.key) is None else "AR"
    return (
        f"{steps} steps of {batch} images, evaluated on {images} images. {recalls} is times 100. In bold: the best "
        f"learning rate of each row, by {one.key}."
    )


def _deciding(one: Tried, reported: list[Record]) -> Grid:
    """The metric that decides: the best in bold, its lead over the next, and what the table's own runs used."""
    grid = _grid(one, one.key)
    header = [*grid.header, "best", "ahead of next by", *([f"used in {_title(one)}"] if reported else [])]
    for row, cells in zip(one.runs, grid.rows, strict=True):
        ranked = one.ranked(row)
        used = {r.train.lr for r in reported if r.experiment.row == row and r.train.lr is not None}
        if len(ranked) > 1:
            place = 1 + one.rates.index(ranked[0][0])
            cells[place] = f"**{cells[place]}**"
            cells += [f"{ranked[0][0]:g}", number(ranked[0][1] - ranked[1][1])]
        else:
            cells += ["", ""]
        cells += [", ".join(f"{rate:g}" for rate in sorted(used))] if reported else []
    return replace(grid, header=header)


def _grid(one: Tried, key: str) -> Grid:
    header = ["row", *(f"lr {rate:g}" for rate in one.rates)]
    rows = [
        [one.label(row), *(measured(one.measured(row, rate, key), rate in by_rate) for rate in one.rates)]
        for row, by_rate in one.runs.items()
    ]
    return Grid(key, header, rows, left=1)


def _remarks(one: Tried) -> Iterator[str]:
    """What the choice leaves open."""
    ends: dict[str, list[str]] = {"smaller": [], "larger": []}
    for row in one.runs:
        ranked = one.ranked(row)
        rates = sorted(rate for rate, _ in ranked)
        if len(ranked) > 1 and ranked[0][0] in (rates[0], rates[-1]):
            ends["smaller" if ranked[0][0] == rates[0] else "larger"].append(one.label(row))
    for word, rows in ends.items():
        if rows:
            yield f"At the end of what was tried, so that a {word} learning rate might be better still: {listed(rows)}."
    if single := [one.label(row) for row in one.runs if len(one.ranked(row)) == 1]:
        yield f"Only one learning rate: {listed(single)}."
    if {len(records) for by_rate in one.runs.values() for records in by_rate.values()} == {1}:
        yield "One run for each number: small leads may be chance."


def _warnings(one: Tried) -> Iterator[str]:
    """Runs that cannot be compared, or that did not use the learning rate in their name."""
    conditions = {(r.data.fingerprint, r.data.split, r.train.steps, r.train.total_batch) for r in one.records}
    if len(conditions) > 1:
        yield f"{_title(one)}: the runs differ in data, split, steps or batch, not in the learning rate alone."
    for by_rate in one.runs.values():
        for rate, records in by_rate.items():
            for record in records:
                if record.train.lr not in (None, rate):
                    yield f"{record.experiment}: the run used learning rate {record.train.lr:g}."
