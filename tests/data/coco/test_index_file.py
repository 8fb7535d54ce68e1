from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fpn_lightning.data.coco import index_file
from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.errors import InputError
from tests.data.builders import document, one_object, write_json


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The annotation files that were parsed, one entry each time."""
    parsed: list[Path] = []
    original = index_file.read_annotations

    def counted(path: Path, content: bytes) -> Any:
        parsed.append(path)
        return original(path, content)

    monkeypatch.setattr(index_file, "read_annotations", counted)
    return parsed


def settle(path: Path) -> None:
    """Make a file look as if it had been written long ago."""
    os.utime(path, ns=(10**18, 10**18))


class TestIndexFile:
    def test_beside_the_annotations_and_used_again(self, tmp_path: Path, builds: list[Path], cache: Path) -> None:
        path = write_json(tmp_path / "a.json", document())
        settle(path)
        first = COCOIndex.open(path)
        assert (tmp_path / ".a.json.index").is_file()
        assert not cache.exists()
        assert COCOIndex.open(path).fingerprint == first.fingerprint
        assert len(builds) == 1

    def test_read_only_folder(self, tmp_path: Path, builds: list[Path], cache: Path) -> None:
        path = write_json(tmp_path / "closed" / "a.json", document())
        settle(path)
        path.parent.chmod(0o555)
        try:
            for _ in range(2):
                assert len(COCOIndex.open(path)) == 2
            assert len(builds) == 1
            assert [file.name for file in path.parent.iterdir()] == ["a.json"]
            assert len(list(cache.iterdir())) == 1
        finally:
            path.parent.chmod(0o755)

    def test_no_folder_to_write_to(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_json(tmp_path / "closed" / "a.json", document())
        path.parent.chmod(0o555)
        monkeypatch.setenv("FPN_LIGHTNING_CACHE", "/dev/null/nowhere")
        try:
            with pytest.raises(InputError, match="FPN_LIGHTNING_CACHE"):
                COCOIndex.open(path)
        finally:
            path.parent.chmod(0o755)

    def test_changed_file_is_read_again(self, tmp_path: Path, builds: list[Path]) -> None:
        path = write_json(tmp_path / "a.json", document())
        settle(path)
        before = COCOIndex.open(path)
        same_size = path.read_text().replace("10.25", "10.75")
        path.write_text(same_size)
        assert COCOIndex.open(path).objects_of(0).boxes_xywh[0, 3] == 10.75
        assert len(builds) == 2
        assert before.objects_of(0).boxes_xywh[0, 3] == 10.25  # an open index keeps its file

    def test_changed_at_once_with_equal_size(self, tmp_path: Path) -> None:
        """Written, indexed and changed within one tick of the clock: the file's time does not change."""
        for i in range(50):
            path = write_json(tmp_path / f"{i}.json", document())
            COCOIndex.open(path)
            stat = path.stat()
            path.write_text(path.read_text().replace("10.25", "10.75"))
            os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
            assert COCOIndex.open(path).objects_of(0).boxes_xywh[0, 3] == 10.75

    def test_a_young_file_is_not_trusted_by_its_time(self, tmp_path: Path, builds: list[Path]) -> None:
        path = write_json(tmp_path / "a.json", document())
        COCOIndex.open(path)
        settle(path)
        for _ in range(2):
            COCOIndex.open(path)
        assert len(builds) == 2

    @pytest.mark.parametrize("damage", ["cut short", "empty", "not an index", "foreign", "folder"])
    def test_damaged_index_is_built_again(self, tmp_path: Path, builds: list[Path], damage: str) -> None:
        path = write_json(tmp_path / "a.json", document())
        settle(path)
        COCOIndex.open(path)
        index = tmp_path / ".a.json.index"
        content = index.read_bytes()
        if damage == "foreign":
            settle(write_json(tmp_path / "other.json", one_object()))
            COCOIndex.open(tmp_path / "other.json")
            content = (tmp_path / ".other.json.index").read_bytes()
        contents = {"cut short": content[:-1], "empty": b"", "not an index": path.read_bytes(), "foreign": content}
        index.unlink()
        if damage == "folder":
            index.mkdir()
        else:
            index.write_bytes(contents[damage])
        del builds[:]
        assert COCOIndex.open(path).objects_of(0).annotation_ids.tolist() == [12, 11, 13]
        assert builds == [path]

    def test_other_version_is_built_again(
        self, tmp_path: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_json(tmp_path / "a.json", document())
        settle(path)
        for version in (1, 1, 2, 2):
            monkeypatch.setattr(index_file, "VERSION", version)
            COCOIndex.open(path)
        assert len(builds) == 2

    def test_opening_needs_no_torch(self, tmp_path: Path) -> None:
        """Importing it would cost more time and memory than all of COCO's annotations."""
        path = write_json(tmp_path / "a.json", document())
        program = (
            "import sys; from fpn_lightning.data.coco.index import COCOIndex; "
            "print(len(COCOIndex.open(sys.argv[1])), 'torch' in sys.modules)"
        )
        for _ in range(2):  # building, mapping
            answer = subprocess.run(
                [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
            )
            assert answer.stdout.split() == ["2", "False"]

    def test_two_processes_at_once(self, tmp_path: Path) -> None:
        path = write_json(tmp_path / "a.json", document())
        with multiprocessing.get_context("fork").Pool(4) as pool:
            assert pool.map(_open_and_count, [path] * 16) == [3] * 16
        assert not list(tmp_path.glob("*.part"))


def _open_and_count(path: Path) -> int:
    return len(COCOIndex.open(path).objects.labels)
