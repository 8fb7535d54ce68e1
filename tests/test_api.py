"""``fpn_lightning.load(SOURCE).predict(images)``: the command line's numbers, all kinds of images, clear errors."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import fpn_lightning
from fpn_lightning.errors import InputError
from tests.command_line import ENVIRONMENT, REPOSITORY
from tests.weights.builders import small_backbone, torchvision_model


@pytest.fixture(scope="module")
def home(tiny_data, tmp_path_factory) -> Path:
    """A folder with runs of one step: an RPN and a Faster R-CNN."""
    from fpn_lightning.cli import main

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("api")
    for row in ("table1/c_fpn", "table3/joint_fpn"):
        main(
            [
                *("fit", "--config", str(REPOSITORY / "configs" / f"{row}.yaml"), "--preset", "mini"),
                *("--data.root", str(tiny_data), "--data.short_side", "64", "--data.max_side", "96"),
                *("--experiment.root", str(folder), "--trainer.max_steps", "1", "--trainer.accelerator", "cpu"),
                *("--trainer.enable_progress_bar", "false", "--data.batch_size_per_device", "4"),
                *("--data.total_batch_size", "4", "--model.optimization.reference_batch_size", "4"),
                *("--pictures.num_images", "0"),
                *(("--model.detector.roi_heads.score_thresh", "0.02") if row.startswith("table3") else ()),
            ]
        )
    return folder / "mini"


@pytest.fixture(scope="module")
def images(tmp_path_factory, tiny_data) -> Path:
    """A folder of images: three sizes, one with an orientation tag, one grey."""
    folder = tmp_path_factory.mktemp("images")
    first, second, third, *_ = sorted((tiny_data / "val").iterdir())
    shutil.copy(first, folder / "a.png")
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.open(second).convert("RGB").resize((90, 60)).save(folder / "b.jpg", exif=tags)
    Image.open(third).convert("L").resize((50, 70)).save(folder / "c.png")
    return folder


@pytest.fixture(scope="module")
def faster_rcnn(home) -> Path:
    return home / "table3" / "joint_fpn" / "seed0"


@pytest.mark.parametrize(
    ("row", "precision", "batch"), [("table3/joint_fpn", None, 1), ("table1/c_fpn", "bf16-true", 3)]
)
def test_the_results_are_those_of_the_command_line_to_the_bit(cli, home, images, row, precision, batch):
    run = home / row / "seed0"
    options = ["--data.predict_path", str(images), "--data.eval_batch_size", str(batch), "--pictures.num_images", "0"]
    options += ["--trainer.precision", precision] if precision else []
    cli("predict", "--config", str(run / "config.yaml"), "--ckpt_path", "last", *options)
    lines = json.loads((run / "predict" / "detections.json").read_text())
    detector = fpn_lightning.load(run, device="cpu", precision=precision)
    files = sorted(images.iterdir())
    predictions = detector.predict(files, batch_size=batch)
    assert lines
    for number, prediction in enumerate(predictions, start=1):
        expected = [line for line in lines if line["image_id"] == number]
        assert prediction.scores.tolist() == [line["score"] for line in expected]
        assert prediction.category_ids == [line["category_id"] for line in expected]
        assert prediction.names == [line["category"] for line in expected]
        boxes = torch.tensor([line["bbox"] for line in expected], dtype=torch.float64).view(-1, 4)
        sides = prediction.boxes[:, 2:] - prediction.boxes[:, :2]
        assert torch.equal(torch.cat((prediction.boxes[:, :2], sides), dim=1), boxes)
        height, width = Image.open(files[number - 1]).size[::-1] if number != 2 else (90, 60)  # turned
        assert (prediction.boxes <= torch.tensor([width, height, width, height])).all()
        assert prediction.labels.dtype == torch.int64
    if row == "table1/c_fpn":
        assert {name for prediction in predictions for name in prediction.names} == {"object"}
        assert max(map(len, detector.predict(files, top_k=500))) > 100
    else:
        assert predictions[0].category_ids == [detector.categories.ids[label] for label in predictions[0].labels]


def test_files_pillow_images_and_arrays_give_the_same(faster_rcnn, images):
    detector = fpn_lightning.load(faster_rcnn / "checkpoints" / "last.ckpt", device=torch.device("cpu"))
    for path in sorted(images.iterdir()):
        (of_file,) = detector.predict(path)  # a list for one image, too
        upright = Image.open(path) if path.stem != "b" else Image.open(path).transpose(Image.Transpose.ROTATE_270)
        for image in (str(path), Image.open(path), np.asarray(upright.convert("RGB"))):
            (other,) = detector.predict([image])
            assert torch.equal(other.boxes, of_file.boxes)
            assert torch.equal(other.scores, of_file.scores)
            assert other.names == of_file.names
    assert detector.predict([]) == []
    assert len(detector.predict(list(images.iterdir()))) == 3


def test_torchvisions_weights_predict_with_the_configuration_of_the_zoo(tmp_path, images):
    torch.save(torchvision_model("resnet18", 32).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"zoo/torchvision_r50_fpn\.yaml"):  # the published model is larger
        fpn_lightning.load(f"torchvision:{tmp_path / 'weights.pth'}")
    small = yaml.safe_load((REPOSITORY / "configs" / "zoo" / "torchvision_r50_fpn.yaml").read_text())
    small["model"]["init_args"]["detector"] |= {"backbone": small_backbone(), "fc_width": 32}
    small["data"] |= {"short_side": 64, "max_side": 96}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    detector = fpn_lightning.load(f"torchvision:{tmp_path / 'weights.pth'}", config=tmp_path / "small.yaml")
    assert (len(detector.categories), detector.categories.names[0], detector.categories.ids[-1]) == (80, "person", 90)
    assert detector.predict(images / "a.png")[0].boxes.shape[1] == 4


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((9, 9), np.uint8), r"images\[1\] is a uint8 array of shape \(9, 9\).*height, width, 3.*fromarray"),
        (np.zeros((9, 9, 4), np.uint8), r"shape \(9, 9, 4\)"),
        (np.zeros((9, 9, 3), np.float32), "is a float32 array"),
        (np.zeros((0, 9, 3), np.uint8), r"shape \(0, 9, 3\)"),
        (torch.zeros(3, 9, 9), r"images\[1\] is a Tensor. Give a file"),
        (Image.new("F", (9, 9)), r"images\[1\]: its pixel values are 32-bit floats"),
        ("nothing.png", "nothing.png: cannot read the image file"),
        ("{folder}", r"is a folder. Give its files: sorted\(Path\("),
        ("{folder}/text.png", "text.png: not an image of a known format"),
    ],
)
def test_an_unusable_image_is_named(faster_rcnn, images, tmp_path, image, message):
    (tmp_path / "text.png").write_text("text")
    image = image.format(folder=tmp_path) if isinstance(image, str) else image
    with pytest.raises(InputError, match=message):
        fpn_lightning.load(faster_rcnn, device="cpu").predict([images / "a.png", image])


def test_an_unusable_source_or_option_is_named(faster_rcnn, home, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    fast = yaml.safe_load((faster_rcnn / "config.yaml").read_text())
    fast["model"]["init_args"]["detector"]["rpn"] = None
    (tmp_path / "fast.yaml").write_text(yaml.safe_dump(fast))
    cases = [(tmp_path / "nothing", {}, "neither a folder nor a file"), (run, {}, "it has no config.yaml")]
    shutil.copy(faster_rcnn / "checkpoints" / "last.ckpt", tmp_path / "moved.ckpt")
    cases += [
        (faster_rcnn / "checkpoints" / "last.ckpt", {"config": tmp_path / "fast.yaml"}, "a Fast R-CNN on fixed prop"),
        (
            tmp_path / "moved.ckpt",
            {},
            r"no config.yaml in the checkpoint's folder or one folder above.*config='RUN/config.yaml'",
        ),
        (tmp_path / "moved.ckpt", {"config": home / "table1/c_fpn/seed0/config.yaml"}, "belongs to another model"),
        (
            tmp_path / "moved.ckpt",
            {"config": REPOSITORY / "configs/wandb.yaml"},
            r"wandb.yaml has no model\.init_args\.detector",
        ),
        (faster_rcnn, {"device": "gpu"}, "device is gpu"),
        (faster_rcnn, {"precision": "fp8"}, "precision is fp8; it has to be one of 32-true"),
        ("torchvision:nothing.pth", {}, "nothing.pth is not a file"),
    ]
    for source, options, message in cases:
        with pytest.raises(InputError, match=message):
            fpn_lightning.load(source, **options)
    shutil.copy(faster_rcnn / "config.yaml", run)
    with pytest.raises(InputError, match=r"has no checkpoint .*train.py fit --config \S+$"):
        fpn_lightning.load(run)
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "step=3.ckpt").touch()
    with pytest.raises(InputError, match=r"Give another checkpoint of the run, for example .*step=3\.ckpt\.$"):
        fpn_lightning.load(run)
    moved = fpn_lightning.load(tmp_path / "moved.ckpt", config=faster_rcnn / "config.yaml")
    with pytest.raises(InputError, match="batch_size is 0"):
        moved.predict([], batch_size=0)


def test_importing_the_package_imports_no_library():
    program = (
        "import sys; start = set(sys.modules); import fpn_lightning; "
        "heavy = {'torch', 'lightning', 'numpy', 'cv2', 'PIL', 'torchvision', 'yaml', 'rich'}; "
        "print(sorted(heavy & set(sys.modules)), len(set(sys.modules) - start), 'load' in fpn_lightning.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    heavy, count, offered = done.stdout.rsplit(" ", 2)
    assert (heavy, offered) == ("[]", "True\n")
    assert int(count) < 100


@pytest.mark.parametrize("page", ["docs/python.md", "README.md"])
def test_the_examples_of_a_page_run(faster_rcnn, home, images, tmp_path, monkeypatch, capsys, page):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mini").symlink_to(home)
    for name in ("a", "b"):
        Image.open(images / "a.png").convert("RGB").save(tmp_path / f"{name}.jpg")
    blocks = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert "at [" in capsys.readouterr().out
