"""Compare the time to open COCO annotations with pycocotools, for a data set as large as train2017.

    python benchmarks/coco_index.py [--images 118287] [--objects 860001] [--rounds 3]

The annotation file is synthetic, and has as many images, objects and polygon points as train2017. The line "first time"
measures building our index, which happens once per file. The line "again" measures mapping the index into memory, as
every later run, process and worker does. pycocotools parses the file each time. Every measurement runs in a new process
and includes imports during the measured call.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from compare import append_line

CATEGORIES = 80
COORDINATES = 45  # mean number of coordinates per object, about that of train2017
POLYGONS = 5000  # number of different polygons; several objects use the same polygon


def annotation_texts(images: int, objects: int, random: np.random.Generator) -> Iterator[str]:
    lengths = 2 * random.integers(4, COORDINATES - 3, POLYGONS)
    polygons = [json.dumps([np.round(random.uniform(0, 480, length), 2).tolist()]) for length in lengths.tolist()]
    corners = np.round(random.uniform(0, 200, (objects, 4)), 2).tolist()
    image_ids = random.integers(1, images + 1, objects).tolist()
    for i, (box, image_id) in enumerate(zip(corners, image_ids, strict=True)):
        yield (
            f'{{"segmentation": {polygons[i % POLYGONS]}, "area": {box[2] * box[3]}, "iscrowd": 0, '
            f'"image_id": {image_id}, "bbox": {box}, "category_id": {i % CATEGORIES + 1}, "id": {i + 1}}}'
        )


def write_annotations(path: Path, images: int, objects: int) -> None:
    random = np.random.default_rng(0)
    records = [{"id": i, "file_name": f"{i:012}.jpg", "height": 480, "width": 640} for i in range(1, images + 1)]
    categories = [{"id": i, "name": f"category {i}"} for i in range(1, CATEGORIES + 1)]
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"images": {json.dumps(records)}, "categories": {json.dumps(categories)}, "annotations": [')
        for i, text in enumerate(annotation_texts(images, objects, random)):
            file.write(("," if i else "") + text)
        file.write("]}")


# A new process runs this program, which prints seconds and memory of the call, including imports. The peak is read from
# /proc, because the peak of getrusage includes the parent process.
PROGRAM = """
import contextlib, io, pathlib, sys, time
{preparation}

def peak():
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

before = peak()
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    {call}(sys.argv[1])
seconds = time.perf_counter() - start
print(seconds, peak() - before, peak())
"""
PROGRAMS = {
    "ours": PROGRAM.format(preparation="from fpn_lightning.data.coco.index import COCOIndex", call="COCOIndex.open"),
    "pycocotools": PROGRAM.format(preparation="from pycocotools.coco import COCO", call="COCO"),
}


class Cost(NamedTuple):
    """Cost of a call: seconds, growth of the process's peak memory (MiB), and the peak itself (MiB, Linux only)."""

    seconds: float
    growth: float
    process: float


def measure(name: str, path: Path) -> Cost:
    command = [sys.executable, "-c", PROGRAMS[name], str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Cost(*map(float, answer.split()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--objects", type=int, default=860_001)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances_train2017.json"
        write_annotations(path, arguments.images, arguments.objects)
        print(f"{path.stat().st_size / 1e6:.0f} MB of annotations")
        time.sleep(3)  # no index is reused that was built within seconds of writing the annotation file
        first, again, peer = [], [], []
        for _ in range(arguments.rounds):  # the programs take turns, so a slow phase of the machine affects all
            path.with_name(f".{path.name}.index").unlink(missing_ok=True)
            first.append(measure("ours", path))
            again.append(measure("ours", path))
            peer.append(measure("pycocotools", path))
    for name, costs in (("first time", first), ("again", again), ("pycocotools", peer)):
        for cost in costs:
            print(f"{name}: {cost.seconds:.3f} s, {cost.growth:.0f} MiB more, {cost.process:.0f} MiB in all")
    work = f"open annotations of {arguments.images} images, {arguments.objects} objects in a fresh process"
    peers = median(cost.seconds for cost in peer)
    for when, ours in (("first time, with index", first), ("again", again)):
        growth = max(cost.growth for cost in ours), max(cost.growth for cost in peer)
        ratio = peers / median(cost.seconds for cost in ours)
        print(append_line(f"{work}, {when}", "pycocotools", ratio, "{:.0f} MiB against {:.0f} MiB".format(*growth)))


if __name__ == "__main__":
    main()
