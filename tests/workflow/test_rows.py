"""The configs of a run, the runs it needs first, its command and its cores and GPUs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import yaml

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError
from tests.command_line import REPOSITORY
from tests.records import a_record
from tests.workflow.calls import touch

MINI_DATA = "data/synthetic-mini/synthetic.json"


def given(command: str, option: str) -> list[str]:
    """Values of an option in a command line."""
    words = command.split()
    return [words[place + 1] for place, word in enumerate(words) if word == option]


def test_a_row_is_its_file_and_its_preset(rows, checkout):
    run = rows.Run("8gpu", "table1", "c_fpn", 3)
    assert run.folder == Path("runs/8gpu/table1/c_fpn/seed3")
    assert run.record == "runs/8gpu/table1/c_fpn/seed3/metrics.json"
    assert run.configs() == [Path("configs/table1/c_fpn.yaml"), Path("configs/presets/8gpu.yaml")]
    assert run.needs() == []  # COCO is downloaded by hand
    assert run.proposer is None
    command = run.command()
    assert "train.py fit --config configs/table1/c_fpn.yaml --preset 8gpu --seed_everything 3" in command
    assert "OMP_NUM_THREADS=1" in command
    assert run.command("--trainer.max_steps 2").endswith(" --trainer.max_steps 2")
    assert rows.Run("paper", "table1", "c_fpn", 3).configs() == [Path("configs/table1/c_fpn.yaml")]


def test_a_preset_may_set_more_for_a_stage(rows, checkout):
    (checkout / "configs/presets/tiny").mkdir()
    (checkout / "configs/presets/tiny.yaml").write_text("experiment: {preset: tiny}\n")
    for stage in ("rpn", "fast_rcnn"):
        (checkout / f"configs/presets/tiny/{stage}.yaml").write_text("trainer: {max_steps: 3}\n")
    presets = [Path("configs/presets/tiny.yaml"), Path("configs/presets/tiny/rpn.yaml")]
    assert rows.Run("tiny", "table1", "c_fpn", 0).configs()[1:] == presets
    # the override of a comparison comes last
    assert rows.Run("tiny", "deep_c2", "c_fpn", 0).configs()[1:] == [*presets, Path("configs/backbones/deep_c2.yaml")]
    assert rows.Run("tiny", "table2", "c_fpn", 0).configs()[2] == Path("configs/presets/tiny/fast_rcnn.yaml")


def test_comparisons_are_rows_of_table_1_under_an_override(rows, checkout):
    run = rows.Run("mini", "deep_c2", "d_bottom_up", 1)
    assert given(run.command(), "--config") == ["configs/table1/d_bottom_up.yaml", "configs/backbones/deep_c2.yaml"]
    assert run.configs()[-1] == Path("configs/backbones/deep_c2.yaml")
    assert run.needs() == [MINI_DATA]
    assert "backbones/mobilenet_v2" in rows.comparisons()
    # the override itself names the table
    assert not given(run.command(), "--experiment.table")


def test_tuning_names_its_learning_rate_in_the_table(rows, checkout):
    run = rows.Run("mini", "tuning/table1/lr0.012", "f_finest", 100)
    assert given(run.command(), "--config") == ["configs/table1/f_finest.yaml", "configs/tuning/mini.yaml"]
    assert run.splits() == ["train", "tune"]
    command = run.command()
    assert given(command, "--model.init_args.optimization.lr") == ["0.012"]
    assert given(command, "--experiment.table") == ["tuning/table1/lr0.012"]
    assert run.folder == Path("runs/mini/tuning/table1/lr0.012/f_finest/seed100")


def test_rows_of_table_2_train_on_proposals_of_table_1_c(rows, checkout):
    run = rows.Run("mini", "table2", "f_finest", 2)
    assert run.proposer == rows.Run("mini", "table1", "c_fpn", 2)
    stores = [f"runs/mini/table1/c_fpn/seed2/proposals/{split}/header.json" for split in ("train", "val")]
    assert run.needs() == [MINI_DATA, *stores]
    assert run.command().endswith(" --config configs/table2/f_finest.yaml --preset mini --seed_everything 2")
    assert rows.Run("8gpu", "table2", "c_fpn", 0).needs() == [
        f"runs/8gpu/table1/c_fpn/seed0/proposals/{split}/header.json" for split in ("train2017", "val2017")
    ]
    tuning = rows.Run("mini", "tuning/table2/lr0.02", "c_fpn", 100)
    overrides = ["configs/tuning/mini.yaml", "configs/tuning/mini/fast_rcnn.yaml"]
    assert given(tuning.command(), "--config") == ["configs/table2/c_fpn.yaml", *overrides]
    assert tuning.proposer == rows.Run("mini", "tuning/table1/lr0.006", "c_fpn", 100)
    joint = rows.Run("mini", "tuning/table3/lr0.02", "joint_fpn", 100)
    overrides = ["configs/tuning/mini.yaml", "configs/tuning/mini/faster_rcnn.yaml"]
    assert given(joint.command(), "--config") == ["configs/table3/joint_fpn.yaml", *overrides]
    assert tuning.needs()[1:] == [
        f"runs/mini/tuning/table1/lr0.006/c_fpn/seed100/proposals/{split}/header.json" for split in ("train", "tune")
    ]


def test_rows_of_tables_3_to_5_need_their_own_rpn_and_initial_weights(rows, checkout):
    proposers = {
        "table3/a_conv4": "table1/a_conv4",
        "table3/b_conv5": "table1/b_conv5",
        "table3/joint_fpn": None,
        "table4/fpn_r101": "table5/steps/r101_rpn",
        "table5/r50_shared": "table5/steps/r50_shared_rpn",
        "table5/r101_unshared": "table5/steps/r101_rpn",
        "table5/r101_shared": "table5/steps/r101_shared_rpn",
        "table5/steps/r101_rpn": None,
        "table5/steps/r50_shared_rpn": None,
        "table5/steps/r101_shared_rpn": None,
    }
    folders = [Path("configs") / table for table in ("table3", "table4", "table5")]
    there = {str(file.relative_to("configs").with_suffix("")) for folder in folders for file in folder.rglob("*.yaml")}
    assert there == set(proposers)
    for twin in ("table3/c_fpn", "table5/r50_unshared"):  # the paper repeats Table 2 (c)
        with pytest.raises(InputError, match=f"{twin} is the same model as table2/c_fpn.*ROW=table2/c_fpn"):
            rows.Run("mini", *twin.split("/"), 1).command()
    for name, proposer in proposers.items():
        table, _, row = name.rpartition("/")
        run = rows.Run("mini", table, row, 1)
        found = run.proposer
        assert (found and f"{found.table}/{found.row}") == proposer
        assert (Path(f"configs/presets/mini/{name}.yaml") in run.configs()) == ("r101" in name)
        frozen = "freeze_shared: true" in Path("configs", f"{name}.yaml").read_text()
        assert (run.source is not None) == frozen
        if frozen:  # the frozen parts come from step 2
            assert f"{run.source.table}/{run.source.row}" == (
                "table5/r101_unshared" if "101" in name else "table2/c_fpn"
            )
            assert run.source.record in run.needs()


def test_only_the_last_of_the_steps_becomes_one_detector(rows, checkout):
    assert rows.Run("mini", "table5", "r101_shared", 2).shares
    for table, row in (("table5", "r101_unshared"), ("table5/steps", "r101_shared_rpn"), ("table2", "c_fpn")):
        run = rows.Run("mini", table, row, 2)
        assert not run.shares
        with pytest.raises(InputError, match=f"{table}/{row}/seed2 does not share features"):
            run.combine_command()


def test_splits_without_a_config_are_the_data_modules(rows):
    defaults = inspect.signature(COCODataModule).parameters
    assert {key: defaults[key].default for key in rows.SPLITS} == rows.SPLITS


def test_a_store_is_made_by_the_finished_run(rows, checkout):
    run = rows.Run("8gpu", "table1", "c_fpn", 0)
    assert run.store_inputs("val2017") == [run.record]
    command = run.predict_command("val2017")
    assert "train.py predict" in command
    assert given(command, "--config") == [str(run.folder / "config.yaml")]
    assert given(command, "--ckpt_path") == ["last"]
    assert given(command, "--data.predict_split") == ["val2017"]
    touch(Path(run.store("val2017")))
    assert run.store_inputs("val2017") == []
    assert run.store_inputs("train2017") == [run.record]


def test_a_run_starts_resumes_or_starts_over(rows, checkout):
    run = rows.Run("mini", "table1", "c_fpn", 0)
    assert run.start() == ""
    (run.folder / "checkpoints").mkdir(parents=True)  # Snakemake makes folders before it starts a job
    assert run.start() == ""
    touch(run.folder / "config.yaml")
    assert run.start() == "--experiment.overwrite true"
    touch(run.folder / "checkpoints" / "last.ckpt")
    assert run.start() == "--ckpt_path last"
    assert run.command().endswith("--ckpt_path last")
    assert run.inputs() == [*map(str, run.configs()), MINI_DATA]
    a_record().save(Path(run.record))
    assert run.inputs() == []


@pytest.mark.parametrize(
    ("preset", "table", "row", "file", "there"),
    [
        ("mini", "table1", "g_nothing", "configs/table1/g_nothing.yaml", "c_fpn"),
        ("mini", "deep_c2", "g_nothing", "configs/table1/g_nothing.yaml", "c_fpn"),
        ("huge", "table1", "c_fpn", "configs/presets/huge.yaml", "8gpu"),
        ("mini", "table7", "c_fpn", "configs/table7/c_fpn.yaml", "table2"),
        ("mini", "tuning/table7/lr0.1", "c_fpn", "configs/table7/c_fpn.yaml", "table5/steps"),
    ],
)
def test_a_missing_row_or_preset_is_named_with_those_that_exist(rows, checkout, preset, table, row, file, there):
    with pytest.raises(InputError) as error:
        rows.Run(preset, table, row, 0).inputs()
    message, names = re.split(" are: ", str(error.value))
    assert f"{file} does not exist" in message
    assert there in names.split(", ")


def test_cores_and_gpus_of_a_preset(rows, checkout):
    # 8 processes with 4 workers each; one process that loads its own data; 1 GPU, 8 workers
    assert (rows.cores("8gpu"), rows.gpus("8gpu")) == (8 * 5, 8)
    assert (rows.cores("mini"), rows.gpus("mini")) == (1, 0)
    assert (rows.cores("1gpu"), rows.gpus("1gpu")) == (9, 1)
    # Lightning itself starts the processes of a SLURM job
    assert "SLURM_JOB_NAME=interactive" in rows.Run("8gpu", "table1", "c_fpn", 0).command()
    assert "SLURM_JOB_NAME" not in rows.Run("1gpu", "table1", "c_fpn", 0).command()
    (checkout / "configs/presets/auto.yaml").write_text("trainer: {accelerator: gpu, devices: auto}\n")
    assert (rows.cores("auto"), rows.gpus("auto")) == (1, 1)


def test_the_data_set_of_the_mini_preset_is_generated_as_its_preset_says(rows):
    preset = (REPOSITORY / "configs/presets/mini.yaml").read_text()
    root = yaml.safe_load(preset)["data"]["root"]
    assert f"python -m fpn_lightning.data.synthetic --root {root} {rows.DATA_SETS[root]}" in preset
