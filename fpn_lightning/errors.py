"""The exception for input that the user has to fix.

Code that reads files, ids or settings from outside raises :class:`InputError`. Its message names the file, the image
or annotation id, or the configuration key, and says what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """A file, an id or a setting from outside cannot be used; the message says which one and what to do."""


def first_error(error: ValidationError) -> str:
    """Describe the first wrong key of a validated mapping in one line."""
    detail = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    return f"{key}: {detail['msg']}" if key else detail["msg"]


def complain(error: BaseException) -> int:
    """Print an error message for the user and return the exit status, 2."""
    # The message of a worker process is its whole traceback; the cause comes last.
    message = str(error).rpartition("InputError: ")[2].strip()
    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    return 2
