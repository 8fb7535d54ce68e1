"""A table joined with the records of one preset: means, spreads, gaps, and warnings about runs that do not match."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby

from fpn_lightning.metric_names import percent
from fpn_lightning.paper import Column, Row, Table
from fpn_lightning.reporting.mixing import cell, set_apart
from fpn_lightning.reporting.seeds import Sample, difference, sample
from fpn_lightning.runs.record import Record

FULL_SCALE_PRESETS = ("8gpu", "1gpu", "paper")
"""Presets with the paper's data, backbone and schedule. Only their numbers are compared with the paper's numbers."""


@dataclass(frozen=True)
class RowSummary:
    """A row and its records.

    Attributes:
        id: id of the row, such as ``c_fpn``.
        row: label, numbers and settings of the row in the table.
        records: run records, ordered by seed; empty if the row was not run or if ``mixed`` is not ``None``.
        shared_from: the row of another table, such as ``table2/c_fpn``, that ``records`` belong to; ``None`` if they
            belong to this row.
        mismatches: reasons why these records cannot be compared with the paper's numbers.
        mixed: a warning that names the data, schedule or configuration that differs between the row's runs; ``None`` if
            nothing differs.
    """

    id: str
    row: Row
    records: list[Record]
    shared_from: str | None
    mismatches: list[str]
    mixed: str | None = None

    @property
    def comparable(self) -> bool:
        """Whether the runs use the paper's data, schedule and backbone."""
        return bool(self.records) and not self.mismatches

    def ours(self, key: str) -> Sample | None:
        """The metric ``key`` of every seed; ``None`` if no record has the metric."""
        return sample([record.metrics for record in self.records], key)

    def mean(self, key: str) -> float | None:
        """The mean of the metric ``key`` over the seeds, in percent; ``None`` if no seed has a number."""
        found = self.ours(key)
        return found.mean if found else None

    def untrained(self, key: str) -> Sample | None:
        """The metric ``key`` of every seed before training; ``None`` if no record has the metric."""
        return sample([record.untrained or {} for record in self.records], key)


@dataclass(frozen=True)
class TableSummary:
    """A table under one preset.

    Attributes:
        name: name of the table, such as ``table1``.
        preset: name of the preset, such as ``mini``.
        table: title, columns and numbers of the paper.
        rows: the rows, in the order of the table.
        extra: columns that are shown before the table's own columns.
        warnings: sentences for the top of the page.
        unlisted: rows (``table1/x``) that have records but are not in the table.
    """

    name: str
    preset: str
    table: Table
    rows: list[RowSummary]
    extra: list[Column]
    warnings: list[str]
    unlisted: list[str]

    @property
    def records(self) -> list[Record]:
        """The records of all rows."""
        return [record for row in self.rows for record in row.records]

    @property
    def columns(self) -> list[Column]:
        """All columns shown."""
        return [*self.extra, *self.table.columns]

    @property
    def run(self) -> list[RowSummary]:
        """The rows that have records."""
        return [row for row in self.rows if row.records]

    @property
    def mixed(self) -> list[RowSummary]:
        """The rows whose runs do not all have the same data, schedule and configuration. No number of them is shown."""
        return [row for row in self.rows if row.mixed]

    def reference(self, row: RowSummary) -> RowSummary | None:
        """The row whose numbers are subtracted from those of ``row`` to get its gap; ``None`` if it has no such row."""
        wanted = row.row.reference or self.table.reference
        return next((other for other in self.rows if other.id == wanted), None)

    def paper_gap(self, row: RowSummary, key: str) -> float | None:
        """The paper's number of ``row`` minus the paper's number of its reference row, in points."""
        reference = self.reference(row)
        return None if reference is None else minus(row.row.metrics.get(key), reference.row.metrics.get(key))

    def ours_gap(self, row: RowSummary, key: str) -> float | None:
        """Our mean of ``row`` minus our mean of its reference row, in points."""
        reference = self.reference(row)
        return None if reference is None else minus(row.mean(key), reference.mean(key))

    def paired_gap(self, row: RowSummary, key: str) -> Sample:
        """Our number of ``row`` minus our number of its reference row, in points, for each seed that both rows have."""
        reference = self.reference(row)
        return difference(row.records, reference.records if reference else [], key)

    def difference(self, row: RowSummary, key: str) -> float | None:
        """Our mean minus the paper's number, in points; ``None`` if ``row`` is not comparable."""
        return minus(row.mean(key), row.row.metrics.get(key)) if row.comparable else None


def minus(left: float | None, right: float | None) -> float | None:
    """``left - right``; ``None`` if one of the two is ``None``."""
    return None if left is None or right is None else left - right


def _mismatches(record: Record, table: Table, row: Row) -> list[str]:
    """Reasons why a record cannot be compared with the paper's numbers."""
    setting, data, train = table.setting, record.data, record.train
    if setting is None:
        return ["the table is not in the paper"]
    images_seen, expected = train.steps * train.total_batch, (table.steps(row) or 0) * setting.total_batch
    lr = setting.lr * train.total_batch / setting.total_batch  # the linear scaling rule
    preset, backbone = record.experiment.preset, table.backbone(row)
    wrong_lr = f"learning rate is {train.lr}, not {lr:g} (the paper's, scaled to {train.total_batch} images a step)"
    checks = [
        (preset in FULL_SCALE_PRESETS, f"preset is {preset}, not {' or '.join(FULL_SCALE_PRESETS)}"),
        (data.name in setting.data, f"data is {data.name}, not {setting.data[0]}"),
        (data.split in setting.eval_splits, f"split is {data.split}, not {' or '.join(setting.eval_splits)}"),
        (data.num_images == setting.eval_images, f"evaluated on {data.num_images} images, not {setting.eval_images}"),
        (images_seen == expected, f"trained on {images_seen} images (steps x batch), not {expected}"),
        (train.lr is not None, "the record does not have the learning rate"),
        (train.lr is None or math.isclose(train.lr, lr, rel_tol=1e-6), wrong_lr),
        (record.backbone in ("", backbone), f"backbone is {record.backbone}, not {backbone}"),
    ]
    return [reason for holds, reason in checks if not holds]


