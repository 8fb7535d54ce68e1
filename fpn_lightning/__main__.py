"""The command line; ``fpn-lightning``, ``python -m fpn_lightning`` and ``python train.py`` are the same."""

import os

# Waiting threads sleep instead of spinning. On a shared CPU this makes a step 3 times faster. OpenMP reads the variable
# when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from fpn_lightning import cli


def main() -> None:
    """Run the command line with the arguments of the process."""
    cli.main()


if __name__ == "__main__":
    main()
