"""The commit of a run says whether the code was modified."""

from __future__ import annotations

import subprocess

from fpn_lightning.runs.checkout import REPOSITORY as FOUND
from fpn_lightning.runs.checkout import git_commit
from tests.command_line import REPOSITORY


def test_a_commit_is_marked_if_its_code_is_modified(tmp_path):
    assert FOUND == REPOSITORY
    assert git_commit(tmp_path) == "unknown"

    def git(*args: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *identity, *args], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "train.py").write_text("1\n")
    git("init")
    git("add", "train.py")
    git("commit", "--message", "one")
    clean = git_commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "reports.md").touch()  # not code
    assert git_commit(tmp_path) == clean
    (tmp_path / "train.py").write_text("2\n")
    assert git_commit(tmp_path) == f"{clean}+changes"
