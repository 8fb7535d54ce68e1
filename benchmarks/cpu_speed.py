"""Compare our time of detection and training on a CPU with torchvision's, and with the time of our kernels alone.

    python benchmarks/cpu_speed.py [--rounds 5] [--only detect|compile|train|mini] [--output reports/benchmarks.md]

The model is Faster R-CNN with ResNet-50 and FPN at 800 x 1066 px, with the same random weights and options as
torchvision's ``fasterrcnn_resnet50_fpn``. Nothing is measured unless both models give the same detections in float64.
The programs take turns, and the ratio is the median over the rounds. Memory is the growth of the peak memory of a child
process. One thread is used unless OMP_NUM_THREADS sets more. As in both projects' defaults, stem, c2 and BatchNorm are
frozen in training.

The floor of our time is the time of our convolutions, matrix products and poolings alone. The calls of these kernels
are recorded, and each call runs again on random numbers of the same shapes, in torch's contiguous and channels_last
formats and with the kernels of oneDNN and NNPACK. The fastest run of each call counts.

``mini`` compares a training step of Table 1 (c) with preset mini (8 images of 160 px, with the optimiser, without data
and log) with its floor.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # set before torch starts its threads

import torch
from compare import REPORT, append_line, peak_memory_mib
from inputs import noise, objects
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torchvision_peer import Pair, check_same_detections, make_pair

from fpn_lightning.models.backbones import NarrowResNet
from fpn_lightning.models.detector import Detector, Scale
from fpn_lightning.stages.rpn import RPNStage
from fpn_lightning.structures import Batch

KERNELS = {
    "fpn_lightning.conv3x3.default": "convolutions",
    "aten.convolution.default": "convolutions",
    "aten.convolution_backward.default": "gradients of convolutions",
    "aten.addmm.default": "matrix products",
    "aten.mm.default": "matrix products",
    "aten.max_pool2d_with_indices.default": "pooling",
    "torchvision.roi_align.default": "pooling",
    "torchvision._roi_align_backward.default": "pooling",
}
SMALL = 100_000  # tensors with fewer elements keep their values, because boxes cannot be random numbers
Work = Callable[[], Any]


@dataclass(frozen=True)
class Shape:
    """The shape of a large tensor, which is recorded instead of its values."""

    sides: tuple[int, ...]


class Recorder(TorchDispatchMode):
    """Counts the calls of each kernel with each set of arguments. Large tensors are replaced by their shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.arguments: dict[str, tuple[Any, tuple[Any, ...]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) in KERNELS:
            kept = tree_map_only(
                Tensor, lambda x: x.detach().clone() if x.numel() < SMALL else Shape(tuple(x.shape)), args
            )
            key = str((func, tree_map_only(Tensor, lambda x: tuple(x.shape), kept)))
            self.calls[key] += 1
            self.arguments[key] = (func, kept)
        return func(*args, **(kwargs or {}))


def seconds_of(work: Work, repeats: int = 3) -> float:
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def candidates(func: Any, args: tuple[Any, ...]) -> list[Work]:
    """Return the recorded kernel call, and calls of torch's other implementations of the same operation."""
    made = tree_map_only(Shape, lambda shape: torch.randn(shape.sides), args)
    works: list[Work] = [partial(func, *made)]
    last = tree_map_only(Tensor, lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x, made)
    if str(func) == "fpn_lightning.conv3x3.default":
        ones = ([1, 1], [1, 1], [1, 1])
        works += [partial(torch.ops.aten.convolution, *x, *ones, False, [0, 0], 1) for x in (made, last)]
    elif str(func) == "aten.convolution.default":
        x, weight, bias, stride, padding, dilation, _, _, groups = last
        works.append(partial(func, *last))
        works.append(partial(torch.ops.aten.mkldnn_convolution, x, weight, bias, padding, stride, dilation, groups))
        plain = weight.shape[2:] == (3, 3) and stride == padding == [1, 1]
        if plain and torch.backends.nnpack.is_available():  # NNPACK works only after a call of is_available()
            works.append(partial(torch.ops.fpn_lightning.conv3x3, *made[:3]))
    elif str(func) == "aten.max_pool2d_with_indices.default":
        works.append(partial(func, *last))
    return works


def record(work: Work) -> Recorder:
    """Run a function and record the kernels that it calls."""
    with Recorder() as recorder:
        work()
    return recorder


def floor(recorder: Recorder) -> dict[str, float]:
    """Return the seconds of the recorded kernels alone, by kind."""
    gc.collect()
    total: dict[str, float] = {}
    for key, count in recorder.calls.items():
        func, args = recorder.arguments[key]
        kind = KERNELS[str(func)]
        with torch.no_grad():
            best = min(seconds_of(each) for each in candidates(func, args))
        total[kind] = total.get(kind, 0.0) + count * best
    return total


def compare(what: str, works: dict[str, Work], memory: dict[str, float], rounds: int, output: Path) -> None:
    """Time two functions in turn, and append a line to the report that compares the first with the second."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            gc.collect()
            start = time.perf_counter()
            work()
            taken[name].append(time.perf_counter() - start)
    ours, theirs = works
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    ratio = statistics.median(b / a for a, b in zip(taken[ours], taken[theirs], strict=True))
    both = f"{memory[ours]:.0f} MiB, peer {memory[theirs]:.0f} MiB" if memory else "not measured"
    threads = f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    work_text = f"{what}, {threads}, {ours} in {seconds[ours]:.2f} s"
    ratio_text = f"{theirs} in {seconds[theirs]:.2f} s, ours takes {1 / ratio:.2f} of its time in the median round"
    print(append_line(work_text, ratio_text, ratio, both, output), flush=True)


def beside_floor(what: str, name: str, work: Work, recorded: Recorder, rounds: int, output: Path) -> None:
    """Time a function and its floor in turn, and append a line to the report that compares both."""
    pairs = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        pairs.append((time.perf_counter() - start, floor(recorded)))
    best = {kind: min(parts[kind] for _, parts in pairs) for kind in pairs[0][1]}
    seconds = statistics.median(taken for taken, _ in pairs)
    least = statistics.median(sum(parts.values()) for _, parts in pairs)
    ratio = statistics.median(sum(parts.values()) / taken for taken, parts in pairs)
    parts = ", ".join(f"{kind} {value:.3g} s" for kind, value in best.items())
    text = (
        f"the kernels that our model calls, alone, in {least:.3g} s ({parts}), "
        f"ours takes {1 / ratio:.2f} times as long in the median round"
    )
    print(append_line(f"{what}, {name} in {seconds:.3g} s", text, ratio, "not measured", output), flush=True)


def detector_works(pair: Pair) -> dict[str, Work]:
    def run(model: torch.nn.Module, work: Work) -> None:
        model.eval()
        with torch.no_grad():
            work()

    return {
        "ours": partial(run, pair.ours, pair.detect_ours),
        "torchvision": partial(run, pair.theirs, pair.detect_theirs),
    }


def training_works(pair: Pair) -> dict[str, Work]:
    def run(model: torch.nn.Module, losses: Callable[[], dict[str, Tensor]]) -> None:
        model.train()
        torch.stack(list(losses().values())).sum().backward()
        model.zero_grad()

    return {
        "ours": partial(run, pair.ours, pair.losses_of_ours),
        "torchvision": partial(run, pair.theirs, pair.losses_of_theirs),
    }


def small(pair: Pair, works: Callable[[Pair], dict[str, Work]]) -> dict[str, Work]:
    """Return the same functions on small images, which torchvision does not enlarge, for a child process."""
    size = (64, 96)
    count = len(pair.targets)
    few = Pair(pair.ours, pair.theirs, noise(count, size, 32), [objects(size)] * count)

    def run(work: Work) -> None:
        transform: Any = pair.theirs.transform
        sides, transform.min_size = transform.min_size, (64,)
        work()
        transform.min_size = sides

    return {name: partial(run, work) for name, work in works(few).items()}


def mini_step() -> Work:
    """Return a training step of row (c) of Table 1, an RPN on FPN, with the options of preset mini."""
    torch.manual_seed(0)
    backbone = NarrowResNet(width=16, blocks=(0, 1, 1, 1), norm="batch")
    scale = Scale(base_anchor_size=8)
    stage = RPNStage(Detector(backbone, roi_heads=None, channels=32, scale=scale, channels_last=True))
    batch = Batch(noise(8, (160, 160), 32), [objects((160, 160))] * 8)
    optimizer = torch.optim.AdamW(stage.parameters(), lr=1e-3)

    def step() -> None:
        torch.stack(list(stage.losses(batch).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 5)
        optimizer.step()
        optimizer.zero_grad()

    return step


def peaks(pair: Pair, works_of: Callable[[Pair], dict[str, Work]]) -> dict[str, float]:
    """Return the peak memory of each function, in MiB."""
    warm_up = small(pair, works_of)
    return {name: peak_memory_mib(work, warm_up[name]) for name, work in works_of(pair).items()}


def compare_mini(rounds: int, output: Path) -> None:
    work = mini_step()
    work()  # the first step makes the optimiser's state
    what = "training step of Table 1 (c), preset mini, 8 images of 160 x 160, float32, 1 thread"
    beside_floor(what, "ours", work, record(work), rounds, output)


def freeze(pair: Pair) -> None:
    for part in (pair.ours.backbone.stem, pair.ours.backbone.stages[0]):  # type: ignore[index]
        part.requires_grad_(False)
    for name, parameter in pair.theirs.backbone.body.named_parameters():
        parameter.requires_grad_(not name.startswith(("conv1", "layer1")))


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare detection and training on a CPU with torchvision.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["detect", "compile", "train", "mini"])
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--output", type=Path, default=REPORT)
    given = parser.parse_args(args)
    if given.only in (None, "mini"):
        compare_mini(given.rounds, given.output)
    if given.only == "mini":
        return 0
    size = (given.size[0], given.size[1])
    one, two = (make_pair("resnet50", 1024, noise(n, size, 32), [objects(size)] * n) for n in (1, 2))
    freeze(two)
    # Measure memory first, because later functions could reuse memory that earlier ones have freed.
    parts = (("detect", one, detector_works), ("train", two, training_works))
    memory = {part: peaks(pair, works_of) for part, pair, works_of in parts if given.only in (None, part)}
    if not check_same_detections(one):
        print("torchvision's detections differ from ours: nothing is measured", file=sys.stderr)
        return 1
    model = f"Faster R-CNN, resnet50-FPN, {size[0]} x {size[1]}, float32"
    detecting, step = f"detect in an image, {model}", f"training step of 2 images, {model}"
    works = detector_works(one)
    recorded = record(works["ours"])
    if given.only in (None, "detect"):
        compare(detecting, works, memory["detect"], given.rounds, given.output)
        beside_floor(detecting, "ours", works["ours"], recorded, min(2, given.rounds), given.output)
    if given.only in (None, "train"):
        works = training_works(two)
        compare(step, works, memory["train"], given.rounds, given.output)
        beside_floor(step, "ours", works["ours"], record(works["ours"]), 1, given.output)
    if given.only in (None, "compile"):
        works = detector_works(one)
        one.ours.compile_maps(constant_weights=True)
        works["ours"]()
        compiled = {"ours, compiled": works["ours"], "torchvision": works["torchvision"]}
        compare(detecting, compiled, {}, given.rounds, given.output)
        beside_floor(detecting, "ours, compiled", works["ours"], recorded, min(2, given.rounds), given.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
