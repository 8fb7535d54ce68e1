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


class TorchvisionBackbone(Backbone):
    """A classifier of torchvision cut into a stem and four stages, with its optional weights.

    Subclasses build their parts and hand them to :meth:`_assemble`.

    Args:
        name: torchvision's name of the model.
        weights: a member of torchvision's weights enum (``IMAGENET1K_V1``), the path of a state dict with
            torchvision's names, or ``None``. Loaded by :meth:`load_weights`, never by the constructor.
        norm: ``frozen`` for pre-trained trunks; ``batch`` or ``group`` from scratch; ``None`` where the model has no
            BatchNorm.
        frozen_stages: how many stages stay as they were loaded, the stem counting as one.
        convention: whose preprocessing the trunk applies.

    Raises:
        InputError: if the arguments do not fit together.
    """

    def __init__(
        self, name: str, weights: str | None, norm: Norm | None, frozen_stages: int, convention: Convention
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
        if not 0 <= frozen_stages <= 5:
            raise InputError(f"backbone: frozen_stages must lie in 0..5 (stem, c2..c5), not {frozen_stages}.")
        member = torchvision_weights(name, weights)
        if member is not None and convention != "torchvision":
            raise InputError(f"backbone: weights {weights} are torchvision's; convention must be 'torchvision'.")
        # vgg16 also has Caffe's filters, which torchvision feeds with another mean and standard deviation.
        if member is not None and (tuple(member.transforms().mean), tuple(member.transforms().std)) != (MEAN, STD):
            raise InputError(f"backbone: weights {weights} of {name} need another preprocessing. Use IMAGENET1K_V1.")
        self.name = name
        self.frozen_stages = frozen_stages

    def _assemble(
        self,
        stem: nn.Sequential,
        stages: Iterable[nn.Module],
        channels: Sequence[int],
        prefixes: dict[str, str | None],
        first_stride: int = 4,
    ) -> None:
        """Take the parts and freeze the first ``frozen_stages`` of them.

        Args:
            stem: everything before the stage of c2.
            stages: those of c2..c5.
            channels: of c2..c5.
            prefixes: torchvision's module name to ours, ``None`` for what a trunk leaves out.
            first_stride: stride of c2; each further stage doubles it.
        """
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.channels = {f"c{k}": count for k, count in enumerate(channels, start=2)}
        self.strides = {f"c{k}": first_stride * 2 ** (k - 2) for k in range(2, 6)}
        self._prefixes = prefixes
        for part in self._frozen_parts():
            part.requires_grad_(False)

    def _frozen_parts(self) -> list[nn.Module]:
        return [self.stem, *self.stages][: self.frozen_stages]

    def train(self, mode: bool = True) -> Self:
        """Switch the mode; frozen stages stay in evaluation mode, or live BatchNorm would still drift there."""
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return c2..c5, the outputs of the stages (FPN §3)."""
        x = self.stem(pixels)
        outputs = {}
        for name, stage in zip(self.channels, self.stages, strict=True):
            x = stage(x)
            outputs[name] = x
        return outputs

    def download_weights(self) -> None:
        """Fetch enum weights into torch's cache; local files need nothing."""
        member = torchvision_weights(self.name, self.weights)
        if member is not None:
            fetch_torchvision_state(member)

    def load_weights(self) -> None:
        """Load the named weights; every missing or unexpected tensor outside the classifier is an error.

        Raises:
            InputError: if the file is missing or does not fit, naming the file and the tensors.
        """
        if self.weights is None:
            return
        member = torchvision_weights(self.name, self.weights)
        if member is None and not Path(self.weights).is_file():
            known = sorted(get_model_weights(self.name).__members__)
            raise InputError(
                f"backbone: weights {self.weights!r} is neither a file nor one of torchvision's {known} for {self.name}."
            )
        state = fetch_torchvision_state(member) if member is not None else read_state_dict(self.weights)
        load_torchvision(self, state, self._prefixes, self.weights, self.name)
