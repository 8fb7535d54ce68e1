"""Catch libjpeg's warnings about a damaged JPEG.

libjpeg fills missing parts of a JPEG with grey or shifted blocks, and continues. Its only sign is a line on the
process's stderr, which names no file. Neither OpenCV nor Pillow returns that line, so this module reads it from stderr.
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

STDERR = 2  # the file descriptor, which C code writes to
# Lines that mean lost pixels. Others, for example about an odd header, do not.
DAMAGE = re.compile(
    r"Corrupt JPEG data: (?:premature end of data segment|bad Huffman code|found marker .* instead of RST.*"
    r"|bad arithmetic code|\d+ extraneous bytes before marker 0x(?:c4|d[0-79a]))"
    r"|Inconsistent progression sequence.*|Premature end of JPEG file"
)
# Padding after the last pixel, or, in a progressive JPEG and in one with restart markers, bytes that pixels lack.
LEFT_OVER = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9")
_one_at_a_time = Lock()


@contextmanager
def jpeg_warnings() -> Iterator[list[str]]:
    """Yield a list that holds, after the block, the lines of libjpeg that mean lost pixels (it prints the first only).

    All other lines that were written to stderr meanwhile are passed on.
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
    """Each process has its own file, because a file shared with forked workers would mix their lines."""
    handle, path = tempfile.mkstemp()
    Path(path).unlink()
    return handle


def _passed_on(capture: int) -> list[str]:
    """Empty the file; print lines that are not about damage, and return the others."""
    if not (length := os.fstat(capture).st_size):
        return []
    lines = os.pread(capture, length, 0).decode(errors="replace").splitlines()
    os.ftruncate(capture, 0)
    os.lseek(capture, 0, os.SEEK_SET)
    damage = [line for line in lines if DAMAGE.fullmatch(line)]
    if others := [line + "\n" for line in lines if line not in damage]:
        os.write(STDERR, "".join(others).encode())
    return damage
