"""Lets Ctrl-C, SIGTERM and SIGHUP end the command with exit status 128 + signal number, and without a traceback.

SIGHUP arrives when a terminal is closed or a connection breaks, unless the command was started with nohup.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class Stopped(SystemExit):
    """Raised when a signal asks the process to stop; the exit status is 128 + the signal's number, as in a shell.

    Attributes:
        advice: tells the user how to continue the run; empty if training did not start.
    """

    code: int

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name
        self.advice = ""


def stop_now(number: int, frame: Any) -> NoReturn:
    """Handle a signal by raising :class:`Stopped`, so that the process cleans up and ends."""
    raise Stopped(number)


@contextmanager
def handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Within the ``with`` block, call ``handler`` when SIGINT, SIGTERM or SIGHUP arrives.

    A signal that the process ignores, such as SIGHUP under nohup, stays ignored.
    """
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    earlier = {number: old for number, old in earlier.items() if old not in (None, signal.SIG_IGN)}
    if threading.current_thread() is not threading.main_thread():
        earlier = {}  # Python lets only the main thread set handlers
    for number in earlier:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in earlier.items():
            signal.signal(number, old)
