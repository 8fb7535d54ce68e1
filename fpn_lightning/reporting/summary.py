"""A table of the paper joined with the records of one preset: means, spreads, gaps, and what disagrees."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from fpn_lightning.paper import Column, Row, Table
from fpn_lightning.reporting.keys import proposal_count, size_keys
from fpn_lightning.reporting.mixing import MixedRow, set_apart
from fpn_lightning.reporting.pairs import Difference, difference
from fpn_lightning.runs.record import Metrics, Record

FULL_SCALE_PRESETS = ("8gpu", "1gpu", "paper")
"""Presets that train with the paper's data, trunk and schedule; absolute numbers are compared only under these."""

EXTRA_METRICS = {"mini": ("AR10", "AR30"), "quickstart": ("AR10", "AR30")}
"""Metrics shown beside the paper's where records have them: 100 and 1000 proposals saturate on small images."""


@dataclass(frozen=True)
class Statistic:
    """A metric over the seeds of a row, in percent.

    Attributes:
        mean: ``None`` if the size class has no ground truth.
        std: sample standard deviation (n - 1); ``None`` below two seeds.
        count: number of seeds with a value.
    """

    mean: float | None
    std: float | None
    count: int


@dataclass(frozen=True)
class RowSummary:
    """A row and its records, seeds ascending.

    Attributes:
        id: ``c_fpn``.
        row: the paper's row.
        records: empty if the row was not run, or if its runs differ and are not averaged.
        shared_from: the row (``table2/c_fpn``) whose records stand in, if they do.
        mismatches: why these records cannot be compared with the paper's numbers; empty if they can.
        mixed: what differs between the row's runs, if anything does.
    """

    id: str
    row: Row
    records: list[Record]
    shared_from: str | None
    mismatches: list[str]
    mixed: MixedRow | None = None

    @property
    def comparable(self) -> bool:
        """Whether data, schedule and trunk are the paper's."""
        return bool(self.records) and not self.mismatches

    def ours(self, key: str) -> Statistic | None:
        """The metric over the seeds; ``None`` if no record holds it."""
        return statistic([record.metrics for record in self.records], key)

    def untrained(self, key: str) -> Statistic | None:
        """The metric before training over the seeds; ``None`` if no record holds it."""
        return statistic([record.untrained or {} for record in self.records], key)


@dataclass(frozen=True)
class TableSummary:
    """A table of the paper under one preset; ``name`` is ``table1``, ``unlisted`` are rows the paper file lacks."""

    name: str
    preset: str
    table: Table
    rows: list[RowSummary]
    extra: list[Column]
    warnings: list[str]
    unlisted: list[str]

    @property
    def records(self) -> list[Record]:
        """All records shown."""
        return [record for row in self.rows for record in row.records]

    @property
    def columns(self) -> list[Column]:
        """Every column shown, those without numbers of the paper first."""
        return [*self.extra, *self.table.columns]

    @property
    def main(self) -> Column:
        """The column that stands for the table where only one is shown: the first that is parted by object size."""
        return next((column for column in self.table.columns if size_keys(column.key)), self.table.columns[0])

    @property
    def run(self) -> list[RowSummary]:
        """The rows that have records."""
        return [row for row in self.rows if row.records]

    @property
    def mixed(self) -> list[RowSummary]:
        """The rows whose runs differ, so that no number of theirs is shown."""
        return [row for row in self.rows if row.mixed]

    @property
    def reference(self) -> RowSummary | None:
        """The row gaps are taken to."""
        return next((row for row in self.rows if row.id == self.table.reference), None)

    def paper_gap(self, row: RowSummary, key: str) -> float | None:
        """The paper's number less the paper's number of the reference row, in points."""
        reference = self.reference
        return None if reference is None else _minus(row.row.metrics.get(key), reference.row.metrics.get(key))

    def ours_gap(self, row: RowSummary, key: str) -> float | None:
        """Our mean less our mean of the reference row, in points."""
        reference = self.reference
        return None if reference is None else _minus(_mean(row.ours(key)), _mean(reference.ours(key)))

    def paired_gap(self, row: RowSummary, key: str) -> Difference:
        """Our row less our reference row, seed by seed, in points."""
        reference = self.reference
        return difference(row.records, reference.records if reference else [], key)

    def difference(self, row: RowSummary, key: str) -> float | None:
        """Our mean less the paper's number, in points; ``None`` unless data, schedule and trunk match."""
        return _minus(_mean(row.ours(key)), row.row.metrics.get(key)) if row.comparable else None


def statistic(blocks: list[Metrics], key: str) -> Statistic | None:
    """A metric over the records of several seeds, in percent; ``None`` if no record holds it."""
    found = [block[key] for block in blocks if key in block]
    if not found:
        return None
    values = [100 * value for value in found if value is not None]
    return Statistic(
        mean=statistics.fmean(values) if values else None,
        std=statistics.stdev(values) if len(values) > 1 else None,
        count=len(values),
    )


