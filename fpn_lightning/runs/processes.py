"""Ends all processes of a run together when one process fails or is stopped by a signal. Only one message is printed.

Without this module, the other processes would wait for the failed process, or fail with errors that do not name the
cause. The failed process writes its message to the TCPStore through which torch.distributed connects the processes. A
thread in every process polls this store. The first process, which owns the terminal, prints the message.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

from fpn_lightning.errors import complain

FAILURE, NOTICED, DONE = (f"fpn_lightning/{name}" for name in ("failure", "noticed", "done"))
USER_ERROR = 2
POLL_S = 0.25
PATIENCE_S = 10.0


class ProcessWatch:
    """Watches for the failure of any process of a run, after torch.distributed has connected the processes.

    Args:
        close_terminal: ends the progress bar. The first process calls this function before it prints the message.

    Attributes:
        cleanups: functions that the first process calls before it prints the message; ``close_terminal`` is the first.
    """

    def __init__(self, close_terminal: Callable[[], None]) -> None:
        self.cleanups = [close_terminal]
        self._ending = threading.Event()
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="process-watch").start()

    def fail(self, error: BaseException, complaint: BaseException | None) -> None:
        """End all processes because of an error in this process; return only if this is the only process.

        Args:
            error: the error.
            complaint: the error message if the user can correct the error; ``None`` for a bug, which is printed with
                its traceback.
        """
        text = "".join(traceback.format_exception(error)) if complaint is None else str(complaint)
        self.end(1 if complaint is None else USER_ERROR, text)

    def end(self, status: int, text: str) -> None:
        """End all processes with an exit status and print the text; return only if this is the only process."""
        if not dist.is_initialized():
            return
        if not self._ending.is_set():
            with suppress(dist.DistError):  # the first process has ended: the thread of _watch() ends this one
                _store().compare_set(FAILURE, "", json.dumps([status, text]))
        time.sleep(PATIENCE_S)  # meanwhile the thread of _watch() ends this process

    def done(self) -> None:
        """Wait for all processes, because their store ends with the first process; then stop watching."""
        if dist.is_initialized() and not self._ending.is_set():
            store = _store()
            store.add(DONE, 1)
            _wait_for_all(store, DONE)
        self._done.set()

    def _watch(self) -> None:
        while not dist.is_initialized():
            if self._done.wait(POLL_S):
                return
        store = _store()
        try:
            while not store.check([FAILURE]):
                if self._done.wait(POLL_S):
                    return
        except dist.DistError:
            self._first_has_gone()
            return
        self._ending.set()
        status, text = json.loads(store.get(FAILURE))
        store.add(NOTICED, 1)
        if dist.get_rank() == 0:
            _wait_for_all(store, NOTICED)
            for clean_up in self.cleanups:
                clean_up()
            if status == USER_ERROR:
                complain(ValueError(text))
            elif text:
                print(text, file=sys.stderr)
            sys.stderr.flush()
        else:
            # Give the first process time to print: when another process ends, Lightning kills the first process.
            time.sleep(1)
        os._exit(status)

    def _first_has_gone(self) -> None:
        """End this process, because the first process has ended. Do nothing if all processes have finished."""
        if not self._done.wait(1):
            print(f"process {dist.get_rank()} ends because the first process was killed", file=sys.stderr, flush=True)
            os._exit(1)


def _store() -> dist.TCPStore:
    """Open a new connection to the TCPStore that connects the processes, for the calling thread alone."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=PATIENCE_S))


def _wait_for_all(store: dist.TCPStore, key: str) -> None:
    started = time.monotonic()
    while store.add(key, 0) < dist.get_world_size() and time.monotonic() - started < PATIENCE_S:
        time.sleep(0.02)
