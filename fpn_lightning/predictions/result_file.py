"""Writes a JSON list of results: each process writes its own part, and the parts are merged, sorted by image id."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch import Trainer

from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.errors import InputError
from fpn_lightning.files import open_alone, set_aside, whole_file, writing
from fpn_lightning.structures import DetectionsOrig

Line = dict[str, Any]


class ResultFile:
    """One process's part of a result file. To save memory, the results are written image by image.

    Args:
        path: path of the complete result file.
        rank: rank of the process.

    Attributes:
        num_results: number of results in the complete file. :meth:`complete` sets this number in the first process.
    """

    def __init__(self, path: Path, rank: int) -> None:
        self.path = path
        self.rank = rank
        self.num_results = 0
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open_alone(self._part(rank))

    def write(self, image_id: int, lines: Sequence[Line]) -> None:
        """Add the results of an image."""
        with writing(self.path):
            self._file.write(f"{json.dumps([image_id, lines])}\n".encode())

    def discard(self) -> None:
        """Delete the part that this process has written."""
        with suppress(OSError):  # the disk may be full
            self._file.close()
        self._part(self.rank).unlink(missing_ok=True)

    def complete(self, trainer: Trainer, skipped: Sequence[Line] = (), num_images: int | None = None) -> list[Line]:
        """Wait until all processes have called this method. Then the first process merges all parts.

        Args:
            trainer: used to wait for the other processes.
            skipped: one dictionary, with the key ``image_id``, for each image that this process could not read.
            num_images: number of images that must have results; ``None`` accepts any number.

        Returns:
            In the first process, the merged ``skipped`` lists of all processes, sorted by image id. In other processes,
            an empty list.

        Raises:
            InputError: the number of images with results is not ``num_images``. Only the first process raises this
                error. An existing result file is not changed.
        """
        with writing(self.path):
            self._file.write(f"{json.dumps([None, skipped])}\n".encode())
            self._file.flush()
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            self._file.close()
            return []
        parts = [self._part(rank) for rank in range(trainer.world_size)]
        try:
            all_skipped, self.num_results = _merge(parts, self.path, num_images)
            return all_skipped
        finally:
            # Delete the part files of all ranks. An earlier command that was killed may have left parts of ranks that
            # this command does not have.
            for part in self.path.parent.glob(f".{self.path.stem}.rank*.part"):
                part.unlink()
            self._file.close()  # releases the lock, so that another command may write the result file

    def _part(self, rank: int) -> Path:
        return self.path.with_name(f".{self.path.stem}.rank{rank}.part")


def detection_lines(detections: DetectionsOrig, top_k: int, categories: Categories) -> list[Line]:
    """Return the first ``top_k`` detections of an image in COCO's result format.

    Each detection is ``{image_id, category_id, bbox, score}``, with ``bbox`` as x, y, width, height in pixels of the
    image file.
    """
    boxes = detections.boxes_xywh[:top_k].tolist()
    scores = detections.scores[:top_k].double().tolist()
    category_ids = categories.to_category_ids(detections.labels[:top_k].numpy()).tolist()
    return [
        {"image_id": detections.image_id, "category_id": category, "bbox": box, "score": score}
        for category, box, score in zip(category_ids, boxes, scores, strict=True)
    ]


def _merge(parts: list[Path], path: Path, num_images: int | None) -> tuple[list[Line], int]:
    """Merge the parts in the order of image ids; return the entries of skipped images and the number of results."""
    all_skipped: list[Line] = []
    written = results = 0

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
            written += 1
            results += len(lines)
            for line in lines:
                out.write(separator + json.dumps(line))
                separator = ",\n"
        out.write("[]\n" if separator == "[\n" else "\n]\n")
        if num_images not in (None, written):
            raise InputError(
                f"{path} was not written, because {written} images have results, but the split has {num_images}. "
                "Predict every image of the split once (remove trainer.limit_test_batches)"
            )
        set_aside(path)
    return sorted(all_skipped, key=lambda image: image["image_id"]), results
