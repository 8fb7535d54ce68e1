"""Bottom-up pathway (FPN §3): a classification network that hands out its stage outputs c2..c5.

Shape shorthand: N images, H x W padded input size, s_k stride of level k, C_k channels of c_k.

A trunk *declares* the channels and strides of its outputs; nothing else in the project computes a stride
(the paper's trunks have strides 4, 8, 16, 32; the narrow one for CPUs has 2, 4, 8, 16).

It also owns the preprocessing its weights were trained with (``convention``), so that weights, mean, standard
deviation, channel order and the place of the stride can only be chosen together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights, resnet
from torchvision.ops import FrozenBatchNorm2d

from fpn_lightning.errors import InputError
from fpn_lightning.structures import ImageBatch

Norm = Literal["frozen", "batch", "group"]
Convention = Literal["torchvision", "caffe"]

# RGB in [0, 1] for torchvision's weights; BGR in [0, 255] for the Caffe weights the paper started from.
PIXEL_MEAN: dict[str, tuple[float, float, float]] = {
    "torchvision": (0.485 * 255, 0.456 * 255, 0.406 * 255),
    "caffe": (102.9801, 115.9465, 122.7717),
}
PIXEL_STD: dict[str, tuple[float, float, float]] = {
    "torchvision": (0.229 * 255, 0.224 * 255, 0.225 * 255),
    "caffe": (1.0, 1.0, 1.0),
}


def norm_layer(norm: Norm) -> Callable[[int], nn.Module]:
    """Return the constructor of a normalisation layer.

    Args:
        norm: ``frozen`` (statistics and affine fixed, as ResNet App. A fine-tunes), ``batch`` or ``group``
            (for training from scratch; 32 groups, fewer where 32 does not divide the channels).
    """
    if norm == "frozen":
        return FrozenBatchNorm2d
    if norm == "batch":
        return nn.BatchNorm2d
    return lambda channels: nn.GroupNorm(math.gcd(32, channels), channels)


class Backbone(nn.Module):
    """A trunk: what it declares, its preprocessing and its optional pre-trained weights.

    Subclasses set ``channels`` and ``strides`` and implement :meth:`features`.

    Attributes:
        channels: channels C_k of each output, ``{"c2": C_2, ...}``.
        strides: stride s_k of each output in network-input pixels, ``{"c2": s_2, ...}``.
        convention: whose preprocessing the trunk applies.
        weights: what :meth:`load_weights` loads, ``None`` for training from scratch.
    """

    channels: dict[str, int]
    strides: dict[str, int]

    def __init__(self, convention: Convention = "torchvision", weights: str | None = None) -> None:
        super().__init__()
        self.convention = convention
        self.weights = weights
        # Not persistent: they follow from `convention`, and a checkpoint must not be able to contradict it.
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN[convention]).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD[convention]).view(3, 1, 1), persistent=False)

    def normalize(self, images: ImageBatch) -> Tensor:
        """Turn padded uint8 RGB images into the network input.

        Args:
            images: ``pixels`` uint8 ``(N, 3, H, W)``.

        Returns:
            ``(N, 3, H, W)`` in the dtype of the trunk's buffers. Padding is exactly 0 *after* normalisation, so that
            it looks like the mean colour to the trunk whatever shares the batch.
        """
        mean, std = self.get_buffer("pixel_mean"), self.get_buffer("pixel_std")
        pixels = images.pixels.to(mean.dtype)
        if self.convention == "caffe":
            pixels = pixels.flip(1)
        pixels = (pixels - mean) / std
        rows = torch.arange(pixels.shape[2], device=pixels.device)
        columns = torch.arange(pixels.shape[3], device=pixels.device)
        inside_rows = rows[None, :] < images.sizes[:, 0, None]  # (N, H)
        inside_columns = columns[None, :] < images.sizes[:, 1, None]  # (N, W)
        inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]  # (N, 1, H, W)
        return pixels.masked_fill_(~inside, 0)

    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the stage outputs.

        Args:
            pixels: normalised input ``(N, 3, H, W)``.

        Returns:
            ``{"c2": (N, C_2, ceil(H / s_2), ceil(W / s_2)), ...}``, finest first.
        """
        raise TypeError(f"{type(self).__name__} is not a trunk: it does not implement features()")

    def forward(self, images: ImageBatch) -> dict[str, Tensor]:
        """Normalise a batch and return its stage outputs; see :meth:`normalize` and :meth:`features`."""
        return self.features(self.normalize(images))

    def download_weights(self) -> None:
        """Fetch pre-trained weights into torch's cache, so that one process does it for all."""

    def load_weights(self) -> None:
        """Load the pre-trained weights named by ``weights``; does nothing where it is ``None``."""


_TORCHVISION_PARTS = {"conv1": "stem.0", "bn1": "stem.1"} | {f"layer{i + 1}": f"stages.{i}" for i in range(4)}


