"""Compare data loading, from image files to the normalised batch, with torchvision's detection reference.

    python benchmarks/loading.py [--root data/coco] [--split val2017] [--images 120] [--rounds 3]

Both programs use one thread. They decode images, flip half of them, resize the shorter side to 800 px, map the boxes,
pad two images to a batch and normalise the batch. torchvision's reference (references/detection) loads a CocoDetection
with Pillow, flips and converts tensors, and resizes and normalises in GeneralizedRCNNTransform. Nothing is timed unless
the first five batches of both programs are nearly equal.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from compare import append_line, time_in_turn
from torch import Tensor
from torchvision.datasets import CocoDetection
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import functional

from fpn_lightning.data.coco.index import COCOIndex, split_paths
from fpn_lightning.data.dataset import COCODataset, Collate
from fpn_lightning.data.transforms import ResizeAndFlip
from fpn_lightning.models.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from fpn_lightning.models.backbones.resnet import ResNetBackbone

BATCH = 2


class Peer:
    """torchvision's reference pipeline, which flips the images for which ``flips`` is true."""

    def __init__(self, root: str, split: str, flips: list[bool]) -> None:
        annotation_file, images = split_paths(root, split)
        self.dataset = CocoDetection(str(images), str(annotation_file))
        self.transform = GeneralizedRCNNTransform(800, 1333, list(IMAGENET_MEAN), list(IMAGENET_STD)).train()
        self.flips = flips

    def batch(self, places: range) -> Tensor:
        """A batch, float32 ``(N, 3, H, W)``."""
        pairs = [self._image(place) for place in places]
        images, _ = self.transform([image for image, _ in pairs], [target for _, target in pairs])
        return images.tensors

    def _image(self, place: int) -> tuple[Tensor, dict[str, Tensor]]:
        picture, annotations = self.dataset[place]
        image = functional.convert_image_dtype(functional.pil_to_tensor(picture), torch.float32)
        objects = [annotation for annotation in annotations if annotation["iscrowd"] == 0]
        boxes = torch.as_tensor([annotation["bbox"] for annotation in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([annotation["category_id"] for annotation in objects], dtype=torch.int64)
        if self.flips[place]:
            image = functional.hflip(image)
            boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
        return image, {"boxes": boxes, "labels": labels}


class Ours:
    """Our data set, collate and normalisation."""

    def __init__(self, root: str, split: str) -> None:
        annotation_file, images = split_paths(root, split)
        index = COCOIndex.open(annotation_file)
        transform = ResizeAndFlip(rounding="floor")
        self.dataset = COCODataset(index, images, transform, np.arange(len(index)), training=True)
        self.collate = Collate()
        self.backbone = ResNetBackbone(weights=None, frozen_stages=0, norm="batch", convention="torchvision")

    def flips(self, count: int) -> list[bool]:
        """Return which of the first ``count`` images are flipped."""
        index = self.dataset.index
        sizes = index.sizes[:count].tolist()
        ids = index.image_ids[:count].tolist()
        return [
            self.dataset.transform.training_geometry((height, width), image_id, 0).flipped
            for (height, width), image_id in zip(sizes, ids, strict=True)
        ]

    def batch(self, places: range) -> Tensor:
        """A batch, float32 ``(N, 3, H, W)``."""
        return self.backbone.normalize(self.collate([self.dataset[place, 0] for place in places]).images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", default="data/coco", help="a data set in COCO's layout (default: %(default)s)")
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if not Path(arguments.root).is_dir():
        print(f"--root {arguments.root} does not exist: loading is not measured", file=sys.stderr)
        return
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    ours = Ours(arguments.root, arguments.split)
    count = min(arguments.images, len(ours.dataset)) // BATCH * BATCH
    peer = Peer(arguments.root, arguments.split, ours.flips(count))
    batches = [range(start, start + BATCH) for start in range(0, count, BATCH)]
    for places in batches[:5]:
        one, other = ours.batch(places), peer.batch(places)
        if one.shape != other.shape or (one - other).abs().mean() > 0.02:
            sys.exit(f"images {list(places)}: torchvision's batch differs from ours; nothing is written")

    def load(pipeline: Ours | Peer) -> None:
        for places in batches:
            pipeline.batch(places)

    seconds = time_in_turn({"ours": lambda: load(ours), "torchvision": lambda: load(peer)}, arguments.rounds)
    rates = {name: count / value for name, value in seconds.items()}
    work = f"load, flip, resize to 800 px, collate and normalise {count} photographs of {Path(arguments.root).name}"
    print(
        append_line(
            f"{work}, 1 thread ({rates['ours']:.1f} images/s)",
            f"torchvision's detection reference ({rates['torchvision']:.1f} images/s)",
            seconds["torchvision"] / seconds["ours"],
            "not measured",
        )
    )


if __name__ == "__main__":
    main()
