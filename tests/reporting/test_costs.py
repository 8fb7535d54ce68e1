"""Costs measured side by side: read from a file and shown beside the recall of Figure 1's rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fpn_lightning.errors import InputError
from fpn_lightning.paper import all_tables
from fpn_lightning.reporting import __main__ as command
from fpn_lightning.reporting.collection import load_all, presets
from fpn_lightning.reporting.costs import Costs
from fpn_lightning.reporting.page import summaries
from fpn_lightning.reporting.summary import summarise
from tests.records import a_record
from tests.reporting.builders import cells, page, rows, save_runs, section, svg_texts

TABLE1 = {
    "a_conv4": {"AR100": (0.30, 0.32), "AR100_s": (0.1, 0.1)},
    "d_bottom_up": {"AR100": (0.45, 0.46), "AR100_s": (0.2, 0.2)},
    "c_fpn": {"AR100": (0.50, 0.52), "AR100_s": (0.4, 0.4)},
}
FIGURE1 = {"a_image_pyramid": {"AR100": (0.40, 0.42)}, "c_ssd": {"AR100": (0.35, 0.35)}}
RECORDS = rows("figure1", **FIGURE1) + rows("table1", **TABLE1)
TABLES = all_tables(Path("nowhere"))


def costs(**by_row):
    """Seconds an image, MiB at test time, MiB of a training step, seconds of the network if known, by row."""
    names = ("seconds_per_image", "test_memory_mib", "train_step_memory_mib", "network_seconds_per_image")
    same = {"train_step_memory_note": None, "parameters": RECORDS[0].parameters}
    return {
        "schema": 1,
        "hardware": "one machine",
        "commit": "914c163",
        "date": "2026-11-25",
        "image_size": [160, 200],
        "batch": 8,
        "rows": {row: {**dict(zip(names, values, strict=False)), **same} for row, values in by_row.items()},
    }


ALL = costs(
    a_image_pyramid=(0.4, 300, 3000, 0.3),
    b_single_map=(0.1, 100, 500),
    c_hierarchy=(0.25, 180, 900),
    c_ssd=(0.05, 120, 600),
    d_fpn=(0.2, 200, 1000, 0.12),
)


@pytest.fixture
def make_page(tmp_path: Path):
    def make(content=None, records=RECORDS) -> str:
        source = tmp_path / "reports/records/mini/figure1_cost.json"
        source.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            source.write_text(json.dumps(content), encoding="utf-8")
        return page(summarise("figure1", "mini", TABLES, records), tmp_path / "reports/mini")

    return make


def test_costs_and_multiples_of_the_reference_row(make_page):
    text = make_page(ALL)
    assert "(hardware: one machine; date: 2026-11-25; commit: 914c163). Images have 160 × 200 px." in text
    shown = cells(section(text, "Cost, measured side by side"))
    assert shown["row"] == ["parameters", "s/image", "network s/image", "test MiB", "training step MiB"]
    # 0.4 s to 0.2 s; 0.3 s to 0.12 s; 300 to 200 MiB; 3000 to 1000 MiB.
    assert shown["(a) featurised image pyramid"] == [
        *("1,234,567 (1.00 ×)", "0.400 (2.00 ×)", "0.300 (2.50 ×)", "300 (1.50 ×)", "3,000 (3.00 ×)")
    ]
    assert shown["(b) single feature map"][1:] == ["0.100 (0.50 ×)", "not measured", "100 (0.50 ×)", "500 (0.50 ×)"]
    assert shown["(d) FPN"] == ["1,234,567", "0.200", "0.120", "200", "1,000"]


def test_costs_of_some_rows_and_of_another_model(make_page):
    content = costs(d_fpn=(0.2, 200, 1000))
    content["rows"]["d_fpn"] |= {"parameters": 7, "train_step_memory_note": "summed over two halves"}
    text = make_page(content)
    shown = cells(section(text, "Cost, measured side by side"))
    assert shown["(b) single feature map"] == 5 * ["not measured"]
    assert shown["(d) FPN"] == ["7", "0.200", "not measured", "200", "1,000"]
    warning = "the model in the cost measurement has 7 parameters, but the model in the run records has 1,234,567."
    assert f"(d) FPN: {warning}" in text
    assert "- (d) FPN, memory of a training step: summed over two halves." in text


def test_a_page_without_costs_has_neither_their_grid_nor_their_figure(make_page, tmp_path: Path):
    text = make_page()
    assert "side by side" not in text
    assert "(d) FPN: this row shows the records of table1/c_fpn, because the models are the same." in text
    assert not (tmp_path / "reports/mini/figure1_cost.svg").exists()


def test_the_figure_shows_every_row_with_both(make_page, tmp_path: Path):
    assert "(figure1_cost.svg)" in make_page(ALL)
    path = tmp_path / "reports/mini/figure1_cost.svg"
    first = path.read_bytes()
    assert {"(a) featurised image pyramid", "(d) FPN", "seconds an image, test time", "AR100 (%)"} <= svg_texts(path)
    make_page(ALL, RECORDS[::-1])
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("schema",), 2, "schema: "),
        (("date",), "yesterday", "date: "),
        (("image_size",), [160], r"image_size\.1: "),
        (("batch",), 0, "batch: "),
        (("memory",), 3, "memory: "),
        (("rows", "d_fpn", "seconds_per_image"), "0.2", r"rows\.d_fpn\.seconds_per_image: .*number"),
        (("rows", "d_fpn", "test_memory_mib"), -1.0, r"rows\.d_fpn\.test_memory_mib: .*greater than 0"),
        (("rows", "d_fpn", "parameters"), 1.5, r"rows\.d_fpn\.parameters: "),
        (("rows", "d_fpn"), {}, r"rows\.d_fpn\.seconds_per_image: .*required"),
        (
            ("rows", "e_fpn"),
            ALL["rows"]["d_fpn"],
            r"rows\.e_fpn: figure1 has no such row; its rows are a_image_pyramid, ",
        ),
    ],
)
def test_a_malformed_file_names_file_and_key(keys, value, message, make_page):
    content = json.loads(json.dumps(ALL))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    with pytest.raises(InputError, match=rf"figure1_cost\.json: {message}"):
        make_page(content)


def test_a_file_that_is_not_json(tmp_path: Path):
    path = tmp_path / "figure1_cost.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"figure1_cost\.json: "):
        Costs.load(path)
    with pytest.raises(InputError, match=r"absent\.json cannot be read"):
        Costs.load(tmp_path / "absent.json")


def test_the_file_of_costs_is_not_a_record_and_makes_a_page_if_a_row_was_run(tmp_path: Path):
    root = tmp_path / "reports/records"
    (root / "mini").mkdir(parents=True)
    (root / "mini/figure1_cost.json").write_text(json.dumps(ALL), encoding="utf-8")
    assert presets(root) == []
    found = summaries("mini", TABLES, [a_record("table2/c_fpn")], root)
    assert [summary.name for summary in found] == ["table2"]
    records = rows("table1", **TABLE1)
    save_runs(records, tmp_path / "runs")
    assert command.main(["--runs", str(tmp_path / "runs"), "--reports", str(tmp_path / "reports")]) == 0
    assert len(load_all(root, "mini")) == len(records)
    assert {path.stem for path in (tmp_path / "reports/mini").glob("*.md")} == {"table1", "figure1"}
