"""Measure the rows of Figure 1: time and memory for one image at test time, and memory of a training step.

    python benchmarks/figure1_cost.py [--preset mini] [--rounds 20] [--output reports/records/mini/figure1_cost.json]
    python benchmarks/figure1_cost.py --preset paper --batch 1 --rounds 3  # ResNet-50 at 800 px; (a) needs most memory

Every row of ``configs/figure1/`` is built as for training, with random weights, and gets images of noise.

Time: the seconds of one image from pixels to merged proposals, and the seconds of the network alone. Most of the
difference between the two is non-maximum suppression, which is slowest for rows with a single map, because they
keep more boxes before suppression (``pre_nms_topk``).
The rows take turns on the same images, so that a slow phase of the machine affects all rows. The median is reported. On
a CPU one thread is used unless OMP_NUM_THREADS sets more.

Memory: the growth of a new process's peak memory while it proposes on one image, or runs the forward and backward pass
of a batch. This is resident memory on a CPU and allocated memory on a GPU, without the memory of an optimiser.

We train row (a), the image pyramid, on one image scale. For row (a), this script measures the training step that the
paper calls infeasible (§1): the batch at every scale of the image pyramid, all losses summed, one backward pass.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import multiprocessing
import os
import re
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # set before torch starts its threads

import torch
from compare import REPOSITORY
from inputs import noise, objects
from jsonargparse import ArgumentParser

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError, complain
from fpn_lightning.files import write_whole
from fpn_lightning.models.image_pyramid import scale_images
from fpn_lightning.runs.checkout import git_commit
from fpn_lightning.runs.presets import preset_files
from fpn_lightning.runs.recorder import hardware
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.stages.rpn import RPNStage
from fpn_lightning.structures import Batch, ImageBatch

CONFIGS = REPOSITORY / "configs"
ROWS = tuple(sorted(file.stem for file in (CONFIGS / "figure1").glob("*.yaml")))
NUM_IMAGES = 4  # number of images on which the rows are timed
ALL_SCALES = "one step on all image scales, which no row is trained with: losses summed, one backward pass"


class Design(NamedTuple):
    """A row of Figure 1, with the sizes that a preset sets."""

    stage: RPNStage
    image_size: tuple[int, int]
    batch: int
    size_divisor: int


def build(row: str, preset: str) -> Design:
    """Build a row with a preset and random weights. The preset ``paper`` leaves the row unchanged.

    Images have the aspect ratio 4:3, like most images of COCO, and are scaled as the data module scales them.

    Raises:
        InputError: if the preset does not exist.
    """
    file = CONFIGS / "figure1" / f"{row}.yaml"
    files = [file, *preset_files(file, preset)]
    parser = ArgumentParser(default_config_files=[str(REPOSITORY / "fpn_lightning" / "base.yaml")])
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(BaseStage, "model", required=True)
    parser.add_class_arguments(COCODataModule, "data")
    parser.add_argument("--seed_everything", type=int)
    for group in ("experiment", "trainer", "checkpoint"):  # accept these groups of options without using them
        parser.add_argument(f"--{group}", type=dict)
    options = parser.parse_args([f"--config={file}" for file in files])
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a deprecated method: jsonargparse 4.45 to 4.48 lacks its successor
        stage = parser.instantiate_classes(options).model
    data = options.data
    short = data.short_side if isinstance(data.short_side, int) else data.short_side[-1]
    size = (short, min(round(short * 4 / 3), data.max_side))
    return Design(stage, size, data.batch_size_per_device, data.size_divisor)


def propose(stage: RPNStage, images: ImageBatch) -> None:
    """Propose on images, as at test time."""
    stage.eval()
    with torch.no_grad():
        stage.detector.propose(images)


def run_network(stage: RPNStage, images: ImageBatch) -> None:
    """Run only the network of :func:`propose`: compute maps and raw outputs for every image scale."""
    stage.eval()
    with torch.no_grad():
        rpn = stage.detector.rpn
        assert rpn is not None
        for scale in stage.detector.image_scales:
            rpn(stage(images if scale == 1 else scale_images(images, scale)))


def train_step(stage: RPNStage, images: ImageBatch) -> None:
    """Run the forward and backward pass of a batch on all image scales of the row at once."""
    stage.train()
    total = torch.zeros((), device=images.pixels.device)
    for scale in stage.detector.image_scales:
        scaled = images if scale == 1 else scale_images(images, scale)
        targets = [objects((height, width)).to(total.device) for height, width in scaled.sizes.tolist()]
        total = total + torch.stack(list(stage.losses(Batch(scaled, targets)).values())).sum()
    total.backward()


WORKS = {"test": propose, "train": train_step}


def seconds_per_image(
    work: Callable[[RPNStage, ImageBatch], None],
    stages: Mapping[str, RPNStage],
    images: Sequence[ImageBatch],
    rounds: int,
) -> dict[str, float]:
    """Return the median seconds per image of :func:`propose` or :func:`run_network`, by row.

    In each of ``rounds`` rounds the rows take turns on all images, which are batches of one image. An additional
    first round is not counted.
    """
    seconds: dict[str, list[float]] = {row: [] for row in stages}
    for number in range(rounds + 1):
        for image in images:
            for row, stage in stages.items():
                _wait_for(stage.device)
                start = time.perf_counter()
                work(stage, image)
                _wait_for(stage.device)
                if number:
                    seconds[row].append(time.perf_counter() - start)
    return {row: statistics.median(taken) for row, taken in seconds.items()}


def memory_mib(row: str, preset: str, work: str, images: int, size: tuple[int, int]) -> float:
    """Return the peak memory in MiB of a function of :data:`WORKS` on a batch, measured in a new process.

    ``images`` is the number of images in the batch, ``size`` their height and width in px.

    Raises:
        InputError: if the process ended without a result, probably because memory ran out.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_report_memory, args=(row, preset, work, images, size, sender))
    child.start()
    sender.close()
    try:
        return float(receiver.recv())
    except EOFError:
        child.join()
        raise InputError(
            f"{row}, {work}, {images} x {size[0]} x {size[1]} px: the measuring process ended with exit code "
            f"{child.exitcode} (-9: out of memory); give a smaller --batch or --size"
        ) from None
    finally:
        child.join()


