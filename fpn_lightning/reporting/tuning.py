"""Learning rates tried, rows × learning rates on one page: ``reports/<preset>/tuning.md``.

The records have ``experiment.table: tuning/<table>/lr<value>`` and a seed and split that no reported table uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fpn_lightning.errors import InputError
from fpn_lightning.files import write_whole
from fpn_lightning.metric_names import proposal_count
from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting.grids import Grid, measured
from fpn_lightning.reporting.mixing import set_apart
from fpn_lightning.reporting.seeds import statistic
from fpn_lightning.reporting.tables import folded, markdown_grid, warned
from fpn_lightning.runs.record import Record

PREFIX = "tuning/"
_NAME = re.compile(r"tuning/(?P<table>[\w-]+)/lr(?P<lr>\d+(?:\.\d+)?(?:e-?\d+)?)")

Tried = dict[tuple[str, str], dict[float, list[Record]]]
"""Records by table and row, then by learning rate."""


def tried(records: list[Record]) -> Tried:
    """The tuning runs among ``records``, in the paper's order of tables and rows.

    Raises:
        InputError: ``experiment.table`` starts with ``tuning/`` and does not name a table of the paper and a learning
            rate.
    """
    tables = paper_tables()
    order = {(table, row): place for place, (table, row) in enumerate((t, r) for t in tables for r in tables[t].rows)}
    found: Tried = {}
    for record in records:
        if record.experiment.table.startswith(PREFIX):
            match = _NAME.fullmatch(record.experiment.table)
            if match is None or match["table"] not in tables:
                raise InputError(
                    f"{record.experiment}: experiment.table: {record.experiment.table!r} is not of the form "
                    "tuning/<table>/lr<value>, like tuning/table1/lr0.006"
                )
            by_rate = found.setdefault((match["table"], record.experiment.row), {})
            by_rate.setdefault(float(match["lr"]), []).append(record)
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))


def write(preset: str, records: list[Record], folder: Path) -> Path | None:
    """Write ``<folder>/tuning.md`` if any learning rate was tried, and return its path."""
    kept, mixed = set_apart(records)
    found = tried(kept)
    warnings = [row.warning for row in mixed if row.table.startswith(PREFIX)]
    if not (found or warnings):
        return None
    write_whole(folder / "tuning.md", page(preset, found, kept, warnings))
    return folder / "tuning.md"


def page(preset: str, found: Tried, records: list[Record], warnings: Sequence[str] = ()) -> str:
    """The page as Markdown.

    Args:
        preset: its name.
        found: the tuning runs.
        records: all records of the preset, among them those of the reported tables.
        warnings: about rows whose runs differ, which are left out.
    """
    tuning = [record for by_rate in found.values() for runs in by_rate.values() for record in runs]
    reported = [record for record in records if not record.experiment.table.startswith(PREFIX)]
    parts = [f"# Learning rates tried, preset {preset}", *warned([*warnings, *_warnings(found, tuning, reported)])]
    if tuning:
        parts += [_conditions(tuning), markdown_grid(_pivot(found, reported, deciding=True))]
        parts += folded(others) if (others := _pivot(found, reported, deciding=False)).rows else []
    return (
        "\n\n".join([*parts, "Made by `python -m fpn_lightning.reporting` from the run records; do not edit."]) + "\n"
    )


def _conditions(tuning: list[Record]) -> str:
    def each(values: Iterator[object]) -> str:
        return ", ".join(map(str, sorted(set(values), key=str)))

    return (
        f"Runs of {each(r.train.steps for r in tuning)} steps of {each(r.train.total_batch for r in tuning)} images, "
        f"seed {each(r.experiment.seed for r in tuning)}, evaluated on {each(r.data.num_images for r in tuning)} "
        f"images of the split {each(r.data.split for r in tuning)}. Numbers are in percent, mean ± sample standard "
        "deviation over seeds. Bold: the best learning rate of a row. Used: that of the row in the reported table."
    )


def _pivot(found: Tried, reported: list[Record], deciding: bool) -> Grid:
    """One line for each row and metric, one column for each learning rate.

    Args:
        found: the tuning runs.
        reported: records of the reported tables.
        deciding: show the main metric of each table, by which its learning rate is chosen; otherwise recall at fewer
            proposals.
    """
    rates = sorted({rate for by_rate in found.values() for rate in by_rate})
    lines = []
    for (table, row), by_rate in found.items():
        main = paper_tables()[table].main.key
        paper = paper_tables()[table].rows.get(row)
        used = {r.train.lr for r in reported if (r.experiment.table, r.experiment.row) == (table, row) and r.train.lr}
        for key in [main] if deciding else _fewer(main, by_rate):
            values = {rate: statistic([run.metrics for run in runs], key) for rate, runs in by_rate.items()}
            means = {rate: value.mean for rate, value in values.items() if value and value.mean is not None}
            cells = {rate: measured(values.get(rate), rate in by_rate) for rate in rates}
            if deciding and len(means) > 1:
                best = max(sorted(means), key=means.__getitem__)
                cells[best] = f"**{cells[best]}**"
            lines.append(
                [
                    f"Table {table.removeprefix('table')}: {paper.label if paper else row}",
                    key,
                    *cells.values(),
                    ", ".join(f"{rate:g}" for rate in sorted(used)),
                ]
            )
    return Grid("Other metrics", ["row", "metric", *(f"lr {rate:g}" for rate in rates), "used"], lines, left=2)


def _fewer(main: str, by_rate: dict[float, list[Record]]) -> list[str]:
    """Recalls at fewer proposals than the metric ``main``, if that is a recall."""
    most = proposal_count(main) or 0
    keys = {key: proposal_count(key) or most for runs in by_rate.values() for run in runs for key in run.metrics}
    return sorted((key for key, count in keys.items() if count < most), key=keys.__getitem__)


def _warnings(found: Tried, tuning: list[Record], reported: list[Record]) -> Iterator[str]:
    """Sentences about runs that cannot be compared, used another learning rate or share seed or split with a table."""
    for name, shared in (
        ("seed", {r.experiment.seed for r in tuning} & {r.experiment.seed for r in reported}),
        ("split", {r.data.split for r in tuning} & {r.data.split for r in reported}),
    ):
        if shared:
            values = ", ".join(map(str, sorted(shared, key=str)))
            yield f"The {name} {values} is also used in reported tables, which may make their numbers too high."
    for table in dict.fromkeys(table for table, _ in found):
        runs = [record for (of, _), by_rate in found.items() if of == table for r in by_rate.values() for record in r]
        if len({(r.data.fingerprint, r.data.split, r.train.steps, r.train.total_batch) for r in runs}) > 1:
            yield f"{table}: the runs differ in data, split, steps or batch, and not only in the learning rate."
    for by_rate in found.values():
        for rate, runs in by_rate.items():
            for record in runs:
                if record.train.lr not in (None, rate):
                    yield f"{record.experiment}: the run used learning rate {record.train.lr:g}."
