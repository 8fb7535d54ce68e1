"""Compare the ONNX graph in onnxruntime with eager ``predict``: time and memory of detection on the CPU.

    python benchmarks/onnx_time.py [--size 800 1066] [--rounds 3] [--output reports/benchmarks.md]

The model is Faster R-CNN with ResNet-50, FPN and 80 classes. The image needs no resizing. Weights are random and the
image is noise, which changes the scores but not the amount of work. Both programs use one thread unless OMP_NUM_THREADS
sets more.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its threads

import numpy as np
import onnxruntime
import torch
from compare import REPORT, append_line, peak_memory_mib, time_in_turn

from fpn_lightning.api import Predictor
from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.models.backbones.resnet import ResNetBackbone
from fpn_lightning.models.detector import Detector
from fpn_lightning.weights.export import exported_program, onnx_bytes
from fpn_lightning.weights.loading import Model


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare the exported ONNX graph with eager predict, on the CPU.")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=REPORT)
    given = parser.parse_args(args)
    torch.manual_seed(0)
    data = COCODataModule("", short_side=min(given.size), max_side=max(given.size))
    categories = Categories(tuple(range(80)), tuple(map(str, range(80))))
    model = Model(Detector(ResNetBackbone("resnet50")).eval(), data, categories, "32-true")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(onnx_bytes(exported_program(model), "[]"), options)
    eager = Predictor(model, torch.device("cpu"))
    random = np.random.default_rng(0)
    # The warm-up image is small, but has the full longer side, because detection enlarges images with a shorter one.
    sizes = (given.size, (2, max(given.size)))
    image, small = (random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes)
    works = {"onnxruntime": lambda pixels: session.run(None, {"image": pixels}), "eager": eager.predict}
    memory = {name: peak_memory_mib(partial(work, image), partial(work, small)) for name, work in works.items()}
    seconds = time_in_turn({name: partial(work, image) for name, work in works.items()}, given.rounds)
    what = f"detect in an image of {given.size[0]} x {given.size[1]}, Faster R-CNN, resnet50-FPN, float32"
    work = f"{what}, {threads} thread{'s' * (threads > 1)}, ONNX graph in onnxruntime ({seconds['onnxruntime']:.2f} s)"
    both = f"{memory['onnxruntime']:.0f} MiB, peer {memory['eager']:.0f} MiB"
    ratio = seconds["eager"] / seconds["onnxruntime"]
    print(append_line(work, f"eager predict ({seconds['eager']:.2f} s)", ratio, both, given.output))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
