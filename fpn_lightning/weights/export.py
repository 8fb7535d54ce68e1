"""Exports a trained model to other programs: as one graph (onnx, torch), or as weights (torchvision, detectron2).

``python -m fpn_lightning.weights.export RUN_OR_CHECKPOINT OUT --format onnx`` writes a graph
(:mod:`fpn_lightning.weights.deployed`). The graph's input is ``image``, uint8 ``(H, W, 3)`` RGB, at least 2 x 2 px. The
graph's outputs are ``boxes``, ``scores`` and ``labels``. ``--format torch`` writes the same graph for
``torch.export.load``. :mod:`fpn_lightning.weights.torchvision` and :mod:`fpn_lightning.weights.detectron2` describe the
weight files of the other two formats.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fpn_lightning.errors import InputError, complain
from fpn_lightning.files import check_free, whole_file, write_whole
from fpn_lightning.text import replace_unprintable, show
from fpn_lightning.weights import detectron2, torchvision
from fpn_lightning.weights.checkpoint import detector_state, read_checkpoint
from fpn_lightning.weights.deployed import OUTPUTS, Deployed
from fpn_lightning.weights.loading import Model, checkpoint_of, load_model

PROJECTS = {"torchvision": torchvision.export, "detectron2": detectron2.export}
GRAPHS = ("onnx", "torch")
EXAMPLE = (120, 160, 3)  # shape of the image that torch.export traces; the graph accepts other sizes


def exported_program(model: Model) -> torch.export.ExportedProgram:
    """Export a model with ``torch.export``; height and width of the image are dynamic.

    Raises:
        InputError: see :class:`fpn_lightning.weights.deployed.Deployed`.
    """
    deployed = Deployed(model.detector.float().cpu(), model.data.transform, model.data.collate.size_divisor)
    size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hide warnings about the code of torch and torchvision
        example = torch.zeros(EXAMPLE, dtype=torch.uint8)
        return torch.export.export(deployed.eval().requires_grad_(False), (example,), dynamic_shapes=(size,))


def onnx_bytes(program: torch.export.ExportedProgram, categories: str) -> bytes:
    """Convert an exported program to the bytes of an ONNX file. ``categories`` (JSON text) is stored as metadata.

    Raises:
        InputError: if the packages onnx and onnxscript are not installed.
    """
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        raise InputError("--format onnx needs the packages onnx and onnxscript: pip install -e .[onnx]")
    from onnxscript import opset18 as op

    def max_roi_pool(maps: Any, rois: Any, spatial_scale: float, height: int, width: int) -> tuple[Any, Any]:
        pooled = op.MaxRoiPool(maps, rois, pooled_shape=(height, width), spatial_scale=spatial_scale)
        return pooled, pooled  # the second output of roi_pool is the argmax, which the graph does not use

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        translated = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            output_names=OUTPUTS,
            custom_translation_table={torch.ops.torchvision.roi_pool.default: max_roi_pool},
        )
    assert translated is not None
    translated.model.metadata_props["categories"] = categories
    content: bytes = translated.model_proto.SerializeToString()
    return content


def write_graph(model: Model, output: Path, kind: str) -> None:
    """Write a Faster R-CNN or an RPN as a graph; ``kind`` is ``onnx`` or ``torch``.

    The categories are stored as JSON, ``[{"id": 1, "name": "person"}, ...]`` in the order of the labels. In an
    ONNX file, they are the metadata entry ``categories``; in a ``torch.export`` file, the extra file
    ``categories.json``.

    Raises:
        InputError: if the model cannot be exported.
    """
    pairs = zip(model.categories.ids, model.categories.names, strict=True)
    categories = json.dumps([{"id": number, "name": name} for number, name in pairs])
    program = exported_program(model)
    if kind == "onnx":
        write_whole(output, onnx_bytes(program, categories))
        return
    with whole_file(output) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file, extra_files={"categories.json": categories})


def _write_weights(checkpoint: Path, output: Path, project: str) -> None:
    content = read_checkpoint(str(checkpoint), "CHECKPOINT")
    ids = list(content.get("categories", {}).get("ids", ()))
    if not ids:
        raise InputError(f"{checkpoint} has no categories. Give a checkpoint written by train.py fit.")
    PROJECTS[project](detector_state(content), ids, str(checkpoint), output)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status (2 for invalid input)."""
    parser = argparse.ArgumentParser(prog="python -m fpn_lightning.weights.export", description=__doc__)
    parser.add_argument("source", metavar="RUN_OR_CHECKPOINT", help="run directory, or RUN/checkpoints/last.ckpt")
    parser.add_argument("output", metavar="OUT", type=Path, help="the file to write (.onnx, .pt2, .pth or .pkl)")
    parser.add_argument("--format", "--to", required=True, choices=[*GRAPHS, *PROJECTS], help="format of OUT")
    parser.add_argument(
        "--config", type=Path, help="with --format onnx or torch: model configuration (default: config.yaml of the run)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    given = parser.parse_args(args)
    replace_unprintable()
    try:
        check_free(given.output, given.overwrite)
        if given.format in GRAPHS:
            show("Writing the model as a graph takes a minute or two on a CPU ...")
            write_graph(load_model(given.source, given.config), given.output, given.format)
        else:
            _write_weights(checkpoint_of(Path(given.source)), given.output, given.format)
    except InputError as error:
        return complain(error)
    show(f"written to {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
