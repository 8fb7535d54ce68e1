"""Entry point: ``python train.py fit --config configs/<table>/<row>.yaml [--config configs/presets/<preset>.yaml]``."""

from fpn_lightning.cli import main

if __name__ == "__main__":
    main()
