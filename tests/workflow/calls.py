"""Calls Snakemake and reads the output of a dry run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def snakemake(*arguments: str) -> tuple[int, str]:
    """Call Snakemake in the working directory; exit status and everything it printed."""
    command = [sys.executable, "-m", "snakemake", *arguments]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def jobs(printed: str) -> dict[str, int]:
    """How many jobs of each rule a dry run would start."""
    table = printed.split("Job stats:")[-1]
    found = re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)
    return {rule: int(count) for rule, count in found if rule != "total"}


def commands(printed: str) -> dict[str, str]:
    """The command of every job that a dry run would start, by the first file it makes."""
    found = re.findall(r"^ +output: ([^\s,]+)(?:.|\n)*?^Shell command: (.*)$", printed, flags=re.MULTILINE)
    return dict(found)


def touch(path: Path) -> Path:
    """An empty file, with its folders, older than all other files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (0, 0))
    return path
