"""The command line: ``fpn-lightning``, ``python -m fpn_lightning`` and ``train.py`` are one and the same."""

import os

# Threads that wait for one another sleep instead of spinning: on a CPU that others use too, a step is 3 times faster.
# OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from fpn_lightning import cli


def main() -> None:
    """Run the command line with the arguments of the process."""
    cli.main()


if __name__ == "__main__":
    main()
