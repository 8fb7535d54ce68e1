"""The commit of this repository that a run or a measurement used."""

from __future__ import annotations

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Changes of reports and records do not count: they do not change what is run.
_CODE = ("train.py", "fpn_lightning", "configs", "benchmarks", "requirements.lock")


def git_commit(repository: Path = REPOSITORY) -> str:
    """Return the commit of a checkout, with ``+changes`` if its code is modified; ``unknown`` outside a checkout."""

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=repository, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", *_CODE)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+changes" if changed else commit
