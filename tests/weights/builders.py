"""Models of torchvision as references, and our detectors from the configurations of the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from fpn_lightning.models.detector import Detector
from fpn_lightning.stages.base import BaseStage
from tests.command_line import REPOSITORY

ZOO = REPOSITORY / "configs" / "zoo"
COCO_GAPS = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]  # ids below 91 that COCO does not use


def zoo_detector(name: str, **changes: Any) -> Detector:
    """The detector of ``configs/zoo/<name>.yaml``; ``changes`` are its arguments."""
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(BaseStage, "model", subclass_mode=True)
    model = yaml.safe_load((ZOO / f"{name}.yaml").read_text())["model"]
    model["init_args"]["detector"] |= changes
    return parser.instantiate_classes(parser.parse_object({"model": model})).model.detector


def small_backbone(convention: str = "torchvision") -> dict[str, Any]:
    """ResNet-18 as an argument of a detector."""
    arguments = {"name": "resnet18", "weights": "model.init_from", "convention": convention, "norm_eps": 0.0}
    return {"class_path": "fpn_lightning.models.backbones.ResNetBackbone", "init_args": arguments}


def torchvision_model(backbone: str = "resnet50", fc_width: int = 1024, **options: Any) -> FasterRCNN:
    """Faster R-CNN for COCO as torchvision builds it for its COCO_V1 weights: frozen BatchNorm without an epsilon."""
    torch.manual_seed(0)
    model = FasterRCNN(
        resnet_fpn_backbone(backbone_name=backbone, weights=None),
        box_head=TwoMLPHead(256 * 7**2, fc_width),
        box_predictor=FastRCNNPredictor(fc_width, 91),
        **options,
    ).eval()
    overwrite_eps(model, 0.0)
    return model


def pixels_of(folder: Path, sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    """The first images of a folder, uint8 RGB ``(3, h, w)``, resized to ``sizes``."""
    paths = sorted(folder.glob("*.jpg"))
    return [
        torch.from_numpy(cv2.resize(cv2.imread(str(path)), (w, h))[:, :, ::-1].copy()).permute(2, 0, 1)
        for path, (h, w) in zip(paths, sizes, strict=False)
    ]


def noise(sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Coarse noise, uint8 ``(3, h, w)``: unlike fine noise it has structure at every level."""
    images = []
    for seed, (h, w) in enumerate(sizes):
        coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        smooth = torch.nn.functional.interpolate(coarse, size=(h, w), mode="bicubic").clamp(0, 1)[0]
        images.append((255 * smooth).to(torch.uint8))
    return images


@torch.no_grad()
def calibrate(model: FasterRCNN, pixels: torch.Tensor, sizes: list[tuple[int, int]], gap_bias: float = 0.0) -> None:
    """Give BatchNorm the statistics of the images, spread the logits of both heads, and lower those of the gaps.

    Saturated or tied scores would make even one library disagree with itself.

    Args:
        model: torchvision's.
        pixels: normalised network input.
        sizes: of the images in it.
        gap_bias: added to the logits of unused ids, which a trained model never detects.
    """

    def take_statistics(module: FrozenBatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        module.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
        module.running_var.copy_(inputs[0].var(dim=(0, 2, 3)) + 1e-3)

    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [module.register_forward_pre_hook(take_statistics) for module in norms]
    maps = model.backbone(pixels)
    for hook in hooks:
        hook.remove()
    head, predictor = model.rpn.head, model.roi_heads.box_predictor
    logits, deltas = head(list(maps.values()))
    head.cls_logits.weight *= 2 / torch.cat([level.flatten() for level in logits]).std()
    head.bbox_pred.weight *= 0.3 / torch.cat([level.flatten() for level in deltas]).std()
    boxes, _ = model.rpn(ImageList(pixels, sizes), maps)
    boxes = [of_image[:100] for of_image in boxes]
    regions = model.roi_heads.box_head(model.roi_heads.box_roi_pool(maps, boxes, sizes))
    class_logits, box_deltas = predictor(regions)
    predictor.cls_score.weight *= 2 / (class_logits - predictor.cls_score.bias).std()
    predictor.bbox_pred.weight *= 0.5 / (box_deltas - predictor.bbox_pred.bias).std()
    predictor.cls_score.bias[COCO_GAPS] += gap_bias
