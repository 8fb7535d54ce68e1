from __future__ import annotations

import re

import pytest

from fpn_lightning.errors import InputError
from fpn_lightning.paper import paper_tables, parse

# Typed from the paper's pages in the order of its columns; "-" where the paper prints no number.
PRINTED = {
    "table1": """
        a_conv4      36.1 48.3 32.0 58.7 62.2
        b_conv5      36.3 44.9 25.3 55.5 64.2
        c_fpn        44.0 56.3 44.9 63.4 66.2
        d_bottom_up  37.4 49.5 30.5 59.9 68.0
        e_no_lateral 34.5 46.1 26.5 57.4 64.7
        f_finest     38.4 51.3 35.1 59.7 67.6""",
    "table2": """
        a_conv4      54.7 31.9 15.7 36.5 45.5
        b_conv5      52.9 28.8 11.9 32.4 43.4
        c_fpn        56.9 33.9 17.8 37.7 45.8
        d_bottom_up  44.9 24.9 10.9 24.4 38.5
        e_no_lateral 54.0 31.3 13.3 35.2 45.3
        f_finest     56.3 33.4 17.3 37.3 45.6""",
    "table3": """
        he_et_al     47.3 26.3 - - -
        a_conv4      53.1 31.6 13.2 35.6 47.1
        b_conv5      51.7 28.0 9.6 31.9 43.1
        c_fpn        56.9 33.9 17.8 37.7 45.8""",
    "table4": """
        fpn_r101         - 35.6 - - - 59.1 36.2 18.2 39.0 48.2 58.5 35.8 17.5 38.7 47.8
        g_rmi            - - - - - - 34.7 - - - - - - - -
        attractionet     - - - - - 53.4 35.7 15.6 38.0 52.7 52.9 35.3 14.7 37.6 51.9
        faster_rcnn_plus - - - - - 55.7 34.9 15.6 38.7 50.9 - - - - -
        multipath        - - - - - 49.6 31.5 - - - - - - - -
        ion              - - - - - 53.4 31.2 12.8 32.9 45.2 52.9 30.7 11.8 32.8 44.8""",
    "table5": """
        r50_unshared  56.9 33.9
        r50_shared    57.2 34.3
        r101_unshared 58.0 35.0
        r101_shared   58.2 35.2""",
    "table6": """
        deepmask    37.1 15.8 50.1 54.9
        sharpmask   39.8 17.4 53.1 59.1
        instancefcn 39.2 - - -
        mlp5        43.4 32.5 49.2 53.7
        mlp7        43.5 30.0 49.6 57.8
        dual        45.7 31.9 51.5 60.8
        dual_28     46.7 31.7 53.1 63.2
        dual_28_2x  48.1 32.6 54.2 65.6""",
}
COLUMNS = {
    "table1": "AR100 AR1k AR1k_s AR1k_m AR1k_l",
    "table2": "AP50 AP APs APm APl",
    "table3": "AP50 AP APs APm APl",
    "table4": "AP50 AP APs APm APl test_dev_AP50 test_dev_AP test_dev_APs test_dev_APm test_dev_APl "
    "test_std_AP50 test_std_AP test_std_APs test_std_APm test_std_APl",
    "table5": "AP50 AP",
    "table6": "segm_AR1k segm_AR1k_s segm_AR1k_m segm_AR1k_l",
}


@pytest.mark.parametrize("name", PRINTED)
def test_every_cell_is_the_printed_one(name: str) -> None:
    table = paper_tables()[name]
    keys = [column.key for column in table.columns]
    assert keys == COLUMNS[name].split()
    cells = {}
    for line in PRINTED[name].strip().splitlines():
        row, *numbers = line.split()
        cells[row] = {key: float(number) for key, number in zip(keys, numbers, strict=True) if number != "-"}
    assert {row_id: row.metrics for row_id, row in table.rows.items() if not row.ours} == cells


def test_kinds_of_rows() -> None:
    tables = paper_tables()
    assert list(tables) == [f"table{number}" for number in range(1, 7)]
    literature = [
        f"{name}/{key}" for name, table in tables.items() for key, row in table.rows.items() if row.literature
    ]
    assert literature == [
        "table3/he_et_al",
        *(f"table4/{key}" for key in ("g_rmi", "attractionet", "faster_rcnn_plus", "multipath", "ion")),
        *(f"table6/{key}" for key in ("deepmask", "sharpmask", "instancefcn")),
    ]
    ours = {f"{name}/{key}": row for name, table in tables.items() for key, row in table.rows.items() if row.ours}
    assert list(ours) == ["table1/c_unshared_heads", "table1/d_unshared_heads", "table3/joint_fpn"]
    assert not any(row.metrics for row in ours.values())
    assert all(list(row.details) == table.details for table in tables.values() for row in table.rows.values())


def test_one_model_printed_three_times_agrees_with_itself() -> None:
    tables = paper_tables()
    original = tables["table2"].rows["c_fpn"]
    for table, row_id in (("table3", "c_fpn"), ("table5", "r50_unshared")):
        row = tables[table].rows[row_id]
        assert row.same_as == "table2/c_fpn"
        assert row.metrics.items() <= original.metrics.items()


def test_times_and_settings() -> None:
    tables = paper_tables()
    seconds = [row.seconds_per_image for row in tables["table6"].rows.values()]
    assert seconds == [0.49, 0.77, 1.50, 0.15, 0.19, 0.24, 0.25, 0.25]
    assert tables["table6"].rows["instancefcn"].device == "K40"
    assert tables["table3"].rows["a_conv4"].seconds_per_image == 0.32
    steps = [table.setting.steps for table in tables.values()]
    assert steps == [40000, 80000, 80000, 160000, 80000, 80000]
    assert tables["table6"].steps(tables["table6"].rows["dual_28_2x"]) == 160000
    assert tables["table5"].backbone(tables["table5"].rows["r101_shared"]) == "resnet101"
    assert tables["table6"].setting.eval_splits == ["val2014"]


SMALL = """
table1:
  title: t
  reference: c
  details: [feature]
  columns: [{key: AP}]
  setting: {data: [co], train_split: a, eval_splits: [b], eval_images: 1, steps: 1, total_batch: 1, lr: 1, backbone: r}
  rows:
    c: {label: C, details: {feature: P2}, metrics: {AP: 30.1}}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label: C", "lable: C", r"made\.yaml: table1\.rows\.c\..*(label|lable)"),
        ("30.1", "'30.1'", r"made\.yaml: table1\.rows\.c\.metrics\.AP: "),
        ("{AP: 30.1}", "{APx: 30.1}", r"made\.yaml: table1\.rows\.c\.metrics\.APx: the table has no such column"),
        ("{feature: P2}", "{head: P2}", r"made\.yaml: table1\.rows\.c\.details\.head: the table has no such column"),
        ("reference: c", "reference: z", r"made\.yaml: table1\.reference: .*'z'"),
        ("label: C,", "label: C, same_as: table2/c,", r"made\.yaml: table1\.rows\.c\.same_as: .*'table2/c'"),
        ("steps: 1,", "", r"made\.yaml: table1\.setting\.steps: "),
        ("title: t", "title: [", r"made\.yaml is not YAML"),
    ],
)
def test_a_fault_is_named(old: str, new: str, message: str) -> None:
    assert parse(SMALL, "made.yaml")["table1"].rows["c"].metrics == {"AP": 30.1}
    assert SMALL.count(old) == 1
    with pytest.raises(InputError) as caught:
        parse(SMALL.replace(old, new), "made.yaml")
    assert re.search(message, str(caught.value))
