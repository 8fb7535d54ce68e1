from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fpn_lightning.data import download_http
from fpn_lightning.data.download_http import announced_bytes, fetch, only_one, part_path
from fpn_lightning.errors import InputError

from .coco_server import Served, serve

PATH = "/zips/val2017.zip"
CONTENT = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download_http.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def served(waits: list[float]) -> Iterator[Served]:
    with serve({PATH: CONTENT}) as server:
        yield server


def test_whole_file_and_its_progress(served: Served, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    assert announced_bytes(served.url + PATH) == 3_000_000
    fetch(served.url + PATH, tmp_path / "a.zip", on_progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    assert seen[0] == (0, 3_000_000)
    assert seen[-1] == (3_000_000, 3_000_000)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_broken_connection_is_continued_with_the_missing_bytes(served: Served, tmp_path: Path) -> None:
    served.cuts[PATH] = [1_200_000]
    fetch(served.url + PATH, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert served.ranges_asked(PATH) == [None, "bytes=1200000-"]


def test_a_later_run_continues_with_the_missing_bytes(served: Served, tmp_path: Path) -> None:
    served.cuts[PATH] = [1_200_000]
    with pytest.raises(InputError, match="closed after 1,200,000 of 3,000,000 bytes"):
        fetch(served.url + PATH, tmp_path / "a.zip", retries=0)
    assert not (tmp_path / "a.zip").exists()
    assert part_path(tmp_path / "a.zip").read_bytes() == CONTENT[:1_200_000]
    fetch(served.url + PATH, tmp_path / "a.zip", retries=0)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert served.ranges_asked(PATH) == [None, "bytes=1200000-"]


def test_a_file_that_changed_meanwhile_is_fetched_afresh(served: Served, tmp_path: Path) -> None:
    served.cuts[PATH] = [1_200_000]
    with pytest.raises(InputError):
        fetch(served.url + PATH, tmp_path / "a.zip", retries=0)
    served.files[PATH] = CONTENT[::-1]
    served.etag = '"v2"'
    fetch(served.url + PATH, tmp_path / "a.zip", retries=0)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT[::-1]


def test_a_file_that_changed_its_length_is_fetched_afresh_without_etags(served: Served, tmp_path: Path) -> None:
    served.etag = None
    served.cuts[PATH] = [1_200_000]
    with pytest.raises(InputError):
        fetch(served.url + PATH, tmp_path / "a.zip", retries=0)
    served.files[PATH] = CONTENT[::-1] + b"more"
    fetch(served.url + PATH, tmp_path / "a.zip", retries=1)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT[::-1] + b"more"


def test_server_without_range_starts_again(served: Served, tmp_path: Path) -> None:
    served.ranges = False
    served.cuts[PATH] = [1_200_000]
    fetch(served.url + PATH, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert served.ranges_asked(PATH) == [None, "bytes=1200000-"]


def test_server_without_head_and_without_length(served: Served, tmp_path: Path) -> None:
    served.head = False
    assert announced_bytes(served.url + PATH) == 3_000_000
    served.lengths = False
    assert announced_bytes(served.url + PATH) is None
    fetch(served.url + PATH, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_bytes_of_unknown_origin_are_not_continued(served: Served, tmp_path: Path) -> None:
    part_path(tmp_path / "a.zip").write_bytes(b"something else")
    fetch(served.url + PATH, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_complete_part_file_needs_no_request(served: Served, tmp_path: Path) -> None:
    served.cuts[PATH] = [2_999_999]
    with pytest.raises(InputError):
        fetch(served.url + PATH, tmp_path / "a.zip", retries=0)
    with part_path(tmp_path / "a.zip").open("ab") as part:
        part.write(CONTENT[-1:])
    served.requests.clear()
    fetch(served.url + PATH, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert served.requests == []


def test_a_length_that_never_arrives_gives_up(served: Served, tmp_path: Path) -> None:
    served.announced[PATH] = 3_000_010
    with pytest.raises(InputError, match=r"val2017\.zip: .*attempt 4 of 4, giving up"):
        fetch(served.url + PATH, tmp_path / "a.zip", retries=3)
    assert not (tmp_path / "a.zip").exists()
    # all there is; the missing bytes, refused; all there is again; the missing bytes, refused
    assert len(served.ranges_asked(PATH)) == 4


def test_a_server_without_range_that_always_breaks_gives_up(served: Served, tmp_path: Path, waits: list[float]) -> None:
    served.ranges = False
    served.cuts[PATH] = [2_000_000] * 10
    with pytest.raises(InputError, match="closed after 2,000,000 of 3,000,000 bytes"):
        fetch(served.url + PATH, tmp_path / "a.zip", retries=2)
    assert len(waits) == 2


def test_retries_wait_twice_as_long_each_time_and_passing_errors_pass(
    served: Served, tmp_path: Path, waits: list[float]
) -> None:
    served.failures[PATH] = [503, 500, 429]
    fetch(served.url + PATH, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert waits == [1.0, 2.0, 4.0]


def test_progress_starts_the_count_of_failures_again(served: Served, tmp_path: Path, waits: list[float]) -> None:
    served.cuts[PATH] = [1_100_000, 1_100_000]
    fetch(served.url + PATH, tmp_path / "a.zip", retries=1)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert waits == [1.0, 1.0]


def test_missing_file_is_not_retried(served: Served, tmp_path: Path, waits: list[float]) -> None:
    for ask in (lambda: announced_bytes(served.url + "/no.zip"), lambda: fetch(served.url + "/no.zip", tmp_path / "a")):
        with pytest.raises(InputError, match=r"/no\.zip: the server answered 404"):
            ask()
    assert waits == []


def test_unreachable_server_names_the_address(tmp_path: Path, waits: list[float]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/zips/a.zip"
    with pytest.raises(InputError, match=rf"{url}: cannot connect: .*attempt 3 of 3"):
        fetch(url, tmp_path / "a.zip", retries=2)
    assert waits == [1.0, 2.0]


def test_silent_server_times_out(tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_http, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/zips/a.zip"
        with pytest.raises(InputError, match="timed out"):
            fetch(url, tmp_path / "a.zip", retries=0)


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(InputError, match="another download is running"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass
