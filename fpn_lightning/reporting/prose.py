"""The sentences around a table, all from the records: at what scale it was made, and how to read it."""

from __future__ import annotations

from collections.abc import Iterable

from fpn_lightning.reporting.summary import FULL_SCALE_PRESETS, TableSummary


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(sorted(set(values)))


def heading(summary: TableSummary) -> str:
    """The title, which names the paper's table and the preset."""
    return f"Table {summary.name.removeprefix('table')} of the paper and our runs, preset {summary.preset}"


def scale(summary: TableSummary) -> list[str]:
    """Data, schedule, machine and code of the records shown; whether the numbers can be held against the paper's.

    Of a table that was not run, that it was not, and what the paper's numbers belong to.
    """
    records, setting = summary.records, summary.table.setting
    of_paper = (
        f"The paper's table: {summary.table.title}. Its numbers belong to {setting.data[0]} {setting.train_split}, "
        f"evaluated on {setting.eval_images:,} images, {setting.trunk}, {setting.steps:,} steps of "
        f"{setting.total_batch} images unless a row differs."
    )
    if not records and summary.mixed:
        return [f"No number of this table is shown under preset {summary.preset}; the warnings say why.", of_paper]
    if not records:
        return [f"No row of this table has been run under preset {summary.preset}.", of_paper]
    data = _distinct(
        f"{record.data.name}, "
        + ("" if record.train.num_images is None else f"{record.train.num_images:,} images to train on, ")
        + f"{record.data.num_images:,} to evaluate on ({record.data.split}, fingerprint {record.data.fingerprint[:12]})"
        for record in records
    )
    areas = _distinct(" and ".join(f"{area:g}" for area in record.area_thresholds) for record in records)
    steps = ", ".join(f"{count:,}" for count in sorted({record.train.steps for record in records}))
    batch = ", ".join(str(size) for size in sorted({record.train.total_batch for record in records}))
    seeds = ", ".join(str(seed) for seed in sorted({record.experiment.seed for record in records}))
    packages: dict[str, set[str]] = {}
    for record in records:
        for package, version in record.versions.items():
            packages.setdefault(package, set()).add(version)
    versions = ", ".join(f"{package} {' / '.join(sorted(found))}" for package, found in sorted(packages.items()))
    return [
        f"Data: {data}. Areas of {areas} px² part small, medium and large.",
        f"Training: {steps} steps of {batch} images; seeds {seeds}. "
        f"Hardware: {_distinct(record.hardware for record in records)}.",
        f"Code: commit {_distinct(record.commit for record in records)}. Versions: {versions}.",
        of_paper,
        *_comparability(summary),
    ]


def _comparability(summary: TableSummary) -> list[str]:
    if summary.preset not in FULL_SCALE_PRESETS:
        return [
            f"A number made at the scale of preset {summary.preset} is not the paper's number, and no difference "
            "between the two is shown; what can be compared is how far rows of one preset are apart.",
            *_stand_ins(summary),
        ]
    sentences = []
    for row in summary.rows:
        if row.mismatches:
            sentences.append(f"{row.row.label}: no difference to the paper is shown: {'; '.join(row.mismatches)}.")
    return sentences or ["Data, schedule and trunk are the paper's."]


def _stand_ins(summary: TableSummary) -> list[str]:
    """Which trunks stand for the paper's, where the rows of a table differ in them."""
    found: dict[str, set[str]] = {}
    for row in summary.rows:
        for record in row.records:
            ours = f"{record.trunk} with {record.parameters:,} parameters, those of the head among them"
            found.setdefault(summary.table.trunk(row.row), set()).add(ours)
    if len(found) < 2:
        return []
    named = "; ".join(f"{theirs} is {_distinct(ours)}" for theirs, ours in found.items())
    return [f"The paper's trunks are names here, for smaller ones of different depth: {named}."]


CELLS = (
    "AP and AR are times 100. ± is the sample standard deviation over seeds, that of a gap over the differences within "
    "a seed; a single seed has none. –: the size class has no ground truth. n/a: the record does not hold the metric. "
    "s/step and s/image are means over seeds, peak MiB is their maximum."
)
"""How to read the cells."""


def notes(summary: TableSummary) -> list[str]:
    """The remarks on single rows."""
    lines = []
    for row in summary.rows:
        if row.shared_from:
            lines.append(
                f"{row.row.label}: the paper prints the model of {row.shared_from} a second time; its records are used."
            )
        if row.row.note:
            lines.append(f"{row.row.label}: {row.row.note}.")
    if summary.unlisted:
        lines.append(f"Records that are no row of this table: {', '.join(summary.unlisted)}.")
    return lines
