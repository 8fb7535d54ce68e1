"""Compare detection and training on a GPU: ours and torchvision's, compiled and eager, FPN and C4, and precisions.

    python benchmarks/gpu.py [--seconds 450] [--device cuda] [--size full] [--output reports/benchmarks.md]

``--seconds 150`` is a shorter run. ``--device cpu --size small`` measures the same with small images on a CPU.

Our Faster R-CNN with ResNet-50 and FPN at 800 x 1066 px is compared with torchvision's ``fasterrcnn_resnet50_fpn``.
Both have the same random weights, the same options and frozen BatchNorm. Nothing is timed unless both give the same
detections in float64. The programs take turns. Each time ends when the device has finished its work. Medians and
quartiles are reported. Both programs start with pixels on the device and end with detections or with updated weights.
Memory is the peak of torch's allocated memory minus the memory allocated before; it includes gradients but not weights.
"float32" is torch's default, in which convolutions use TF32.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from compare import REPORT, append_line, machine
from detector_time import C4_ROW, FPN_ROW, detect, detectors
from inputs import noise, objects
from torchvision_peer import Losses, Pair, check_same_detections, make_pair

from fpn_lightning.models.backbones.resnet import ResNetBackbone
from fpn_lightning.models.detector import Detector

Backbone = Literal["resnet18", "resnet50"]
SIZES: dict[str, tuple[Backbone, int, tuple[int, int]]] = {
    "full": ("resnet50", 1024, (800, 1066)),
    "small": ("resnet18", 64, (128, 160)),
}
PRECISIONS = {"float32": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
MEASUREMENTS = 8  # number of measurements; each gets an equal part of the time
START, COMPILE = 25, 60  # seconds reserved for building the models, and for compilation
MIN_ROUNDS, MAX_ROUNDS = 3, 40
Works = dict[str, Callable[[], Any]]


class Bench:
    """Measures functions on a device, and appends comparisons to a report."""

    def __init__(self, device: torch.device, seconds: float, output: Path) -> None:
        self.device = device
        self.share = max(0.5, (seconds - START - COMPILE) / MEASUREMENTS)
        self.end = time.monotonic() + seconds
        self.output = output
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()
        self.name = f"{name}, torch {torch.__version__}"

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def times(self, works: Works) -> dict[str, tuple[float, float, float]]:
        """Return median and quartiles of each function's time, ms. The functions take turns for ``share`` seconds."""
        for work in works.values():
            for _ in range(3):
                work()
        taken: dict[str, list[float]] = {name: [] for name in works}
        end = time.monotonic() + self.share
        for count in range(MAX_ROUNDS):
            if count >= MIN_ROUNDS and time.monotonic() > end:
                break
            for name, work in works.items():
                self.wait()
                start = time.perf_counter()
                work()
                self.wait()
                taken[name].append(1000 * (time.perf_counter() - start))
        quartiles = {name: statistics.quantiles(values, n=4) for name, values in taken.items()}
        return {name: (median, low, high) for name, (low, median, high) in quartiles.items()}

    def memory(self, work: Callable[[], Any]) -> str:
        """Return the peak of the allocated memory while ``work`` runs, minus the memory that was allocated before."""
        if self.device.type != "cuda":
            return "memory not measured"
        work()
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f} MiB"

    def compare(self, what: str, works: Works) -> None:
        """Measure all functions, and append one line for each that compares it with the first function."""
        memory = {name: self.memory(work) for name, work in works.items()}
        times = self.times(works)
        (first, ours), *others = times.items()
        for name, theirs in others:
            line = append_line(
                f"{what}, {first} in {_text(ours)}",
                f"{name} in {_text(theirs)}",
                theirs[0] / ours[0],
                f"{memory[first]}, peer {memory[name]}",
                self.output,
                self.name,
            )
            print(line, flush=True)

    def host_waits(self, work: Callable[[], Any]) -> int:
        """Count how often the host waits for the GPU while ``work`` runs."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            work()
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in caught)


def _text(times: tuple[float, float, float]) -> str:
    return f"{times[0]:.1f} ms ({times[1]:.1f} to {times[2]:.1f})"


@contextmanager
def in_precision(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        yield


def trainer(
    device: torch.device, model: torch.nn.Module, losses: Callable[[], Losses], precision: str
) -> Callable[[], None]:
    """Return a function that runs a training step. The learning rate is 0, so that all steps do the same work."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "16-mixed")

    def step() -> None:
        model.train()
        with in_precision(device, PRECISIONS.get(precision)):
            total = torch.stack([loss.float() for loss in losses().values()]).sum()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def detection(bench: Bench, pair: Pair, precision: str) -> Works:
    def run(model: torch.nn.Module, work: Callable[[], Any]) -> None:
        model.eval()
        with torch.no_grad(), in_precision(bench.device, PRECISIONS[precision]):
            work()

    return {
        "ours": partial(run, pair.ours, pair.detect_ours),
        "torchvision": partial(run, pair.theirs, pair.detect_theirs),
    }


def training(bench: Bench, pair: Pair, precision: str) -> Works:
    return {
        "ours": trainer(bench.device, pair.ours, pair.losses_of_ours, precision),
        "torchvision": trainer(bench.device, pair.theirs, pair.losses_of_theirs, precision),
    }


