"""The runs that a run depends on: their folders, and the commands that make them."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from fpn_lightning.errors import InputError
from fpn_lightning.runs.directory import ExperimentOptions
from fpn_lightning.runs.needs import NeededRun
from tests.command_line import REPOSITORY
from tests.data.builders import store_header
from tests.records import a_record

MAKE = "make row ROW=table2/c_fpn PRESET=mini SEED=3"


@pytest.fixture
def rpn(tmp_path, monkeypatch) -> Path:
    """The folder that the needed run would have."""
    monkeypatch.chdir(tmp_path)
    return Path("runs/mini/table1/c_fpn/seed3")


def needed(data_root: str | None = None, **options: str) -> NeededRun:
    experiment = ExperimentOptions(**{"table": "table2", "row": "c_fpn", "preset": "mini", **options})
    return NeededRun(experiment, "table1/c_fpn", 3, data_root)


def write_header(run: Path, split: str) -> None:
    """The header of a store that the run's last checkpoint made."""
    digest = hashlib.sha256((run / "checkpoints" / "last.ckpt").read_bytes()).hexdigest()
    header = replace(store_header(), split=split, checkpoint_sha256=digest)
    touch(run / "proposals" / split / "header.json")
    (run / "proposals" / split / "header.json").write_text(header.to_json())


def finish(run: Path, status: str = "finished") -> None:
    """The record of the run."""
    a_record(seed=3, status=status).save(run / "metrics.json")


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_existing_proposals_are_used_and_missing_ones_are_named_with_their_commands(rpn):
    predict = f"python train.py predict --config {rpn}/config.yaml --ckpt_path last --data.predict_split"
    fit = "python train.py fit --config configs/table1/c_fpn.yaml --preset mini --seed_everything 3"
    with pytest.raises(InputError) as error:
        needed().proposals(["train", "val"])
    assert str(error.value) == (
        f"table1/c_fpn has no finished run and no proposals in {rpn}/proposals/train, {rpn}/proposals/val. "
        f"Run: {fit} && {predict} train && {predict} val; or create what is missing and train table2/c_fpn, in the "
        f"folder runs/, with: {MAKE}"
    )
    finish(rpn)
    touch(rpn / "checkpoints" / "last.ckpt")
    write_header(rpn, "val")
    with pytest.raises(InputError) as error:
        needed().proposals(["train", "val"])
    assert f"table1/c_fpn has no proposals in {rpn}/proposals/train. Run: {predict} train; or" in str(error.value)
    write_header(rpn, "train")
    assert needed().proposals(["train", "val"]) == f"{rpn}/proposals"


def test_proposals_of_an_unfinished_run_or_of_other_weights_are_rejected(rpn):
    touch(rpn / "checkpoints" / "last.ckpt")
    write_header(rpn, "val")
    with pytest.raises(InputError, match=r"no finished run and no proposals in .* --ckpt_path last && .*split val"):
        needed().proposals(["val"])
    finish(rpn)
    assert needed().proposals(["val"]) == f"{rpn}/proposals"
    (rpn / "checkpoints" / "last.ckpt").write_bytes(b"trained on")
    with pytest.raises(
        InputError,
        match=r"val: the proposals were made with other weights .* again: .*split val --experiment.overwrite true",
    ):
        needed().proposals(["val"])
    (rpn / "checkpoints" / "last.ckpt").unlink()  # deleted to save space
    assert needed().proposals(["val"]) == f"{rpn}/proposals"


def test_proposals_of_another_seed_are_known(rpn):
    assert needed().is_of_another_seed("runs/mini/table1/c_fpn/seed0/proposals")
    for folder in ("runs/mini/table1/c_fpn/seed3/proposals", "elsewhere/seed0/proposals"):
        assert not needed().is_of_another_seed(folder)


def test_weights_are_taken_from_a_finished_run(rpn):
    with pytest.raises(InputError, match=rf"--preset mini --seed_everything 3; or .*: {MAKE}$"):
        needed().weights()
    touch(rpn / "checkpoints" / "last.ckpt")  # still training, or stopped
    with pytest.raises(InputError, match="--seed_everything 3 --ckpt_path last; or"):
        needed().weights()
    finish(rpn, "out_of_time")
    with pytest.raises(InputError, match="--seed_everything 3 --ckpt_path last; or"):
        needed().weights()
    finish(rpn)
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
    with pytest.raises(InputError, match=rf"table1/c_fpn is another row with changed options\. To .*: {MAKE}$"):
        needed().weights()
    with pytest.raises(
        InputError, match=r"experiment.proposals_of or weights_of: 'c_fpn' is not a row; give table and row"
    ):
        NeededRun(ExperimentOptions(table="table2", row="c_fpn"), "c_fpn", 3)


def test_commands_name_the_data_if_the_user_did(rpn):
    Path("configs").symlink_to(REPOSITORY / "configs")
    for experiment, usual in (({}, "data/synthetic-mini"), ({"preset": "paper"}, "data/coco")):
        with pytest.raises(InputError, match=r"--seed_everything 3; or"):
            needed(usual, **experiment).weights()
        with pytest.raises(InputError, match=r"--seed_everything 3 --data\.root 'my data'; or"):
            needed("my data", **experiment).weights()
    with pytest.raises(InputError, match=r"predict .* --data\.predict_split val --data\.root elsewhere; or"):
        needed("elsewhere").proposals(["val"])


def test_folders_with_spaces_are_quoted_in_commands(rpn):
    with pytest.raises(InputError) as error:
        needed(root="my runs", data_root="my data").proposals(["val"])
    words = shlex.split(str(error.value).partition("Run: ")[2].partition(";")[0])
    assert words[words.index("--experiment.root") + 1] == "my runs"
    assert words.count("my data") == 2
    assert "my runs/mini/table1/c_fpn/seed3/config.yaml" in words
