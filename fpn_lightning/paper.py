"""The paper's Tables 1-6 as data: every printed cell, and the setting the numbers belong to."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fpn_lightning.errors import InputError, first_error

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class Setting:
    """What the numbers of a table were measured with (FPN §4, §5).

    Attributes:
        data: names of the data set, any of which a record may carry; the first is shown.
        train_split: what was trained on, in words.
        eval_splits: names of the split evaluated on; minival2014 and val2017 are the same images.
        eval_images: number of images in that split.
        steps: optimiser steps of the last training stage.
        total_batch: images per optimiser step.
        lr: learning rate at that batch, before its first drop.
        trunk: torchvision's name of the bottom-up network.
    """

    data: list[str]
    train_split: str
    eval_splits: list[str]
    eval_images: int
    steps: int
    total_batch: int
    lr: float
    trunk: str


@dataclass(frozen=True, config=_STRICT)
class Column:
    """A metric column: our key, the heading when it differs from the key, and the block of columns it stands in."""

    key: str
    label: str = ""
    group: str = ""

    @property
    def heading(self) -> str:
        """What stands above the column."""
        return self.label or self.key


@dataclass(frozen=True, config=_STRICT)
class Row:
    """A row of a table.

    Attributes:
        label: the row's name in the paper.
        details: the paper's descriptive columns.
        metrics: percent as printed, by our keys; a cell the paper leaves out is absent.
        literature: quoted from others by the paper, never run here.
        ours: not a row of the paper's table.
        same_as: ``table/row`` of the one model that the paper prints here a second time.
        note: a remark below the table.
        steps: differs from the table's setting.
        trunk: differs from the table's setting.
        seconds_per_image: the paper's test time.
        device: what that time was measured on.
    """

    label: str
    details: dict[str, str]
    metrics: dict[str, float] = Field(default_factory=dict)
    literature: bool = False
    ours: bool = False
    same_as: str | None = None
    note: str = ""
    steps: int | None = None
    trunk: str | None = None
    seconds_per_image: float | None = None
    device: str = ""


@dataclass(frozen=True, config=_STRICT)
class Table:
    """A table of the paper; ``reference`` names the row that gaps are taken to."""

    title: str
    details: list[str]
    columns: list[Column]
    setting: Setting
    rows: dict[str, Row]
    reference: str | None = None

    def steps(self, row: Row) -> int:
        """Optimiser steps of the last training stage of ``row``."""
        return row.steps or self.setting.steps

    def trunk(self, row: Row) -> str:
        """Trunk of ``row``."""
        return row.trunk or self.setting.trunk


def parse(text: str, source: str) -> dict[str, Table]:
    """Read the tables from YAML text.

    Args:
        text: the content of a file like ``paper.yaml``.
        source: what to call the text in messages.

    Returns:
        Tables by name (``table1`` to ``table6``), in the file's order.

    Raises:
        InputError: not YAML, an unknown or missing key, a wrong type, or a reference that leads nowhere; names the key.
    """
    try:
        content: Any = yaml.safe_load(text)
        # By way of JSON, whose strict mode builds nested dataclasses from mappings.
        tables = TypeAdapter(dict[str, Table]).validate_json(json.dumps(content, default=str))
    except yaml.YAMLError as error:
        raise InputError(f"{source} is not YAML: {error}") from error
    except ValidationError as error:
        raise InputError(f"{source}: {first_error(error)}") from error
    for name, table in tables.items():
        _check(name, table, tables, source)
    return tables


def _check(name: str, table: Table, tables: dict[str, Table], source: str) -> None:
    if table.reference is not None and table.reference not in table.rows:
        raise InputError(f"{source}: {name}.reference: there is no row {table.reference!r}")
    keys = {column.key for column in table.columns}
    for row_id, row in table.rows.items():
        where = f"{source}: {name}.rows.{row_id}"
        for part, given, known in (("metrics", row.metrics, keys), ("details", row.details, set(table.details))):
            unknown = sorted(set(given) - known)
            if unknown:
                raise InputError(f"{where}.{part}.{unknown[0]}: not among the table's columns")
        if row.same_as is not None:
            other_table, _, other_row = row.same_as.partition("/")
            if other_table not in tables or other_row not in tables[other_table].rows:
                raise InputError(f"{where}.same_as: there is no row {row.same_as!r}")


@cache
def paper_tables() -> dict[str, Table]:
    """The tables of ``paper.yaml``; the same objects at every call, not to be changed."""
    resource = files("fpn_lightning") / "paper.yaml"
    return parse(resource.read_text(encoding="utf-8"), "paper.yaml")
