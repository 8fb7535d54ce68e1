"""Measure how time and memory grow with image size, objects, proposals, batch and processes.

    python benchmarks/growth.py [--rounds 3] [--output reports/growth.md]

The model is Faster R-CNN with ResNet-18 and FPN, with random weights and one thread per process. Time is the shortest
of the rounds. Memory is the growth of the peak memory of a child process. "Growth" is the exponent of a power law
through the last two points: 1.0 for linear growth. The script writes a table, and a figure next to the table.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its threads

import torch
import torch.distributed as dist
from compare import REPOSITORY, machine, peak_memory_mib, time_in_turn
from inputs import noise, objects
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision_peer import Pair, make_pair

from fpn_lightning.runs.checkout import git_commit
from fpn_lightning.structures import Proposals, Targets

SIZE = (400, 533)
Work = Callable[[], Any]


@dataclass
class Growth:
    """A quantity (``what``), work whose cost depends on it, and the measurements at several values (``points``)."""

    what: str
    work: str
    points: Sequence[float]
    works: list[Work] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)


@torch.no_grad()
def detect(pair: Pair, side: int) -> None:
    Pair(pair.ours.eval(), pair.theirs, noise(1, (side, side), 32), []).detect_ours()


@torch.no_grad()
def run_heads(pair: Pair, maps: dict[str, Tensor], count: int) -> None:
    heads = pair.ours.eval().roi_heads
    assert heads is not None
    boxes = objects(SIZE, count).boxes
    levels = torch.zeros(count, dtype=torch.int64)
    heads.predict(maps, [Proposals(boxes, torch.ones(count), levels)], torch.tensor([SIZE]))


def train(pair: Pair, images: int, targets: Targets, size: tuple[int, int] = SIZE) -> None:
    step = Pair(pair.ours.train(), pair.theirs, noise(images, size, 32), [targets] * images)
    torch.stack(list(step.losses_of_ours().values())).sum().backward()
    pair.ours.zero_grad()


def measure(growths: Sequence[Growth], warm_ups: Sequence[Work], rounds: int) -> None:
    """Measure memory before timing anything, because later work could reuse memory that the timed work has freed."""
    for growth, warm_up in zip(growths, warm_ups, strict=True):
        growth.mib = [peak_memory_mib(work, warm_up) for work in growth.works]
    for growth in growths:
        works = {str(number): work for number, work in enumerate(growth.works)}
        growth.seconds = list(time_in_turn(works, rounds).values())
        print(growth.what, growth.points, growth.seconds, [round(value) for value in growth.mib], flush=True)


class Losses(nn.Module):
    """Computes the losses of a training step in a forward pass, as DDP requires."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.detector = pair.ours.train()
        self.pair = pair

    def forward(self) -> Tensor:
        """Sum the losses."""
        return torch.stack(list(self.pair.losses_of_ours().values())).sum()


