"""ResNet backbones (FPN §3), and the base class of all backbones that are built from torchvision's classifiers.

The module :mod:`fpn_lightning.models.backbones.base` describes the interface of backbones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights, resnet

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Convention,
    Norm,
    StagedBackbone,
    norm_layer,
)
from fpn_lightning.models.backbones.folding import fold_frozen_norms
from fpn_lightning.models.backbones.published import check_fit, fetch_torchvision_state, torchvision_weights
from fpn_lightning.state_dicts import read_state_dict

ResNetName = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"
]


class TorchvisionBackbone(StagedBackbone):
    """A classification network of torchvision, cut into a stem and four stages.

    Subclasses build the stem and the stages, and pass both to :meth:`_assemble`. The arguments are those of
    :class:`ResNetBackbone`. ``norm`` is ``None`` for models without BatchNorm.

    Raises:
        InputError: if the arguments contradict each other; for example, ``norm`` is ``frozen`` without weights.
    """

    def __init__(
        self, name: str, weights: str | None, norm: Norm | None, frozen_stages: int, convention: Convention
    ) -> None:
        super().__init__(convention, weights, frozen_stages)
        self.check_norm(norm)
        if weights is not None and norm == "group":
            raise InputError(
                "model.detector.backbone: norm 'group' cannot use the BatchNorm statistics of pre-trained weights. "
                "Set norm to 'frozen' or 'batch', or weights to null."
            )
        member = torchvision_weights(name, weights)
        if member is not None:
            if convention != "torchvision":
                raise InputError(
                    f"model.detector.backbone: weights {weights} are torchvision's; set convention to 'torchvision'."
                )
            transforms = member.transforms()  # vgg16's weights IMAGENET1K_FEATURES need Caffe's pixel mean and std
            if (tuple(transforms.mean), tuple(transforms.std)) != (IMAGENET_MEAN, IMAGENET_STD):
                raise InputError(
                    f"model.detector.backbone: weights {weights} of {name} were trained with a pixel mean and "
                    "standard deviation that this backbone does not use. Use IMAGENET1K_V1."
                )
        self.name = name

    def _assemble(
        self,
        stem: nn.Sequential,
        stages: Iterable[nn.Module],
        channels: Sequence[int],
        prefixes: dict[str, str | None],
        first_stride: int = 4,
    ) -> None:
        """Store stem and stages, fold frozen BatchNorm into convolutions, and freeze ``frozen_stages`` stages.

        Args:
            stem: the layers before the stage of c2.
            stages: the stages of c2..c5.
            channels: the channels of c2..c5.
            prefixes: dict from torchvision's module names to the module names in this class. The value is ``None`` for
                modules of torchvision that are left out.
            first_stride: stride of c2; each later stage doubles the stride.
        """
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.channels = {f"c{k}": count for k, count in enumerate(channels, start=2)}
        self.strides = {f"c{k}": first_stride * 2 ** (k - 2) for k in range(2, 6)}
        self._prefixes = prefixes
        fold_frozen_norms(self)
        self.freeze()

    def keep(self, used: Sequence[str]) -> None:
        """See :meth:`StagedBackbone.keep`; :meth:`load_weights` then ignores the weights of dropped stages."""
        super().keep(used)
        count = len(self.stages) + len(self._taken)

        def is_dropped(ours: str | None) -> bool:
            return ours is not None and ours.startswith("stages.") and int(ours.split(".")[1]) >= count

        self._prefixes = {theirs: None if is_dropped(ours) else ours for theirs, ours in self._prefixes.items()}

    def download_weights(self) -> None:
        """Download torchvision's weights into torch's cache; do nothing if ``weights`` is a path or ``None``."""
        member = torchvision_weights(self.name, self.weights)
        if member is not None:
            fetch_torchvision_state(member)

    def load_weights(self) -> None:
        """See :meth:`Backbone.load_weights`; tensors of torchvision's classification layers are ignored."""
        if self.weights is None:
            return
        member = torchvision_weights(self.name, self.weights)
        if member is None and not Path(self.weights).is_file():
            known = sorted(get_model_weights(self.name).__members__)
            raise InputError(
                f"model.detector.backbone: weights {self.weights!r} is neither a file nor one of torchvision's {known} "
                f"for {self.name}. To load the weights of a whole detector, use model.init_from."
            )
        state = (
            fetch_torchvision_state(member) if member is not None else read_state_dict(self.weights, "backbone.weights")
        )
        renamed = {}
        for key, value in state.items():
            theirs = next((prefix for prefix in self._prefixes if key.startswith(f"{prefix}.")), None)
            if theirs is None:
                renamed[key] = value  # a tensor with an unknown name: check_fit() reports it as unexpected
            elif (ours := self._prefixes[theirs]) is not None:
                renamed[ours + key.removeprefix(theirs)] = value
        whole = self.loadable()
        check_fit(whole.state_dict(), renamed, self.weights, self.name)
        whole.load_state_dict(renamed, strict=False)  # the file may lack BatchNorm's num_batches_tracked