def _mean(statistic: Statistic | None) -> float | None:
    return statistic.mean if statistic else None


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _mismatches(record: Record, table: Table, row: Row) -> list[str]:
    """Why a record cannot be compared with the paper's numbers in absolute terms."""
    setting, data, train = table.setting, record.data, record.train
    images_seen, expected = train.steps * train.total_batch, table.steps(row) * setting.total_batch
    lr = setting.lr * train.total_batch / setting.total_batch  # the linear rule: as many images for as large a step
    checks = [
        (
            record.experiment.preset in FULL_SCALE_PRESETS,
            f"preset {record.experiment.preset} is not the paper's scale ({', '.join(FULL_SCALE_PRESETS)})",
        ),
        (data.name in setting.data, f"data is {data.name}, not {setting.data[0]}"),
        (data.split in setting.eval_splits, f"split is {data.split}, not {' or '.join(setting.eval_splits)}"),
        (
            data.num_images == setting.eval_images,
            f"evaluated on {data.num_images} images, not {setting.eval_images}",
        ),
        (images_seen == expected, f"trained on {images_seen} images (steps x batch), not {expected}"),
        (train.lr is not None, "the record does not hold the learning rate"),
        (
            train.lr is None or math.isclose(train.lr, lr, rel_tol=1e-6),
            f"the learning rate is {train.lr}, not {lr:g} for {train.total_batch} images a step",
        ),
        (record.trunk in ("", table.trunk(row)), f"trunk is {record.trunk}, not {table.trunk(row)}"),
    ]
    return [reason for holds, reason in checks if not holds]


def _disagreement(what: str, rows: list[RowSummary], value: Callable[[RowSummary, Record], str]) -> list[str]:
    """One warning if ``value`` is not the same for all records, naming who has which."""
    holders: dict[str, list[str]] = {}
    for row in rows:
        for record in row.records:
            seen = holders.setdefault(value(row, record), [])
            if row.id not in seen:
                seen.append(row.id)
    if len(holders) < 2:
        return []
    parts = "; ".join(f"{shown}: {', '.join(ids)}" for shown, ids in sorted(holders.items()))
    return [f"The rows cannot be compared with one another as they stand: {what} differs ({parts})."]


def _warnings(table: Table, rows: list[RowSummary]) -> list[str]:
    def share_of_steps(row: RowSummary, record: Record) -> str:
        # Relative, because a row that the paper trains twice as long may do so here too.
        return f"{100 * record.train.steps / table.steps(row.row):.4g} % of the paper's"

    warnings = _disagreement("the data (fingerprint)", rows, lambda _, record: record.data.fingerprint)
    warnings += _disagreement("the split", rows, lambda _, record: record.data.split)
    warnings += _disagreement("the number of training images", rows, lambda _, record: str(record.train.num_images))
    warnings += _disagreement("the number of training steps", rows, share_of_steps)
    warnings += _disagreement("the total batch", rows, lambda _, record: str(record.train.total_batch))
    warnings += _disagreement(
        "the area that parts small from medium and medium from large (px²)",
        rows,
        lambda _, record: " and ".join(f"{area:g}" for area in record.area_thresholds),
    )
    return warnings


def summarise(name: str, preset: str, tables: dict[str, Table], records: list[Record]) -> TableSummary:
    """Join a table with the records of a preset.

    Args:
        name: ``table1`` to ``table6``.
        preset: its name.
        tables: the paper's tables.
        records: all records of the preset, of any table (a row may stand in for the same model in another table).
            Those of rows whose runs differ are not used.
    """
    table = tables[name]
    kept, differing = set_apart(records)
    mixed = {f"{found.table}/{found.row}": found for found in differing}
    by_row: dict[str, list[Record]] = {}
    for record in kept:
        by_row.setdefault(f"{record.experiment.table}/{record.experiment.row}", []).append(record)
    rows = []
    for row_id, row in table.rows.items():
        own = f"{name}/{row_id}"
        source = row.same_as if row.same_as and own not in by_row and own not in mixed else own
        used = by_row.get(source, [])
        reasons = [reason for record in used for reason in _mismatches(record, table, row)]
        shared_from = source if used and source != own else None
        rows.append(RowSummary(row_id, row, used, shared_from, list(dict.fromkeys(reasons)), mixed.get(source)))
    shown = [record for row in rows for record in row.records]
    own_keys = {column.key for column in table.columns}
    # A detector's recall is another thing than that of proposals; tables of precision do without.
    of_proposals = any(proposal_count(key) for key in own_keys)
    extra = [
        Column(key=key)
        for key in EXTRA_METRICS.get(preset, ())
        if of_proposals and key not in own_keys and any(key in record.metrics for record in shown)
    ]
    unlisted = sorted(
        key for key in {**by_row, **mixed} if key.startswith(f"{name}/") and key.split("/", 1)[1] not in table.rows
    )
    warnings = [*(row.mixed.warning for row in rows if row.mixed), *_warnings(table, rows)]
    return TableSummary(name, preset, table, rows, extra, warnings, unlisted)
