"""Dry runs show which jobs would run."""

from __future__ import annotations

import os

from tests.records import a_record
from tests.workflow.calls import commands, jobs, snakemake, touch

ROWS = ("a_conv4", "b_conv5", "c_fpn", "d_bottom_up", "e_no_lateral", "f_finest")
SEEDS = (0, 1, 2)
UNSHARED = ("c_unshared_heads", "d_unshared_heads")
# (b), (c) and (d) of Figure 1 are rows of Table 1.
BESIDE = ("figure1/a_image_pyramid", "figure1/c_ssd")
# Rows with a picture; (c) of Table 3 and one of Table 5 are runs of Table 2.
TABLES = {
    "table1": (*ROWS, *UNSHARED),
    "table2": ROWS,
    "table3": ("a_conv4", "b_conv5", "joint_fpn"),
    "table4": ("fpn_r101",),
    "table5": ("r50_shared", "r101_unshared", "r101_shared"),
    "table6": ("mlp5", "mlp7", "dual", "dual_28", "dual_28_2x"),
}
STEPS = tuple(f"table5/steps/{step}" for step in ("r101_rpn", "r50_shared_rpn", "r101_shared_rpn"))


def test_mini_is_every_row_with_every_seed_and_all_tables(checkout):
    pictures = {f"reports/mini/pictures/{table}_{row}.png" for table, rows in TABLES.items() for row in rows}
    for picture in pictures:  # committed; drawn again, since the runs they show are trained again
        touch(checkout / picture)
    status, printed = snakemake("--cores", "2", "--dry-run", "--forcerun", "report", "--", "mini")
    assert status == 0, printed
    expected = {f"runs/mini/{table}/{row}" for table, rows in TABLES.items() for row in rows}
    expected |= {f"runs/mini/{run}" for run in (*BESIDE, *STEPS)}
    found = commands(printed)
    fits = {output for output in found if output.endswith("/metrics.json")}
    assert fits == {f"{run}/seed{seed}/metrics.json" for run in expected for seed in SEEDS}
    # An RPN proposes once for each seed and split, whatever the number of rows that train on it
    proposers = ("table1/a_conv4", "table1/b_conv5", "table1/c_fpn", *STEPS)
    stores = {
        f"runs/mini/{run}/seed{seed}/proposals/{split}/header.json"
        for run in proposers
        for seed in SEEDS
        for split in ("train", "val")
    }
    assert {output for output in found if output.endswith("/header.json")} == stores
    assert {output for output in found if output.endswith(".png")} == pictures
    once = {"data": 1, "mini": 1, "figure1_cost": 1}
    counts = {"fit": len(fits), "proposals": len(stores), "picture": len(pictures), "combine": 6, "report": 6}
    assert jobs(printed) == once | counts
    assert found["data/synthetic-mini/synthetic.json"].endswith("--train 5000 --val 500 --split tune=500")
    picture = found["reports/mini/pictures/table1_a_conv4.png"]
    assert "--preset mini --table table1 --row a_conv4 --seed 0" in picture
    pages = {f"reports/mini/table{number}.md" for number in range(1, 7)}
    assert {output for output in found if output.endswith(".md")} == pages
    assert found["reports/mini/table4.md"].endswith("--preset mini --tables table4")


def test_small_builds_its_splits_and_trains_the_rows_that_its_data_allows(checkout):
    status, printed = snakemake("--cores", "2", "--dry-run", "--config", "seeds=[0]", "coco=/mnt/coco", "--", "small")
    assert status == 0, printed
    found = commands(printed)
    expected = {f"{table}/{row}" for table in ("table1", "table2", "table3") for row in TABLES[table]}
    expected |= set(BESIDE)
    expected |= {"table5/r50_shared", "table5/steps/r50_shared_rpn"}
    expected |= {f"learning_curves/{row}" for row in ("a_conv4", "c_fpn", "d_bottom_up")}
    fits = {output for output in found if output.endswith("/metrics.json")}
    assert fits == {f"runs/small/{run}/seed0/metrics.json" for run in expected}
    splits = [f"data/coco_small/annotations/instances_small_{split}.json" for split in ("train", "val")]
    assert {output for output in found if output.startswith("data/")} == set(splits)
    assert found[splits[0]].endswith(
        "fpn_lightning.data.subset --root /mnt/coco --ids configs/splits/small_train.txt --split small_train "
        "--out data/coco_small --box-areas"
    )
    pages = {f"reports/small/{page}.md" for page in ("table1", "table2", "table3", "table5", "learning_curves")}
    assert {output for output in found if output.endswith(".md")} == pages
    for split in splits:  # whoever has them already needs no COCO
        touch(checkout / split)
    assert "subset" not in jobs(snakemake("--cores", "2", "--dry-run", "--", "small")[1])


