"""COCO's average precision of detections as a metric that is updated image by image (FPN §5.2, Tables 2 to 5).

The metric stores detections and objects as arrays: 48 bytes per detection, 56 bytes per object.

Shapes: D detections and G objects of one image.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation import Backend
from fpn_lightning.evaluation.arrays import FileResults, float_rows
from fpn_lightning.evaluation.coco_evaluator import ClassValues, Records, Values, average_precision, by_class_name
from fpn_lightning.evaluation.matching import area_ranges
from fpn_lightning.evaluation.recall import check_limits
from fpn_lightning.ground_truth import GroundTruth
from fpn_lightning.structures import DetectionsOrig

Array = Tensor | NDArray[Any]


class AveragePrecision(Metric):
    """Average precision over a split, with the same value as COCO's evaluator for the same boxes.

    Images are evaluated in the order of their ids. The result is therefore bit-identical for any order of updates and
    any number of processes. The first process evaluates, and sends the values to the other processes.

    Args:
        area_thresholds: two areas in px² of the image file; the first separates small from medium objects, the second
            medium from large.
        limits: numbers of detections kept per image and class. Each limit adds the metrics ``AR<limit>``,
            ``AR<limit>_s``, ``AR<limit>_m`` and ``AR<limit>_l``. AP always uses 100 detections
            per image and class.
        backend: library that computes AP, ``faster-coco-eval`` or the reference ``pycocotools``.

    Attributes:
        images: for each image, an int64 ``(1, 3)`` tensor of image id, D and G.
        detections: for each image, a float64 ``(D, 6)`` tensor of box (xywh), score and label.
        objects: for each image, a float64 ``(G, 7)`` tensor of box (xywh), area, crowd flag and label.

    Raises:
        InputError: if limits or thresholds are invalid.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    images: list[Tensor]
    detections: list[Tensor]
    objects: list[Tensor]

    def __init__(
        self,
        area_thresholds: Sequence[float] = (32**2, 96**2),
        limits: Sequence[int] = (1, 10, 100),
        backend: Backend = "faster-coco-eval",
    ) -> None:
        # torchmetrics' own function to gather states fails if a process has no image.
        super().__init__(dist_sync_fn=_gather)
        area_ranges(area_thresholds)  # rejects invalid thresholds
        self.area_thresholds = tuple(area_thresholds)
        self.limits = check_limits(limits)
        self.backend: Backend = backend
        self._class_values: ClassValues = {}
        for name in ("images", "detections", "objects"):
            self.add_state(name, [], dist_reduce_fx="cat")

    @property
    def num_images(self) -> Tensor:
        """Number of different images that this process has added, an int64 scalar on the metric's device."""
        ids = {image_id for rows in self.images for image_id in rows[:, 0].tolist()}
        return torch.tensor(len(ids), device=self.device)

    def update(self, prediction: DetectionsOrig, ground_truth: GroundTruth) -> None:
        """Add one image. Images without detections must be added as well, because their objects lower AP and AR.

        Args:
            prediction: detections of the image. Detections with equal scores stay in the given order.
            ground_truth: objects of the same image. Objects and detections number the classes in the same way.

        Raises:
            InputError: if the arguments belong to different images, a list lacks entries, a value is not finite or a
                label is not a whole number. The message names the image.
        """
        image_id = prediction.image_id
        if image_id != ground_truth.image_id:
            other = ground_truth.image_id
            raise InputError(
                f"the detections belong to image {image_id}, but the objects to image {other}: give detections and "
                "objects of the same image"
            )
        detected = _table(
            f"image {image_id}: ",
            (prediction.boxes_xywh, "boxes_xywh", 4),
            (prediction.scores, "scores", None),
            (prediction.labels, "labels", None),
        )
        annotated = _table(
            f"image {image_id}: the objects' ",
            (ground_truth.boxes_xywh, "boxes_xywh", 4),
            (ground_truth.areas, "areas", None),
            (ground_truth.is_crowd, "is_crowd", None),
            (ground_truth.labels, "labels", None),
        )
        self.images.append(torch.tensor([[image_id, len(detected), len(annotated)]]))
        self.detections.append(torch.from_numpy(detected))
        self.objects.append(torch.from_numpy(annotated))

    def compute(self) -> Values:
        """Evaluate the images of all processes together.

        Returns:
            Fractions in [0, 1], the same on every process: ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``,
            ``AR<limit>``, ``AR<limit>_s``, ``AR<limit>_m``, ``AR<limit>_l``. A metric is 0 without detections, and
            ``None`` without ground truth.

        Raises:
            InputError: if an image was added twice with different content. An image that was
                added twice with the same content counts once.
        """
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        outcome: list[Any] = [None]
        if not distributed or torch.distributed.get_rank() == 0:
            try:
                outcome = [self._evaluate()]
            except Exception as error:
                # Send the error to the other processes, which would otherwise wait forever.
                outcome = [error]
        if distributed:
            torch.distributed.broadcast_object_list(outcome)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        values, self._class_values = outcome[0]
        return values

    def per_class(self, names: Mapping[int, str]) -> Values:
        """Return ``AP`` by class name, best first; classes without ground truth (``None``) come last.

        Every process must call this method, because :meth:`compute` exchanges data between processes. If several labels
        have the same name, each name is followed by its label in parentheses.
        """
        self.compute()
        return by_class_name(self._class_values, names)

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._class_values = {}

    def _evaluate(self) -> tuple[Values, ClassValues]:
        states = (_joined(state) for state in (self.images, self.detections, self.objects))
        with _collector_paused():
            return average_precision(_records(*states), self.limits, self.area_thresholds, self.backend)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause Python's cyclic garbage collector, which is not needed: the records have no reference cycles.

    While many objects are created, the collector visits all objects of the process again and again. With hundreds of
    thousands of records, garbage collection would take a third of the evaluation's time
    (benchmarks/average_precision.py).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _table(owner: str, *columns: tuple[Array, str, int | None]) -> NDArray[np.float64]:
    """Join columns of equal length into one array; the last column must contain whole numbers.

    Each column is a tuple ``(values, name, width)``, the arguments of :func:`float_rows`. Error messages start with
    ``owner``.
    """
    arrays = [float_rows(values, owner + name, width) for values, name, width in columns]
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        counts = ", ".join(f"{length} {name}" for length, (_, name, _) in zip(lengths, columns, strict=True))
        raise InputError(f"{owner}lists differ in length: {counts}. Give one entry per box in each list.")
    if (arrays[-1] != np.floor(arrays[-1])).any():
        raise InputError(f"{owner}labels are {arrays[-1].tolist()}: give whole numbers")
    return np.column_stack(arrays)


