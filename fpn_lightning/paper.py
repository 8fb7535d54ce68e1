"""Reads tables from YAML files: the paper's Tables 1-6 with every printed number, and our own tables.

All files have the same format. ``paper.yaml`` contains the paper's tables, ``own_tables.yaml`` contains our own tables,
and ``reports/tables/*.yaml`` contains the tables of a user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fpn_lightning.errors import InputError, first_error
from fpn_lightning.files import parse_yaml
from fpn_lightning.metric_names import size_keys
from fpn_lightning.text import is_folder_name

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class Setting:
    """How the numbers of one of the paper's tables were measured (FPN §4, §5).

    Attributes:
        data: the data set's names. A run is comparable only if its record has one of them. Pages show the first name.
        train_split: the training data, in words.
        eval_splits: names of the evaluation split that the record of a comparable run may have. ``minival2014`` and
            ``val2017`` contain the same images.
        eval_images: number of images in the evaluation split.
        steps: number of optimiser steps; if a model is trained in several stages, those of the last stage.
        total_batch: number of images per optimiser step.
        lr: learning rate before its first drop, with batches of ``total_batch`` images.
        backbone: torchvision's name of the backbone.
    """

    data: list[str]
    train_split: str
    eval_splits: list[str]
    eval_images: int
    steps: int
    total_batch: int
    lr: float
    backbone: str


@dataclass(frozen=True, config=_STRICT)
class Column:
    """A column of a table.

    Attributes:
        key: name of the metric.
        label: heading; by default the name of the metric.
        group: heading of the group of columns that contains this column; empty without a group.
    """

    key: str
    label: str = ""
    group: str = ""

    @property
    def heading(self) -> str:
        """The text above the column."""
        return self.label or self.key

    @property
    def full_heading(self) -> str:
        """The heading of the column, preceded by the heading of its group if the column is in a group."""
        return f"{self.group} {self.heading}".strip()


@dataclass(frozen=True, config=_STRICT)
class Row:
    """A row of a table.

    Attributes:
        label: name of the row, as in the paper if the row is from the paper.
        details: text for each descriptive column of the table.
        metrics: the paper's numbers in percent, by metric name. Numbers that the paper does not print are left out.
        literature: whether the paper quotes the row from other work. Quoted rows are not run here.
        ours: whether we added the row to the paper's table.
        same_as: ``table/row`` of the same model in another table. If this row has no records, the records of the other
            row are used.
        reference: the row with which this row is compared; by default the table's ``reference``. The gap of a metric is
            its value in this row minus its value in the reference.
        note: a remark below the table.
        steps: optimiser steps, if they differ from the table's setting.
        backbone: name of the backbone, if it differs from the table's setting.
        seconds_per_image: the paper's test time per image, s.
        device: the hardware on which the paper measured the test time.
    """

    label: str
    details: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    literature: bool = False
    ours: bool = False
    same_as: str | None = None
    reference: str | None = None
    note: str = ""
    steps: int | None = None
    backbone: str | None = None
    seconds_per_image: float | None = None
    device: str = ""


@dataclass(frozen=True, config=_STRICT)
class Table:
    """A table of the paper, or one of our own tables.

    Attributes:
        title: one line that says what is compared.
        columns: one column for each metric.
        rows: rows by id. The id equals ``experiment.row`` of the row's runs. A ``*`` in the id of one of our rows
            matches any name. The matched name replaces ``*`` in label and reference.
        setting: how the paper's numbers were measured; ``None`` only for a table of our own.
        reference: the row with which the other rows are compared. The gap of a metric is its value in another row minus
            its value in the reference.
        details: headings of the descriptive columns.
        extra: for each preset, names of metrics that get a further column if records contain them.
        ours: whether the table is our own and has no numbers of the paper.
    """

    title: str
    columns: list[Column]
    rows: dict[str, Row]
    setting: Setting | None = None
    reference: str | None = None
    details: list[str] = Field(default_factory=list)
    extra: dict[str, list[str]] = Field(default_factory=dict)
    ours: bool = False

    @property
    def main(self) -> Column:
        """The column to show if only one fits: the first whose metric COCO splits by object size, or else the first."""
        return next((column for column in self.columns if size_keys(column.key)), self.columns[0])

    def steps(self, row: Row) -> int | None:
        """Optimiser steps of ``row`` in the paper, in its last training stage; ``None`` for a table of our own."""
        return row.steps or (self.setting.steps if self.setting else None)

    def backbone(self, row: Row) -> str | None:
        """Name of the backbone of ``row`` in the paper; ``None`` for a table of our own."""
        return row.backbone or (self.setting.backbone if self.setting else None)


def parse(text: str, source: str, others: Mapping[str, Table] | None = None) -> dict[str, Table]:
    """Read tables from YAML text in the format of ``paper.yaml``. The order of the tables is kept.

    Args:
        text: the YAML text.
        source: name of the text in error messages.
        others: tables of other files. ``same_as`` may name rows of these tables.

    Raises:
        InputError: if the text is not YAML, a key is unknown or missing, a value has the wrong type, or a value names a
            row or table that does not exist. The message names the key.
    """
    try:
        content = parse_yaml(text, source)
        # In strict mode, pydantic builds nested dataclasses from mappings only if the input is JSON.
        tables = TypeAdapter(dict[str, Table]).validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise InputError(f"{source}: {first_error(error)}") from error
    known = {**(others or {}), **tables}
    for name, table in tables.items():
        if wrong := [part for part in (name, *table.rows) if not is_folder_name(part.replace("*", "any"))]:
            raise InputError(f"{source}: {name}: {wrong[0]!r} cannot be a file name. Choose another name.")
        if others and name in others:
            raise InputError(f"{source}: {name}: another file has a table of this name. Choose another name.")
        _check(name, table, known, source)
    return tables


def _check(name: str, table: Table, known: Mapping[str, Table], source: str) -> None:
    if not table.columns:
        raise InputError(f"{source}: {name}.columns: the table has no columns. Add at least one column.")
    if table.setting is None and not table.ours:
        raise InputError(f"{source}: {name}.setting: the key is missing. For a table of your own, set ours: true.")
    if table.reference is not None and table.reference not in table.rows:
        raise InputError(f"{source}: {name}.reference: there is no row {table.reference!r}")
    keys = {column.key for column in table.columns}
    for row_id, row in table.rows.items():
        where = f"{source}: {name}.rows.{row_id}"
        if row.reference is not None and row.reference not in table.rows:
            raise InputError(f"{where}.reference: there is no row {row.reference!r}")
        for part, given, allowed in (("metrics", row.metrics, keys), ("details", row.details, set(table.details))):
            if unknown := sorted(set(given) - allowed):
                raise InputError(f"{where}.{part}.{unknown[0]}: the table has no such column")
        if row.same_as is not None:
            other_table, _, other_row = row.same_as.partition("/")
            if other_table not in known or other_row not in known[other_table].rows:
                raise InputError(f"{where}.same_as: there is no row {row.same_as!r}")


def _packaged(name: str) -> str:
    return (files("fpn_lightning") / name).read_text(encoding="utf-8")


@cache
def paper_tables() -> dict[str, Table]:
    """Return the tables of ``paper.yaml``. All calls return the same objects, so callers must not change the tables."""
    return parse(_packaged("paper.yaml"), "paper.yaml")


def all_tables(folder: Path) -> dict[str, Table]:
    """Return the paper's tables, then the tables of ``own_tables.yaml``, then the tables of a user.

    Args:
        folder: folder of the user's ``*.yaml`` files. The folder may be absent.

    Raises:
        InputError: if a file cannot be read, has an error (see :func:`parse`) or repeats the name of a table.
    """
    tables = dict(paper_tables())
    tables |= parse(_packaged("own_tables.yaml"), "own_tables.yaml", tables)
    for path in sorted(folder.glob("*.yaml")):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        tables |= parse(text, str(path), tables)
    return tables
