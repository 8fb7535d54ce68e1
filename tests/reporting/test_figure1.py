"""Figure 1 in numbers: recall from records, costs from a file, ratios and sentences that a person can work out."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from fpn_lightning.errors import InputError
from fpn_lightning.reporting import __main__ as command
from fpn_lightning.reporting.collection import load_all, presets
from fpn_lightning.reporting.figure1 import write
from fpn_lightning.reporting.figure1_cost import Costs

TABLE1 = {
    "a_conv4": {"AR100": (0.30, 0.32), "AR100_s": (0.1, 0.1)},
    "d_bottom_up": {"AR100": (0.45, 0.46), "AR100_s": (0.2, 0.2)},
    "c_fpn": {"AR100": (0.50, 0.52), "AR100_s": (0.4, 0.4)},
}
FIGURE1 = {"a_image_pyramid": {"AR100": (0.40, 0.42)}, "c_ssd": {"AR100": (0.35, 0.35)}}
PARAMETERS = 1_234_567  # of conftest's records


def costs(**rows):
    """Seconds an image, MiB at test time, MiB of a training step, seconds of the network if known, by row."""
    names = ("seconds_per_image", "test_memory_mib", "train_step_memory_mib", "network_seconds_per_image")
    return {
        "schema": 1,
        "hardware": "one machine",
        "commit": "914c163",
        "date": "2026-11-25",
        "image_size": [160, 200],
        "batch": 8,
        "rows": {
            row: {**dict(zip(names, values, strict=False)), "train_step_memory_note": None, "parameters": PARAMETERS}
            for row, values in rows.items()
        },
    }


ALL = costs(
    a_image_pyramid=(0.4, 300, 3000, 0.3),
    b_single_map=(0.1, 100, 500),
    c_hierarchy=(0.25, 180, 900),
    c_ssd=(0.05, 120, 600),
    d_fpn=(0.2, 200, 1000, 0.12),
)


@pytest.fixture
def records(make_rows):
    return make_rows("figure1", **FIGURE1) + make_rows("table1", **TABLE1)


@pytest.fixture
def make_page(tmp_path: Path):
    def make(records, content=None) -> str:
        source = tmp_path / "reports/records/mini/figure1_cost.json"
        source.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            source.write_text(json.dumps(content), encoding="utf-8")
        path = write("mini", records, tmp_path / "reports/mini")
        assert path == tmp_path / "reports/mini/figure1.md"
        return path.read_text(encoding="utf-8")

    return make


def cells(text: str, heading: str) -> dict[str, list[str]]:
    block = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line.strip("|").split("|") for line in block.splitlines() if line.startswith("|")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_recall_beside_cost(records, make_page):
    shown = cells(make_page(records, ALL), "What each design brings and costs")
    assert shown["row"] == [
        "seeds",
        "AR100",
        "AR100_s",
        "parameters",
        "s/image",
        "of it network",
        "test MiB",
        "training step MiB",
    ]
    # 40 and 42: mean 41, spread sqrt(2).
    image_pyramid = ["2", "41.0 ± 1.4", "n/a", "1,234,567", "0.400", "0.300", "300", "3,000"]
    assert shown["(a) featurised image pyramid"] == image_pyramid
    assert shown["(d) FPN"] == ["2", "51.0 ± 1.4", "40.0 ± 0.0", "1,234,567", "0.200", "0.120", "200", "1,000"]


def test_costs_as_multiples_of_fpns(records, make_page):
    shown = cells(make_page(records, ALL), "Beside “(d) FPN”")
    # 40 - 50 and 42 - 52; 0.4 s to 0.2 s; 0.3 s to 0.12 s; 300 to 200 MiB; 3000 to 1000 MiB.
    assert shown["(a) featurised image pyramid"] == ["-10.0 ± 0.0", "1.00 ×", "2.00 ×", "2.50 ×", "1.50 ×", "3.00 ×"]
    assert shown["(b) single feature map"][2:] == ["0.50 ×", "not measured", "0.50 ×", "0.50 ×"]
    assert "(d) FPN" not in shown


def test_our_number_beside_the_papers_sentence(records, make_page):
    text = make_page(records, ALL)
    assert "infeasible in terms of memory …” (FPN §1)" in text
    assert (
        "One training step of 8 images of 160 × 200 px on all scales of (a) would need 3,000 MiB, "
        "6.0 times what (b) needs (500 MiB) and 3.0 times what (d) needs (1,000 MiB)."
    ) in text


def test_the_reading_follows_the_numbers(records, make_page):
    text = make_page(records, ALL)
    # 50 - 45 and 52 - 46: 5.5 ± 0.7 counts.
    assert "(d) has the highest AR100, 51.0 ± 1.4, before (c) with 45.5 ± 0.7; the seeds tell the two apart." in text
    assert (
        "Least time an image: (c, SSD-like), 0.050 s; least memory at test time: (b), 100 MiB; "
        "least memory in a training step: (b), 500 MiB."
    ) in text
    # 35 / 0.05, 31 / 0.1, 51 / 0.2, 45.5 / 0.25, 41 / 0.4
    assert "most first: (c, SSD-like) 700, (b) 310, (d) 255, (c) 182, (a) 102." in text
    # (b), 31 in 0.1 s, has less and is slower than the SSD-like one, 35 in 0.05 s.
    assert "Not beaten by any other in AR100 and in time at once: (d) and (c, SSD-like)." in text
    assert "Beaten in both: (c) by (d); (a) by (d) and (c); (b) by (c, SSD-like)." in text


def test_other_numbers_give_another_reading(make_rows, make_page):
    close = {**TABLE1, "d_bottom_up": {"AR100": (0.52, 0.52)}}
    content = costs(b_single_map=(0.1, 100, 500), c_hierarchy=(0.2, 90, 400), d_fpn=(0.2, 200, 1000))
    text = make_page(make_rows("table1", **close), content)
    # 52 - 50 and 52 - 52: 1 ± 1.4.
    assert (
        "(c) has the highest AR100, 52.0 ± 0.0, before (d) with 51.0 ± 1.4; the seeds do not tell the two apart."
        in text
    )
    assert "least memory at test time: (c), 90 MiB" in text
    assert "in time at once: (c), (d) and (b)." in text  # as fast as another is not beaten in time
    assert "Beaten in both" not in text
    assert "on all scales of (a) would need here: not measured." in text


def test_without_costs_the_cells_say_so(records, make_page, tmp_path: Path):
    text = make_page(records)
    assert cells(text, "What each design brings and costs")["(d) FPN"][-4:] == 4 * ["not measured"]
    assert "Time and memory: not measured" in text
    assert "would need here: not measured." in text
    assert "## Beside" not in text
    assert "has the highest AR100" in text
    assert not (tmp_path / "reports/mini/figure1_cost.svg").exists()


def test_a_row_without_costs_is_not_measured(records, make_page):
    text = make_page(records, costs(d_fpn=(0.2, 200, 1000)))
    shown = cells(text, "What each design brings and costs")
    assert shown["(b) single feature map"][-4:] == 4 * ["not measured"]
    assert shown["(d) FPN"][-4:] == ["0.200", "not measured", "200", "1,000"]
    assert "## Beside" not in text


def test_own_records_come_before_those_of_table_1(records, make_rows, make_page):
    text = make_page(records)
    assert "(d) FPN is the model of table1/c_fpn, whose records are used." in text
    text = make_page(records + make_rows("figure1", d_fpn={"AR100": (0.60,)}))
    assert cells(text, "What each design brings and costs")["(d) FPN"][:2] == ["1", "60.0"]
    assert "(d) FPN is the model" not in text


def test_costs_of_another_model_are_called_out(records, make_page):
    content = costs(d_fpn=(0.2, 200, 1000))
    content["rows"]["d_fpn"]["parameters"] = 7
    content["rows"]["d_fpn"]["train_step_memory_note"] = "summed over two halves"
    text = make_page(records, content)
    assert "> **Warning.** (d): the model that was timed has 7 parameters, the one in the records 1,234,567." in text
    assert "- (d) FPN, memory of a training step: summed over two halves." in text


def test_the_figure_shows_every_row_with_both(records, make_page, tmp_path: Path):
    text = make_page(records, ALL)
    assert "(figure1_cost.svg)" in text
    path = tmp_path / "reports/mini/figure1_cost.svg"
    first = path.read_bytes()
    make_page(records[::-1], ALL)
    assert path.read_bytes() == first
    found = {element.text for element in ElementTree.fromstring(first).iter("{http://www.w3.org/2000/svg}text")}
    assert {"(a) featurised image pyramid", "(d) FPN", "seconds an image, test time", "AR100 (%)"} <= found


def change(content, *keys, value):
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value


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
        (("rows", "e_fpn"), ALL["rows"]["d_fpn"], r"rows\.e_fpn: Figure 1 has no such row; it has a_image_pyramid, "),
    ],
)
def test_a_malformed_file_names_file_and_key(keys, value, message, records, make_page):
    content = json.loads(json.dumps(ALL))
    change(content, *keys, value=value)
    with pytest.raises(InputError, match=rf"figure1_cost\.json: {message}"):
        make_page(records, content)


def test_a_file_that_is_no_json(tmp_path: Path):
    path = tmp_path / "figure1_cost.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"figure1_cost\.json: "):
        Costs.load(path)
    with pytest.raises(InputError, match=r"absent\.json cannot be read"):
        Costs.load(tmp_path / "absent.json")


def test_the_file_lies_among_the_records_without_being_one(records, tmp_path: Path):
    root = tmp_path / "reports/records"
    for record in records:
        record.save(tmp_path / "runs" / record.experiment.path / "metrics.json")
    (root / "mini").mkdir(parents=True)
    (root / "mini/figure1_cost.json").write_text(json.dumps(ALL), encoding="utf-8")
    assert presets(root) == []
    assert command.main(["--runs", str(tmp_path / "runs"), "--reports", str(tmp_path / "reports")]) == 0
    assert len(load_all(root, "mini")) == len(records)
    assert (tmp_path / "reports/mini/figure1.md").is_file()


def test_nothing_without_records_of_the_figure_or_costs(make_rows, make_record, tmp_path: Path):
    folder = tmp_path / "reports/mini"
    assert write("mini", make_rows("table1", **TABLE1), folder) is None
    (tmp_path / "reports/records/mini").mkdir(parents=True)
    (tmp_path / "reports/records/mini/figure1_cost.json").write_text(json.dumps(ALL), encoding="utf-8")
    assert write("mini", [make_record("table2/c_fpn")], folder) is None
    assert not folder.exists()
