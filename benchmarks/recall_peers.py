"""Compare numbers, time and memory of our recall with pycocotools and faster-coco-eval, on the same objects."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faster_coco_eval
import numpy as np
from compare import append_line, peak_memory_mib, time_in_turn
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fpn_lightning.evaluation.matching import area_ranges
from fpn_lightning.evaluation.recall_metrics import Recall
from fpn_lightning.ground_truth import GroundTruth

AREA_THRESHOLDS = (32**2, 96**2)
PEERS = {
    "pycocotools": (COCO, COCOeval),
    "faster-coco-eval": (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
}
Tables = tuple[dict[str, Any], dict[str, Any]]
Peer = Callable[[], Any]


def prepare_peer(coco: Any, evaluator_class: Any, tables: Tables, iou_type: str, limits: Sequence[int]) -> Peer:
    """Index the records, and return a function that runs the peer's ``evaluate()`` and returns the evaluator."""
    indexed = []
    with contextlib.redirect_stdout(io.StringIO()):
        for table in tables:
            indexed.append(coco())
            # Copy the annotations, because evaluators modify them.
            indexed[-1].dataset = {**table, "annotations": [dict(item) for item in table["annotations"]]}
            indexed[-1].createIndex()

    def evaluate() -> Any:
        evaluator = evaluator_class(*indexed, iouType=iou_type)
        evaluator.params.useCats = 0
        evaluator.params.maxDets = list(limits)
        evaluator.params.areaRng = area_ranges(AREA_THRESHOLDS).tolist()
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator.evaluate()
        return evaluator

    return evaluate


def peer_recall(evaluator: Any) -> NDArray[np.float64]:
    """Return the peer's average recall for each limit and area range, in the order of our metrics."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    recall = np.asarray(evaluator.eval["recall"])[:, 0].mean(axis=0)  # (T, A, L) -> (A, L): A areas, L limits
    return recall.T.ravel()


def compare_recall(
    work: str,
    metric: Callable[[Sequence[int], Sequence[float]], Recall],
    images: Sequence[Any],
    given: Callable[..., tuple[Any, GroundTruth]],
    tables: Callable[[Sequence[Any]], Tables],
    iou_type: str,
    limits: Sequence[int],
    rounds: int,
    output: Path,
) -> int:
    """Print time and memory of our metric and of both peers, and append the ratios to the report.

    Args:
        work: description of the work, for the report.
        metric: our metric, called with limits and area thresholds.
        images: for each image, the arrays of its proposals and objects.
        given: converts an image's id and arrays to the arguments of ``update``.
        tables: converts images to COCO's dictionaries of ground truth and of results.
        iou_type: ``bbox`` or ``segm``.
        limits: numbers of proposals per image that are evaluated.
        rounds: how often each program is timed.
        output: the report.

    Returns:
        The exit status. The status is 1, and no line is written, if one of our numbers differs from a peer by more than
        1e-9.
    """
    updates = [given(image_id, *columns) for image_id, columns in enumerate(images, start=1)]

    def ours(count: int = len(images)) -> dict[str, float | None]:
        recall = metric(limits, AREA_THRESHOLDS)
        for prediction, ground_truth in updates[:count]:
            recall.update(prediction, ground_truth)
        return recall.compute()

    memory = {"ours": peak_memory_mib(ours, warm_up=lambda: ours(1))}
    every, one_image = tables(images), tables(images[:1])
    peers = {}
    for name, (coco, evaluator) in PEERS.items():
        peers[name] = prepare_peer(coco, evaluator, every, iou_type, limits)
        warm_up = prepare_peer(coco, evaluator, one_image, iou_type, limits)
        memory[name] = peak_memory_mib(peers[name], warm_up=warm_up)

    found = np.array([-1 if value is None else value for value in ours().values()])
    for name, evaluate in peers.items():
        difference = float(np.abs(peer_recall(evaluate()) - found).max())
        if difference > 1e-9:
            print(
                f"the numbers of {name} differ from ours by up to {difference:.3g}; nothing is written", file=sys.stderr
            )
            return 1
        print(f"{name}: all {found.size} numbers agree, largest difference {difference:.1e}")

    seconds = time_in_turn({"ours": ours, **peers}, rounds)
    for name, value in seconds.items():
        print(f"{name}: {value:.3f} s, {1000 * value / len(images):.3f} ms an image, +{memory[name]:.1f} MiB")
    for name in peers:
        both = f"{memory['ours']:.1f} MiB, peer {memory[name]:.1f} MiB"
        print(append_line(work, f"{name} evaluate()", seconds[name] / seconds["ours"], both, output))
    return 0
