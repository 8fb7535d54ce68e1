"""Checkpoints of this project: older ones are read, and those of other models are rejected."""

from __future__ import annotations

import pytest
import torch

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones import NarrowResNet
from fpn_lightning.models.detector import Anchors, Detector
from fpn_lightning.models.pyramids import SingleMap
from fpn_lightning.stages.rpn import RPNStage
from fpn_lightning.weights.checkpoint import detector_state, read_checkpoint
from fpn_lightning.weights.init_from import load_weights


def make_stage(seed: int, **options) -> RPNStage:
    torch.manual_seed(seed)
    return RPNStage(Detector(NarrowResNet(), roi_heads=None, channels=8, **options))


def old_state(stage: RPNStage) -> dict[str, torch.Tensor]:
    """A stage's tensors under the names of older checkpoints: without ``detector.``."""
    state = {name.removeprefix("detector."): value for name, value in stage.state_dict().items()}
    assert "backbone.stem.0.weight" in state
    return state


def same(one: RPNStage, other: RPNStage) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_weights_of_older_checkpoints_are_read(tmp_path):
    source, stage = make_stage(0), make_stage(1)
    torch.save({"state_dict": old_state(source)}, tmp_path / "old.ckpt")
    assert not same(stage, source)
    load_weights(stage.detector, str(tmp_path / "old.ckpt"))
    assert same(stage, source)


def test_older_and_newer_checkpoints_read_alike(tmp_path):
    source = make_stage(0)
    for name, state in (("old", old_state(source)), ("new", source.state_dict())):
        torch.save({"state_dict": state, "global_step": 3}, tmp_path / f"{name}.ckpt")
    old, new = (read_checkpoint(str(tmp_path / f"{name}.ckpt"), "--ckpt_path") for name in ("old", "new"))
    assert old["state_dict"].keys() == new["state_dict"].keys() == source.state_dict().keys()
    assert old["global_step"] == 3
    assert detector_state(new).keys() == source.detector.state_dict().keys()


def test_older_checkpoints_are_given_to_the_trainer():
    # What Lightning does for --ckpt_path: the hook, then a strict load.
    source, stage = make_stage(0), make_stage(1)
    checkpoint = {"state_dict": old_state(source)}
    stage.on_load_checkpoint(checkpoint)
    stage.load_state_dict(checkpoint["state_dict"])
    assert same(stage, source)


def test_another_model_is_rejected_before_anything_is_loaded():
    stage = make_stage(0)
    one_map = {"pyramid": lambda *given: SingleMap(*given, level=4), "anchors": Anchors([[0, 1, 2, 3, 4]])}
    other = make_stage(1, **one_map)
    with pytest.raises(InputError, match=r"another model.*stages\.3\S+ is missing, .* more\. Use the config\.yaml"):
        stage.on_load_checkpoint({"state_dict": other.state_dict()})


def test_the_weights_of_a_wrapped_model_are_no_checkpoint_of_a_run():
    stage = make_stage(0)
    wrapped = {f"module.{name}": tensor for name, tensor in stage.state_dict().items()}
    with pytest.raises(
        InputError, match=r"start with module\., the prefix of a wrapped model.*: --model\.init_from PATH"
    ):
        stage.on_load_checkpoint({"state_dict": wrapped})


def test_heads_that_are_missing_or_unused_are_named():
    with pytest.raises(InputError, match=r"roi_heads: RPNStage does not use this head\. Set roi_heads to null"):
        RPNStage(Detector(NarrowResNet(), channels=8))
    with pytest.raises(InputError, match=r"model\.detector\.rpn is null, but RPNStage needs this head"):
        RPNStage(Detector(NarrowResNet(), rpn=None, roi_heads=None, channels=8))


def test_a_checkpoint_of_a_run_that_diverged_is_rejected(tmp_path):
    state = make_stage(0).state_dict()
    state["detector.rpn.heads.0.conv.bias"][0] = torch.nan
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=r"last\.ckpt: detector\.rpn\S+bias has values that are not finite"):
        read_checkpoint(str(tmp_path / "last.ckpt"), "--ckpt_path")
