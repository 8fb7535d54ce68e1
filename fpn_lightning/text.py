"""Makes text from files and users safe for the terminal, for Markdown pages and for folder names."""

from __future__ import annotations

import io
import re
import sys

from rich.console import Console
from rich.text import Text

# Characters that are markup in Markdown or HTML. An underscore is markup only at the edge of a word.
_MARKUP = re.compile(r"[\\<>&|*`\[\]]|\b_(?=\W|$)|(?<!\w)_")
# A relative path of folders, none of which is "..", hidden, or too long for a file system.
_FOLDERS = re.compile(r"[\w+-][\w.+-]{0,99}(/[\w+-][\w.+-]{0,99})*")


def is_folder_name(name: str) -> bool:
    """Return whether a name such as ``table1`` or ``table5/steps`` is a safe relative path of folders."""
    return _FOLDERS.fullmatch(name) is not None


def plain(text: object) -> str:
    r"""Return text as one line. Line breaks and control characters are replaced by escapes such as ``\n``."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(text))


def markdown(text: str) -> str:
    """Escape text for Markdown, so that a page or a table cell shows it literally."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", plain(text))


def show(line: str) -> None:
    """Print text as one line on the terminal. Markup and escape sequences in the text have no effect."""
    Console().print(Text(plain(line)), soft_wrap=True)


def replace_unprintable() -> None:
    """Let standard output and standard error replace characters that they cannot encode, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
