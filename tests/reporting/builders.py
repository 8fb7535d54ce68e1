"""Records of rows that a person can check by hand, a stand-in for Weights & Biases, and readers of pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from fpn_lightning.reporting.page import write
from fpn_lightning.reporting.summary import TableSummary
from fpn_lightning.runs.record import Record
from tests.records import a_record

# Rows whose differences a person can check: (d) minus (e) is within noise, and (f) is last here but not in the paper.
ROWS = {
    "c_fpn": {"AR100": (0.50, 0.52)},
    "d_bottom_up": {"AR100": (0.40, 0.43)},
    "e_no_lateral": {"AR100": (0.41, 0.42)},
    "f_finest": {"AR100": (0.30, 0.31)},
}


def rows(table: str = "table1", **metrics: dict[str, tuple[float, ...]]) -> list[Record]:
    """Records of several rows: ``rows(c_fpn={"AR100": (0.50, 0.52)})`` is one row, one metric, seeds 0 and 1."""
    return [
        a_record(f"{table}/{row}", seed, metrics={key: values[seed] for key, values in by_key.items()})
        for row, by_key in metrics.items()
        for seed in range(len(next(iter(by_key.values()))))
    ]


def nested(cell: str, *values: float, **changes: object) -> list[Record]:
    """Records of a row with AR100 of each seed; its table may be several folders, as ``tuning/table1/lr0.1`` is."""
    table, _, row = cell.rpartition("/")
    records = [a_record(seed=seed, metrics={"AR100": value}, **changes) for seed, value in enumerate(values)]
    return [replace(record, experiment=replace(record.experiment, table=table, row=row)) for record in records]


def save_runs(records: list[Record], runs: Path) -> None:
    for record in records:
        record.save(runs / record.experiment.path / "metrics.json")


def page(summary: TableSummary, folder: Path) -> str:
    """The page, after writing it and what belongs to it into ``folder``."""
    return write(summary, folder)[0].read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """The text below a heading of a page, as far as the next heading."""
    return text.split(f"## {title}", 1)[1].split("\n## ", 1)[0]


def cells(text: str, words: int = 1) -> dict[str, list[str]]:
    """The cells of Markdown grids by the words in the first columns."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*$", text, re.MULTILINE)
    ]
    return {" ".join(line[:words]): line[words:] for line in lines}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def svg_texts(path: Path) -> set[str]:
    return {element.text or "" for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")}


class OnlineRun:
    """A run of Weights & Biases with the file ``metrics.json``, which may be empty or, if ``None``, not listed."""

    def __init__(self, name: str, content: bytes | None) -> None:
        self.name, self.id, self.content = name, f"id-{name}", content

    def file(self, name: str) -> OnlineRun:
        assert name == "metrics.json"
        if self.content is None:
            raise IndexError("list index out of range")
        self.size = len(self.content)
        return self

    def download(self, root: str, replace: bool) -> IO[str]:
        assert replace
        path = Path(root) / "metrics.json"
        path.write_bytes(self.content or b"")
        return path.open()


class OnlineApi:
    """What is used of ``wandb.Api``; runs come in order of creation when asked to."""

    def __init__(self, runs: list[OnlineRun]) -> None:
        self._runs = runs

    def runs(self, path: str, order: str) -> Iterator[OnlineRun]:
        assert (path, order) == ("team/fpn", "+created_at")
        return iter(self._runs)
