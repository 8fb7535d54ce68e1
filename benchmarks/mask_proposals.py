"""Measure the cost of segment proposals (FPN §6): rows of Table 6, sampled and dense MLPs, run lengths of masks.

    python benchmarks/mask_proposals.py [--short_side 800] [--rounds 2] [--output reports/benchmarks.md]

Rows: each row computes 1000 run-length masks of 480 x 640 px from an image of noise, with random weights. Its seconds
are divided by the first row's seconds and written with the paper's ratio, which was measured on an M40 GPU.
Training: the forward and backward pass of both MLPs on 8 images of 160 px (32 channels, strides 2 to 32), once at the
sampled positions of the maps as in training, and once by convolution over whole maps.
Run lengths: 1000 masks of 14 x 14 are pasted into an image of 480 x 640. Our function pastes and encodes one mask after
the other; torchvision pastes all masks before they are encoded.
One thread is used unless OMP_NUM_THREADS sets more.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its threads

import numpy as np
import torch
import yaml
from compare import REPORT, REPOSITORY, append_line, peak_memory_mib, time_in_turn
from inputs import noise
from pycocotools import mask as mask_api
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from fpn_lightning.data.coco.segmentations import compressed_rle
from fpn_lightning.geometry import Geometry
from fpn_lightning.ground_truth import RLE
from fpn_lightning.mask_structures import MaskProposals
from fpn_lightning.models.backbones.resnet import ResNetBackbone
from fpn_lightning.models.detector import Detector
from fpn_lightning.models.masks.paste import paste_masks
from fpn_lightning.models.masks.proposer import MaskProposer
from fpn_lightning.stages.mask_proposals import MaskProposalStage
from fpn_lightning.structures import Batch, ImageBatch, Targets

ROWS = ("mlp5", "mlp7", "dual", "dual_28")
SAME = {"dual_28": "dual_28 (dual_28_2x is the same network, trained twice as long)"}
FILE_SIZE = (480, 640)


def build(row: str) -> MaskProposalStage:
    """Build a row of Table 6 from its config, with random weights."""
    config = yaml.safe_load((REPOSITORY / "configs" / "table6" / f"{row}.yaml").read_text(encoding="utf-8"))["model"][
        "init_args"
    ]
    torch.manual_seed(0)
    masks = partial(MaskProposer, **config["detector"]["masks"]["init_args"])
    channels = config["detector"]["channels"]
    detector = Detector(ResNetBackbone(), rpn=None, roi_heads=None, masks=masks, channels=channels)
    return MaskProposalStage(detector).eval()


def propose(stage: MaskProposalStage, images: ImageBatch) -> None:
    with torch.no_grad():
        stage.predict_step(Batch(images), 0)


def time_rows(short_side: int, rounds: int, output: Path) -> None:
    size = (short_side, round(short_side * 4 / 3))
    images = noise(1, size, 32)
    images.geometries = [Geometry(FILE_SIZE, size)]
    text = (REPOSITORY / "fpn_lightning" / "paper.yaml").read_text(encoding="utf-8")
    paper = yaml.safe_load(text)["table6"]["rows"]
    stages = {row: build(row) for row in ROWS}
    works: dict[str, Callable[[], None]] = {row: partial(propose, stage, images) for row, stage in stages.items()}
    small = noise(1, (64, 64), 32)
    memory = {row: peak_memory_mib(works[row], partial(propose, stage, small)) for row, stage in stages.items()}
    seconds = time_in_turn(works, rounds)
    first = ROWS[0]
    work = f"segment proposals of Table 6, 1 image {size[0]} x {size[1]} px, {first} in {seconds[first]:.2f} s"
    for row in ROWS[1:]:
        said = paper[row]["seconds_per_image"] / paper[first]["seconds_per_image"]
        peer = f"{SAME.get(row, row)} in {seconds[row]:.2f} s (paper {said:.1f} x)"
        both = f"{memory[first]:.0f} MiB, peer {memory[row]:.0f} MiB"
        print(append_line(work, peer, seconds[row] / seconds[first], both, output))


def dense_losses(masks: MaskProposer, maps: dict[str, Tensor]) -> Tensor:
    """Run every MLP on whole maps, and compute a loss that costs as much as the losses of training without sampling."""
    scores, logits = zip(*(mlp(maps[name]) for name in masks.strides for mlp in masks.mlps), strict=True)
    return F.softplus(torch.cat(scores, dim=1)).sum() + F.softplus(torch.cat(logits, dim=1)).sum()


def time_training(rounds: int, output: Path, batch: int = 8, side: int = 160) -> None:
    strides = {f"p{k}": 2 ** (k - 1) for k in range(2, 7)}
    torch.manual_seed(0)
    masks = MaskProposer(32, strides, base_size=8)
    images = noise(batch, (side, side), 32)
    targets = [squares(side, seed) for seed in range(batch)]
    maps = {
        name: torch.randn(batch, 32, -(-side // s), -(-side // s), requires_grad=True) for name, s in strides.items()
    }

    def sampled() -> None:
        losses = masks.losses(maps, images, targets, torch.arange(batch))
        torch.stack(list(losses.values())).sum().backward()

    def dense() -> None:
        dense_losses(masks, maps).backward()

    def warm_up() -> None:
        dense_losses(masks, {name: value[:1, :, :4, :4] for name, value in maps.items()}).backward()

    memory = {work.__name__: peak_memory_mib(work, warm_up) for work in (sampled, dense)}
    seconds = time_in_turn({"sampled": sampled, "dense": dense}, rounds)
    work = f"mask MLPs in training, {batch} images of {side} px, at the sampled cells, {seconds['sampled']:.2f} s"
    both = f"{memory['sampled']:.0f} MiB, peer {memory['dense']:.0f} MiB"
    print(append_line(work, "at every cell", seconds["dense"] / seconds["sampled"], both, output))


def squares(side: int, seed: int) -> Targets:
    """Return seven square objects of 8 to 120 px. The mask of an object fills its box."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 8 * 15 ** torch.rand(7, 1, generator=generator)
    corners = torch.rand(7, 2, generator=generator) * (side - sizes)
    boxes = torch.cat((corners, corners + sizes), dim=1)
    polygons = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
    masks = [compressed_rle(polygon, side, side) for polygon in polygons]
    return Targets(boxes, torch.zeros(7, dtype=torch.int64), masks)


