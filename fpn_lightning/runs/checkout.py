"""Finds the commit of this repository that a run or a measurement used."""

from __future__ import annotations

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Paths that are checked for uncommitted changes. Reports and records do not affect what a run computes.
_CODE = ("train.py", "fpn_lightning", "configs", "benchmarks", "requirements.lock")


def git_commit(repository: Path = REPOSITORY) -> str:
    """Return the commit of a git checkout, with ``+changes`` appended if its code has uncommitted changes.

    Returns:
        The first 12 digits of the commit; ``unknown`` if ``repository`` is not a git checkout.
    """

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=repository, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", *_CODE)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+changes" if changed else commit
