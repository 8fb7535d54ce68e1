"""Interface of backbones (the bottom-up pathway of FPN §3): outputs c2..c5, strides, preprocessing and weights.

Shape shorthand: N images, H x W padded input size, s_k stride of level k, C_k channels of c_k.

A backbone *declares* the channels and strides of its outputs. The pyramid and the heads use the declared channels and
strides. The outputs c2..c5 of the paper's backbones have strides 4, 8, 16, 32. The outputs of ``NarrowResNet``, a
backbone for CPUs, have strides 2, 4, 8, 16.

``convention`` names the project that trained the weights of a backbone. The convention determines the mean and standard
deviation of pixels, the order of colour channels, and which convolution of a ResNet bottleneck has stride 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from fpn_lightning.errors import InputError
from fpn_lightning.structures import ImageBatch

Norm = Literal["frozen", "batch", "group"]
Convention = Literal["torchvision", "caffe", "detectron2"]

# torchvision's weights need RGB pixels in [0, 1]. The paper's Caffe weights and detectron2's weights need BGR pixels in
# [0, 255]. detectron2 subtracts the same mean as torchvision; Caffe subtracts another mean.
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
    """Return a function that takes a number of channels and builds a normalisation layer.

    Args:
        norm: ``frozen`` (BatchNorm with fixed statistics and affine parameters, as in ResNet App. A), ``batch``
            (BatchNorm), or ``group`` (GroupNorm with gcd(32, channels) groups, for training from scratch).
        eps: constant added to the variance.
    """
    if norm == "frozen":
        return partial(FrozenBatchNorm2d, eps=eps)
    if norm == "batch":
        return partial(nn.BatchNorm2d, eps=eps)
    return lambda channels: nn.GroupNorm(math.gcd(32, channels), channels, eps)


class Backbone(nn.Module):
    """Base class of backbones.

    Subclasses set ``channels`` and ``strides`` and implement :meth:`features`.

    Attributes:
        channels: channels C_k of each output, ``{"c2": C_2, ...}``.
        strides: stride s_k of each output in network-input pixels, ``{"c2": s_2, ...}``.
        convention: project whose preprocessing (mean and standard deviation of pixels, order of colours) is applied.
        weights: name or path of the pre-trained weights that :meth:`load_weights` loads, or ``None``.
    """

    channels: dict[str, int]
    strides: dict[str, int]

    def __init__(self, convention: Convention = "torchvision", weights: str | None = None) -> None:
        super().__init__()
        self.convention = convention
        self.weights = weights
        # Checkpoints do not contain pixel_mean and pixel_std, because only the configuration may set these values.
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN[convention]).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD[convention]).view(3, 1, 1), persistent=False)

    def check_norm(self, norm: str | None) -> None:
        """Raise an InputError if ``norm`` is ``frozen``, but there are no pre-trained BatchNorm statistics."""
        if norm == "frozen" and self.weights is None:
            raise InputError(
                "model.detector.backbone: norm 'frozen' without weights would freeze untrained BatchNorm statistics. "
                "Set norm to another value, such as 'batch', or set weights to pre-trained weights."
            )

    def normalize(self, images: ImageBatch) -> Tensor:
        """Compute the network input from padded uint8 RGB images.

        Args:
            images: ``pixels`` uint8 ``(N, 3, H, W)``.

        Returns:
            ``(N, 3, H, W)`` in the dtype of the backbone's buffers. Padding is exactly 0 *after* normalisation; 0 is
            the mean colour.
        """
        mean, std = self.get_buffer("pixel_mean"), self.get_buffer("pixel_std")
        pixels = images.pixels.to(mean.dtype, copy=True)
        if self.convention != "torchvision":
            pixels = pixels.flip(1)
        # sub_() and div_() work in place, because a copy of the batch would take as long as decoding the images.
        pixels = pixels.sub_(mean).div_(std)
        for image, geometry in zip(pixels, images.geometries, strict=True):
            height, width = geometry.size
            image[:, height:] = 0
            image[:, :, width:] = 0
        return pixels

    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the outputs c_k from normalised pixels.

        Args:
            pixels: normalised input ``(N, 3, H, W)``.

        Returns:
            ``{"c2": (N, C_2, ceil(H / s_2), ceil(W / s_2)), ...}``, finest first.
        """
        raise NotImplementedError

    def forward(self, images: ImageBatch) -> dict[str, Tensor]:
        """Normalise a batch and compute the outputs c_k; see :meth:`normalize` and :meth:`features`."""
        return self.features(self.normalize(images))

    def keep(self, used: Sequence[str]) -> None:
        """Drop the layers after the coarsest output that the pyramid reads.

        The detector calls this method before weights are loaded. Unused layers cost time, and DDP would wait for their
        gradients. This base class drops nothing.

        Args:
            used: names of the outputs that the pyramid reads.
        """

    def take_stage(self, name: str) -> nn.Module:
        """Remove and return the last stage, such as a ResNet's conv5, for a box head (FPN §5.2).

        The backbone no longer runs the stage, but :meth:`load_weights` still loads the weights of the stage.

        Args:
            name: name of the stage's output, such as ``c5``.

        Raises:
            InputError: if the backbone does not consist of stages.
        """
        raise InputError(
            f"model.detector.box_head 'conv5' needs a backbone that has stages, such as a ResNet; "
            f"{type(self).__name__} has no stages. Set box_head to '2fc'."
        )

    def download_weights(self) -> None:
        """Download the pre-trained weights into a cache; only one of several processes calls this method."""

    def load_weights(self) -> None:
        """Load the pre-trained weights that ``weights`` names; load nothing if ``weights`` is ``None``.

        Raises:
            InputError: if the weights are missing, or if names or shapes of their tensors differ from the backbone's.
        """

    @torch.no_grad()
    def check_declared(self, height: int, width: int) -> None:
        """Run an image of zeros through the backbone, and compare the outputs with the declared channels and strides.

        Args:
            height: height of the image, px.
            width: width of the image, px.

        Raises:
            InputError: if names, channels or sizes of the outputs differ from the declared values; the message states
                the declared and the actual values.
        """
        training = self.training
        outputs = self.eval().features(self.get_buffer("pixel_mean").new_zeros(1, 3, height, width))
        self.train(training)
        actual = [(name, *output.shape[1:]) for name, output in outputs.items()]
        declared = [(c, self.channels[c], -(-height // s), -(-width // s)) for c, s in self.strides.items()]
        if actual != declared:
            raise InputError(
                f"model.detector.backbone: {type(self).__name__} declares {declared} (name, channels, height, width) "
                f"for an image of {height} x {width}, but its outputs are {actual}. Correct channels and strides."
            )


class StagedBackbone(Backbone):
    """A backbone that consists of a stem and a chain of stages, with one output per stage.

    Subclasses build ``stem`` and ``stages``, and then call :meth:`freeze`.

    Args:
        convention: project whose preprocessing (mean and standard deviation of pixels, order of colours) is applied.
        weights: name or path of the pre-trained weights, or ``None``.
        frozen_stages: number of stages to freeze, including the stem; 1 freezes only the stem.
    """

    stem: nn.Module
    stages: nn.ModuleList

    def __init__(
        self, convention: Convention = "torchvision", weights: str | None = None, frozen_stages: int = 0
    ) -> None:
        super().__init__(convention, weights)
        self.frozen_stages = frozen_stages
        # The stages that take_stage() removed; load_weights() still loads the weights of these stages. torch does not
        # register modules in a tuple, so only the box head registers the removed stages.
        self._taken: tuple[nn.Module, ...] = ()

    def _frozen_parts(self) -> list[nn.Module]:
        return [self.stem, *self.stages][: self.frozen_stages]

    def freeze(self) -> None:
        """Exclude the first ``frozen_stages`` stages from training.

        Raises:
            InputError: if ``frozen_stages`` is not in 0..5, or is above 0 although ``weights`` is ``None``.
        """
        if self.weights is None and self.frozen_stages > 0:
            raise InputError(
                "model.detector.backbone: frozen_stages > 0 without weights would freeze random filters. "
                "Set frozen_stages to 0, or set weights to pre-trained weights."
            )
        if not 0 <= self.frozen_stages <= 5:
            raise InputError(
                f"model.detector.backbone: frozen_stages is {self.frozen_stages}; it has to be in 0..5, because "
                "there are five stages: the stem, c2, c3, c4 and c5."
            )
        for part in self._frozen_parts():
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode, but keep frozen stages in evaluation mode.

        In evaluation mode, BatchNorm does not update its running statistics.
        """
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the output of each stage, c2..c5 (FPN §3)."""
        outputs, x = {}, self.stem(pixels)
        for name, stage in zip(self.channels, self.stages, strict=True):
            outputs[name] = x = stage(x)
        return outputs

    def keep(self, used: Sequence[str]) -> None:
        """Drop the stages after the coarsest of the outputs that ``used`` names.

        Raises:
            InputError: if the box head runs the last stage, but the pyramid does not read the input of this stage.
        """
        names = list(self.channels)
        count = max(names.index(name) for name in used) + 1
        if self._taken and count < len(self.stages):
            raise InputError(
                f"model.detector.backbone: the box head runs the stage after {names[-1]}, but the pyramid reads only "
                f"{', '.join(used)}. Use a pyramid that reads {names[-1]}."
            )
        self.stages = self.stages[:count]
        self.channels = {name: self.channels[name] for name in names[:count]}
        self.strides = {name: self.strides[name] for name in names[:count]}

    def take_stage(self, name: str) -> nn.Module:
        """See :meth:`Backbone.take_stage`."""
        if name != list(self.channels)[-1]:
            raise InputError(
                f"model.detector.backbone: only the last stage of {list(self.channels)} can be moved into a box head, "
                f"not {name}."
            )
        stage = self.stages[-1]
        self.stages = self.stages[:-1]
        self._taken = (stage, *self._taken)
        del self.channels[name], self.strides[name]
        return stage

    def loadable(self) -> nn.Module:
        """Return a module with the stem and all stages, including removed stages; it is used for loading weights."""
        whole = nn.Module()
        whole.stem = self.stem
        whole.stages = nn.ModuleList([*self.stages, *self._taken])
        return whole
