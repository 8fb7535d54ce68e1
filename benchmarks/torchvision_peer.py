"""Builds torchvision's Faster R-CNN with FPN and ours with the same random weights, and compares their detections."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FrozenBatchNorm2d

from fpn_lightning.models.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from fpn_lightning.models.backbones.resnet import ResNetBackbone
from fpn_lightning.models.detector import Anchors, Detector
from fpn_lightning.models.roi_heads import RoIHeads
from fpn_lightning.models.roi_pooler import RoIPooler
from fpn_lightning.models.rpn import RPN
from fpn_lightning.models.sampler import image_seeds
from fpn_lightning.structures import ImageBatch, Targets
from fpn_lightning.weights.torchvision import BOX_DELTAS, CLASS_LOGITS, NEWER_NAMES, name_of

NUM_CLASSES = 90  # torchvision's model has 91 classes, including the background
PROPOSALS = 1000  # maximum number per level before NMS and per image after NMS, in training and in evaluation
Losses = dict[str, Tensor]


@dataclass
class Pair:
    """Both models on one device, and a batch of images and targets for both."""

    ours: Detector
    theirs: FasterRCNN
    images: ImageBatch
    targets: list[Targets]

    def detect_ours(self) -> dict[str, Tensor]:
        """Return our detections in the first image, with torchvision's labels."""
        _, (detections, *_) = self.ours.propose_and_detect(self.images)
        return {"boxes": detections.boxes, "labels": detections.labels + 1, "scores": detections.scores}

    def detect_theirs(self) -> dict[str, Tensor]:
        """Return torchvision's detections in the first image."""
        return self.theirs(self.pixels_of_theirs())[0]

    def losses_of_ours(self) -> Losses:
        """Compute the losses of a training step of ``FasterRCNNStage``."""
        ours, images = self.ours, self.images
        assert ours.rpn is not None
        assert ours.roi_heads is not None
        maps, seeds = ours(images), image_seeds(0, 0, images.image_ids)
        outputs = ours.rpn(maps)
        losses = ours.rpn.losses(outputs, self.targets, seeds)
        return losses | ours.roi_heads.losses(maps, ours.rpn.predict(outputs, images.sizes), self.targets, seeds)

    def losses_of_theirs(self) -> Losses:
        """Compute torchvision's losses. The model has to be in training mode."""
        truth = [{"boxes": target.boxes, "labels": target.labels + 1} for target in self.targets]
        return self.theirs(self.pixels_of_theirs(), truth)

    def pixels_of_theirs(self) -> list[Tensor]:
        """Return the images without padding, RGB in [0, 1]. torchvision's model normalises and pads them."""
        dtype = next(self.theirs.parameters()).dtype
        return [
            pixels[:, : geometry.size[0], : geometry.size[1]].to(dtype) / 255
            for pixels, geometry in zip(self.images.pixels, self.images.geometries, strict=True)
        ]


def make_pair(
    backbone: Literal["resnet18", "resnet50"], fc_width: int, images: ImageBatch, targets: list[Targets]
) -> Pair:
    """Build both models with random weights on the device of the images.

    BatchNorm gets the statistics of the images, and the heads' weights are scaled to give logits of moderate size.
    Otherwise many scores would saturate and be equal, and the order of equal scores is not defined.
    """
    torch.manual_seed(0)
    short, long = min(images.geometries[0].size), max(images.geometries[0].size)
    theirs = FasterRCNN(
        resnet_fpn_backbone(backbone_name=backbone, weights=None),
        min_size=short,
        max_size=long,
        rpn_pre_nms_top_n_train=PROPOSALS,
        rpn_pre_nms_top_n_test=PROPOSALS,
        rpn_post_nms_top_n_train=PROPOSALS,
        rpn_post_nms_top_n_test=PROPOSALS,
        box_head=TwoMLPHead(256 * 7**2, fc_width),
        box_predictor=FastRCNNPredictor(fc_width, NUM_CLASSES + 1),
    )
    ours = Detector(
        ResNetBackbone(backbone),
        rpn=partial(RPN, min_size=1e-3, pre_nms_topk=PROPOSALS, post_nms_topk=PROPOSALS),
        roi_heads=partial(RoIHeads, smooth_l1_beta=1 / 9, min_size=1e-2),
        roi_pooler=partial(RoIPooler, op="align", sampling_ratio=2, aligned=False),
        fc_width=fc_width,
        num_classes=NUM_CLASSES,
        anchors=Anchors(convention="torchvision"),
        eval_proposals=PROPOSALS,
    )
    device = images.pixels.device
    pair = Pair(ours.to(device).eval(), theirs.to(device).eval(), images, targets)
    _calibrate(pair)
    _copy_weights(theirs, ours)
    return pair


def check_same_detections(pair: Pair) -> bool:
    """Return whether both models give the same detections in float64. The models are float32 again afterwards."""
    pair.ours.double()
    pair.theirs.double()
    # Set the pixel statistics again, because float32 has rounded their values.
    for name, values in (("pixel_mean", IMAGENET_MEAN), ("pixel_std", IMAGENET_STD)):
        pair.ours.backbone.get_buffer(name).copy_(255 * torch.tensor(values, dtype=torch.float64).view(3, 1, 1))
    with torch.no_grad():
        found, other = pair.detect_ours(), pair.detect_theirs()
    pair.ours.float()
    pair.theirs.float()
    return (
        len(found["labels"]) > 10
        and torch.equal(found["labels"], other["labels"])
        and (found["scores"] - other["scores"]).abs().max().item() < 1e-9
        and (found["boxes"] - other["boxes"]).abs().max().item() < 1e-6
    )


@torch.no_grad()
def _calibrate(pair: Pair) -> None:
    def take_statistics(module: nn.Module, inputs: tuple[Tensor]) -> None:
        module.get_buffer("running_mean").copy_(inputs[0].mean(dim=(0, 2, 3)))
        module.get_buffer("running_var").copy_(inputs[0].var(dim=(0, 2, 3)) + 1e-3)

    theirs = pair.theirs
    norms = [module for module in theirs.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [module.register_forward_pre_hook(take_statistics) for module in norms]
    maps = theirs.backbone(pair.ours.backbone.normalize(pair.images))
    for hook in hooks:
        hook.remove()
    logits, deltas = theirs.rpn.head(list(maps.values()))
    theirs.rpn.head.cls_logits.weight *= 2 / torch.cat([level.flatten() for level in logits]).std()
    theirs.rpn.head.bbox_pred.weight *= 0.3 / torch.cat([level.flatten() for level in deltas]).std()
    heads, sizes = theirs.roi_heads, [geometry.size for geometry in pair.images.geometries]
    boxes = [target.boxes for target in pair.targets]
    class_logits, box_deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(maps, boxes, sizes)))
    heads.box_predictor.cls_score.weight *= 2 / class_logits.std()
    heads.box_predictor.bbox_pred.weight *= 0.5 / box_deltas.std()


def _copy_weights(theirs: FasterRCNN, ours: Detector) -> None:
    """Copy torchvision's weights. Our background class is last instead of first, and has no box deltas."""
    state = {NEWER_NAMES.sub(r"\1.", name): tensor for name, tensor in theirs.state_dict().items()}
    copied = {}
    for name in ours.state_dict():
        tensor = state[str(name_of(name))]
        if name.startswith(CLASS_LOGITS):
            tensor = tensor.roll(-1, dims=0)
        elif name.startswith(BOX_DELTAS):
            tensor = tensor[4:]
        copied[name] = tensor
    ours.load_state_dict(copied)
