"""Figure 1 in numbers, what each of its designs brings and costs: ``reports/<preset>/figure1.md``.

Recall comes from the run records, time and memory from ``records/<preset>/figure1_cost.json``: designs are timed beside
each other in one run, while records are made whenever and beside whatever else the machine does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fpn_lightning.errors import InputError
from fpn_lightning.files import write_whole
from fpn_lightning.paper import Column, Row, Table, paper_tables
from fpn_lightning.reporting import prose
from fpn_lightning.reporting.figure1_cost import FILE_NAME, Costs
from fpn_lightning.reporting.figure1_reading import letter, read
from fpn_lightning.reporting.figures import Cloud, point
from fpn_lightning.reporting.grids import Grid, gap_cell, measured, number, status
from fpn_lightning.reporting.reading import listed
from fpn_lightning.reporting.summary import TableSummary, summarise
from fpn_lightning.reporting.tables import bullets, embedded, section, warned
from fpn_lightning.runs.record import Record

NAME = "figure1"
PYRAMID, SINGLE = "a_image_pyramid", "b_single_map"
KEYS = ("AR10", "AR30", "AR100", "AR1k", "AR100_s")
NOT_MEASURED = "not measured"
# What is a row of Table 1 has the colour and the mark it has there: (a), (c) and (d) of the table are 1st, 3rd and 4th.
_STYLE_ORDER = (SINGLE, PYRAMID, "d_fpn", "c_hierarchy", "c_ssd")
QUOTE = "training deep networks end-to-end on an image pyramid is infeasible in terms of memory"


def _figure() -> Table:
    """Figure 1 as a table without numbers of the paper; three of its designs are rows of Table 1."""
    rows = {
        PYRAMID: Row("(a) featurised image pyramid", {}, ours=True),
        SINGLE: Row("(b) single feature map", {}, ours=True, same_as="table1/a_conv4"),
        "c_hierarchy": Row("(c) bottom-up feature hierarchy", {}, ours=True, same_as="table1/d_bottom_up"),
        "c_ssd": Row("(c, SSD-like) hierarchy without fine maps", {}, ours=True),
        "d_fpn": Row("(d) FPN", {}, ours=True, same_as="table1/c_fpn"),
    }
    columns = [Column(key) for key in ("AR100", "AR1k")]
    return Table("Four ways to features at all scales", [], columns, paper_tables()["table1"].setting, rows, "d_fpn")


def write(preset: str, records: list[Record], folder: Path) -> Path | None:
    """Write ``<folder>/figure1.md`` and ``figure1_cost.svg`` and return the page's path.

    Nothing is written for a preset that has neither a record of ``experiment.table: figure1`` nor measured costs, or no
    record of any of the designs.

    Args:
        preset: its name.
        records: all records of the preset.
        folder: ``reports/<preset>``; the costs are in ``reports/records/<preset>``.

    Raises:
        InputError: a malformed file of costs.
    """
    source = folder.parent / "records" / preset / FILE_NAME
    costs = _load(source) if source.exists() else None
    summary = summarise(NAME, preset, {**paper_tables(), NAME: _figure()}, records)
    if not (summary.run or summary.mixed):
        return None
    if costs is None and not any(record.experiment.table == NAME for record in records):
        return None
    drawn = _draw(summary, costs, folder / f"{NAME}_cost.svg")
    write_whole(folder / f"{NAME}.md", page(summary, costs, drawn))
    return folder / f"{NAME}.md"


def _load(source: Path) -> Costs:
    costs, known = Costs.load(source), _figure().rows
    for row in costs.rows:
        if row not in known:
            raise InputError(f"{source}: rows.{row}: Figure 1 has no such row; it has {', '.join(known)}")
    return costs


def page(summary: TableSummary, costs: Costs | None, drawn: Path | None) -> str:
    """The page as Markdown; ``drawn`` is the figure beside it."""
    parts = [f"# Figure 1 of the paper in numbers, preset {summary.preset}"]
    parts += warned([*summary.warnings, *_other_models(summary, costs)])
    if summary.run:
        data, training, code, *_ = prose.scale(summary)
        parts += [data, training, code]
    parts += [_measured_on(costs), prose.CELLS.partition(" s/step")[0]]
    parts += section(_overview(summary, costs))
    if drawn:
        parts += [
            embedded("AR100 against time and memory", drawn.name),
            "Higher is better, further left is cheaper. Error bars: one sample standard deviation over seeds to either "
            "side, where there are two seeds or more.",
        ]
    if ratios := _ratios(summary, costs):
        parts += section(ratios)
    if sentences := read(summary, costs):
        parts += ["## What the numbers say", " ".join(sentences)]
    parts += ["## Training on an image pyramid", f"> “… {QUOTE} …” (FPN §1)", _training(summary, costs)]
    if notes := list(_notes(summary, costs)):
        parts.append(bullets(notes))
    parts.append(
        f"Made by `python -m fpn_lightning.reporting` from the run records and `{FILE_NAME}`; not edited by hand."
    )
    return "\n\n".join(parts) + "\n"


def _measured_on(costs: Costs | None) -> str:
    if costs is None:
        return f"Time and memory: {NOT_MEASURED}; `python benchmarks/figure1_cost.py` measures them."
    height, width = costs.image_size
    return (
        f"Time and memory: all designs in one run on {costs.hardware}, {costs.date}, commit {costs.commit}; images of "
        f"{height} × {width} px, one at a time at test time, {costs.batch} in a training step. What the network leaves "
        "of an image's time goes mostly into non-maximum suppression. Memory is what the work adds at its peak to what "
        "is held before it; a training step is a forward and a backward pass, without the optimiser."
    )


def _overview(summary: TableSummary, costs: Costs | None) -> Grid:
    keys = [key for key in KEYS if any(row.ours(key) for row in summary.run)]
    header = ["row", "seeds", *keys, "parameters", "s/image", "of it network", "test MiB", "training step MiB"]
    rows = []
    for row in summary.rows:
        cells = [row.row.label, status(row), *(measured(row.ours(key), bool(row.records)) for key in keys)]
        cost = costs.rows.get(row.id) if costs else None
        parameters = {record.parameters for record in row.records} or ({cost.parameters} if cost else set())
        cells.append(", ".join(f"{count:,}" for count in sorted(parameters)))
        if cost is None:
            cells += 4 * [NOT_MEASURED]
        else:
            cells += [
                number(cost.seconds_per_image, 3),
                number(cost.network_seconds_per_image, 3) or NOT_MEASURED,
                f"{cost.test_memory_mib:,.0f}",
                f"{cost.train_step_memory_mib:,.0f}",
            ]
        rows.append(cells)
    return Grid("What each design brings and costs", header, rows, left=2)


def _ratios(summary: TableSummary, costs: Costs | None) -> Grid | None:
    """Every other row beside FPN: recall as a difference in points, costs as multiples."""
    reference = summary.reference
    base = costs.rows.get(reference.id) if costs and reference else None
    if costs is None or reference is None or base is None:
        return None
    rows = []
    for row in summary.rows:
        cost = costs.rows.get(row.id)
        if row.id == reference.id or cost is None:
            continue
        pairs = (
            (cost.parameters, base.parameters),
            (cost.seconds_per_image, base.seconds_per_image),
            (cost.network_seconds_per_image, base.network_seconds_per_image),
            (cost.test_memory_mib, base.test_memory_mib),
            (cost.train_step_memory_mib, base.train_step_memory_mib),
        )
        ratios = (f"{number(mine / its, 2)} ×" if mine and its else NOT_MEASURED for mine, its in pairs)
        cells = [row.row.label, gap_cell(summary, row, "AR100"), *ratios]
        rows.append(cells)
    header = ["row", "AR100, points", "parameters", "s/image", "of it network", "test memory", "training step memory"]
    return Grid(f"Beside “{reference.row.label}”", header, rows, left=1) if rows else None


def _draw(summary: TableSummary, costs: Costs | None, path: Path) -> Path | None:
    axes = (
        ("seconds an image, test time", lambda cost: cost.seconds_per_image),
        ("memory at test time (MiB)", lambda cost: cost.test_memory_mib),
        ("memory of a training step (MiB)", lambda cost: cost.train_step_memory_mib),
    )
    brought = {row.id: found for row in summary.run if (found := point(row, "AR100"))}
    shown = [row for row in brought if costs and row in costs.rows]
    if costs is None or not shown:
        return None
    from fpn_lightning.reporting import plots  # here and not above: matplotlib takes a second to import

    clouds = [Cloud(label, {row: (cost(costs.rows[row]), brought[row]) for row in shown}) for label, cost in axes]
    labels = {row.id: row.row.label for row in summary.rows}
    styles = plots.row_styles({row: labels[row] for row in _STYLE_ORDER})
    plots.draw_clouds(path, clouds, "AR100 (%)", {row: styles[row] for row in labels})
    return path


def _training(summary: TableSummary, costs: Costs | None) -> str:
    """Our number beside the paper's sentence."""
    cost = costs.rows.get(PYRAMID) if costs else None
    if costs is None or cost is None:
        return f"What a training step on all scales of (a) would need here: {NOT_MEASURED}."
    height, width = costs.image_size
    text = (
        f"One training step of {costs.batch} images of {height} × {width} px on all scales of (a) would need "
        f"{cost.train_step_memory_mib:,.0f} MiB"
    )
    beside = []
    for row in summary.rows:
        if row.id in (SINGLE, summary.table.reference) and row.id in costs.rows:
            needed = costs.rows[row.id].train_step_memory_mib
            times = number(cost.train_step_memory_mib / needed)
            beside.append(f"{times} times what {letter(row)} needs ({needed:,.0f} MiB)")
    text += f", {listed(beside)}" if beside else ""
    return f"{text}. (a) itself is trained on one scale, as (b) is."


def _other_models(summary: TableSummary, costs: Costs | None) -> Iterator[str]:
    """Rows whose costs were measured on another model than the records are of."""
    for row in summary.run:
        counts = {record.parameters for record in row.records}
        cost = costs.rows.get(row.id) if costs else None
        if cost is not None and counts != {cost.parameters}:
            recorded = " and ".join(f"{count:,}" for count in sorted(counts))
            yield (
                f"{letter(row)}: the model that was timed has {cost.parameters:,} parameters, the one in the records "
                f"{recorded}."
            )


def _notes(summary: TableSummary, costs: Costs | None) -> Iterator[str]:
    for row in summary.rows:
        if row.shared_from:
            yield f"{row.row.label} is the model of {row.shared_from}, whose records are used."
        cost = costs.rows.get(row.id) if costs else None
        if cost is not None and cost.train_step_memory_note:
            yield f"{row.row.label}, memory of a training step: {cost.train_step_memory_note}."
    if summary.unlisted:
        yield f"Records that are no row of this page: {', '.join(summary.unlisted)}."
