"""The exception for input that the user has to fix.

Code that reads files, ids or settings from outside raises :class:`InputError`. Its message names the file, the image
or annotation id, or the configuration key, and says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from fpn_lightning.text import plain

if TYPE_CHECKING:
    from pydantic import ValidationError


MOST = 10  # problems, or ids of a problem, that a message lists; the others are counted
MAX_LENGTH = 2000  # characters of a problem on the terminal


class InputError(ValueError):
    """A file, an id or a setting from outside cannot be used; the message says which one and what to do.

    Args:
        problems: one message for each problem; several become a list, a line each.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        lines = [*problems[:MOST], *([f"and {len(problems) - MOST} more"] if len(problems) > MOST else [])]
        super().__init__("\n  ".join(lines if len(lines) < 2 else [f"{len(problems)} problems:", *lines]))


def listed(names: Sequence[object]) -> str:
    """The first ten names, and the number of the others."""
    return ", ".join(map(str, names[:MOST])) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")


def first_error(error: ValidationError) -> str:
    """Describe the first wrong key of a mapping that failed its validation, in one line."""
    detail = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    return f"{key}: {detail['msg']}" if key else detail["msg"]


def complain(error: BaseException) -> int:
    """Print an error message for the user, one line for each problem, and return the exit status, 2."""
    # The message of a worker process is its whole traceback; the cause comes last.
    message = str(error).rpartition("InputError: ")[2].strip()
    several = re.match(r"\d+ problems:\n", message)
    lines = [_shown(line) for line in (message.split("\n  ") if several else [message])]
    text = Text.assemble(("error:", "bold red"), " ", "\n  ".join(lines))
    Console(stderr=True).print(text, soft_wrap=True, highlight=False)
    return 2


def _shown(line: str) -> str:
    """A problem as one harmless line; a key or a name of any length may be in it."""
    text = plain(" ".join(line.split()))
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH // 2]} … {text[-MAX_LENGTH // 2 :]}"
