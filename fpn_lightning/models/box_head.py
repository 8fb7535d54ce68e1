"""Box heads, which compute features, class logits and box deltas of regions (FPN §4.2; ``conv5``: He et al. 2016).

Shape shorthand: R regions, d channels of a map, S x S size of a pooled region, F features of one region, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpn_lightning.errors import InputError


class BoxHead(nn.Module):
    """Base class of box heads.

    Attributes:
        resolution: S; the input regions are pooled to S x S.
        out_features: F.
    """

    resolution: int
    out_features: int

    def forward(self, regions: Tensor) -> Tensor:
        """Turn pooled regions ``(R, d, S, S)`` into features ``(R, F)``; R may be 0."""
        raise NotImplementedError


class TwoFCHead(BoxHead):
    """Two fully connected layers with ReLU, randomly initialised, on regions pooled to 7 x 7 (FPN §4.2).

    Args:
        in_channels: d.
        width: F, the number of outputs of each of the two layers.
        resolution: S.
    """

    def __init__(self, in_channels: int, width: int = 1024, resolution: int = 7) -> None:
        super().__init__()
        self.resolution = resolution
        self.out_features = width
        self.fc1 = init_linear(nn.Linear(in_channels * resolution**2, width))
        self.fc2 = init_linear(nn.Linear(width, width))

    def forward(self, regions: Tensor) -> Tensor:
        """See :meth:`BoxHead.forward`."""
        hidden = F.relu(self.fc1(regions.flatten(1)))  # (R, d, S, S) -> (R, d * S * S) -> (R, F)
        return F.relu(self.fc2(hidden))


class Conv5Head(BoxHead):
    """The head of the single-map baseline: conv5 runs on regions pooled to 14 x 14, and its 7 x 7 output is averaged.

    The conv5 head and the pooling to 14 x 14 are from the paper. The stride of 2 in conv5 and the average are from
    Detectron.

    Args:
        stage: the last ResNet stage; see :meth:`fpn_lightning.models.backbones.base.Backbone.take_stage`.
        out_features: F, the output channels of the stage.
        resolution: S.
    """

    def __init__(self, stage: nn.Module, out_features: int, resolution: int = 14) -> None:
        super().__init__()
        self.resolution = resolution
        self.out_features = out_features
        self.stage = stage

    def forward(self, regions: Tensor) -> Tensor:
        """See :meth:`BoxHead.forward`."""
        return self.stage(regions).mean(dim=(2, 3))  # (R, d, S, S) -> (R, F, S / 2, S / 2) -> (R, F)


class BoxPredictor(nn.Module):
    """Two sibling linear layers (Fast R-CNN §2.1).

    One layer computes the logits of K classes and the background. The other layer computes box deltas for each class.

    Args:
        in_features: F.
        num_classes: K, without background.
        unused_logits: U, number of logits without a class; see :class:`fpn_lightning.models.roi_heads.RoIHeads`.
    """

    def __init__(self, in_features: int, num_classes: int, unused_logits: int = 0) -> None:
        super().__init__()
        self.class_logits = nn.Linear(in_features, num_classes + 1 + unused_logits)
        self.box_deltas = nn.Linear(in_features, num_classes * 4)
        for layer, std in ((self.class_logits, 0.01), (self.box_deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits ``(R, K + 1 + U)`` and deltas ``(R, K * 4)`` from features ``(R, F)``.

        The logits are those of the K classes, the background, and U logits without a class, which torchvision's
        published COCO weights need.
        """
        return self.class_logits(features), self.box_deltas(features)


@torch.no_grad()
def check_box_head(head: BoxHead, channels: int) -> None:
    """Run a box head on zeros ``(1, channels, S, S)`` to check its ``resolution`` S and its ``out_features``.

    Raises:
        InputError: if the head cannot read the region, or if the number of computed features is not ``out_features``.
    """
    training, name = head.training, type(head).__name__
    try:
        actual = tuple(head.eval()(torch.zeros(1, channels, head.resolution, head.resolution)).shape)
    except RuntimeError as error:
        raise InputError(
            f"model.detector.box_head: {name} cannot read regions of {channels} channels and {head.resolution} x "
            f"{head.resolution} cells: {str(error).splitlines()[0]}"
        ) from error
    head.train(training)
    if actual != (1, head.out_features):
        raise InputError(
            f"model.detector.box_head: {name} declares {head.out_features} features, but its output for one region has "
            f"shape {actual}. Correct out_features of {name}."
        )


def init_linear(layer: nn.Linear) -> nn.Linear:
    """Initialise a linear layer in place, as in Detectron: weights Xavier-uniform over the fan-in, biases 0."""
    nn.init.kaiming_uniform_(layer.weight, a=1)
    nn.init.zeros_(layer.bias)
    return layer
