"""Backbones from timm (PyTorch Image Models): any model that has maps of several strides (not in the paper).

timm is optional and is installed by ``pip install 'fpn_lightning[timm]'``. When a model is built, a forward pass checks
the channels and strides that timm declares.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones.base import Backbone
from fpn_lightning.models.backbones.folding import fold_frozen_norms
from fpn_lightning.models.backbones.published import check_fit
from fpn_lightning.state_dicts import read_state_dict


class TimmBackbone(Backbone):
    """A model of timm as a backbone; c_k is the model's last map with stride 2^k.

    Pixels are normalised with timm's mean and standard deviation. Dropout and stochastic depth are switched off, so
    that a training step depends only on seed, step and images.

    Args:
        model_name: timm's name of the model, with or without the tag of its weights, as in ``resnet18.a1_in1k``.
        weights: ``pretrained`` for timm's weights of ``model_name``, the path of a state dict with timm's names
            (``.safetensors`` or written by ``torch.save``), or ``None``. The constructor does not load weights;
            call :meth:`load_weights`.
        norm: ``frozen`` (needs pre-trained weights) or ``batch`` for models with BatchNorm; ``None`` for other models.
        map_strides: strides of the maps that become outputs of the backbone, ascending powers of two.
        frozen_stages: k to freeze all layers on which output c_k depends, including their BatchNorm statistics. Here, k
            is a level, not a number of stages as for other backbones. The value 0 freezes no layer.

    Raises:
        InputError: if timm is not installed or does not have the model, if the model has no map with one of
            ``map_strides`` or accepts only one image size, or if the arguments contradict each other.
    """

    def __init__(
        self,
        model_name: str,
        weights: str | None = None,
        norm: Literal["frozen", "batch"] | None = None,
        map_strides: Sequence[int] = (4, 8, 16, 32),
        frozen_stages: int = 0,
    ) -> None:
        super().__init__("torchvision", weights)
        ascending = list(map_strides) == sorted(set(map_strides))
        if not map_strides or not ascending or any(stride < 1 or stride & (stride - 1) for stride in map_strides):
            raise InputError(
                f"model.detector.backbone: map_strides is {list(map_strides)}. Set map_strides to "
                "ascending powers of two."
            )
        self.model_name = model_name
        timm = import_timm()
        body = self._create()
        info = body.feature_info
        # A dict from each stride of the model to the index of the last map with this stride.
        index_at = dict(zip(info.reduction(), info.out_indices, strict=True))
        if not index_at.keys() >= set(map_strides):
            raise InputError(
                f"model.detector.backbone: timm's {model_name} has maps at strides {sorted(index_at)}, but "
                f"map_strides is {list(map_strides)}. Use another model or other strides."
            )
        self._out_indices = tuple(index_at[stride] for stride in map_strides)
        if self._out_indices != tuple(info.out_indices):
            body = self._create(out_indices=self._out_indices)  # a model without later layers
        for module in body.modules():
            if isinstance(module, timm.layers.DropPath):
                module.drop_prob = 0.0
            elif isinstance(module, nn.Dropout):
                module.p = 0.0
        body = self._apply_norm(body, norm)
        names = [f"c{stride.bit_length() - 1}" for stride in map_strides]
        self.channels = dict(zip(names, body.feature_info.channels(), strict=True))
        self.strides = dict(zip(names, map_strides, strict=True))
        self.pixel_mean = 255 * torch.tensor(body.pretrained_cfg["mean"]).view(3, 1, 1)
        self.pixel_std = 255 * torch.tensor(body.pretrained_cfg["std"]).view(3, 1, 1)
        self.body: nn.Module = body
        try:
            self.check_declared(2 * map_strides[-1], 3 * map_strides[-1])
        except InputError:
            raise
        except Exception as error:  # models that accept only one image size raise various exceptions
            raise InputError(
                f"model.detector.backbone: timm's {model_name} accepts only one image size ({error}). Use another "
                "model."
            ) from error
        if frozen_stages:
            self._freeze(frozen_stages)

    def _freeze(self, level: int) -> None:
        """Freeze all parameters on which the map of a level depends."""
        if self.weights is None:
            raise InputError(
                "model.detector.backbone: frozen_stages > 0 without weights would freeze random filters. "
                "Set frozen_stages to 0, or set weights to pre-trained weights."
            )
        if f"c{level}" not in self.channels:
            levels = ", ".join(name[1:] for name in self.channels)
            raise InputError(
                f"model.detector.backbone: frozen_stages is {level}. Set frozen_stages to 0, or to k to freeze all "
                f"layers up to c_k; k has to be one of {levels}."
            )
        parameters = [parameter for parameter in self.body.parameters() if parameter.requires_grad]
        side = 2 * max(self.strides.values())
        feature = self.eval().features(torch.zeros(1, 3, side, side))[f"c{level}"]
        self.train()
        gradients = torch.autograd.grad(feature.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is None)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; frozen BatchNorm stays in evaluation mode and keeps its statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and any(not p.requires_grad for p in module.parameters()):
                module.eval()
        return self

    def _apply_norm(self, body: Any, norm: str | None) -> Any:
        has_batchnorm = any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
        if has_batchnorm and norm is None:
            raise InputError(
                f"model.detector.backbone: timm's {self.model_name} has BatchNorm; set norm to 'frozen' or 'batch'."
            )
        if not has_batchnorm and norm is not None:
            raise InputError(
                f"model.detector.backbone: timm's {self.model_name} has no BatchNorm; set norm to null, not {norm!r}."
            )
        self.check_norm(norm)
        if norm != "frozen":
            return body
        body = import_timm().layers.freeze_batch_norm_2d(body)
        if self._folding_keeps(body):
            fold_frozen_norms(body, import_timm())
        return body

    @torch.no_grad()
    def _folding_keeps(self, body: nn.Module) -> bool:
        """Return whether folding BatchNorm into convolutions leaves the maps of a noise image unchanged.

        For a few models, folding would give wrong maps, because another layer lies between a convolution and its
        BatchNorm. These models are not folded.
        """
        generator = torch.Generator().manual_seed(0)
        tried = copy.deepcopy(body).double().eval()
        for name, buffer in tried.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))
        folded = copy.deepcopy(tried)
        fold_frozen_norms(folded, import_timm())
        image = torch.randn(1, 3, 96, 96, generator=generator, dtype=torch.float64)
        try:
            maps = zip(tried(image), folded(image), strict=True)
        except Exception:  # the model accepts only one image size: TimmBackbone raises an InputError for it later
            return False
        return all(torch.allclose(a, b, rtol=1e-6, atol=1e-9 * float(a.abs().max())) for a, b in maps)

    def _create(self, **options: Any) -> Any:
        """Build the feature extractor by ``timm.create_model``; ``options`` are arguments of ``create_model``."""
        timm = import_timm()
        try:
            return timm.create_model(self.model_name, features_only=True, **options)
        except Exception as error:  # timm has no exception class of its own
            similar = [] if timm.is_model(self.model_name) else get_close_matches(self.model_name, timm.list_models())
            raise InputError(
                f"model.detector.backbone: timm {timm.__version__} cannot build {self.model_name!r} as a backbone: "
                f"{error}" + (f". Similar names: {', '.join(similar)}." if similar else "")
            ) from error

    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the maps at the declared strides, finest first."""
        return dict(zip(self.channels, self.body(pixels), strict=True))

    def download_weights(self) -> None:
        """Download timm's weights into timm's cache; do nothing if ``weights`` is a path or ``None``."""
        if self.weights == "pretrained":
            self._create(pretrained=True)

    def load_weights(self) -> None:
        """See :meth:`Backbone.load_weights`; tensors of timm's classification layers are ignored."""
        if self.weights is None:
            return
        from_file = None
        if self.weights != "pretrained":
            if not Path(self.weights).is_file():
                raise InputError(
                    f"model.detector.backbone: weights {self.weights!r} is neither a file nor 'pretrained'."
                )
            from_file = {"state_dict": self._read_fitting_state(self.weights), "source": ""}
        # create_model() loads the weights into timm's full model, and then turns this model into a feature extractor,
        # whose tensors have the names of `self.body`.
        loaded = self._create(out_indices=self._out_indices, pretrained=True, pretrained_cfg_overlay=from_file)
        self.body.load_state_dict(loaded.state_dict())

    def _read_fitting_state(self, path: str) -> dict[str, Tensor]:
        """Read a state dict, and check that its tensors fit the whole model; timm itself ignores unexpected tensors."""
        model = import_timm().create_model(self.model_name)
        classifiers = model.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{head}." for head in ((classifiers,) if isinstance(classifiers, str) else classifiers))
        state = read_state_dict(path, "backbone.weights")
        ours, theirs = (
            {key: value for key, value in tensors.items() if not key.startswith(heads)}
            for tensors in (model.state_dict(), state)
        )
        check_fit(ours, theirs, path, self.model_name)
        return state


def import_timm() -> ModuleType:
    """Return the package timm, or raise an InputError that says how to install timm."""
    try:
        import timm
    except ImportError as error:
        raise InputError(
            "model.detector.backbone: this backbone needs timm. Run: pip install 'fpn_lightning[timm]'"
        ) from error
    return timm