def train_together(rank: int, processes: int, rounds: int, file: str) -> None:
    """Time training steps in one of several processes. The first process writes its shortest time to ``file``."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    dist.init_process_group("gloo", init_method=f"file://{file}.start", rank=rank, world_size=processes)
    model = nn.parallel.DistributedDataParallel(
        Losses(make_pair("resnet18", 256, noise(2, SIZE, 32), [objects(SIZE)] * 2))
    )
    taken = []
    for _ in range(rounds + 1):
        dist.barrier()
        gc.collect()
        start = time.perf_counter()
        model().backward()
        taken.append(time.perf_counter() - start)
    if rank == 0:
        Path(file).write_text(str(min(taken[1:])), encoding="utf-8")
    dist.destroy_process_group()


def processes(counts: Sequence[int], rounds: int, folder: Path) -> Growth:
    """Measure a training step of 2 images per process."""
    seconds = []
    for count in counts:
        file = folder / f"processes{count}"
        torch.multiprocessing.spawn(train_together, (count, rounds, str(file)), nprocs=count)
        seconds.append(float(file.read_text(encoding="utf-8")))
        for name in (file, file.with_name(f"{file.name}.start")):
            name.unlink(missing_ok=True)
    print("processes", dict(zip(counts, seconds, strict=True)), flush=True)
    return Growth("processes, a core each", "training step of 2 images a process", counts, seconds=seconds)


def exponent(points: Sequence[float], values: Sequence[float]) -> float:
    """Return the exponent of a power law through the last two points: 0 for no growth, 1 for linear growth."""
    return math.log(values[-1] / values[-2]) / math.log(points[-1] / points[-2])


def write(growths: Sequence[Growth], output: Path) -> None:
    """Write the table and the figure."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [
        "# Growth of time and memory",
        "",
        "Written by `benchmarks/growth.py`. Model: Faster R-CNN with ResNet-18 and FPN. Images have "
        f"{SIZE[0]} x {SIZE[1]} px, except in the row “megapixels”, which varies the image size. One thread per "
        f"process. Machine: {machine()}, {date}, commit {git_commit()}. "
        '"Growth" is the exponent of a power law through the last two points: 0 for no growth, 1 for linear growth.',
        "",
        f"![time and memory]({output.with_suffix('.png').name})",
        "",
        "what grows | work | tested at | seconds | growth of seconds | peak MiB | growth of memory",
        "--- | --- | --- | --- | --- | --- | ---",
    ]
    for each in growths:
        points, seconds = (
            ", ".join(f"{value:.{n}g}" for value in values) for values, n in ((each.points, 7), (each.seconds, 3))
        )
        memory = ", ".join(f"{value:.0f}" for value in each.mib) or "not measured"
        growing = f"{exponent(each.points, each.mib):.2f}" if each.mib else ""
        time_growth = f"{exponent(each.points, each.seconds):.2f}"
        lines.append(f"{each.what} | {each.work} | {points} | {seconds} | {time_growth} | {memory} | {growing}")
    one, *_, most = growths[-1].seconds
    lines += ["", f"Efficiency of {growths[-1].points[-1]:.0f} processes against one: {one / most:.2f}."]
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    figure = Figure(figsize=(3 * len(growths), 5.2), layout="constrained")
    for column, each in enumerate(growths):
        for row, (name, values) in enumerate((("seconds", each.seconds), ("peak MiB", each.mib))):
            axes = figure.add_subplot(2, len(growths), row * len(growths) + column + 1)
            if not values:
                axes.axis("off")
                continue
            axes.plot(each.points, values, "o-")
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
            axes.set_xlabel(each.what)
            axes.set_ylabel(name)
            axes.set_title(each.work if row == 0 else "", fontsize=9)
    figure.savefig(output.with_suffix(".png"), dpi=80)


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure how time and memory grow.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "reports" / "growth.md")
    given = parser.parse_args(args)
    pair = make_pair("resnet18", 256, noise(1, SIZE, 32), [objects(SIZE)])
    with torch.no_grad():
        maps = pair.ours.eval()(pair.images)

    sides, counts, numbers, batches = (200, 400, 600, 800), (1, 10, 100, 1000), (250, 500, 1000, 2000), (1, 2, 4)
    growths = [
        Growth(
            "megapixels",
            "detect in an image",
            [side**2 / 1e6 for side in sides],
            [partial(detect, pair, side) for side in sides],
        ),
        Growth(
            "objects", "training step of an image", counts, [partial(train, pair, 1, objects(SIZE, n)) for n in counts]
        ),
        Growth("proposals", "box head", numbers, [partial(run_heads, pair, maps, number) for number in numbers]),
        Growth("images", "training step", batches, [partial(train, pair, n, objects(SIZE)) for n in batches]),
    ]
    one = partial(train, pair, 1, objects((64, 96)), (64, 96))
    measure(growths, [partial(detect, pair, 64), one, partial(run_heads, pair, maps, 8), one], given.rounds)
    growths.append(processes((1, 2), given.rounds + 2, given.output.resolve().parent))
    write(growths, given.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