class ResNetBackbone(Backbone):
    """ResNet-18/34/50/101 (the paper's trunks are 50 and 101), from torchvision.

    Args:
        name: which ResNet.
        weights: a member of torchvision's weights enum (``IMAGENET1K_V1``), the path of a state dict with
            torchvision's names, or ``None``. Loaded by :meth:`load_weights`, never by the constructor.
        norm: ``frozen`` for pre-trained trunks; ``batch`` or ``group`` from scratch.
        frozen_stages: how many stages stay as they were loaded, the stem counting as one: 2 freezes conv1 and
            conv2_x, as Detectron's ``FREEZE_AT = 2`` (the paper does not say; DEVIATIONS.md "Frozen stages").
        convention: ``torchvision`` (RGB, stride in the 3x3) or ``caffe`` (BGR, stride in the first 1x1).

    Raises:
        InputError: if the arguments do not fit together.
    """

    def __init__(
        self,
        name: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50",
        weights: str | None = "IMAGENET1K_V1",
        norm: Norm = "frozen",
        frozen_stages: int = 2,
        convention: Convention = "torchvision",
    ) -> None:
        super().__init__(convention, weights)
        if norm == "frozen" and weights is None:
            raise InputError(
                "backbone: norm 'frozen' without weights would freeze untrained statistics. "
                "Set norm to 'batch' or 'group', or name weights."
            )
        if weights is not None and norm == "group":
            raise InputError("backbone: norm 'group' has no place for the BatchNorm statistics of pre-trained weights.")
        if weights is None and frozen_stages > 0:
            raise InputError("backbone: frozen_stages > 0 without weights would freeze random filters. Set it to 0.")
        if weights in get_model_weights(name).__members__ and convention != "torchvision":
            raise InputError(f"backbone: weights {weights} are torchvision's; convention must be 'torchvision'.")
        if not 0 <= frozen_stages <= 5:
            raise InputError(f"backbone: frozen_stages must lie in 0..5 (stem, conv2..conv5), not {frozen_stages}.")
        self.name = name
        self.frozen_stages = frozen_stages
        trunk = getattr(resnet, name)(weights=None, norm_layer=norm_layer(norm))
        self.stem = nn.Sequential(trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool)
        self.stages = nn.ModuleList([trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4])
        if convention == "caffe":
            _move_stride_to_first_conv(self.stages)
        widths = [64, 128, 256, 512] if name in ("resnet18", "resnet34") else [256, 512, 1024, 2048]
        self.channels = {f"c{k}": width for k, width in zip(range(2, 6), widths, strict=True)}
        self.strides = {f"c{k}": 2**k for k in range(2, 6)}
        for part in self._frozen_parts():
            part.requires_grad_(False)

    def _frozen_parts(self) -> list[nn.Module]:
        return [self.stem, *self.stages][: self.frozen_stages]

    def train(self, mode: bool = True) -> ResNetBackbone:
        """Switch the mode; frozen stages stay in evaluation mode, or live BatchNorm would still drift there."""
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return c2..c5, the outputs of the last residual block of each stage (FPN §3)."""
        x = self.stem(pixels)
        outputs = {}
        for name, stage in zip(self.channels, self.stages, strict=True):
            x = stage(x)
            outputs[name] = x
        return outputs

    def download_weights(self) -> None:
        """Fetch enum weights into torch's cache; local files need nothing."""
        if self.weights in get_model_weights(self.name).__members__:
            get_model_weights(self.name)[self.weights].get_state_dict(
                progress=True, check_hash=True, weights_only=True, map_location="cpu"
            )

    def load_weights(self) -> None:
        """Load the named weights; every missing or unexpected tensor outside the classifier is an error.

        Raises:
            InputError: if the file is missing or does not fit, naming the file and the tensors.
        """
        if self.weights is None:
            return
        enum = get_model_weights(self.name)
        if self.weights in enum.__members__:
            state = enum[self.weights].get_state_dict(
                progress=True, check_hash=True, weights_only=True, map_location="cpu"
            )
        elif Path(self.weights).is_file():
            state = torch.load(self.weights, map_location="cpu", weights_only=True)
        else:
            raise InputError(
                f"backbone: weights {self.weights!r} is neither a file nor one of torchvision's "
                f"{sorted(enum.__members__)} for {self.name}."
            )
        self._load_torchvision_state(state)

    def _load_torchvision_state(self, state: dict[str, Tensor]) -> None:
        renamed = {}
        for key, value in state.items():
            if key.startswith("fc.") or key.endswith("num_batches_tracked"):
                continue
            head, _, rest = key.partition(".")
            prefix = {"conv1": "stem.0", "bn1": "stem.1", **{f"layer{i + 1}": f"stages.{i}" for i in range(4)}}.get(
                head
            )
            renamed[f"{prefix}.{rest}" if prefix else key] = value
        wanted = {key: value for key, value in self.state_dict().items() if not key.endswith("num_batches_tracked")}
        problems = [f"missing {key}" for key in wanted.keys() - renamed.keys()]
        problems += [f"unexpected {key}" for key in renamed.keys() - wanted.keys()]
        problems += [
            f"shape of {key}: {tuple(renamed[key].shape)} in the file, {tuple(wanted[key].shape)} in the model"
            for key in wanted.keys() & renamed.keys()
            if renamed[key].shape != wanted[key].shape
        ]
        if problems:
            listing = "; ".join(sorted(problems)[:8]) + ("; …" if len(problems) > 8 else "")
            raise InputError(f"backbone: weights {self.weights!r} do not fit {self.name}: {listing}")
        self.load_state_dict(renamed, strict=False)


def _move_stride_to_first_conv(stages: nn.ModuleList) -> None:
    """Put the stride of each bottleneck into its first 1x1, where the Caffe weights expect it."""
    for block in (module for module in stages.modules() if isinstance(module, resnet.Bottleneck)):
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
