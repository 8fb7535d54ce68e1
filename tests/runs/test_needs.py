"""The runs that a run depends on: their folders, and the commands that make them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fpn_lightning.errors import InputError
from fpn_lightning.runs.directory import ExperimentOptions
from fpn_lightning.runs.needs import NeededRun

MAKE = "make row ROW=table2/c_fpn PRESET=mini SEED=3"


@pytest.fixture
def rpn(tmp_path, monkeypatch) -> Path:
    """The folder that the needed run would have."""
    monkeypatch.chdir(tmp_path)
    return Path("runs/mini/table1/c_fpn/seed3")


def needed(**options: str) -> NeededRun:
    experiment = ExperimentOptions(**{"table": "table2", "row": "c_fpn", "preset": "mini", **options})
    return NeededRun(experiment, "table1/c_fpn", 3)


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_existing_proposals_are_used_and_missing_ones_are_named_with_their_commands(rpn):
    predict = f"python train.py predict --config {rpn}/config.yaml --ckpt_path last --data.predict_split"
    fit = "python train.py fit --config configs/table1/c_fpn.yaml --preset mini --seed_everything 3"
    with pytest.raises(InputError) as error:
        needed().proposals(["train", "val"])
    assert str(error.value) == (
        f"no proposals of table1/c_fpn in {rpn}/proposals/train, {rpn}/proposals/val. Make them: {fit} && "
        f"{predict} train && {predict} val; or make everything in runs/ with: {MAKE}"
    )
    touch(rpn / "metrics.json")
    touch(rpn / "proposals" / "val" / "header.json")
    with pytest.raises(InputError) as error:
        needed().proposals(["train", "val"])
    assert f"in {rpn}/proposals/train. Make them: {predict} train; or" in str(error.value)
    touch(rpn / "proposals" / "train" / "header.json")
    assert needed().proposals(["train", "val"]) == f"{rpn}/proposals"


def test_weights_are_taken_from_a_finished_run(rpn):
    with pytest.raises(InputError, match=rf"--preset mini --seed_everything 3; or .*: {MAKE}$"):
        needed().weights()
    touch(rpn / "checkpoints" / "last.ckpt")  # still training, or stopped
    with pytest.raises(InputError, match="--seed_everything 3 --ckpt_path last; or"):
        needed().weights()
    touch(rpn / "metrics.json")
    assert needed().weights() == f"{rpn}/checkpoints/last.ckpt"
    (rpn / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(InputError, match=r"--seed_everything 3 --experiment\.overwrite true; or"):
        needed().weights()


def test_commands_have_the_same_preset_seed_and_root(rpn):
    with pytest.raises(InputError, match=r"--config configs/table1/c_fpn.yaml --seed_everything 3; or"):
        needed(preset="paper").weights()
    with pytest.raises(InputError, match=r"--seed_everything 3 --experiment\.root elsewhere; or"):
        needed(root="elsewhere").weights()
    Path("configs").mkdir()  # without the row: a comparison's, say
    with pytest.raises(InputError, match=rf"table1/c_fpn is a row with overrides\. The workflow runs it .*: {MAKE}$"):
        needed().weights()
    with pytest.raises(InputError, match=r"experiment\.\*_of: 'c_fpn' is not a row; give table and row"):
        NeededRun(ExperimentOptions(table="table2", row="c_fpn"), "c_fpn", 3)
