"""Our backbone, pyramid and RPN against torchvision's, in float64 on the same input tensor.

Random float32 weights would prove nothing: saturated scores let a library disagree with itself between thread counts.
So BatchNorm statistics are calibrated on real images, the objectness is spread, and anchors are rounded as theirs.
"""

from __future__ import annotations

import cv2
import pytest
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from fpn_lightning.models.anchors import AnchorGenerator
from fpn_lightning.models.backbones.resnet import ResNetBackbone
from fpn_lightning.models.pyramids import FPN
from fpn_lightning.models.rpn import RPN
from fpn_lightning.models.sampler import image_seeds
from fpn_lightning.structures import ImageBatch
from tests.models.builders import targets, whole

SIZES = [(192, 256), (224, 160), (180, 250)]


def real_batch(folder) -> ImageBatch:
    paths = sorted(folder.glob("*.jpg"))[: len(SIZES)]
    height, width = 224, 256
    pixels = torch.zeros(len(SIZES), 3, height, width, dtype=torch.uint8)
    for index, (path, (h, w)) in enumerate(zip(paths, SIZES, strict=True)):
        image = cv2.resize(cv2.imread(str(path)), (w, h))[:, :, ::-1]
        pixels[index, :, :h, :w] = torch.from_numpy(image.copy()).permute(2, 0, 1)
    sizes = torch.tensor(SIZES)
    return ImageBatch(pixels, sizes, torch.arange(len(SIZES)), whole(sizes.tolist()))


def calibrate(module: FrozenBatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
    module.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
    module.running_var.copy_(inputs[0].var(dim=(0, 2, 3)))


@pytest.fixture(scope="module")
def setting(coco_mini, tmp_path_factory):
    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).double().eval()
    copied = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    backbone = ResNetBackbone("resnet50", weights=str(copied)).double().eval()
    batch = real_batch(coco_mini / "val2017")
    pixels = backbone.normalize(batch)
    norms = [m for m in theirs.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d | FrozenBatchNorm2d)]
    hooks = [module.register_forward_pre_hook(calibrate) for module in norms]
    with torch.no_grad():
        maps = theirs.backbone(pixels)
        for hook in hooks:
            hook.remove()
        maps = theirs.backbone(pixels)
        theirs.rpn.head.cls_logits.weight *= 2 / theirs.rpn.head(list(maps.values()))[0][0].std()
        theirs.rpn.head.bbox_pred.weight *= 0.3 / theirs.rpn.head(list(maps.values()))[1][0].std()

    torch.save(theirs.backbone.body.state_dict(), copied)
    backbone.load_weights()
    fpn = FPN(backbone.channels, backbone.strides).double()
    for index, name in enumerate(("p2", "p3", "p4", "p5")):
        fpn.lateral_convs[name].load_state_dict(theirs.backbone.fpn.inner_blocks[index][0].state_dict())
        fpn.output_convs[name].load_state_dict(theirs.backbone.fpn.layer_blocks[index][0].state_dict())
    rpn = RPN(256, AnchorGenerator(fpn.strides, [[32.0 * 2**i] for i in range(5)]), min_size=1e-3).double()
    for buffer in rpn.anchor_generator.buffers():
        buffer.round_()
    rpn.heads[0].conv.load_state_dict(theirs.rpn.head.conv[0][0].state_dict())
    rpn.heads[0].objectness_logits.load_state_dict(theirs.rpn.head.cls_logits.state_dict())
    rpn.heads[0].anchor_deltas.load_state_dict(theirs.rpn.head.bbox_pred.state_dict())
    return theirs, backbone, fpn, rpn, batch, pixels


@torch.no_grad()
def test_maps_and_proposals_agree(setting):
    theirs, backbone, fpn, rpn, batch, pixels = setting
    maps = fpn(backbone(batch))
    reference = theirs.backbone(pixels)
    for ours, other in zip(maps.values(), reference.values(), strict=True):
        assert torch.allclose(ours, other, rtol=1e-9, atol=1e-9)
    outputs = rpn(maps)
    logits = torch.cat(outputs.logits, dim=1)
    assert 0.5 < logits.std() < 10  # spread, not saturated

    theirs.rpn.eval()
    theirs.rpn._pre_nms_top_n = {"training": 1000, "testing": 1000}
    theirs.rpn._post_nms_top_n = {"training": 2000, "testing": 2000}
    boxes, _ = theirs.rpn(ImageList(pixels, SIZES), reference)
    proposals = rpn.predict(outputs, batch.sizes)
    for ours, other in zip(proposals, boxes, strict=True):
        assert len(ours) == len(other) > 500
        assert (ours.boxes - other).abs().max() < 1e-6


def test_losses_agree_on_the_same_sample(setting, monkeypatch):
    theirs, backbone, fpn, rpn, batch, pixels = setting
    truth = [
        targets([[10, 20, 100, 120], [150, 30, 200, 90]]),
        targets([[5, 5, 155, 200]]),
        targets([[30, 40, 62, 80], [33, 44, 70, 90], [100, 100, 240, 170]]),
    ]
    for target in truth:
        target.boxes = target.boxes.double()
    with torch.no_grad():
        outputs = rpn(fpn(backbone(batch)))
        match_labels, matched_idxs = rpn.label_anchors(torch.cat(outputs.anchors), truth)
        positive, negative = rpn.sampler(match_labels, image_seeds(0, 0, batch.image_ids))
        ours = rpn.losses_of_sample(outputs, truth, positive, negative, matched_idxs)

        theirs.rpn.train()
        monkeypatch.setattr(theirs.rpn, "fg_bg_sampler", lambda labels: (list(positive), list(negative)))
        _, reference = theirs.rpn(
            ImageList(pixels, SIZES), theirs.backbone(pixels), [{"boxes": target.boxes} for target in truth]
        )
    assert (positive.sum(1) > 0).all()
    # torchvision makes its labels float32, and its objectness loss comes out with that precision
    assert ours["loss_rpn_cls"].item() == pytest.approx(reference["loss_objectness"].item(), rel=1e-7)
    assert ours["loss_rpn_loc"].item() == pytest.approx(reference["loss_rpn_box_reg"].item(), abs=1e-9)