class ResNetBackbone(TorchvisionBackbone):
    """ResNet-18/34/50/101 and ResNeXt-50/101 of torchvision; the paper uses ResNet-50 and 101.

    Args:
        name: torchvision's name of the model.
        weights: a member of torchvision's weights enum (``IMAGENET1K_V1``), the path of a state dict with
            torchvision's names, or ``None``. The constructor does not load weights; call :meth:`load_weights`.
        norm: ``frozen`` for pre-trained backbones; ``batch`` or ``group`` for training from scratch.
        frozen_stages: number of stages to freeze, including the stem. The value 2 freezes conv1 and conv2_x, like
            Detectron's ``FREEZE_AT = 2``. The paper gives no number of frozen stages (DEVIATIONS.md "Frozen stages").
        convention: ``torchvision`` (RGB; bottlenecks have stride 2 in the 3x3 convolution), or ``caffe`` or
            ``detectron2`` (BGR; bottlenecks have stride 2 in the first 1x1 convolution). ``caffe`` and ``detectron2``
            subtract different pixel means.
        norm_eps: constant that normalisation layers add to the variance.

    Raises:
        InputError: if the arguments contradict each other; for example, ``norm`` is ``frozen`` without weights.
    """

    def __init__(
        self,
        name: ResNetName = "resnet50",
        weights: str | None = "IMAGENET1K_V1",
        norm: Norm = "frozen",
        frozen_stages: int = 2,
        convention: Convention = "torchvision",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(name, weights, norm, frozen_stages, convention)
        model = getattr(resnet, name)(weights=None, norm_layer=norm_layer(norm, norm_eps))
        stages = nn.ModuleList([model.layer1, model.layer2, model.layer3, model.layer4])
        if convention != "torchvision":
            for block in stages.modules():
                if isinstance(block, resnet.Bottleneck):
                    # The bottlenecks of Caffe and detectron2 have stride 2 in the first 1x1 convolution; torchvision's
                    # bottlenecks have stride 2 in the 3x3 convolution.
                    block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
        self._assemble(
            stem=Stem(model.conv1, model.bn1, model.relu, model.maxpool),
            stages=stages,
            channels=[64, 128, 256, 512] if name in ("resnet18", "resnet34") else [256, 512, 1024, 2048],
            prefixes={"conv1": "stem.0", "bn1": "stem.1", "fc": None}
            | {f"layer{i + 1}": f"stages.{i}" for i in range(4)},
        )


class Stem(nn.Sequential):
    """The first layers of a ResNet. On a CPU, channels-last memory format makes these layers twice as fast."""

    def forward(self, input: Tensor) -> Tensor:
        """Compute ``(N, 64, H / 4, W / 4)`` from the network input ``(N, 3, H, W)``."""
        learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
        if input.device.type != "cpu" or learns:  # channels-last makes computing weight gradients six times slower
            return super().forward(input)
        return super().forward(input.contiguous(memory_format=torch.channels_last)).contiguous()
