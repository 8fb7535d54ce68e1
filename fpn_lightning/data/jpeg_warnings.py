"""Catch libjpeg's warnings about a damaged JPEG.

libjpeg fills missing parts of a JPEG with grey or shifted blocks and continues. libjpeg reports the damage only as a
line on the process's stderr, without a file name. Neither OpenCV nor Pillow returns that line, so this module reads
stderr.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock

STDERR = 2  # file descriptor of stderr, to which libjpeg writes its warnings
# libjpeg's warnings that pixels are missing. Its other warnings, for example about an unusual header, are harmless.
DAMAGE = re.compile(
    r"Corrupt JPEG data: (?:premature end of data segment|bad Huffman code|found marker .* instead of RST.*"
    r"|bad arithmetic code|\d+ extraneous bytes before marker 0x(?:c4|d[0-79a]))"
    r"|Inconsistent progression sequence.*|Premature end of JPEG file"
)
# libjpeg's warning about extra bytes before the end of the image. They may be padding after the last pixel. In a
# progressive JPEG, or a JPEG with restart markers, they may instead be the data of pixels that were not decoded.
LEFT_OVER = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9")
_one_at_a_time = Lock()


@contextmanager
def jpeg_warnings() -> Iterator[list[str]]:
    """Collect libjpeg's warnings of missing pixels during a ``with`` block.

    The yielded list is filled when the block ends. libjpeg prints only the first warning of an image. All other lines
    that were written to stderr during the block are printed to stderr when the block ends.
    """
    damage: list[str] = []
    with _one_at_a_time:
        try:
            kept = os.dup(STDERR)
        except OSError:  # the process has no stderr
            kept = None
        if kept is not None:
            os.dup2(_capture(os.getpid()), STDERR)
        try:
            yield damage
        finally:
            if kept is not None:
                os.dup2(kept, STDERR)
                os.close(kept)
                damage += _passed_on(_capture(os.getpid()))


@cache
def _capture(process: int) -> int:
    """Open a temporary file that captures stderr.

    Each process has its own file, because forked workers would mix their lines in a shared file.
    """
    handle, path = tempfile.mkstemp()
    Path(path).unlink()
    return handle


def _passed_on(capture: int) -> list[str]:
    """Empty the capture file. Return the lines that report missing pixels, and print all other lines to stderr."""
    if not (length := os.fstat(capture).st_size):
        return []
    lines = os.pread(capture, length, 0).decode(errors="replace").splitlines()
    os.ftruncate(capture, 0)
    os.lseek(capture, 0, os.SEEK_SET)
    damage = [line for line in lines if DAMAGE.fullmatch(line)]
    if others := [line + "\n" for line in lines if line not in damage]:
        os.write(STDERR, "".join(others).encode())
    return damage
