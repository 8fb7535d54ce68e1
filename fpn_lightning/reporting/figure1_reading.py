"""Figure 1 read out in sentences: which design brings most, which costs least, and which is worth what it costs."""

from __future__ import annotations

from fpn_lightning.reporting.figure1_cost import Costs
from fpn_lightning.reporting.grids import measured, number
from fpn_lightning.reporting.pairs import difference
from fpn_lightning.reporting.reading import listed
from fpn_lightning.reporting.summary import RowSummary, TableSummary

KEY = "AR100"


def letter(row: RowSummary) -> str:
    """The row's letter in the figure: ``(c)``, ``(c, SSD-like)``."""
    return row.row.label.partition(")")[0] + ")"


def read(summary: TableSummary, costs: Costs | None) -> list[str]:
    """Sentences from the numbers alone; none where fewer than two rows have what a sentence compares."""
    recall = {row.id: found.mean for row in summary.run if (found := row.ours(KEY)) and found.mean is not None}
    rows = sorted((row for row in summary.run if row.id in recall), key=lambda row: -recall[row.id])
    sentences = [_most_recall(rows)] if len(rows) > 1 else []
    timed = [row for row in rows if costs and row.id in costs.rows]
    if costs is None or len(timed) < 2:
        return sentences
    seconds = {row.id: costs.rows[row.id].seconds_per_image for row in timed}
    fast = min(timed, key=lambda row: seconds[row.id])
    small = min(timed, key=lambda row: costs.rows[row.id].test_memory_mib)
    light = min(timed, key=lambda row: costs.rows[row.id].train_step_memory_mib)
    sentences.append(
        f"Least time an image: {letter(fast)}, {number(seconds[fast.id], 3)} s; least memory at test time: "
        f"{letter(small)}, {costs.rows[small.id].test_memory_mib:,.0f} MiB; least memory in a training step: "
        f"{letter(light)}, {costs.rows[light.id].train_step_memory_mib:,.0f} MiB."
    )
    ratio = {row.id: recall[row.id] / seconds[row.id] for row in timed}
    ranked = sorted(timed, key=lambda row: -ratio[row.id])
    shown = ", ".join(f"{letter(row)} {ratio[row.id]:,.0f}" for row in ranked)
    sentences.append(f"Points of {KEY} for each second that an image takes, most first: {shown}.")
    return [*sentences, *_worth_their_time(timed, recall, seconds)]


def _most_recall(rows: list[RowSummary]) -> str:
    first, second = rows[:2]
    lead = difference(first.records, second.records, KEY)
    verdict = {
        1: "the seeds tell the two apart",
        0: "the seeds do not tell the two apart",
        -1: "with the seeds that both ran with it is the other way round",
        None: "there are too few common seeds to judge the difference",
    }[lead.sign]
    most, next_most = (measured(row.ours(KEY), has_records=True) for row in (first, second))
    return f"{letter(first)} has the highest {KEY}, {most}, before {letter(second)} with {next_most}; {verdict}."


def _worth_their_time(rows: list[RowSummary], recall: dict[str, float], seconds: dict[str, float]) -> list[str]:
    """Rows that no other beats in recall and in time at once, and who beats the rest."""
    beaten: dict[str, list[str]] = {}
    for row in rows:
        better = [
            letter(other) for other in rows if recall[other.id] > recall[row.id] and seconds[other.id] < seconds[row.id]
        ]
        if better:
            beaten[letter(row)] = better
    kept = [letter(row) for row in rows if letter(row) not in beaten]
    text = f"Not beaten by any other in {KEY} and in time at once: {listed(kept)}"
    rest = "; ".join(f"{row} by {listed(others)}" for row, others in beaten.items())
    return [f"{text}. Beaten in both: {rest}." if rest else f"{text}."]