def areas(record: Record) -> str:
    """The two areas (px²) that separate small, medium and large objects, as text."""
    return " and ".join(f"{area:g}" for area in record.area_thresholds)


def _disagreement(what: str, rows: list[RowSummary], value: Callable[[RowSummary, Record], str]) -> list[str]:
    """A warning if the function ``value`` gives different results for the records. It lists the rows of each result."""
    # For each result of value(), the ids of the rows that give it. The ids are keys of a dict, which keeps them unique
    # and in order.
    holders: dict[str, dict[str, None]] = {}
    for row in rows:
        for record in row.records:
            holders.setdefault(value(row, record), {})[row.id] = None
    if len(holders) < 2:
        return []
    parts = "; ".join(f"{shown}: {', '.join(ids)}" for shown, ids in sorted(holders.items()))
    return [f"The rows cannot be compared with each other, because {what} differs ({parts})."]


def _warnings(table: Table, rows: list[RowSummary]) -> list[str]:
    def steps(row: RowSummary, record: Record) -> str:
        # The ratio of our steps to the paper's is compared, because a row may have more steps than the other rows in
        # the paper and here.
        theirs = table.steps(row.row)
        return (
            f"{percent(record.train.steps / theirs):.4g} % of the paper's steps" if theirs else str(record.train.steps)
        )

    compared: list[tuple[str, Callable[[RowSummary, Record], str]]] = [
        ("the data (fingerprint)", lambda _, record: record.data.fingerprint),
        ("the split", lambda _, record: record.data.split),
        ("the number of training images", lambda _, record: str(record.train.num_images)),
        ("the number of training steps", steps),
        ("the total batch", lambda _, record: str(record.train.total_batch)),
        ("the area (px²) that separates object sizes", lambda _, record: areas(record)),
    ]
    return [warning for what, value in compared for warning in _disagreement(what, rows, value)]


def _expanded(table: Table, ids: list[str]) -> dict[str, Row]:
    """The rows of a table, each followed by its variants (``c_fpn/lr0.002``).

    ``ids`` are the row ids of the records. The reference row of the variant ``c_fpn/lr0.002`` is ``c_fpn``. A row
    with ``*`` in its id, such as ``*/c_fpn``, gives one row for each of ``ids`` that matches, such as ``lite0/c_fpn``.
    """
    patterns = {row: re.compile(re.escape(row).replace(r"\*", "(.+)")) for row in table.rows if "*" in row}
    rows = {row: table.rows[row] for row in table.rows if row not in patterns}
    names = {match[1] for row in ids for pattern in patterns.values() if (match := pattern.fullmatch(row))}
    for name in sorted(names):
        for pattern in patterns:
            row = table.rows[pattern]
            reference = row.reference.replace("*", name) if row.reference else None
            rows[pattern.replace("*", name)] = replace(row, label=row.label.replace("*", name), reference=reference)
    expanded = {}
    for name, row in rows.items():
        expanded[name] = row
        for id in sorted(ids):
            if id.startswith(f"{name}/") and id not in rows:
                label = f"{row.label}, {id.removeprefix(f'{name}/')}"
                expanded[id] = Row(
                    label, row.details, ours=True, reference=name, steps=row.steps, backbone=row.backbone
                )
    return expanded


def summarise(name: str, preset: str, tables: Mapping[str, Table], records: list[Record]) -> TableSummary:
    """Join the table ``name`` with the records of a preset.

    ``records`` must contain all records of the preset, because a row may use the records of the same model in another
    table. If the runs of a row differ in data, schedule or configuration, its records are not used.
    """
    table = tables[name]
    kept, mixed = set_apart(records)
    by_row = {name: list(group) for name, group in groupby(kept, key=cell)}
    ids = [key.removeprefix(f"{name}/") for key in (*by_row, *mixed) if key.startswith(f"{name}/")]
    listed = _expanded(table, ids)
    rows = []
    for row_id, row in listed.items():
        own = f"{name}/{row_id}"
        source = row.same_as if row.same_as and own not in by_row and own not in mixed else own
        used = by_row.get(source, [])
        reasons = dict.fromkeys(reason for record in used for reason in _mismatches(record, table, row))
        shared_from = source if used and source != own else None
        rows.append(RowSummary(row_id, row, used, shared_from, list(reasons), mixed.get(source)))
    shown = [record for row in rows for record in row.records]
    extra = [Column(key) for key in table.extra.get(preset, []) if any(key in record.metrics for record in shown)]
    warnings = [*(row.mixed for row in rows if row.mixed), *_warnings(table, rows)]
    unlisted = sorted(f"{name}/{row_id}" for row_id in ids if row_id not in listed)
    return TableSummary(name, preset, table, rows, extra, warnings, unlisted)
