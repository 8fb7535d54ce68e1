"""Entry point: ``python train.py fit --config configs/<table>/<row>.yaml [--config configs/presets/<preset>.yaml]``."""

import os

# Threads that wait for one another sleep instead of spinning: on a CPU that others use too, a step is 3 times faster.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from fpn_lightning.cli import main

if __name__ == "__main__":
    main()
