"""The command line; ``fpn-lightning``, ``python -m fpn_lightning`` and ``python train.py`` are the same."""

import locale
import os
import sys

# Waiting threads sleep instead of spinning. On a shared CPU this makes a step 3 times faster. OpenMP reads the variable
# when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from fpn_lightning import cli


def main() -> None:
    """Run the command line with the arguments of the process."""
    # In a locale that is not UTF-8, libraries read files in its encoding. Only a new process can change that.
    if locale.getpreferredencoding(False).upper() not in ("UTF-8", "UTF8"):
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:replace")
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    cli.main()


if __name__ == "__main__":
    main()
