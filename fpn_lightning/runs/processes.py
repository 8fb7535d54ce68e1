"""Ends all processes of a run together, with one message, when one of them fails.

Without this, the others would wait for the failed one, or fail themselves with errors that say nothing of the cause.
The process that fails leaves its message in the store through which the processes found each other. A thread in every
process looks there. The first process, which owns the terminal, prints the message.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

import torch.distributed as dist

from fpn_lightning.errors import complain

FAILURE, NOTICED, DONE = (f"fpn_lightning/{name}" for name in ("failure", "noticed", "done"))
POLL_S = 0.25
PATIENCE_S = 10.0


class ProcessWatch:
    """Watches the other processes of a run, from when they know each other.

    Args:
        close_terminal: called in the first process before it prints the message, to end a progress bar.

    Attributes:
        cleanups: called after it.
    """

    def __init__(self, close_terminal: Callable[[], None]) -> None:
        self.cleanups = [close_terminal]
        self._ending = threading.Event()
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="process-watch").start()

    def fail(self, error: BaseException, complaint: BaseException | None) -> None:
        """Tell all processes to end because of an error in this one; does not return if there are others.

        Args:
            error: the error.
            complaint: what the user can correct; ``None`` for an error of the program, whose traceback is printed.
        """
        if not dist.is_initialized():
            return
        if not self._ending.is_set():
            text = "".join(traceback.format_exception(error)) if complaint is None else str(complaint)
            _store().compare_set(FAILURE, "", json.dumps([1 if complaint is None else 2, text]))
        time.sleep(PATIENCE_S)  # the thread ends this process

    def done(self) -> None:
        """Stop watching when all processes have finished, so that none asks a first process that has gone."""
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
        while not store.check([FAILURE]):
            if self._done.wait(POLL_S):
                return
        self._ending.set()
        status, text = json.loads(store.get(FAILURE))
        store.add(NOTICED, 1)
        if dist.get_rank() == 0:
            _wait_for_all(store, NOTICED)
            for clean_up in self.cleanups:
                clean_up()
            print(text, file=sys.stderr) if status == 1 else complain(ValueError(text))
            sys.stderr.flush()
        else:
            time.sleep(1)  # the first process ends first: Lightning kills it when another one has ended with an error
        os._exit(status)


def _store() -> dist.TCPStore:
    """Another connection to the store of the default process group, which belongs to its own thread."""
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)


def _wait_for_all(store: dist.TCPStore, key: str) -> None:
    started = time.monotonic()
    while store.add(key, 0) < dist.get_world_size() and time.monotonic() - started < PATIENCE_S:
        time.sleep(0.02)
