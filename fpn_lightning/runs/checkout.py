"""Which state of this repository something ran with."""

from __future__ import annotations

import subprocess
from pathlib import Path

# Reports and records change as runs finish; they are not what was run.
_CODE = ("train.py", "fpn_lightning", "configs", "benchmarks", "requirements.lock")


def git_commit() -> str:
    """Commit of the checkout, ``+changes`` where what runs differs from it; ``unknown`` outside a checkout."""
    folder = Path(__file__).resolve().parent.parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", *_CODE)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+changes" if changed else commit