def parts_of_detection(bench: Bench, pair: Pair, precision: str) -> None:
    """Print the time of each part of our detection."""
    ours, images = pair.ours.eval(), pair.images
    assert ours.rpn is not None
    assert ours.roi_heads is not None
    with torch.no_grad(), in_precision(bench.device, PRECISIONS[precision]):
        maps = ours(images)
        outputs = ours.rpn(maps)
        proposals = ours.rpn.predict(outputs, images.sizes)
        parts: Works = {
            "backbone": partial(ours.backbone, images),
            "backbone and pyramid": partial(ours, images),
            "RPN head": partial(ours.rpn, maps),
            "proposals": partial(ours.rpn.predict, outputs, images.sizes),
            "RoI pooling": partial(ours.roi_heads.pooler, maps, [proposal.boxes for proposal in proposals]),
            "RoI heads": partial(ours.roi_heads.predict, maps, proposals, images.sizes),
        }
        for name, times in bench.times(parts).items():
            print(f"  {precision}, {name}: {_text(times)}", flush=True)


def fpn_beside_c4(bench: Bench, backbone: Backbone, size: tuple[int, int], precision: str) -> None:
    images = noise(1, size, 32).to(bench.device)
    models = {
        name: model.to(bench.device) for name, model in detectors(partial(ResNetBackbone, backbone), 1000).items()
    }

    def run(model: Detector) -> None:
        with in_precision(bench.device, PRECISIONS[precision]):
            detect(model, images)

    what = f"detect in an image of {size[0]} x {size[1]}, {precision} (the paper on an M40: 148 and 320 ms, 2.2 x)"
    bench.compare(what, {name: partial(run, models[name]) for name in (FPN_ROW, C4_ROW)})


def precisions(bench: Bench, pair: Pair, what: str) -> None:
    """Compare our training step in each of Lightning's precisions with float32."""
    half = copy.deepcopy(pair.ours).to(torch.bfloat16)
    in_half = Pair(half, pair.theirs, pair.images, pair.targets)
    steps = {name: trainer(bench.device, pair.ours, pair.losses_of_ours, name) for name in PRECISIONS}
    steps["bf16-true"] = trainer(bench.device, half, in_half.losses_of_ours, "bf16-true")
    for name in ("bf16-mixed", "bf16-true", "16-mixed")[: None if bench.device.type == "cuda" else 2]:
        bench.compare(what, {f"ours, {name}": steps[name], "ours, float32": steps["float32"]})


def compiled(bench: Bench, pair: Pair, what: str) -> None:
    """Compare our compiled detection in bf16-mixed with our eager detection and with torchvision, compiled as well."""
    eager = Pair(copy.deepcopy(pair.ours), pair.theirs, pair.images, pair.targets)
    before = detection(bench, eager, "bf16-mixed")["ours"]
    start = time.monotonic()
    pair.ours.backbone.features = torch.compile(pair.ours.backbone.features)  # type: ignore[method-assign]
    pair.ours.pyramid.compile()
    works = detection(bench, pair, "bf16-mixed")
    works["ours"]()
    print(f"  compiled in {time.monotonic() - start:.0f} s", flush=True)
    bench.compare(what, {"ours, compiled": works["ours"], "ours, eager": before})
    pair.theirs.backbone.compile()
    bench.compare(what, {"ours, compiled": works["ours"], "torchvision, backbone compiled": works["torchvision"]})


def measure_all(bench: Bench, arguments: argparse.Namespace) -> int:
    backbone, width, size = SIZES[arguments.size]
    images, targets = (noise(n, size, 32).to(bench.device) for n in (1, 2)), objects(size).to(bench.device)
    one, two = (make_pair(backbone, width, batch, [targets] * len(batch)) for batch in images)
    if not check_same_detections(one):
        print("torchvision's detections differ from ours: nothing is measured", file=sys.stderr)
        return 1
    model = f"Faster R-CNN, {backbone}-FPN, {size[0]} x {size[1]}"
    detecting, step = f"detect in an image, {model}", f"training step of 2 images, {model}"
    if arguments.only_compile:
        compiled(bench, one, f"{detecting}, bf16-mixed")
        return 0
    print(f"{bench.name}: both detect the same", flush=True)
    for precision in ("float32", "bf16-mixed"):
        bench.compare(f"{detecting}, {precision}", detection(bench, one, precision))
        bench.compare(f"{step}, {precision}", training(bench, two, precision))
    if bench.device.type == "cuda":
        for name, work in training(bench, two, "bf16-mixed").items():
            print(f"  {name}: the host waits {bench.host_waits(work)} times in a training step", flush=True)
    fpn_beside_c4(bench, backbone, size, "float32")
    precisions(bench, two, step)
    for precision in ("float32", "bf16-mixed"):
        parts_of_detection(bench, one, precision)
    return 0


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare detection and training on a GPU with torchvision.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--seconds", type=float, default=450, help="time for all measurements; 150 is a shorter run")
    parser.add_argument("--no_compile", action="store_true", help="do not measure compilation, the last measurement")
    parser.add_argument("--only_compile", action="store_true", help="measure compilation only")
    parser.add_argument("--output", type=Path, default=REPORT)
    arguments = parser.parse_args(args)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA GPU: nothing is measured")
        return 0
    bench = Bench(torch.device(arguments.device), arguments.seconds, arguments.output)
    failed = measure_all(bench, arguments)
    if failed or arguments.no_compile or arguments.only_compile:
        return failed
    # Compile in a new process, which can be stopped, because the time of compilation is not known beforehand.
    options = ["--device", arguments.device, "--size", arguments.size, "--seconds", "90", "--output"]
    command = [sys.executable, __file__, "--only_compile", *options, str(arguments.output)]
    limit = min(1.5 * COMPILE, bench.end - time.monotonic())
    try:
        subprocess.run(command, check=True, timeout=max(1, limit))
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        print(f"compilation was not measured: {error}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
