"""The one exception for input that the user has to fix.

Everything that reads files, ids or settings from outside raises :class:`InputError` with a message that
names the file, the image or annotation id, or the configuration key, and says what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Input from outside (file, id, setting) that cannot be used; the message says which and what to do."""


def first_error(error: ValidationError) -> str:
    """Say in one line which key of a mapping is wrong, and how."""
    detail = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    return f"{key}: {detail['msg']}" if key else detail["msg"]


def complain(error: BaseException) -> int:
    """Print what the user has to fix; returns the exit status, 2."""
    # A worker process sends its whole traceback as the message; what counts stands last.
    message = str(error).rpartition("InputError: ")[2].strip()
    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    return 2