def time_run_lengths(rounds: int, output: Path, count: int = 1000) -> int:
    generator = torch.Generator().manual_seed(0)
    # Sizes of the masks' windows, px, in a network input of 800 x 1067.
    sizes = 40 * 2 ** torch.randint(0, 5, (count, 1), generator=generator)
    centres = torch.rand(count, 2, generator=generator) * torch.tensor([1067, 800])
    coarse = torch.randn(count, 1, 5, 5, generator=generator)
    logits = 4 * F.interpolate(coarse, size=(14, 14), mode="bilinear")[:, 0]
    windows = torch.cat((centres - sizes / 2, centres + sizes / 2), dim=1)
    found = MaskProposals(logits, windows, torch.zeros(count), torch.full((count,), 2))

    def ours(proposals: MaskProposals = found) -> list[RLE]:
        return paste_masks(proposals, Geometry(FILE_SIZE, (800, 1067)))

    def torchvisions(proposals: MaskProposals = found) -> list[RLE]:
        scale = torch.tensor([FILE_SIZE[1] / 1067, FILE_SIZE[0] / 800] * 2)
        probabilities = proposals.mask_logits.sigmoid()[:, None]
        pasted = paste_masks_in_image(probabilities, proposals.windows * scale, FILE_SIZE, padding=0)[:, 0] > 0.2
        coded = mask_api.encode(np.asfortranarray(pasted.permute(1, 2, 0).numpy().astype(np.uint8)))
        return [{"size": list(FILE_SIZE), "counts": mask["counts"].decode()} for mask in coded]

    # torchvision rounds windows to whole pixels and interpolates probabilities, so its masks are similar, not equal.
    pairs = [one for one in zip(ours(), torchvisions(), strict=True) if mask_api.area(one[0]) > 500]
    alike = float(np.mean([mask_api.iou([one], [other], [0])[0, 0] for one, other in pairs]))
    if alike < 0.9:
        print(f"mean IoU with torchvision's masks is {alike:.2f}; nothing is written", file=sys.stderr)
        return 1
    print(f"mean IoU of the {len(pairs)} masks above 500 px with torchvision's: {alike:.3f}")
    few = MaskProposals(*(value[:5] for value in vars(found).values()))
    memory = [peak_memory_mib(work, partial(work, few)) for work in (ours, torchvisions)]
    seconds = time_in_turn({"ours": ours, "torchvision": torchvisions}, rounds)
    work = f"run lengths of {count} masks, {FILE_SIZE[0]} x {FILE_SIZE[1]} px, {seconds['ours']:.2f} s"
    both = f"{memory[0]:.0f} MiB, peer {memory[1]:.0f} MiB"
    peer = "torchvision paste_masks_in_image and pycocotools encode"
    print(append_line(work, peer, seconds["torchvision"] / seconds["ours"], both, output))
    return 0


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the cost of segment proposals.")
    parser.add_argument("--short_side", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=REPORT)
    arguments = parser.parse_args(args)
    if failed := time_run_lengths(arguments.rounds, arguments.output):
        return failed
    time_training(arguments.rounds, arguments.output)
    time_rows(arguments.short_side, arguments.rounds, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
