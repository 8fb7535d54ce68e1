"""Measures our code and other programs (peers) in one run, and appends comparisons to reports/benchmarks.md."""

from __future__ import annotations

import datetime
import gc
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fpn_lightning.runs.checkout import git_commit

REPOSITORY = Path(__file__).resolve().parent.parent
REPORT = REPOSITORY / "reports" / "benchmarks.md"
HEADER = (
    "# Benchmarks\n\n"
    "Written by `benchmarks/*.py`. Each line compares two programs measured in the same run on the same machine; "
    "the ratio is the time of the other program (the peer) divided by our time. Above 1, our code is faster.\n\n"
    "work | peer: ratio | peak memory | machine | date | commit\n"
    "--- | --- | --- | --- | --- | ---\n"
)


def time_in_turn(works: Mapping[str, Callable[[], Any]], rounds: int = 3) -> dict[str, float]:
    """Return the shortest time of each function in ``works``, s.

    The functions take turns, so that a slow phase of the machine affects all of them.
    """
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            gc.collect()
            start = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def peak_memory_mib(work: Callable[[], Any], warm_up: Callable[[], Any]) -> float:
    """Return by how many MiB the peak memory of a forked process grows while the process runs ``work``.

    Call this function before timing anything, because ``work`` could reuse memory that earlier functions have freed.

    Args:
        work: the function to measure.
        warm_up: the same function on almost no data. It runs first, because a forked process maps its libraries again
            when it calls them, which takes tens of MiB.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_report_growth, args=(work, warm_up, sender))
    child.start()
    sender.close()
    try:
        growth = receiver.recv()
    except EOFError:
        raise RuntimeError("the work failed in the child process; the traceback is above") from None
    finally:
        child.join()
    return float(growth)


def _report_growth(work: Callable[[], Any], warm_up: Callable[[], Any], sender: Connection) -> None:
    warm_up()
    before = _peak_rss_mib()
    work()
    sender.send(_peak_rss_mib() - before)


def _peak_rss_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def machine() -> str:
    """Return the name of the processor and the number of cores."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1]
            for line in cpuinfo.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        model = names[0].strip() if names else model
    return f"{model}, {os.cpu_count()} cores"


def append_line(work: str, peer: str, ratio: float, memory: str, path: Path = REPORT, device: str | None = None) -> str:
    """Append one comparison to the report ``path`` and return the line. A new report starts with a header.

    ``ratio`` is the peer's time divided by our time. ``memory`` is the peak memory of both programs, with units. The
    default of ``device`` is this machine's processor.
    """
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    line = f"{work} | {peer}: {ratio:.1f} x | {memory} | {device or machine()} | {date} | {git_commit()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A single write prevents two benchmarks that end at the same time from mixing their lines.
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if file.tell() else HEADER) + line + "\n")
    return line
