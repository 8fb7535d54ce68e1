from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting.grids import number
from fpn_lightning.reporting.page import write
from fpn_lightning.reporting.summary import summarise
from fpn_lightning.reporting.tables import latex_escape
from fpn_lightning.runs.record import Record

MakeRecord = Callable[..., Record]


@pytest.mark.parametrize("name", list(paper_tables()))
def test_every_table_renders_in_every_form(name: str, tmp_path: Path, make_record: MakeRecord) -> None:
    table = paper_tables()[name]
    metrics = {column.key: 0.25 for column in table.columns}
    cells = [row for row in table.rows if not table.rows[row].literature]
    records = [make_record(f"{name}/{row}", seed, metrics=metrics) for row in cells for seed in (0, 1)]
    records = [replace(record, hardware="50% of a_b & c#d ~^\\") for record in records]
    summary = summarise(name, "mini", paper_tables(), records)
    first = [path.read_bytes() for path in write(summary, tmp_path / "a")]
    again = summarise(name, "mini", paper_tables(), records[::-1])
    paths = write(again, tmp_path / "b")
    assert [path.read_bytes() for path in paths] == first
    assert [path.name for path in paths[:3]] == [f"{name}.md", f"{name}.csv", f"{name}.tex"]
    assert {path.suffix for path in paths[3:]} == ({".svg"} if len(records) > 2 else set())
    text = paths[0].read_text()
    assert "not run" not in text
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({(len(line), line.count("|")) for line in block.splitlines()}) == 1
    assert len(paths[1].read_text().splitlines()) == 1 + len(table.rows) * len(table.columns)
    _check_latex(paths[2].read_text())


def _check_latex(text: str) -> None:
    """Only characters and commands that LaTeX with booktabs knows; braces, floats and columns match."""
    assert text.isascii()
    body = text.split("\n", 1)[1]
    plain = body.replace(r"\\", "").replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"(?<!\\)[%#]", body)
    outside_math = re.sub(r"(?<!\\)\$[^$]*\$", "", body)
    assert not re.search(r"(?<!\\)[_^~]", outside_math.replace(r"\textasciitilde", "").replace(r"\textasciicircum", ""))
    begun, ended = re.findall(r"\\begin{(.*?)}", body), re.findall(r"\\end{(.*?)}", body)
    assert sorted(begun) == sorted(ended)
    for spec, content in re.findall(r"\\begin{tabular}{([lr]+)}\n(.*?)\\end{tabular}", body, flags=re.DOTALL):
        rows = [line for line in content.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(spec)}
        assert [line for line in content.splitlines() if line not in rows] == [r"\toprule", r"\midrule", r"\bottomrule"]


def test_latex_escapes() -> None:
    assert latex_escape("50% & a_b ± {Pk} #1 [5×5]") == r"50\% \& a\_b $\pm$ \{Pk\} \#1 {[}5$\times$5{]}"
    assert latex_escape("a\\b~c^d$") == r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d\$"


@pytest.mark.parametrize(
    ("value", "sign", "shown"),
    [
        (None, True, ""),
        (0.04, True, "0.0"),
        (-0.04, True, "0.0"),
        (-0.04, False, "0.0"),
        (7.96, True, "+8.0"),
        (-7.9, True, "-7.9"),
    ],
)
def test_numbers(value: float | None, sign: bool, shown: str) -> None:
    assert number(value, sign=sign) == shown
