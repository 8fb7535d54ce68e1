"""Writes ``detections.json`` in ``predict``: each process writes a part, and all parts are merged at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError
from fpn_lightning.files import write_whole
from fpn_lightning.mask_structures import MaskProposalsOrig
from fpn_lightning.predictions.result_file import Line, ResultFile, detection_lines
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.stages.rpn import RPNStage
from fpn_lightning.structures import Batch, DetectionsOrig, ProposalsOrig
from fpn_lightning.text import show

DEFAULT_TOP_K = 100  # boxes written per image
OBJECT = {"category_id": 1, "category": "object"}  # the category written for proposals, which have no class


def check_source(subcommand: str, split: str | None, path: str | None) -> None:
    """Check that ``predict`` gets exactly one of ``split`` and ``path``, and that other subcommands get neither.

    Raises:
        InputError: ``predict`` gets none or both of the options, or another subcommand gets at least one of them.
    """
    given = (split is not None) + (path is not None)
    if subcommand == "predict" and given != 1:
        raise InputError(
            f"predict takes exactly one of --data.predict_split NAME and --data.predict_path FOLDER; {given} are given"
        )
    if subcommand != "predict" and given:
        raise InputError(
            f"data.predict_split and data.predict_path are for predict only; leave them out of {subcommand}"
        )


class DetectionsWriter(Callback):
    """Writes ``detections.json``, a list of ``{image_id, file_name, bbox, score, category_id, category}``.

    The list is ordered by image id, then by descending score. ``bbox`` is x, y, width, height in pixels of the image
    file. For images of a folder, ``bbox`` fits the image after the EXIF orientation is applied. ``category`` is the
    category's name. A proposal has the category 1 (``object``), and its score is the sigmoid of the objectness logit. A
    segment proposal has ``segmentation`` (RLE of the image file's size) and ``level`` instead of ``bbox``. An RPN's
    proposals for a split are written to a proposal store instead of ``detections.json``. If images of a folder cannot
    be read, ``skipped.json`` lists the images, and the reasons are printed at the end.

    Args:
        top_k: maximum number of results per image, best first. The default is 100 boxes, as in COCO's evaluation.
            All segment proposals are written by default, because Table 6 evaluates 1000 segment proposals per image.
        of_splits: when an RPN predicts ``data.predict_split``, write its proposals to ``detections.json`` too, not only
            to the proposal store.

    Raises:
        InputError: ``top_k`` is below 1.
    """

    def __init__(self, top_k: int | None = None, of_splits: bool = False) -> None:
        if top_k is not None and top_k < 1:
            raise InputError(f"detections.top_k is {top_k}; it has to be at least 1")
        self.top_k = top_k
        self.of_splits = of_splits
        self._file: ResultFile | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open this process's part of ``detections.json``, even if the process will get no image."""
        data = _data(trainer)
        stored = data.predict_split is not None and isinstance(pl_module, RPNStage) and not self.of_splits
        if stage == "predict" and not stored:
            self._file = ResultFile(Path(trainer.default_root_dir) / "detections.json", trainer.global_rank)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: list[ProposalsOrig] | list[DetectionsOrig] | list[MaskProposalsOrig],
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the results of a batch."""
        if self._file is not None:
            images, categories = _data(trainer).prediction_images, _stage(trainer).categories
            for result in outputs:
                lines = _lines(result, images.file_name(result.image_id), self.top_k, categories)
                self._file.write(result.image_id, lines)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Delete this process's part of ``detections.json``."""
        if self._file is not None:
            self._file.discard()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Merge the parts of all processes and print the skipped images.

        Raises:
            InputError: no image could be read. Only the first process raises this error.
        """
        if self._file is None:
            return
        loader = trainer.predict_dataloaders
        skipped = self._file.complete(trainer, [vars(image) for image in getattr(loader, "skipped", [])])
        written, self._file = self._file, None
        if trainer.is_global_zero:
            images, heads = _data(trainer).prediction_images, _stage(trainer).detector.roi_heads
            least = None if heads is None else heads.score_thresh
            _report(written.path, skipped, len(images), written.num_results, least)


def _data(trainer: Trainer) -> COCODataModule:
    return trainer.datamodule  # type: ignore[attr-defined]


def _stage(trainer: Trainer) -> BaseStage:
    return trainer.lightning_module  # type: ignore[return-value]


def _lines(
    result: ProposalsOrig | DetectionsOrig | MaskProposalsOrig,
    file_name: str,
    top_k: int | None,
    categories: Categories,
) -> list[Line]:
    image = {"image_id": result.image_id, "file_name": file_name}
    if isinstance(result, MaskProposalsOrig):
        scores, levels = torch.sigmoid(result.scores[:top_k].double()).tolist(), result.levels[:top_k].tolist()
        return [
            {**image, "segmentation": mask, "score": score, **OBJECT, "level": level}
            for mask, score, level in zip(result.masks[:top_k], scores, levels, strict=True)
        ]
    top_k = DEFAULT_TOP_K if top_k is None else top_k
    if isinstance(result, DetectionsOrig):
        names = dict(zip(categories.ids, categories.names, strict=True))
        lines = detection_lines(result, top_k, categories)
        return [{**image, **line, "category": names[line["category_id"]]} for line in lines]
    boxes = result.boxes_xywh[:top_k].tolist()
    # float64, because the sigmoids of different high logits are equal in float32
    scores = torch.sigmoid(result.objectness[:top_k].double()).tolist()
    return [{**image, "bbox": box, "score": score, **OBJECT} for box, score in zip(boxes, scores, strict=True)]


def _report(
    path: Path, skipped: list[dict[str, Any]], num_images: int, num_results: int, score_thresh: float | None
) -> None:
    names = path.with_name("skipped.json")
    names.unlink(missing_ok=True)
    if skipped:
        write_whole(names, json.dumps(skipped, indent=2) + "\n")
    reasons = [image["reason"] for image in skipped]
    if len(reasons) == num_images:
        path.unlink()
        raise InputError(
            f"none of the {num_images} images could be read; the first reason: {reasons[0]}; {names} lists all reasons"
        )
    if skipped:
        show(f"{len(skipped)} of {num_images} images could not be read and were skipped:")
    for reason in reasons:
        show(f"  {reason}")
    show(f"written to {path}: {num_results} results in {num_images - len(reasons)} images")
    if not num_results and score_thresh is not None:
        show(f"No detection has a score above {score_thresh:g}, the value of model.detector.roi_heads.score_thresh.")
