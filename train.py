"""Entry point: ``python train.py fit --config configs/<table>/<row>.yaml [--preset <preset>]``."""

from fpn_lightning.__main__ import main

if __name__ == "__main__":
    main()
