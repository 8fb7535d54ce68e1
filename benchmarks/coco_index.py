"""Opening the annotations of a data set as large as COCO train2017, beside pycocotools.

    python benchmarks/coco_index.py [--images 118287] [--objects 860001] [--rounds 3]

The file is made up: as many images, objects and polygon points as train2017 has. Building the index, which happens
once per file, is reported apart.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from compare import append_line, peak_memory_mib, time_in_turn
from pycocotools.coco import COCO

from fpn_lightning.data.coco import COCOIndex

CATEGORIES = 80
# Objects of train2017 have about 45 coordinates each; their texts are drawn from this many different polygons.
COORDINATES = 45
POLYGONS = 5000


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
    with path.open("w") as file:
        file.write(f'{{"images": {json.dumps(records)}, "categories": {json.dumps(categories)}, "annotations": [')
        for i, text in enumerate(annotation_texts(images, objects, random)):
            file.write(("," if i else "") + text)
        file.write("]}")


def open_ours(path: Path) -> None:
    COCOIndex.open(path)


def open_pycocotools(path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        COCO(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--objects", type=int, default=860_001)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "instances_train2017.json", Path(folder) / "small.json"
        write_annotations(small, 10, 10)
        # In a child, whose memory is gone when the measuring begins.
        writer = multiprocessing.Process(target=write_annotations, args=(path, arguments.images, arguments.objects))
        writer.start()
        writer.join()
        print(f"{path.stat().st_size / 1e6:.0f} MB of annotations")

        works = {"ours": partial(open_ours, path), "pycocotools": partial(open_pycocotools, path)}
        warm_ups = {"ours": partial(open_ours, small), "pycocotools": partial(open_pycocotools, small)}
        start = time.perf_counter()
        build_memory = peak_memory_mib(works["ours"], warm_ups["ours"])
        print(f"building the index, once: {time.perf_counter() - start:.1f} s, {build_memory:.0f} MiB")
        memory = {name: peak_memory_mib(works[name], warm_ups[name]) for name in works}
        seconds = time_in_turn(works, rounds=arguments.rounds)
    for name in memory:
        print(f"opening with {name}: {seconds[name]:.3f} s, {memory[name]:.0f} MiB")
    work = f"open annotations: {arguments.images} images, {arguments.objects} objects, index built"
    amounts = f"{memory['ours']:.0f} MiB against {memory['pycocotools']:.0f} MiB"
    print(append_line(work, "pycocotools", seconds["pycocotools"] / seconds["ours"], amounts))


if __name__ == "__main__":
    main()
