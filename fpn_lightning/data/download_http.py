"""One file over HTTP, continued where an earlier attempt stopped.

Bytes arrive in ``<target>.part``. A note beside it (``<target>.part.json``) remembers which version of the file they
belong to, so that a file that changed on the server is fetched afresh instead of being glued to the old beginning.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from fpn_lightning.errors import InputError

RETRIES = 4
FIRST_DELAY_S = 1.0
TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20
# An attempt that brought this much counts as progress: a line that drops once an hour still gets 19 GB across.
PROGRESS_BYTES = 1 << 20
PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}

Progress = Callable[[int, int | None], None]
T = TypeVar("T")


class _TransientError(Exception):
    """A failure that the next attempt may not meet."""


@dataclass(frozen=True)
class _Version:
    """What identifies one version of a file on a server."""

    url: str
    bytes: int | None
    etag: str | None
    modified: str | None

    @property
    def validator(self) -> str | None:
        """The value for ``If-Range``; weak entity tags are not allowed there."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


@contextmanager
def only_one(root: Path) -> Iterator[None]:
    """Two runs in one folder would write into the same ``.part`` file."""
    handle = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise InputError(f"{root}: another download is running there; wait until it is done") from error
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(handle)


def part_path(target: Path) -> Path:
    """Where the bytes of an unfinished ``target`` lie."""
    return target.with_name(target.name + ".part")


def announced_bytes(url: str, retries: int = RETRIES) -> int | None:
    """Ask how long a file is without fetching it.

    Returns:
        Bytes, or None where the server does not say.

    Raises:
        InputError: the server cannot be reached or does not have the file.
    """

    def ask(method: str) -> int | None:
        with _open(urllib.request.Request(url, method=method)) as response:
            return _length(response)

    def attempt() -> int | None:
        try:
            return ask("HEAD")
        except urllib.error.HTTPError as error:
            if error.code not in (403, 405, 501):
                raise
            return ask("GET")  # servers and signed addresses that know no HEAD

    return _with_retries(url, retries, attempt, lambda: 0)


def fetch(url: str, target: Path, retries: int = RETRIES, on_progress: Progress = lambda done, total: None) -> None:
    """Fetch ``url`` to ``target``, continuing its ``.part`` file if there is one.

    Args:
        url: ``http`` or ``https`` address.
        target: file to write; it appears only when all announced bytes have arrived.
        retries: further attempts after a failure that may pass, 1, 2, 4 … seconds apart.
        on_progress: called with the bytes there so far and the total (None: unknown).

    Raises:
        InputError: the server refuses, cannot be reached, or keeps breaking off; the ``.part`` file stays.
        OSError: the file cannot be written.
    """
    part = part_path(target)
    _with_retries(url, retries, lambda: _attempt(url, part, on_progress), lambda: _size(part))
    with part.open("rb") as whole:
        os.fsync(whole.fileno())
    part.replace(target)
    _note_path(part).unlink(missing_ok=True)


def _attempt(url: str, part: Path, on_progress: Progress) -> None:
    version = _remembered(url, part)
    start = _size(part) if version else 0
    if version and start and start == version.bytes:
        return
    request = urllib.request.Request(url)
    if version and start:
        request.add_header("Range", f"bytes={start}-")
        if version.validator:
            request.add_header("If-Range", version.validator)
    try:
        response = _open(request)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            part.unlink()
            raise _TransientError("the server has no more than what is already here, yet it is not all") from error
        raise
    with response:
        if response.status == 206 and version and start:
            _check_range(response, part, start, version.bytes)
            mode = "ab"
        else:  # no Range on this server, or the file changed there
            mode, start = "wb", 0
        with part.open(mode) as sink:
            if mode == "wb":  # emptied first: a break between these lines never joins two versions
                headers = response.headers
                version = _Version(url, _length(response), headers.get("ETag"), headers.get("Last-Modified"))
                _note_path(part).write_text(json.dumps(asdict(version)))
            total = version.bytes if version else None
            done = start
            on_progress(done, total)
            while block := _read(response):
                sink.write(block)
                done += len(block)
                on_progress(done, total)
    if total is not None and done != total:
        raise _TransientError(f"the connection closed after {done:,} of {total:,} bytes")


def _check_range(response: http.client.HTTPResponse, part: Path, start: int, total: int | None) -> None:
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if not found or int(found[1]) != start or (total is not None and found[2] not in ("*", str(total))):
        part.unlink()
        raise _TransientError(f"the server answered with the range {response.headers.get('Content-Range')!r}")


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    request.add_header("User-Agent", "fpn_lightning")
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code in PASSING_STATUS:
            raise _TransientError(f"the server answered {error.code} {error.reason}") from error
        raise
    except urllib.error.URLError as error:
        raise _TransientError(f"cannot connect: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(f"cannot connect: {error}") from error
    return response


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        # read1 hands over what has arrived; read would lose up to a whole chunk when the connection breaks.
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(f"the connection broke: {error or type(error).__name__}") from error


def _length(response: http.client.HTTPResponse) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdecimal() else None


def _with_retries(url: str, retries: int, attempt: Callable[[], T], bytes_here: Callable[[], int]) -> T:
    failures, furthest = 0, bytes_here()
    while True:
        try:
            return attempt()
        except urllib.error.HTTPError as error:
            raise InputError(
                f"{url}: the server answered {error.code} {error.reason}; check the year and the base address"
            ) from error
        except _TransientError as error:
            if bytes_here() - furthest >= PROGRESS_BYTES:  # starting again from nothing is no progress
                failures, furthest = 0, bytes_here()
            failures += 1
            if failures > retries:
                raise InputError(f"{url}: {error} (attempt {failures} of {retries + 1}, giving up)") from error
            time.sleep(FIRST_DELAY_S * 2 ** (failures - 1))


def _note_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _remembered(url: str, part: Path) -> _Version | None:
    try:
        version = _Version(**json.loads(_note_path(part).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # without knowing what the bytes belong to they cannot be continued
    return version if version.url == url else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