def test_rates_of_small_are_tried_on_a_part_of_its_training_images(checkout):
    status, printed = snakemake("--cores", "2", "--dry-run", "--", "reports/small/tuning.md")
    assert status == 0, printed
    found = commands(printed)
    row = "runs/small/tuning/table2/lr0.002/e_no_lateral/seed100/metrics.json"
    assert found[row].endswith(
        "--config configs/table2/e_no_lateral.yaml --preset small --config configs/tuning/small.yaml "
        "--config configs/tuning/small/fast_rcnn.yaml --seed_everything 100 --model.init_args.optimization.lr 0.002 "
        "--experiment.table tuning/table2/lr0.002"
    )
    assert {output.rpartition("_")[2] for output in found if output.startswith("data/")} == {"fit.json", "tune.json"}
    assert "runs/small/tuning/table1/lr0.001/c_fpn/seed100/proposals/small_fit/header.json" in found


def test_a_run_that_is_not_finished_is_named_and_not_taken_for_done(checkout):
    a_record(status="out_of_time").save(checkout / "runs/mini/table1/a_conv4/seed0/metrics.json")
    for target in ("runs/mini/table1/a_conv4/seed0/metrics.json", "reports/mini/table1.md"):
        status, printed = snakemake("--cores", "2", "--dry-run", "--", target)
        assert status != 0
        assert "a_conv4/seed0 holds a run that is not finished (out_of_time" in printed
        assert "Delete its metrics.json" in printed


def test_only_what_is_missing_runs(checkout):
    for table, row in [("table1", row) for row in TABLES["table1"]] + [run.split("/") for run in BESIDE]:
        for seed in SEEDS:
            path = checkout / "runs/mini" / table / row / f"seed{seed}/metrics.json"
            a_record().save(path)
            os.utime(path, (0, 0))
    for row in TABLES["table1"]:
        touch(checkout / f"reports/mini/pictures/table1_{row}.png")
    touch(checkout / "reports/records/mini/figure1_cost.json")
    table1 = checkout / "runs/mini/table1"
    interrupted, too_early, deleted = table1 / "c_fpn/seed1", table1 / "c_fpn/seed2", table1 / "a_conv4/seed2"
    for run in (interrupted, too_early, deleted):
        (run / "metrics.json").unlink()
    touch(interrupted / "checkpoints/last.ckpt")
    touch(too_early / "metrics.csv")
    page = "reports/mini/table1.md"
    status, printed = snakemake("--cores", "2", "--dry-run", "--forcerun", "report", "--", page)
    assert status == 0, printed
    # All configs are newer than the records, which are from 1970; a finished run is not trained again for that.
    found = commands(printed)
    starts = {output: found.pop(output).split("--seed_everything ")[1] for output in list(found) if "runs/" in output}
    assert starts == {
        "runs/mini/table1/c_fpn/seed1/metrics.json": "1 --ckpt_path last",
        "runs/mini/table1/c_fpn/seed2/metrics.json": "2 --experiment.overwrite true",
        "runs/mini/table1/a_conv4/seed2/metrics.json": "2",
    }
    assert set(found) == {"data/synthetic-mini/synthetic.json", page}


def test_slurm_runs_a_row_of_table_2_and_what_it_needs(checkout):
    row = "runs/8gpu/table2/c_fpn/seed0/metrics.json"
    status, printed = snakemake("--profile", "workflow/profiles/slurm", "--dry-run", row)
    assert status == 0, printed
    # A single row draws no pictures and measures no costs.
    assert jobs(printed) == {"fit": 2, "proposals": 2}
    found = commands(printed)
    assert set(found) == {
        row,
        "runs/8gpu/table1/c_fpn/seed0/metrics.json",
        *(f"runs/8gpu/table1/c_fpn/seed0/proposals/{split}/header.json" for split in ("train2017", "val2017")),
    }
    assert found[row].endswith("train.py fit --config configs/table2/c_fpn.yaml --preset 8gpu --seed_everything 0")
    assert printed.count("gpu=8") == 4
    assert printed.count("runtime=1440") == 4


def test_sharing_features_is_four_steps(checkout):
    status, printed = snakemake("--cores", "2", "--dry-run", "--", "runs/mini/table5/r50_shared/seed0/metrics.json")
    assert status == 0, printed
    assert jobs(printed) == {"data": 1, "fit": 4, "proposals": 4}
    found = commands(printed)
    first, second = "runs/mini/table1/c_fpn/seed0", "runs/mini/table2/c_fpn/seed0"
    third, fourth = "runs/mini/table5/steps/r50_shared_rpn/seed0", "runs/mini/table5/r50_shared/seed0"
    assert {output for output in found if output.endswith("/header.json")} == {
        f"{run}/proposals/{split}/header.json" for run in (first, third) for split in ("train", "val")
    }
    steps = (first, second, third, fourth)
    for run in steps:  # each row names what it needs
        row = run.removeprefix("runs/mini/").removesuffix("/seed0")
        expected = f"train.py fit --config configs/{row}.yaml --preset mini --seed_everything 0"
        assert found[f"{run}/metrics.json"].endswith(expected)


def test_a_page_uses_the_runs_of_rows_that_the_paper_repeats(checkout):
    status, printed = snakemake("--cores", "2", "--dry-run", "--config", "seeds=[0]", "--", "reports/8gpu/table5.md")
    assert status == 0, printed
    fits = {output.removeprefix("runs/8gpu/") for output in commands(printed) if output.endswith("/metrics.json")}
    shared = [f"table5/{step}" for step in ("steps/r50_shared_rpn", "r50_shared")]
    folder = "runs/8gpu/table5"
    assert {output: command for output, command in commands(printed).items() if output.endswith(".ckpt")}.keys() == {
        f"{folder}/{row}_shared/seed0/faster_rcnn.ckpt" for row in ("r50", "r101")
    }
    assert commands(printed)[f"{folder}/r50_shared/seed0/faster_rcnn.ckpt"].endswith(
        f"-m fpn_lightning.weights.combine {folder}/steps/r50_shared_rpn/seed0/checkpoints/last.ckpt "
        f"{folder}/r50_shared/seed0/checkpoints/last.ckpt {folder}/r50_shared/seed0/faster_rcnn.ckpt"
    )
    deep = [f"table5/{step}" for step in ("steps/r101_rpn", "r101_unshared", "steps/r101_shared_rpn", "r101_shared")]
    assert fits == {f"{run}/seed0/metrics.json" for run in ("table1/c_fpn", "table2/c_fpn", *shared, *deep)}


def test_a_missing_row_is_one_error(checkout):
    status, printed = snakemake("--cores", "2", "--dry-run", "runs/mini/table1/g_nothing/seed0/metrics.json")
    assert status == 1
    assert printed.count("InputError: configs/table1/g_nothing.yaml does not exist") == 1
    assert "The files in this folder are: a_conv4, b_conv5, c_fpn" in printed


def test_a_missing_page_is_one_error(checkout):
    status, printed = snakemake("--cores", "2", "--dry-run", "reports/mini/table9.md")
    assert status == 1
    assert "InputError: preset mini has no page table9. The pages are: table1, table2, table3, table4" in printed
    assert "backbones, tuning" in printed
