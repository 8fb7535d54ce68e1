"""What every trunk, the bottom-up pathway of FPN §3, promises: stage outputs c2..c5, strides, preprocessing, weights.

Shape shorthand: N images, H x W padded input size, s_k stride of level k, C_k channels of c_k.

A trunk *declares* the channels and strides of its outputs; nothing else in the project computes a stride
(the paper's trunks have strides 4, 8, 16, 32; the narrow one for CPUs has 2, 4, 8, 16).

It also owns the preprocessing its weights were trained with (``convention``), so that weights, mean, standard
deviation, channel order and the place of the stride can only be chosen together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from fpn_lightning.errors import InputError
from fpn_lightning.structures import ImageBatch

Norm = Literal["frozen", "batch", "group"]
Convention = Literal["torchvision", "caffe", "detectron2"]

# RGB in [0, 1] for torchvision's weights; BGR in [0, 255] for the Caffe weights the paper started from, and for
# detectron2's, which subtract ImageNet's mean as torchvision knows it.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PIXEL_MEAN: dict[str, tuple[float, ...]] = {
    "torchvision": tuple(255 * value for value in IMAGENET_MEAN),
    "caffe": (102.9801, 115.9465, 122.7717),
    "detectron2": (103.53, 116.28, 123.675),
}
PIXEL_STD: dict[str, tuple[float, ...]] = {
    "torchvision": tuple(255 * value for value in IMAGENET_STD),
    "caffe": (1.0, 1.0, 1.0),
    "detectron2": (1.0, 1.0, 1.0),
}


def norm_layer(norm: Norm, eps: float = 1e-5) -> Callable[[int], nn.Module]:
    """Return the constructor of a normalisation layer.

    Args:
        norm: ``frozen`` (statistics and affine fixed, as ResNet App. A fine-tunes), ``batch`` or ``group``
            (for training from scratch; 32 groups, fewer where 32 does not divide the channels).
        eps: added to the variance.
    """
    if norm == "frozen":
        return partial(FrozenBatchNorm2d, eps=eps)
    if norm == "batch":
        return partial(nn.BatchNorm2d, eps=eps)
    return lambda channels: nn.GroupNorm(math.gcd(32, channels), channels, eps)


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
        # jsonargparse turns the null of `--model.detector.backbone.weights null` into this word (not so in YAML files).
        self.weights = None if weights == "None" else weights
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
        if self.convention != "torchvision":
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
        raise NotImplementedError

    def forward(self, images: ImageBatch) -> dict[str, Tensor]:
        """Normalise a batch and return its stage outputs; see :meth:`normalize` and :meth:`features`."""
        return self.features(self.normalize(images))

    def keep(self, used: Sequence[str]) -> None:
        """Drop what lies behind the coarsest output a feature design reads, before the weights are loaded.

        A layer that no loss reaches would be counted, computed, and waited for by DDP. A trunk that cannot be cut
        leaves this as it is.

        Args:
            used: names of the outputs that are read.
        """

    def take_stage(self, name: str) -> nn.Module:
        """Hand the stage of the coarsest output over to a head, which runs it on regions (the conv5 head on C4).

        The trunk no longer has it; :meth:`load_weights` still fills it.

        Args:
            name: of that output.

        Raises:
            InputError: if the trunk is not made of stages.
        """
        raise InputError(
            f"model.box_head 'conv5' needs a trunk made of stages; {type(self).__name__} is none. Use 2fc."
        )

    def download_weights(self) -> None:
        """Fetch pre-trained weights into a cache, so that one process does it for all."""

    def load_weights(self) -> None:
        """Load the pre-trained weights named by ``weights``; does nothing where it is ``None``."""

    @torch.no_grad()
    def check_declared(self, height: int, width: int) -> None:
        """Run a black image through the trunk and compare the outputs with what it declares.

        Args:
            height: of the image, px.
            width: of the image, px.

        Raises:
            InputError: naming both, if names, channels or sizes differ.
        """
        training = self.training
        outputs = self.eval().features(self.get_buffer("pixel_mean").new_zeros(1, 3, height, width))
        self.train(training)
        found = [(name, *output.shape[1:]) for name, output in outputs.items()]
        declared = [(c, self.channels[c], -(-height // s), -(-width // s)) for c, s in self.strides.items()]
        if found != declared:
            raise InputError(
                f"backbone: {type(self).__name__} declares {declared} (name, channels, height, width) for an image of "
                f"{height} x {width}, but its outputs are {found}."
            )


class StagedBackbone(Backbone):
    """A trunk that is a stem and a chain of stages, one for each output."""

    stem: nn.Module
    stages: nn.ModuleList

    def __init__(self, convention: Convention = "torchvision", weights: str | None = None) -> None:
        super().__init__(convention, weights)
        # Not registered: the head that runs these stages owns their parameters; they are remembered for loading.
        self._taken: tuple[nn.Module, ...] = ()

    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the stages, c2..c5 (FPN §3)."""
        x = self.stem(pixels)
        outputs = {}
        for name, stage in zip(self.channels, self.stages, strict=True):
            x = stage(x)
            outputs[name] = x
        return outputs

    def keep(self, used: Sequence[str]) -> None:
        """Drop the stages behind the coarsest of ``used``.

        Raises:
            InputError: if a head has taken the stage behind one that would be dropped.
        """
        count = max(list(self.channels).index(name) for name in used) + 1
        if self._taken and count < len(self.stages):
            raise InputError(
                f"backbone: a head runs the stage behind {list(self.channels)[-1]}, so the pyramid has to read that "
                f"map; it reads {', '.join(used)}."
            )
        self.stages = self.stages[:count]
        names = list(self.channels)[:count]
        self.channels = {name: self.channels[name] for name in names}
        self.strides = {name: self.strides[name] for name in names}

    def take_stage(self, name: str) -> nn.Module:
        """See :meth:`Backbone.take_stage`."""
        if name != list(self.channels)[-1] or len(self.channels) < 2:
            raise InputError(f"backbone: {name} is not the coarsest of {list(self.channels)}; no other can be taken.")
        stage = self.stages[-1]
        self.stages = self.stages[:-1]
        self._taken = (stage, *self._taken)
        del self.channels[name], self.strides[name]
        return stage

    def loadable(self) -> nn.Module:
        """The trunk as its weights know it, with the stages that were taken."""
        whole = nn.Module()
        whole.stem = self.stem
        whole.stages = nn.ModuleList([*self.stages, *self._taken])
        return whole
