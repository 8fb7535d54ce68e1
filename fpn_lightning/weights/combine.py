"""Combines an RPN and a Fast R-CNN that share backbone and pyramid into one Faster R-CNN.

Run ``python -m fpn_lightning.weights.combine RPN_CHECKPOINT DETECTOR_CHECKPOINT OUT`` after steps 3 and 4 of the
training with shared features (Faster R-CNN §3.2; FPN Table 5). ``OUT`` is a checkpoint for the model of
``configs/table3/joint_fpn.yaml``. In one forward pass, this model predicts the same as the RPN followed by the Fast
R-CNN.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fpn_lightning.errors import InputError, complain
from fpn_lightning.files import check_free
from fpn_lightning.state_dicts import State, listed
from fpn_lightning.text import replace_unprintable, show
from fpn_lightning.weights.checkpoint import detector_state, read_checkpoint, stage_state, write_checkpoint

SHARED = ("backbone.", "pyramid.")
PARTS = {"RPN_CHECKPOINT": "rpn.", "DETECTOR_CHECKPOINT": "roi_heads."}


def combine(rpn: dict[str, Any], detector: dict[str, Any]) -> dict[str, Any]:
    """Combine the checkpoints of an RPN and of a Fast R-CNN.

    Args:
        rpn: checkpoint of an ``RPNStage``.
        detector: checkpoint of a ``FastRCNNStage`` with the same backbone and pyramid.

    Returns:
        A checkpoint of a ``FasterRCNNStage`` with the epoch and step of the Fast R-CNN, without optimiser state.

    Raises:
        InputError: if ``rpn`` has no RPN, if ``detector`` has no RoI heads, or if the two checkpoints differ in
            backbone or pyramid.
    """
    heads: State = {}
    for (name, prefix), checkpoint in zip(PARTS.items(), (rpn, detector), strict=True):
        head = _tensors(checkpoint, prefix)
        if not head:
            raise InputError(f"{name} has no tensor {prefix}*. Give the RPN's checkpoint first, then the Fast R-CNN's.")
        heads |= head
    shared, other = _tensors(detector, SHARED), _tensors(rpn, SHARED)
    differing = sorted(shared.keys() ^ other.keys())
    differing += sorted(name for name in shared.keys() & other.keys() if not _same(shared[name], other[name]))
    if rpn.get("parts") != detector.get("parts"):
        differing.append(f"{rpn.get('parts')} and {detector.get('parts')}")
    if differing:
        raise InputError(
            f"The two checkpoints do not share backbone and pyramid. Number of differences: {len(differing)} "
            f"({listed(differing)}). In steps 3 and 4 of the training with shared features, set model.init_from to the "
            "checkpoint of step 2 and model.freeze_shared to true."
        )
    kept = ("epoch", "global_step", "pytorch-lightning_version", "categories", "parts")
    return {key: detector[key] for key in kept if key in detector} | {"state_dict": stage_state(shared | heads)}


def _tensors(checkpoint: dict[str, Any], prefix: str | tuple[str, ...]) -> State:
    return {name: value for name, value in detector_state(checkpoint).items() if name.startswith(prefix)}


def _same(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and torch.equal(left, right)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fpn_lightning.weights.combine", description=__doc__)
    parser.add_argument("rpn", metavar="RPN_CHECKPOINT", help="checkpoint of the RPN, trained in step 3")
    parser.add_argument(
        "detector", metavar="DETECTOR_CHECKPOINT", help="checkpoint of the Fast R-CNN, trained in step 4"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the checkpoint to write")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    arguments = parser.parse_args(args)
    replace_unprintable()
    try:
        check_free(arguments.out, arguments.overwrite)
        combined = combine(
            read_checkpoint(arguments.rpn, "RPN_CHECKPOINT"),
            read_checkpoint(arguments.detector, "DETECTOR_CHECKPOINT"),
        )
        write_checkpoint(combined, arguments.out)
    except InputError as error:
        return complain(error)
    show(
        f"written to {arguments.out}. To predict with this model, run train.py predict with --ckpt_path "
        f"{arguments.out} and --config configs/table3/joint_fpn.yaml. Add the options for preset and backbone that the "
        "two checkpoints were trained with."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
