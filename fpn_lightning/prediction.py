"""What ``predict`` leaves behind: writers that take results as they come, process by process, without gathering."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from fpn_lightning.data.annotations import Categories
from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError
from fpn_lightning.files import whole_file, write_whole
from fpn_lightning.mask_structures import MaskProposalsOrig
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.stages.rpn import RPNStage
from fpn_lightning.structures import Batch, DetectionsOrig, ProposalsOrig, xyxy_to_xywh

Line = dict[str, Any]


def check_source(subcommand: str, split: str | None, path: str | None) -> None:
    """Make sure that ``predict`` is told what to read, and that nothing else is.

    Raises:
        InputError: both or none of ``data.predict_split`` and ``data.predict_path`` for ``predict``, or one of them
            for another subcommand.
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


class PredictionWriter(Callback):
    """A callback that takes results in ``on_predict_batch_end`` and completes its files in :meth:`finish`.

    Each process writes files of its own. ``setup`` is the place to open them: a process without images runs no hook
    of the prediction itself.
    """

    def finish(self, trainer: Trainer, data: COCODataModule) -> None:
        """Complete the files; called on every process once all of them have written their last result."""
        raise TypeError(f"{type(self).__name__} does not define finish()")


class DetectionsWriter(PredictionWriter):
    """Writes ``detections.json``: a list of ``{image_id, file_name, bbox, score, category_id}``, image by image.

    ``bbox`` is x, y, width, height in pixels of the image file (as a viewer shows it, for a folder of images); the
    scores of an image descend. Proposals belong to no category: theirs is 1, their score the objectness as a
    probability; of a split they go into a store instead. Segment proposals have, in place of ``bbox``, a
    ``segmentation`` (RLE of the image file's size) and a ``level``. For a folder, images that could not be read go into
    ``skipped.json`` and are listed at the end.

    Args:
        top_k: results of an image that are written, best first.
        of_splits: write the file for the proposals of ``data.predict_split`` too, beside their store.

    Raises:
        InputError: ``top_k`` is below 1.
    """

    def __init__(self, top_k: int = 100, of_splits: bool = False) -> None:
        if top_k < 1:
            raise InputError(f"detections.top_k is {top_k}; it has to be at least 1")
        self.top_k = top_k
        self.of_splits = of_splits
        self._file: TextIO | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open this process's own file, which keeps a line per image until all have written theirs."""
        data = _data(trainer)
        stored = data.predict_split is not None and isinstance(pl_module, RPNStage) and not self.of_splits
        if stage == "predict" and not stored:
            path = _part(trainer, trainer.global_rank)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8")

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
                self._file.write(json.dumps([result.image_id, lines]) + "\n")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no half file."""
        if self._file is not None:
            self._file.close()
            _part(trainer, trainer.global_rank).unlink(missing_ok=True)

    def finish(self, trainer: Trainer, data: COCODataModule) -> None:
        """Write what this process skipped; the first process then merges the files of all."""
        if self._file is None:
            return
        loader = trainer.predict_dataloaders
        skipped = [vars(image) for image in getattr(loader, "skipped", [])]
        self._file.write(json.dumps([None, skipped]) + "\n")
        self._file.close()
        self._file = None
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            parts = [_part(trainer, rank) for rank in range(trainer.world_size)]
            all_skipped = _merge(parts, folder / "detections.json")
            for part in parts:
                part.unlink()
            _report(folder, all_skipped, len(data.prediction_images))


def _data(trainer: Trainer) -> COCODataModule:
    return trainer.datamodule  # type: ignore[attr-defined]


def _part(trainer: Trainer, rank: int) -> Path:
    return Path(trainer.default_root_dir) / f".detections.rank{rank}.part"


def _stage(trainer: Trainer) -> BaseStage:
    return trainer.lightning_module  # type: ignore[return-value]


def _lines(
    result: ProposalsOrig | DetectionsOrig | MaskProposalsOrig, file_name: str, top_k: int, categories: Categories
) -> list[Line]:
    image = {"image_id": result.image_id, "file_name": file_name}
    if isinstance(result, MaskProposalsOrig):
        scores, levels = torch.sigmoid(result.scores[:top_k].double()).tolist(), result.levels[:top_k].tolist()
        return [
            {**image, "segmentation": mask, "score": score, "category_id": 1, "level": level}
            for mask, score, level in zip(result.masks[:top_k], scores, levels, strict=True)
        ]
    boxes = xyxy_to_xywh(result.boxes_orig[:top_k]).tolist()
    if isinstance(result, DetectionsOrig):
        scores = result.scores[:top_k].double().tolist()
        category_ids = categories.to_category_ids(result.labels[:top_k].numpy()).tolist()
    else:
        scores = torch.sigmoid(result.objectness[:top_k].double()).tolist()  # in float32 high ones would tie
        category_ids = [1] * len(boxes)
    return [
        {**image, "bbox": box, "score": score, "category_id": category}
        for box, score, category in zip(boxes, scores, category_ids, strict=True)
    ]


def _merge(parts: list[Path], path: Path) -> list[dict[str, Any]]:
    """Merge the lines of all processes by image id, one image in memory at a time; returns what was skipped."""
    all_skipped: list[dict[str, Any]] = []

    def images(file: TextIO) -> Iterator[tuple[int, list[Line]]]:
        for line in file:
            image_id, lines = json.loads(line)
            if image_id is None:
                all_skipped.extend(lines)
            else:
                yield image_id, lines

    with ExitStack() as stack:
        files = [stack.enter_context(part.open(encoding="utf-8")) for part in parts]
        out = stack.enter_context(whole_file(path)).open("w", encoding="utf-8")
        stack.enter_context(out)
        separator = "[\n"
        for _, lines in heapq.merge(*map(images, files), key=lambda image: image[0]):
            for line in lines:
                out.write(separator + json.dumps(line))
                separator = ",\n"
        out.write("[]\n" if separator == "[\n" else "\n]\n")
    return sorted(all_skipped, key=lambda image: image["image_id"])


def _report(folder: Path, skipped: list[dict[str, Any]], num_images: int) -> None:
    console = Console()
    names = folder / "skipped.json"
    names.unlink(missing_ok=True)
    if skipped:
        write_whole(names, json.dumps(skipped, indent=2) + "\n")
        console.print(f"{len(skipped)} of {num_images} images could not be read and were skipped:", soft_wrap=True)
        for image in skipped:
            console.print(f"  {image['reason']}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"written to {folder / 'detections.json'}", soft_wrap=True)
