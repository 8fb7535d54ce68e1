"""A file is there whole or not at all, and what killed writers leave is removed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fpn_lightning import files
from fpn_lightning.errors import InputError
from fpn_lightning.files import set_aside, whole_file, write_whole

WRITER = (
    "import sys, time; from pathlib import Path; from fpn_lightning.files import whole_file\n"
    "with whole_file(Path(sys.argv[1])) as file: file.write_text('half'); print('half', flush=True); time.sleep(60)"
)
OTHER_WRITER = (
    "import sys; from pathlib import Path; from fpn_lightning.files import write_whole\n"
    "write_whole(Path(sys.argv[1]), '')"
)


@pytest.fixture(autouse=True)
def _new_process():
    """A process looks for leftovers once in each folder."""
    files._remove_leftovers.cache_clear()


@pytest.fixture
def writer(tmp_path):
    """A process that has written half of a file."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "a")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"half\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_next_writer_removes_what_a_killed_one_left_and_not_more(tmp_path, writer):
    kept = [tmp_path / "train2017.zip.part", tmp_path / ".detections.rank0.part"]
    for path in kept:
        path.touch()
    write_whole(tmp_path / "b", "other")
    assert len(list(tmp_path.glob(".a.*.part"))) == 1  # its writer is alive
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    files._remove_leftovers.cache_clear()
    write_whole(tmp_path / "b", "other")
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / "b"])


def test_a_writer_that_replaces_the_temporary_file_keeps_its_lock(tmp_path):
    """safetensors writes to a file of its own and renames it."""
    with whole_file(tmp_path / "a.safetensors") as temporary:
        save_file({"x": np.ones(2)}, temporary)
        other = [sys.executable, "-c", OTHER_WRITER, str(tmp_path / "b")]
        subprocess.run(other, check=True)
    assert load_file(tmp_path / "a.safetensors")["x"].tolist() == [1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b"]


def test_a_folder_that_is_taken_for_a_leftover_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    make = files.tempfile.mkdtemp
    taken = []

    def unlucky(**options):
        name = make(**options)
        if not taken:
            taken.append(name)
            Path(name).rmdir()
        return name

    monkeypatch.setattr(files.tempfile, "mkdtemp", unlucky)
    write_whole(tmp_path / "a", "text")
    assert taken
    assert (tmp_path / "a").read_text() == "text"


def test_the_content_is_on_the_disk_before_the_file_gets_its_name(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("sync"), sync(handle)))
    monkeypatch.setattr(Path, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_whole(tmp_path / "a", "text")
    assert calls == ["sync", "replace", "sync"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, r"No space left on device\). Free space for "),
        (errno.EDQUOT, "Free space for "),
        (errno.EROFS, r"Read-only file system\). Make .* writable"),
        (errno.EACCES, "Make .* writable"),
    ],
)
def test_a_failed_write_names_the_file_and_the_way_out(tmp_path, number, advice):
    write_whole(tmp_path / "a", "old")
    expected = rf"{tmp_path / 'a'} cannot be written.*{advice}"
    with pytest.raises(InputError, match=expected), whole_file(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_file_that_is_set_aside_gets_the_first_free_number(tmp_path, capsys):
    for content in ("first", "second"):
        write_whole(tmp_path / "a.json", content)
        set_aside(tmp_path / "a.json")
    set_aside(tmp_path / "a.json")  # there is none any more
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.1.json": "first", "a.2.json": "second"}
    assert "a.json existed already and was renamed to a.2.json" in capsys.readouterr().out


def test_another_error_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a"):
        (tmp_path / "missing").read_text()
    assert not list(tmp_path.iterdir())
