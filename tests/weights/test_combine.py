"""One Faster R-CNN from two checkpoints: its detections equal those of the two models to the bit."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from fpn_lightning.models.backbones.narrow import NarrowResNet
from fpn_lightning.models.detector import Detector, Scale
from fpn_lightning.models.roi_heads import RoIHeads
from fpn_lightning.models.rpn import RPN
from fpn_lightning.stages.fast_rcnn import FastRCNNStage
from fpn_lightning.stages.faster_rcnn import FasterRCNNStage
from fpn_lightning.stages.rpn import RPNStage
from fpn_lightning.structures import Batch
from fpn_lightning.weights.combine import main
from fpn_lightning.weights.export import main as export
from fpn_lightning.weights.init_from import load_weights
from tests.models.builders import image_batch

HEADS = partial(RoIHeads, score_thresh=0.0)
PROPOSER = partial(RPN, post_nms_topk=60)
COMMON = {"channels": 8, "scale": Scale(base_anchor_size=8, canonical_size=56)}
DETECTOR = {**COMMON, "roi_heads": HEADS, "fc_width": 16, "num_classes": 3}


@pytest.fixture
def stages() -> tuple[RPNStage, FastRCNNStage]:
    """An RPN and a detector with the same backbone and pyramid, in evaluation mode."""
    torch.manual_seed(0)
    detector = FastRCNNStage(Detector(NarrowResNet(), rpn=None, **DETECTOR)).train()
    detector(image_batch([(64, 96), (80, 64)]))  # live BatchNorm gets statistics that a new model has not
    rpn = RPNStage(Detector(NarrowResNet(), rpn=PROPOSER, roi_heads=None, **COMMON))
    rpn.load_state_dict(detector.state_dict(), strict=False)
    return rpn.eval(), detector.eval()


@pytest.fixture
def files(stages, tmp_path) -> list[str]:
    """Their checkpoints and the file to write."""
    for stage, name in zip(stages, ("rpn", "detector"), strict=True):
        categories = {"ids": [1, 3, 7], "names": ["a", "b", "c"]}
        checkpoint = {"state_dict": stage.state_dict(), "global_step": 9, "categories": categories, "loops": {}}
        torch.save(checkpoint, tmp_path / f"{name}.ckpt")
    return [str(tmp_path / f"{name}.ckpt") for name in ("rpn", "detector", "both")]


def test_one_pass_gives_the_detections_of_two_models(stages, files, capsys):
    assert main(files) == 0
    assert "--config configs/table3/joint_fpn.yaml" in capsys.readouterr().out
    torch.manual_seed(5)
    both = FasterRCNNStage(Detector(NarrowResNet(), rpn=PROPOSER, eval_proposals=50, **DETECTOR)).eval()
    checkpoint = load_weights(both.detector, files[2])
    assert both.state_dict().keys() == checkpoint["state_dict"].keys()
    assert checkpoint.keys() == {"state_dict", "global_step", "categories"}
    assert (checkpoint["global_step"], checkpoint["categories"]["ids"]) == (9, [1, 3, 7])
    rpn, detector = stages
    batch = Batch(image_batch([(64, 96), (80, 64)], seed=1), [])
    with torch.no_grad():
        proposals, found = both.detector.propose_and_detect(batch.images)
        alone = rpn.detector.propose(batch.images)
        assert [len(of_image) for of_image in alone] == [60, 60]
        for mine, of_rpn in zip(proposals, alone, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(vars(mine).values(), vars(of_rpn).values(), strict=True))
        batch.proposals = [type(of_image)(*(value[:50] for value in vars(of_image).values())) for of_image in alone]
        expected = detector.predict_step(batch, 0)
        together = both.predict_step(batch, 0)
    assert min(map(len, found)) > 20
    for mine, of_two in zip(together, expected, strict=True):
        assert mine.image_id == of_two.image_id
        for name in ("boxes_orig", "scores", "labels"):
            assert torch.equal(getattr(mine, name), getattr(of_two, name))


@pytest.mark.parametrize("name", ["backbone.stem.1.running_var", "pyramid.output_convs.p3.weight"])
def test_one_bit_of_difference_is_rejected(files, tmp_path, capsys, name):
    checkpoint = torch.load(files[0], weights_only=True)
    first = checkpoint["state_dict"][f"detector.{name}"].view(-1)
    first[0] = torch.nextafter(first[0], first[0] + 1)
    torch.save(checkpoint, files[0])
    assert main(files) == 2
    message = capsys.readouterr().err
    assert f"Number of differences: 1 ({name}" in message
    assert "model.freeze_shared" in message
    assert not (tmp_path / "both.ckpt").exists()


def test_files_of_other_models_are_rejected(files, capsys):
    assert main([files[1], files[0], files[2]]) == 2
    assert "RPN_CHECKPOINT has no tensor rpn.*" in capsys.readouterr().err
    assert main([files[0], "nowhere.ckpt", files[2]]) == 2
    assert "DETECTOR_CHECKPOINT: nowhere.ckpt is not a file" in capsys.readouterr().err


def test_a_file_is_overwritten_only_if_told_so(files, capsys):
    before = Path(files[1]).read_bytes()
    assert main([files[0], files[1], files[1]]) == 2
    assert f"{files[1]} exists. Give another path, or --overwrite to replace it" in capsys.readouterr().err
    assert Path(files[1]).read_bytes() == before
    assert export([files[0], files[1], "--to", "torchvision"]) == 2
    assert "--overwrite to replace it" in capsys.readouterr().err
    assert Path(files[1]).read_bytes() == before
    assert main([*files, "--overwrite"]) == main([*files, "--overwrite"]) == 0
