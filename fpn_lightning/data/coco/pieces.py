"""Split a long JSON list into short lists, so that only a few decoded objects are in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator

SIZE = 2**18  # bytes: minimum length of a piece; the decoded objects of one piece fit into the processor's cache
BETWEEN = re.compile(rb"\}\s*,\s*(?=\{)")


def pieces(content: bytes | memoryview) -> Iterator[str]:
    """Split a JSON list of objects into shorter JSON lists, and yield the text of each. ``content`` is UTF-8 text.

    The text is not parsed: every cut is at a ``},{``. If a cut is inside an object or a string, or if ``content`` is
    not a JSON list, at least one yielded text is not valid JSON, so parsing this text fails.

    Raises:
        UnicodeDecodeError: the content is not UTF-8.
    """
    start, opening = 0, ""
    while cut := BETWEEN.search(content, start + SIZE):
        yield f"{opening}{str(content[start : cut.start() + 1], 'utf-8')}]"
        start, opening = cut.end(), "["
    yield opening + str(content[start:], "utf-8")
