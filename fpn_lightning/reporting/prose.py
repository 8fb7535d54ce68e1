"""The sentences on a table's page, made from the table and its records."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from fpn_lightning.reporting.grids import each
from fpn_lightning.reporting.summary import FULL_SCALE_PRESETS, TableSummary, areas

FOOTER = "Made by `python -m fpn_lightning.reporting` from the run records; do not edit this page."


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(sorted(set(values)))


def heading(summary: TableSummary) -> str:
    """The title of the page."""
    if summary.table.ours:
        return f"{summary.table.title} (preset {summary.preset})"
    return f"Table {summary.name.removeprefix('table')} of the paper and our runs, preset {summary.preset}"


def setting(summary: TableSummary) -> list[str]:
    """Three paragraphs: what the paper measured, what we measured, and whether the two can be compared."""
    return [*_paper(summary), _ours(summary), *_comparability(summary)]


def _paper(summary: TableSummary) -> list[str]:
    if (theirs := summary.table.setting) is None:
        return []
    return [
        f"The paper's table: “{summary.table.title}”. Unless a row says otherwise, the paper trained a model with "
        f"{theirs.backbone} on {theirs.data[0]} {theirs.train_split} for {theirs.steps:,} steps of "
        f"{theirs.total_batch} images and evaluated it on {theirs.eval_images:,} images."
    ]


def _ours(summary: TableSummary) -> str:
    records, preset = summary.records, summary.preset
    if not records and summary.mixed:
        return f"Our runs: no number is shown for preset {preset}; the warnings give the reasons."
    if not records:
        return f"Our runs: no row of this table has been run with preset {preset}."
    images = {
        f"{'' if r.train.num_images is None else f'{r.train.num_images:,} training images and '}"
        f"{r.data.num_images:,} evaluation images of the data set “{r.data.name}”"
        for r in records
    }
    seeds = each(r.experiment.seed for r in records)
    return (
        f"Our runs: {_distinct(images)}; {each((r.train.steps for r in records), ' or ')} training steps of "
        f"{each((r.train.total_batch for r in records), ' or ')} images; "
        f"training {'seeds' if ',' in seeds else 'seed'} {seeds}."
    )


def _comparability(summary: TableSummary) -> list[str]:
    if summary.table.ours or not summary.records:
        return []
    if summary.preset not in FULL_SCALE_PRESETS:
        return [
            f"Preset {summary.preset} differs from the paper in at least one of data, backbone and schedule. Do not "
            "compare individual numbers with the paper's numbers. Compare only the order of the rows, and the gaps "
            "between rows."
        ]
    mismatches = [
        f"For {row.row.label}, the difference to the paper is not shown, because {'; '.join(row.mismatches)}."
        for row in summary.rows
        if row.mismatches
    ]
    return mismatches or ["Our runs use the paper's data, schedule and backbone."]


CELLS = (
    "AP and AR are in percent. The number after ± is the sample standard deviation over seeds. For a gap, ± shows the "
    "sample standard deviation of the gaps between runs with the same seed. A dot (·) marks a gap within noise: "
    "its absolute value is at most twice its standard deviation. A dash (–) means that the ground truth has no object "
    "of this size. “n/a” means that the run records do not have the metric. “s/step” (seconds per training step) and "
    "“s/image” (seconds per image at test time) are means over seeds. “peak MiB” (peak memory) is the maximum over "
    "seeds."
)
"""Explanation of table cells, printed on every page."""


def provenance(summary: TableSummary) -> list[str]:
    """Three paragraphs: the data, the machine and the code of the records."""
    records = summary.records
    if not records:
        return []
    pairs = sorted({pair for record in records for pair in record.versions.items()})
    versions = ", ".join(
        f"{package} {' / '.join(version for _, version in group)}" for package, group in groupby(pairs, lambda p: p[0])
    )
    data = _distinct(f"split {record.data.split}, fingerprint {record.data.fingerprint[:12]}" for record in records)
    return [
        f"Evaluation data: {data}. Areas of {_distinct(map(areas, records))} px² separate small, medium and large "
        "objects.",
        "Hardware (number × GPU; for a CPU, processes × threads per process): "
        f"{_distinct(record.hardware for record in records)}.",
        f"Code: commit {_distinct(record.commit for record in records)}. Versions: {versions}.",
    ]


def notes(summary: TableSummary) -> list[str]:
    """Notes on single rows of the table, and a note that names the records that no row shows."""
    lines = []
    for row in summary.rows:
        if source := row.shared_from:
            lines.append(f"{row.row.label}: this row shows the records of {source}, because the models are the same.")
        if row.row.note:
            lines.append(f"{row.row.label}: {row.row.note}.")
    if summary.unlisted:
        lines.append(f"No row of this table shows these run records: {', '.join(summary.unlisted)}.")
    return lines
