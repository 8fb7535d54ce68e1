"""Cutting a long JSON list into short ones, so that only a few of its objects are in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator

SIZE = 2**18  # bytes; the objects of so few stay in the processor's cache
BETWEEN = re.compile(rb"\}\s*,\s*(?=\{)")


def pieces(content: bytes | memoryview) -> Iterator[str]:
    """Cut a JSON list between two objects, each piece a list again.

    A cut inside an object or a text leaves an incomplete piece before it, which no decoder accepts.

    Args:
        content: the list in UTF-8. Other content comes back in one piece or more, of which one cannot be decoded.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    start, opening = 0, ""
    while cut := BETWEEN.search(content, start + SIZE):
        yield f"{opening}{str(content[start : cut.start() + 1], 'utf-8')}]"
        start, opening = cut.end(), "["
    yield opening + str(content[start:], "utf-8")
