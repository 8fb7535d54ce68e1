"""How a trunk, a feature design and a head become a region-based detector (FPN §4.2; Tables 2 and 3).

The detector is: trunk -> pyramid -> pooler -> box head -> predictor. Its maps are computed once an image; losses and
detections are both asked of :class:`fpn_lightning.models.roi_heads.RoIHeads` with these maps and with proposals, be
they fixed ones (Fast R-CNN) or those of an RPN on the same maps (Faster R-CNN).
"""

from __future__ import annotations

from typing import Literal

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones.base import Backbone
from fpn_lightning.models.box_head import BoxHead, Conv5Head, TwoFCHead
from fpn_lightning.models.pyramids import Pyramid, SingleMap, level_of

HeadName = Literal["2fc", "conv5"]  # as the column "head" of Tables 2 and 3 has it


def make_box_head(head: HeadName, backbone: Backbone, pyramid: Pyramid, fc_width: int = 1024) -> BoxHead:
    """Build the box head that fits a pyramid, and leave the trunk with what the pyramid reads of it.

    Args:
        head: ``2fc`` on 7 x 7 regions of any pyramid; ``conv5`` on 14 x 14 regions of c4 alone. The conv5 stage is the
            trunk's own, with its pre-trained weights, and from here on belongs to the head.
        backbone: the trunk; stages that nobody runs any more are dropped.
        pyramid: the feature design, built on this trunk.
        fc_width: outputs of the two fully connected layers.

    Raises:
        InputError: if ``conv5`` does not follow the map that the pyramid hands out.
    """
    if head == "2fc":
        backbone.keep(pyramid.used)
        return TwoFCHead(pyramid.out_channels, fc_width)
    top = list(backbone.channels)[-1]
    if not isinstance(pyramid, SingleMap) or pyramid.level != level_of(top) - 1:
        raise InputError(
            f"model.box_head: 'conv5' runs the stage of {top} on the map before it, c{level_of(top) - 1}, alone; the "
            f"pyramid is {type(pyramid).__name__} with maps {', '.join(pyramid.strides)}. Use SingleMap of that level, "
            "or '2fc'."
        )
    out_features = backbone.channels[top]
    stage = backbone.take_stage(top)
    backbone.keep(pyramid.used)
    return Conv5Head(stage, out_features)
