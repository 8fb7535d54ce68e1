"""Split a long JSON list into short lists, so that only a few decoded objects are in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator

SIZE = 2**18  # bytes of a piece; the decoded objects of one piece fit into the processor's cache
BETWEEN = re.compile(rb"\}\s*,\s*(?=\{)")


def pieces(content: bytes | memoryview) -> Iterator[str]:
    """Split a JSON list between its objects and yield each piece as a JSON list. ``content`` is UTF-8 text.

    The JSON is not checked here. If a split is inside an object or a string, or if ``content`` is not a JSON list,
    decoding fails for at least one piece.

    Raises:
        UnicodeDecodeError: the content is not UTF-8.
    """
    start, opening = 0, ""
    while cut := BETWEEN.search(content, start + SIZE):
        yield f"{opening}{str(content[start : cut.start() + 1], 'utf-8')}]"
        start, opening = cut.end(), "["
    yield opening + str(content[start:], "utf-8")