def _gather(part: Tensor, group: Any = None) -> list[Tensor]:
    """Gather one state of the metric from all processes.

    Return one CPU tensor for each process whose state is not empty, rank 0 first. If all are empty, return ``[part]``.
    """
    parts: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(parts, part.cpu().numpy(), group)
    return [torch.from_numpy(array) for array in parts if array.size] or [part]


def _joined(state: Tensor | list[Tensor]) -> NDArray[Any]:
    """Concatenate the tensors of one state of the metric into one array.

    A state is a list with one tensor per image. After torchmetrics has gathered the states of all processes, each
    state is one tensor.
    """
    if isinstance(state, list):
        state = torch.cat(state) if state else torch.zeros(0)
    return state.cpu().numpy()


def _records(images: NDArray[np.int64], detections: NDArray[np.float64], objects: NDArray[np.float64]) -> Records:
    """Build the records for the evaluator, with each image once, in ascending order of image ids."""
    images = images.reshape(-1, 3).astype(np.int64)
    ends = images[:, 1:].cumsum(axis=0)
    rows: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for (image_id, *counts), last in zip(images.tolist(), ends.tolist(), strict=True):
        own = (detections[last[0] - counts[0] : last[0]], objects[last[1] - counts[1] : last[1]])
        if image_id in rows and not all(map(np.array_equal, own, rows[image_id])):
            raise InputError(
                f"image {image_id} was evaluated twice, with different results; "
                "use a sampler that yields each image of the split once over all processes"
            )
        rows[image_id] = own
    records = Records()
    for image_id in sorted(rows):
        detected, annotated = rows[image_id]
        labels, gt_labels = detected[:, 5].astype(np.int64), annotated[:, 6].astype(np.int64)
        records.add(
            FileResults(detected[:, :4], detected[:, 4], labels),
            GroundTruth(image_id, annotated[:, :4], annotated[:, 4], annotated[:, 5] != 0, gt_labels),
        )
    return records
