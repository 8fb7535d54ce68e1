"""Split a long JSON list into short lists, so that only a few decoded objects are in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator

SIZE = 2**18  # bytes of a piece; its decoded objects fit into the processor's cache
BETWEEN = re.compile(rb"\}\s*,\s*(?=\{)")


def pieces(content: bytes | memoryview) -> Iterator[str]:
    """Split ``content``, a JSON list of objects in UTF-8, between two objects; yield each piece as a JSON list.

    One piece cannot be decoded as a list if a split is inside an object or a string, or if ``content`` is not a JSON
    list.

    Raises:
        UnicodeDecodeError: the content is not UTF-8.
    """
    start, opening = 0, ""
    while cut := BETWEEN.search(content, start + SIZE):
        yield f"{opening}{str(content[start : cut.start() + 1], 'utf-8')}]"
        start, opening = cut.end(), "["
    yield opening + str(content[start:], "utf-8")
