"""The command line; ``fpn-lightning``, ``python -m fpn_lightning`` and ``python train.py`` are the same."""

import ctypes
import locale
import os
import sys

# Waiting threads sleep instead of spinning. On a shared CPU this makes a step 3 times faster. OpenMP reads the variable
# when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from fpn_lightning import cli

# Options of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Make glibc keep the memory of large tensors for the next ones; does nothing with another C library.

    glibc returns it to the system, and the pages of the next tensor are cleared first: a fifth of a training step on a
    CPU. The peak of memory stays the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            mallopt(option, value)


def main() -> None:
    """Run the command line with the arguments of the process."""
    keep_freed_memory()
    # In a locale that is not UTF-8, libraries read files in its encoding. Only a new process can change that.
    if locale.getpreferredencoding(False).upper() not in ("UTF-8", "UTF8"):
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:replace")
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    cli.main()


if __name__ == "__main__":
    main()
