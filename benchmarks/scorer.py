"""Compare our command that scores a result file with a script of pycocotools, from program start to printed numbers.

    python benchmarks/scorer.py [--bbox 206x36 2874x100] [--proposals 1000x1000] [--output reports/benchmarks.md]

A size such as 206x36 means 206 images with 36 boxes each. Both programs read the same two JSON files on one thread. If
their numbers differ by more than 1e-9, no line is written to the report. Boxes are those of ``average_precision.py``,
rounded to 0.01 px as in COCO's files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from average_precision import COLUMNS, detection_rows, indexed_objects, synthetic_image
from compare import REPORT, append_line, time_in_turn

LIMITS = (10, 100, 1000)
PEER = """
import json, sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
annotations, results, metric, output = sys.argv[1:]
truth = COCO(annotations)
evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
if metric == "proposals":
    evaluator.params.useCats, evaluator.params.maxDets = 0, [10, 100, 1000]
evaluator.evaluate()
evaluator.accumulate()
if metric == "proposals":  # (T, A, L) -> (L, A); summarize() would print "-1" for AR at 1000
    values = evaluator.eval["recall"][:, 0].mean(axis=0).T.ravel()
else:
    evaluator.summarize()
    values = evaluator.stats
json.dump(values.tolist(), open(output, "w"))
"""


def write_files(folder: Path, num_images: int, num_boxes: int) -> None:
    """Write ``annotations.json`` and ``results.json``."""
    rng = np.random.default_rng(0)
    images = [synthetic_image(rng, num_boxes, 7) for _ in range(num_images)]
    dataset = indexed_objects(images).dataset
    for image in dataset["images"]:
        image |= {"file_name": f"{image['id']}.jpg", "height": 1000, "width": 1000}
    for category in dataset["categories"]:
        category["name"] = f"{category['id']:02}"
    (folder / "annotations.json").write_text(json.dumps(dataset), encoding="utf-8")
    with (folder / "results.json").open("w", encoding="utf-8") as file:
        separator = "["
        for image_id, *box, score, label in detection_rows(images).tolist():
            bbox = [round(value, 2) for value in box]
            entry = {"image_id": int(image_id), "category_id": int(label), "bbox": bbox, "score": round(score, 5)}
            file.write(separator + json.dumps(entry))
            separator = ","
        file.write("]")


# On Linux, a program inherits the peak memory of its parent process. A small process therefore starts each program.
START = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def program(*command: str, folder: Path) -> Callable[[], float]:
    """Return a function that runs a Python program and returns the program's peak memory, MiB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run() -> float:
        words = [sys.executable, "-c", START, sys.executable, *command]
        done = subprocess.run(words, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        return int(done.stdout) / 2**10

    return run


def compare_once(metric: str, size: str, rounds: int, output: Path) -> None:
    """Compare both programs on files of one size, and append a line.

    Raises:
        SystemExit: if the programs' numbers differ.
    """
    num_images, num_boxes = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, num_images, num_boxes)
        files = ("annotations.json", "results.json")
        limits = ("--limits", *map(str, LIMITS)) if metric == "proposals" else ()
        command = ("-m", "fpn_lightning.evaluation", *files, "--metric", metric, *limits, "--output", "ours.json")
        ours, peer = program(*command, folder=folder), program("-c", PEER, *files, metric, "peer.json", folder=folder)
        memory, peer_memory = ours(), peer()
        outputs = [(folder / f"{name}.json").read_text(encoding="utf-8") for name in ("ours", "peer")]
        values, expected = map(json.loads, outputs)
        found = list(values.values()) if metric == "proposals" else [values[name] for name in COLUMNS]
        difference = max(abs(a - b) for a, b in zip(found, expected, strict=True))
        if difference > 1e-9:
            sys.exit(f"the numbers of pycocotools differ from ours by up to {difference:.3g}; nothing is written")
        seconds = time_in_turn({"ours": ours, "peer": peer}, rounds)
    work = f"score {metric} from the shell, {num_images} images x {num_boxes} boxes, 1 thread ({seconds['ours']:.2f} s)"
    ratio, both = seconds["peer"] / seconds["ours"], f"{memory:.0f} MiB, peer {peer_memory:.0f} MiB"
    print(append_line(work, f"a script of pycocotools ({seconds['peer']:.2f} s)", ratio, both, output))


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare our scoring command with a script of pycocotools.")
    parser.add_argument("--bbox", nargs="*", default=["206x36", "2874x100"], metavar="IMAGESxBOXES")
    parser.add_argument("--proposals", nargs="*", default=["1000x1000"], metavar="IMAGESxBOXES")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=REPORT)
    arguments = parser.parse_args(args)
    for metric in ("bbox", "proposals"):
        for size in getattr(arguments, metric):
            compare_once(metric, size, arguments.rounds, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
