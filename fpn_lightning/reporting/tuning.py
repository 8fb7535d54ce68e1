"""Write the page ``reports/<preset>/tuning.md``, which compares the learning rates that were tried for each row.

A run that tries a learning rate has ``experiment.table: tuning/<table>/lr<value>``. Reported tables should use neither
the seed nor the split of such a run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from fpn_lightning.errors import InputError
from fpn_lightning.files import write_whole
from fpn_lightning.metric_names import proposal_count
from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting.grids import Grid, each, measured
from fpn_lightning.reporting.mixing import set_apart
from fpn_lightning.reporting.prose import FOOTER
from fpn_lightning.reporting.seeds import sample
from fpn_lightning.reporting.tables import folded, markdown_grid, warned
from fpn_lightning.runs.record import Record

PREFIX = "tuning/"
_NAME = re.compile(r"tuning/(?P<table>[\w-]+)/lr(?P<lr>\d+(?:\.\d+)?(?:e-?\d+)?)")

Tried = dict[tuple[str, str], dict[float, list[Record]]]
"""Dict from table and row to a dict from learning rate to records."""


def write(preset: str, records: list[Record], folder: Path) -> Path | None:
    """Write ``<folder>/tuning.md`` and return its path; ``None`` if no learning rate was tried.

    Raises:
        InputError: an ``experiment.table`` starts with ``tuning/`` but does not name one of the paper's tables and a
            learning rate.
    """
    kept, mixed = set_apart(records)
    tuning = [record for record in kept if record.experiment.table.startswith(PREFIX)]
    reported = [record for record in kept if not record.experiment.table.startswith(PREFIX)]
    tried = _tried(tuning)
    warnings = [warning for name, warning in mixed.items() if name.startswith(PREFIX)]
    if not (tuning or warnings):
        return None
    parts = [f"# Learning rates tried, preset {preset}", *warned([*warnings, *_warnings(tuning, reported)])]
    if tuning:
        main, others = _pivot(tried, reported)
        parts += [_conditions(tuning), markdown_grid(main), *(folded(others) if others.rows else [])]
    path = folder / "tuning.md"
    write_whole(path, "\n\n".join([*parts, FOOTER]) + "\n")
    return path


def _tried(tuning: list[Record]) -> Tried:
    """Group the records by row and learning rate; rows are in the paper's order."""
    tables = paper_tables()
    found: Tried = {}
    for record in tuning:
        match = _NAME.fullmatch(record.experiment.table)
        if match is None or match["table"] not in tables:
            raise InputError(
                f"{record.experiment}: experiment.table: {record.experiment.table!r} is not of the form "
                "tuning/<table of the paper>/lr<value>, like tuning/table1/lr0.006"
            )
        by_rate = found.setdefault((match["table"], record.experiment.row), {})
        by_rate.setdefault(float(match["lr"]), []).append(record)
    order = [(name, row) for name, table in tables.items() for row in table.rows]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def _conditions(tuning: list[Record]) -> str:
    images, splits = (each(r.data.num_images for r in tuning), ", ".join(sorted({r.data.split for r in tuning})))
    return (
        f"The runs have {each((r.train.steps for r in tuning), ' or ')} training steps of "
        f"{each((r.train.total_batch for r in tuning), ' or ')} images and use "
        f"seed {each(r.experiment.seed for r in tuning)}. They are evaluated on {images} images of the split {splits}. "
        "Numbers are in percent: mean ± sample standard deviation over seeds. The best number of a row is bold. "
        "The column “used” shows the learning rate of the row's final runs, whose results are on the page of its table."
    )


def _pivot(tried: Tried, reported: list[Record]) -> tuple[Grid, Grid]:
    """Make grids with one line for each row and metric, and one column for each learning rate.

    Returns:
        A grid with each table's main metric, which decides between learning rates, and a grid with AR at fewer
        proposals, such as AR10 if the main metric is AR100.
    """
    rates = sorted({rate for by_rate in tried.values() for rate in by_rate})
    header = ["row", "metric", *(f"lr {rate:g}" for rate in rates), "used"]
    grids = Grid("", header, [], left=2), Grid("Other metrics", header, [], left=2)
    for (name, row), by_rate in tried.items():
        table = paper_tables()[name]
        label = f"Table {name.removeprefix('table')}: {table.rows[row].label if row in table.rows else row}"
        used = {r.train.lr for r in reported if (r.experiment.table, r.experiment.row) == (name, row) and r.train.lr}
        for key in [table.main.key, *_fewer(table.main.key, by_rate)]:
            values = {rate: sample([run.metrics for run in runs], key) for rate, runs in by_rate.items()}
            cells = {rate: measured(values[rate]) if rate in values else "" for rate in rates}
            means = {rate: value.mean for rate, value in sorted(values.items()) if value and value.mean is not None}
            if key == table.main.key and len(means) > 1:
                best = max(means, key=means.__getitem__)
                cells[best] = f"**{cells[best]}**"
            line = [label, key, *cells.values(), ", ".join(f"{rate:g}" for rate in sorted(used))]
            grids[key != table.main.key].rows.append(line)
    return grids


def _fewer(main: str, by_rate: dict[float, list[Record]]) -> list[str]:
    """Names of the AR metrics with fewer proposals than the AR metric ``main``; none if ``main`` is another metric."""
    counts = {key: proposal_count(key) for runs in by_rate.values() for run in runs for key in run.metrics}
    fewer = {key: count for key, count in counts.items() if count and count < (proposal_count(main) or 0)}
    return sorted(fewer, key=fewer.__getitem__)


def _warnings(tuning: list[Record], reported: list[Record]) -> Iterator[str]:
    """Warn of tuning runs that differ in more than the learning rate, have a wrong name, or reuse a seed or split.

    A name is wrong if it contains another learning rate than the run used. A seed or split is reused if runs of
    reported tables have it too.
    """
    for name, shared in (
        ("seed", {r.experiment.seed for r in tuning} & {r.experiment.seed for r in reported}),
        ("split", {r.data.split for r in tuning} & {r.data.split for r in reported}),
    ):
        if shared:
            values = ", ".join(sorted(map(str, shared)))
            yield f"Tuning and reported runs both use the {name} {values}, so the reported numbers may be too high."
    for table, runs in groupby(tuning, key=lambda record: record.experiment.table.split("/")[1]):
        if len({(r.data.fingerprint, r.data.split, r.train.steps, r.train.total_batch) for r in runs}) > 1:
            yield f"{table}: the tuning runs differ in data, split, steps or batch, not only in the learning rate."
    for record in tuning:
        if record.train.lr not in (None, float(record.experiment.table.rpartition("/lr")[2])):
            yield f"{record.experiment}: the run used learning rate {record.train.lr:g}, not the rate in its name."
