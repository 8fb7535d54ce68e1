"""Text from files and from others, made harmless for a terminal and for a Markdown page."""

from __future__ import annotations

import io
import re
import sys

from rich.console import Console
from rich.text import Text

# What Markdown and HTML read as markup; an underscore only at the edge of a word.
_MARKUP = re.compile(r"[\\<>&|*`\[\]]|\b_(?=\W|$)|(?<!\w)_")
# Folders below one another: no part is "..", hidden, or too long for a file system.
_FOLDERS = re.compile(r"[\w+-][\w.+-]{0,99}(/[\w+-][\w.+-]{0,99})*")


def is_folder_name(name: str) -> bool:
    """Whether a name, ``table1`` or ``table5/steps``, can be a folder below another one."""
    return _FOLDERS.fullmatch(name) is not None


def plain(text: object) -> str:
    r"""Return text as one line: line breaks and control characters become escapes, ``\n`` or ``\x1b``."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(text))


def markdown(text: str) -> str:
    """Return text as Markdown that shows just this text: neither markup nor HTML, in a table or outside."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", plain(text))


def show(line: str) -> None:
    """Print one line on the terminal, without markup or escape sequences that it may contain."""
    Console().print(Text(plain(line)), soft_wrap=True)


def replace_unprintable() -> None:
    """Let standard output and standard error replace characters that the terminal's encoding lacks, not raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
