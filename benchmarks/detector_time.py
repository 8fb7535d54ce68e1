"""Compare FPN with the baseline on C4 with the conv5 head: time, FLOPs and memory of detection (FPN §5.2).

    python benchmarks/detector_time.py [--size 800 1066] [--rounds 2] [--output reports/benchmarks.md]

Both models detect in one pass: backbone, maps, RPN, the best 1000 proposals, heads. They have ResNet-50 and 80 classes.
Before NMS, the RPN keeps 12,000 anchors on C4 and 1000 per level on FPN, as in the rows of the paper's tables. Weights
are random and the image is noise, which changes the scores but not the amount of work. FLOPs are those of convolutions
and matrix products; a multiplication and an addition count as two. On a CPU one thread is used unless OMP_NUM_THREADS
sets more. The paper measured 0.148 s for FPN and 0.32 s for C4 on an M40 GPU. FPN's advantage is larger on a CPU, where
processing 1000 regions in one batch saves no time.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # set before torch starts its threads

import torch
from compare import REPORT, append_line, peak_memory_mib, time_in_turn
from inputs import noise
from torch.utils.flop_counter import FlopCounterMode

from fpn_lightning.models.backbones.base import Backbone
from fpn_lightning.models.backbones.resnet import ResNetBackbone
from fpn_lightning.models.detector import Anchors, Detector
from fpn_lightning.models.pyramids import FPN, SingleMap
from fpn_lightning.models.rpn import RPN
from fpn_lightning.structures import ImageBatch

FPN_ROW, C4_ROW = "FPN, 2fc", "C4, conv5"


def detectors(make_backbone: Callable[[], Backbone], proposals: int) -> dict[str, Detector]:
    """Build both detectors in evaluation mode; their heads get at most ``proposals`` proposals per image."""
    torch.manual_seed(0)
    fpn = Detector(make_backbone(), FPN, eval_proposals=proposals)
    c4 = Detector(
        make_backbone(),
        partial(SingleMap, level=4),
        partial(RPN, pre_nms_topk=12000),
        box_head="conv5",
        anchors=Anchors([[0, 1, 2, 3, 4]]),
        eval_proposals=proposals,
    )
    return {FPN_ROW: fpn.eval(), C4_ROW: c4.eval()}


@torch.no_grad()
def detect(detector: Detector, images: ImageBatch) -> int:
    """Detect objects in the images. Return the number of proposals that the heads processed for the first image."""
    proposals, _ = detector.propose_and_detect(images)
    return min(len(proposals[0]), detector.eval_proposals)


def count_flops(detector: Detector, images: ImageBatch) -> tuple[int, int]:
    """Return the FLOPs of detection, and the number of proposals that the heads processed."""
    with FlopCounterMode(display=False) as counter:
        seen = detect(detector, images)
    return counter.get_total_flops(), seen


def compare(stages: dict[str, Detector], size: tuple[int, int], rounds: int, output: Path) -> None:
    """Measure both detectors, print the numbers, and append a line with the ratio of their times."""
    images, small = noise(1, size, 32), noise(1, (64, 96), 32)
    memory, flops = {}, {}
    for name, stage in stages.items():
        memory[name] = peak_memory_mib(partial(detect, stage, images), warm_up=partial(detect, stage, small))
        flops[name], seen = count_flops(stage, images)
        print(f"{name}: {flops[name] / 1e9:.1f} GFLOPs with {seen} proposals, +{memory[name]:.0f} MiB")
    seconds = time_in_turn({name: partial(detect, stage, images) for name, stage in stages.items()}, rounds)
    for name, value in seconds.items():
        print(f"{name}: {value:.2f} s an image")
    threads = torch.get_num_threads()
    work = (
        f"detect in an image of {size[0]} x {size[1]}, {threads} thread{'s' * (threads > 1)}, on FPN with 2fc "
        f"({seconds[FPN_ROW]:.2f} s, {flops[FPN_ROW] / 1e9:.0f} GFLOPs)"
    )
    peer = (
        f"on C4 with conv5 ({seconds[C4_ROW]:.2f} s, {flops[C4_ROW] / flops[FPN_ROW]:.1f} x the FLOPs; "
        f"the paper on an M40, 2.2 x the time)"
    )
    both = f"{memory[FPN_ROW]:.0f} MiB, peer {memory[C4_ROW]:.0f} MiB"
    print(append_line(work, peer, seconds[C4_ROW] / seconds[FPN_ROW], both, output))


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare detection on FPN and on C4 with the conv5 head.")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--proposals", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=REPORT)
    arguments = parser.parse_args(args)
    # The backbone has random weights, because only `fit` downloads the published weights.
    stages = detectors(partial(ResNetBackbone, "resnet50"), arguments.proposals)
    compare(stages, (arguments.size[0], arguments.size[1]), arguments.rounds, arguments.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
