"""A web server on the loopback interface with small archives in COCO's layout, and the faults servers have."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


def zip_bytes(members: dict[str, bytes]) -> bytes:
    """A zip file with ``members`` stored as they are, so that tests can find and spoil their bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as bundle:
        for name, content in members.items():
            bundle.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def images(split: str, count: int, size: int = 1000) -> dict[str, bytes]:
    """``count`` members ``split/000000000001.jpg`` … of ``size`` random bytes."""
    random = np.random.default_rng(count)
    return {f"{split}/{i:012d}.jpg": random.bytes(size) for i in range(1, count + 1)}


def coco_files() -> dict[str, bytes]:
    """What the tests' server holds: path to bytes."""
    annotations = {f"annotations/instances_{split}2017.json": b"{}" for split in ("train", "val")}
    return {
        "/zips/train2017.zip": zip_bytes(images("train2017", 7)),
        "/zips/val2017.zip": zip_bytes(images("val2017", 3)),
        "/annotations/annotations_trainval2017.zip": zip_bytes(annotations),
    }


@dataclass
class Served:
    """The files of a server, its faults, and what it was asked for."""

    files: dict[str, bytes]
    url: str = ""
    ranges: bool = True
    cuts: dict[str, list[int]] = field(default_factory=dict)  # path to bytes after which an answer breaks off
    stall: dict[str, int] = field(default_factory=dict)  # path to bytes after which an answer stops coming
    failures: dict[str, list[int]] = field(default_factory=dict)  # path to status codes of the next answers
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path and ``Range``

    def ranges_asked(self, path: str) -> list[str | None]:
        """``Range`` of every request for ``path``."""
        return [asked for name, asked in self.requests if name == path]


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            served.requests.append((self.path, asked))
            if served.failures.get(self.path):
                return self.send_error(served.failures[self.path].pop(0))
            if self.path not in served.files:
                return self.send_error(404)
            content = served.files[self.path]
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if served.ranges else 0
            self.send_response(206 if served.ranges else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            cuts = served.cuts.get(self.path)
            end = start + (cuts.pop(0) if cuts else served.stall.get(self.path, len(content)))
            self.wfile.write(content[start:end])
            while self.path in served.stall:
                time.sleep(0.01)
            return None

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Served]:
    """Serve ``files`` until the block ends."""
    served = Served(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
