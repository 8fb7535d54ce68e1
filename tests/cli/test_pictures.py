"""Pictures of a run: which files are drawn, that they do not change the run, and which loggers get them."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.drawing import callback
from fpn_lightning.drawing.__main__ import main as copy_pictures
from fpn_lightning.drawing.callback import PictureCallback, _evaluating, varied_places
from fpn_lightning.drawing.image import draw_image
from tests.cli.test_wandb import offline_runs
from tests.command_line import REPOSITORY, read_log, read_metrics, run_python, weights


def pictures(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


@pytest.fixture
def image_ids(tiny_data) -> list[int]:
    """The validation images, those with objects of the most size classes first."""
    index = COCOIndex.open(tiny_data / "annotations" / "instances_val.json")

    def classes(image_id: int) -> set[int]:
        objects = index.objects_of(index.row(image_id))
        return {int(area >= 85) + int(area >= 769) for area in objects.areas[~objects.is_crowd]}

    return sorted(index.image_ids.tolist(), key=lambda image_id: (-len(classes(image_id)), image_id))


def test_every_validation_draws_varied_images_and_changes_nothing(cli, arguments, run, tmp_path, image_ids):
    arguments += ["--trainer.val_check_interval", "2"]
    called = cli("fit", *arguments, "--pictures.num_images", "2")
    expected = [f"step{step}/{image_id}.png" for step in (2, 4) for image_id in image_ids[:2]]
    assert pictures(run / "pictures") == sorted(expected)
    with Image.open(run / "pictures" / expected[-1]) as picture:
        assert picture.mode == "P"
        assert min(picture.size) > 480

    cli("fit", *arguments, "--experiment.root", str(tmp_path / "without"), "--pictures.num_images", "0")
    without = tmp_path / "without" / run.relative_to(tmp_path / "runs")
    assert not (without / "pictures").exists()
    for name, value in weights(run).items():
        assert torch.equal(value, weights(without)[name]), name
    assert read_metrics(run / "metrics.json") == read_metrics(without / "metrics.json")
    for column in ("train/loss", "val/AR1k"):
        assert read_log(run, column) == read_log(without, column)

    # The random state is left alone, and so is the mode of every part.
    drawer, model = PictureCallback(num_images=1), called.model.train()
    model.detector.rpn.eval()
    modes = [part.training for part in model.modules()]
    state = torch.get_rng_state(), random.getstate()
    drawer.on_validation_end(called.trainer, model)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert [part.training for part in model.modules()] == modes


def test_before_training_only_the_ground_truth_is_drawn(cli, arguments, monkeypatch):
    drawn = []
    monkeypatch.setattr(callback, "draw_image", lambda *given: drawn.append(given) or draw_image(*given))
    options = ["--experiment.evaluate_untrained", "true", "--trainer.max_steps", "1", "--pictures.num_images", "1"]
    cli("fit", *arguments, *options)
    assert [(top_k, truth is not None) for _, _, top_k, _, _, truth in drawn] == [(0, True), (30, True)]


def test_validate_draws_under_the_step_of_the_checkpoint(cli, arguments, run, image_ids):
    cli("fit", *arguments, "--pictures.num_images", "0")
    config = ["--config", str(run / "config.yaml"), "--ckpt_path", "last"]
    cli("validate", *config, "--pictures.num_images", "100")  # more than there are
    assert pictures(run) == sorted(f"validate/pictures/step4/{image_id}.png" for image_id in image_ids)
    cli("validate", *config, "--pictures.num_images", "1")
    assert pictures(run) == [f"validate/pictures/step4/{image_ids[0]}.png"]
    cli("test", *config, "--data.test_split", "train", "--pictures.num_images", "null")
    assert len(pictures(run / "test" / "pictures" / "step4")) == 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--pictures.num_images", "-1"), "pictures.num_images is -1"),
        (("--pictures.top_k", "0"), "pictures.top_k is 0"),
        (("--pictures.score_thresh", "1.5"), "pictures.score_thresh is 1.5"),
    ],
)
def test_impossible_numbers_are_rejected(cli, arguments, capsys, wrong, message):
    with pytest.raises(SystemExit) as stop:
        cli("fit", *arguments, *wrong)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_modes_come_back_after_an_error():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))
    model[1].eval()
    seen = []

    def fail() -> None:
        with _evaluating(model):
            seen.extend((any(part.training for part in model.modules()), torch.is_grad_enabled()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [False, False]
    assert [part.training for part in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


def test_weights_and_biases_gets_the_pictures_in_one_call(cli, arguments, run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    override = ["--config", str(REPOSITORY / "configs" / "wandb.yaml"), "--wandb.offline", "true"]
    cli("fit", *arguments, *override, "--pictures.num_images", "3")
    ((_, _, summary, files),) = offline_runs(run)
    assert "val/pictures" in summary
    sent = sorted(Path(name) for name in files if name.startswith("media/images/val/"))
    assert len(sent) == 3
    assert {name.stem.split("_")[1] for name in sent} == {sent[0].stem.split("_")[1]}  # W&B's count of log calls
    (folder,) = run.glob("wandb/offline-run-*/files")
    drawn = {path.read_bytes() for path in (run / "pictures" / "step4").iterdir()}
    assert {(folder / name).read_bytes() for name in sent} == drawn


def test_the_reports_get_a_picture_of_each_finished_row(cli, arguments, run, tmp_path, capsys, image_ids):
    arguments += ["--trainer.val_check_interval", "2"]
    cli("fit", *arguments, "--pictures.num_images", "0")
    options = ["--runs", str(tmp_path / "runs"), "--preset", "mini", "--table", "table1"]
    assert copy_pictures(options) == 2
    assert f"validate --config {run / 'config.yaml'} --ckpt_path last" in capsys.readouterr().err

    cli("fit", *arguments, "--trainer.limit_val_batches", "2", "--experiment.overwrite", "true")
    assert copy_pictures(options) == 2
    assert "contains no finished run with seed 0" in capsys.readouterr().err
    cli("fit", *arguments, "--pictures.num_images", "2", "--experiment.overwrite", "true")
    output = tmp_path / "reports"
    assert copy_pictures([*options, "--output", str(output)]) == 0
    assert pictures(output) == ["table1_c_fpn.png"]
    copied, last = output / "table1_c_fpn.png", run / "pictures" / "step4"
    assert copied.read_bytes() == (last / f"{min(image_ids[:2])}.png").read_bytes()
    other = max(image_ids[:2])
    assert copy_pictures([*options, "--row", "c_fpn", "--output", str(output), "--image-id", str(other)]) == 0
    assert copied.read_bytes() == (last / f"{other}.png").read_bytes()
    for wrong, message in (
        (["--image-id", "123456"], "has no picture of image 123456"),
        (["--seed", "1"], "contains no finished run with seed 1"),
        (["--row", "f_finest"], "contains no finished run with seed 0 (searched for f_finest/seed0"),
    ):
        assert copy_pictures([*options, *wrong]) == 2
        assert message in capsys.readouterr().err

    # What validate has drawn counts too.
    shutil.rmtree(run / "pictures")
    cli("validate", "--config", str(run / "config.yaml"), "--ckpt_path", "last", "--pictures.num_images", "100")
    assert copy_pictures([*options, "--output", str(output), "--image-id", str(image_ids[-1])]) == 0


def test_images_with_the_most_size_classes_come_first(cli, arguments):
    data = cli("fit", *arguments, "--trainer.max_steps", "1", "--pictures.num_images", "0").datamodule
    dataset = data.val_dataloader().dataset
    assert varied_places(dataset, (0, 1e9), 3) == [0, 1, 2]  # all objects are medium
    assert sorted(varied_places(dataset, (85, 769), 100)) == list(range(5))


def folder_of_images(tiny_data: Path, folder: Path) -> Path:
    """Three images, two of which differ only in their extension, and two files that cannot be read."""
    folder.mkdir()
    first, second, *_ = sorted((tiny_data / "val").iterdir())
    shutil.copy(first, folder / "a.png")
    shutil.copy(second, folder / "b.png")
    with Image.open(second) as image:
        image.crop((0, 0, 64, 40)).save(folder / "a.jpg")
    (folder / "broken.png").write_bytes(first.read_bytes()[:100])
    (folder / "aa.jpg").write_text("text")
    return folder


def test_predict_draws_a_folder(cli, arguments, run, tmp_path, tiny_data):
    cli("fit", *arguments, "--trainer.max_steps", "1")
    folder = folder_of_images(tiny_data, tmp_path / "images")
    config = ["predict", "--config", str(run / "config.yaml"), "--ckpt_path", "last", "--data.root", "nowhere"]
    drawn = run / "predict" / "pictures"
    cli(*config, "--data.predict_path", str(folder), "--data.eval_batch_size", "2")
    assert pictures(drawn) == ["a.jpg.png", "a.png.png", "b.png.png"]
    batched = {name: (drawn / name).read_bytes() for name in pictures(drawn)}
    assert len(set(batched.values())) == 3
    with Image.open(drawn / "a.jpg.png") as wide, Image.open(drawn / "a.png.png") as square:
        assert wide.height < square.height  # 64 x 40 px stay so

    cli(*config, "--data.predict_path", str(folder), "--pictures.num_images", "2")
    assert pictures(drawn) == ["a.jpg.png", "a.png.png"]  # the first that can be read
    cli(*config, "--data.predict_path", str(folder / "b.png"), "--pictures.num_images", "0")
    assert pictures(drawn) == []
    cli(*config, "--data.predict_path", str(folder / "b.png"))
    assert pictures(drawn) == ["b.png.png"]

    # Every call kept the results of the calls before, or wrote elsewhere.
    found = {path.name: len(json.loads(path.read_text())) for path in drawn.parent.glob("detections*.json")}
    assert found.keys() == {"detections.json", *(f"detections.{number}.json" for number in (1, 2, 3))}
    assert found["detections.1.json"] > found["detections.json"]
    cli(*config, "--data.predict_path", str(folder), "--experiment.output", str(tmp_path / "out"))
    assert (tmp_path / "out" / "detections.json").read_bytes() == (drawn.parent / "detections.2.json").read_bytes()
    assert pictures(tmp_path / "out" / "pictures") == ["a.jpg.png", "a.png.png", "b.png.png"]
    assert len(list(drawn.parent.glob("detections*.json"))) == 4
    assert pictures(drawn.with_name("pictures.1")) == ["a.jpg.png", "a.png.png", "b.png.png"]

    # Pictures that are there already need not be ours.
    own = tmp_path / "home" / "pictures" / "2024" / "holiday.png"
    own.parent.mkdir(parents=True)
    shutil.copy(folder / "b.png", own)
    cli(*config, "--data.predict_path", str(folder), "--experiment.output", str(tmp_path / "home"))
    assert (tmp_path / "home" / "pictures.1" / "2024" / "holiday.png").read_bytes() == (folder / "b.png").read_bytes()


def test_predict_draws_a_split_only_where_asked_to(cli, arguments, run, tmp_path, image_ids):
    cli("fit", *arguments, "--trainer.max_steps", "1")
    config = ["predict", "--config", str(run / "config.yaml"), "--ckpt_path", "last", "--data.predict_split", "val"]
    cli(*config)
    assert pictures(run / "predict") == []
    cli(*config, "--pictures.of_splits", "true")
    assert pictures(run / "predict" / "pictures") == sorted(f"{image_id}.png" for image_id in image_ids)
    cli(*config, "--pictures.of_splits", "true", "--pictures.num_images", "1")
    assert pictures(run / "predict" / "pictures") == [f"{min(image_ids)}.png"]


@pytest.mark.slow
def test_two_processes_draw_what_one_does(cli, arguments, run, tmp_path, tiny_data):
    cli("fit", *arguments, "--trainer.max_steps", "1")
    folder = folder_of_images(tiny_data, tmp_path / "images")
    config = ["--config", str(run / "config.yaml"), "--ckpt_path", "last", "--data.predict_path", str(folder)]
    drawn = run / "predict" / "pictures"
    cli("predict", *config)
    one = {name: (drawn / name).read_bytes() for name in pictures(drawn)}
    done = run_python("predict", *config, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert done.returncode == 0, done.stderr[-3000:]
    assert {name: (drawn / name).read_bytes() for name in pictures(drawn)} == one