def _report_memory(row: str, preset: str, work: str, images: int, size: tuple[int, int], sender: Connection) -> None:
    design = build(row, preset)
    stage = design.stage.to(_device())
    # Run a small image first, because the first call loads libraries and chooses kernels.
    WORKS[work](stage, noise(1, (64, 64), design.size_divisor).to(stage.device))
    stage.zero_grad(set_to_none=True)
    gc.collect()
    batch = noise(images, size, design.size_divisor).to(stage.device)
    before = _peak_mib(stage.device)
    WORKS[work](stage, batch)
    sender.send(_peak_mib(stage.device) - before)


def _peak_mib(device: torch.device) -> float:
    """Return the peak memory, MiB: of this process so far (CPU), or since the last call of this function (GPU)."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    # On Linux, a program inherits ru_maxrss from the process that started it. VmHWM is not inherited.
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))):
        return int(found[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    rows: Sequence[str], preset: str, rounds: int, size: tuple[int, int] | None, batch: int | None
) -> dict[str, Any]:
    """Measure rows of Figure 1 and return the content of the output file.

    ``size`` is the height and width of the images in px, by default the preset's. ``batch`` is the number of images in
    a training step, by default the preset's batch per device.
    """
    designs = {row: build(row, preset) for row in rows}
    first = next(iter(designs.values()))
    size, batch = size or first.image_size, batch or first.batch
    memory = {}
    for row in rows:
        memory[row] = {"test": memory_mib(row, preset, "test", 1, size)}
        memory[row]["train"] = memory_mib(row, preset, "train", batch, size)
    stages = {row: design.stage.to(_device()) for row, design in designs.items()}
    images = noise(NUM_IMAGES, size, first.size_divisor).to(_device())
    single = [images.only(n) for n in range(NUM_IMAGES)]
    seconds = seconds_per_image(propose, stages, single, rounds)
    network = seconds_per_image(run_network, stages, single, rounds)
    return {
        "schema": 1,
        "hardware": hardware(_device(), 1),
        "commit": git_commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "image_size": list(size),
        "batch": batch,
        "rows": {
            row: {
                "seconds_per_image": seconds[row],
                "network_seconds_per_image": network[row],
                "test_memory_mib": memory[row]["test"],
                "train_step_memory_mib": memory[row]["train"],
                "train_step_memory_note": ALL_SCALES if len(stage.detector.image_scales) > 1 else None,
                "parameters": sum(parameter.numel() for parameter in stage.parameters()),
            }
            for row, stage in stages.items()
        },
    }


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure time and memory of the rows of Figure 1.")
    parser.add_argument("--preset", default="mini", help="preset; `paper` leaves the rows unchanged (default: mini)")
    parser.add_argument("--rounds", type=int, default=20, help="how often every image is timed (default: 20)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="image size, px (default: the preset's)")
    parser.add_argument("--batch", type=int, help="images in a training step (default: the preset's batch per device)")
    parser.add_argument("--output", type=Path, help="default: reports/records/<preset>/figure1_cost.json")
    given = parser.parse_args(args)
    output = given.output or REPOSITORY / "reports" / "records" / given.preset / "figure1_cost.json"
    for name, values in {"rounds": [given.rounds], "batch": [given.batch], "size": given.size or []}.items():
        if any(value is not None and value < 1 for value in values):
            parser.error(f"--{name} is {', '.join(map(str, values))}; it has to be at least 1")
    try:
        costs = measure(ROWS, given.preset, given.rounds, tuple(given.size) if given.size else None, given.batch)
    except InputError as error:
        return complain(error)
    write_whole(output, json.dumps(costs, indent=2) + "\n")
    for row, cost in costs["rows"].items():
        print(
            f"{row:16} {1000 * cost['seconds_per_image']:8.1f} ms an image, "
            f"{1000 * cost['network_seconds_per_image']:8.1f} in the network, {cost['test_memory_mib']:8.1f} MiB; "
            f"training step {cost['train_step_memory_mib']:8.1f} MiB; {cost['parameters']:,} parameters"
        )
    print(f"written: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
