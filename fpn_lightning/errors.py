"""The exception for input that the user has to fix, and how its message is printed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from fpn_lightning.text import plain

if TYPE_CHECKING:
    from pydantic import ValidationError


MOST = 10  # maximum number of problems or ids that a message lists; the message gives the number of further items
MAX_LENGTH = 2000  # maximum number of printed characters per problem


class InputError(ValueError):
    """A file, an id or a setting from the user cannot be used.

    Args:
        problems: one message for each problem. A message names the file, the image or annotation id, or the
            configuration key, and says what to do.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        lines = [*problems[:MOST], *([f"and {len(problems) - MOST} more"] if len(problems) > MOST else [])]
        super().__init__("\n  ".join(lines if len(lines) < 2 else [f"{len(problems)} problems:", *lines]))


def listed(names: Sequence[object]) -> str:
    """Return the first ten names and the number of further names: ``a, b, ... and 3 more``."""
    return ", ".join(map(str, names[:MOST])) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")


def first_error(error: ValidationError) -> str:
    """Return pydantic's first error in one line: the key and what is wrong with its value."""
    detail = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    return f"{key}: {detail['msg']}" if key else detail["msg"]


def complain(error: BaseException) -> int:
    """Print an error message for the user, with one line for each problem. Return the exit status, 2."""
    # The message of an error from a DataLoader's worker process is a whole traceback. Its end names the cause.
    message = str(error).rpartition("InputError: ")[2].strip()
    several = re.match(r"\d+ problems:\n", message)
    lines = [_shown(line) for line in (message.split("\n  ") if several else [message])]
    text = Text.assemble(("error:", "bold red"), " ", "\n  ".join(lines))
    Console(stderr=True).print(text, soft_wrap=True, highlight=False)
    return 2


def _shown(line: str) -> str:
    """Return a problem as one line without control characters. Long text, for example a long name, is shortened."""
    text = plain(" ".join(line.split()))
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH // 2]} … {text[-MAX_LENGTH // 2 :]}"
